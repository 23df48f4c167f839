//! CLIENT INFO (<https://redis.io/docs/latest/commands/client-info/>), where no Redis is asked.

use std::fmt;

/// What a machine knows of a client. [`fmt::Display`] writes the line of CLIENT INFO with its line
/// feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientInfo<'a> {
    /// The number that CLIENT ID answers.
    pub id: u64,
    /// The name that the client gave itself; empty: none.
    pub name: &'a [u8],
    /// The database that the client has selected.
    pub database: u32,
    /// Numbers of subscriptions to channels, patterns and shard channels.
    pub subscriptions: [usize; 3],
    /// Number of commands in the transaction that the client has opened; `None`: no transaction.
    pub queued: Option<usize>,
    /// The client speaks RESP3.
    pub resp3: bool,
}

impl fmt::Display for ClientInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channels, patterns, shards] = self.subscriptions;
        let (name, resp) = (String::from_utf8_lossy(self.name), if self.resp3 { 3 } else { 2 });
        let flag = match (self.queued, channels + patterns + shards) {
            (Some(_), _) => 'x',
            (None, 0) => 'N',
            (None, _) => 'P',
        };
        write!(f, "id={} addr=0.0.0.0:0 laddr=0.0.0.0:0 fd=0 name={name} age=0 idle=0 flags={flag}", self.id)?;
        write!(f, " db={} sub={channels} psub={patterns} ssub={shards} multi=", self.database)?;
        match self.queued {
            Some(queued) => write!(f, "{queued}")?,
            None => f.write_str("-1")?,
        }
        // What buffers a Redis would have is unknown; clients parse the fields.
        f.write_str(" watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0")?;
        writeln!(f, " events=r cmd=client|info user=default redir=-1 resp={resp} lib-name= lib-ver=")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_line() {
        let info =
            ClientInfo { id: 7, name: b"me", database: 1, subscriptions: [1, 2, 3], queued: Some(4), resp3: true };
        let line = "id=7 addr=0.0.0.0:0 laddr=0.0.0.0:0 fd=0 name=me age=0 idle=0 flags=x db=1 sub=1 psub=2 ssub=3 \
                    multi=4 watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 \
                    events=r cmd=client|info user=default redir=-1 resp=3 lib-name= lib-ver=\n";
        assert_eq!(info.to_string(), line);
        assert!(ClientInfo::default().to_string().contains(" multi=-1 "));
    }
}
