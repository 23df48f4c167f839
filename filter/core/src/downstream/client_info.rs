//! CLIENT INFO (<https://redis.io/docs/latest/commands/client-info/>), where no Redis is asked.

use std::fmt::{self, Write};
use std::net::SocketAddr;

/// What a machine knows of a client. [`fmt::Display`] writes the line of CLIENT INFO with its line
/// feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientInfo<'a> {
    /// The number that CLIENT ID answers.
    pub id: u64,
    /// The addresses from which and to which the client has connected, as far as they are known.
    pub addresses: [Option<SocketAddr>; 2],
    /// The name that the client gave itself; empty: none.
    pub name: &'a [u8],
    /// For how many seconds the client has been connected, and hasn't sent anything.
    pub seconds: [u64; 2],
    /// The client is told of all commands (MONITOR).
    pub is_monitor: bool,
    /// A server lets the client's command wait.
    pub is_blocked: bool,
    /// The database that the client has selected.
    pub database: u32,
    /// Numbers of subscriptions to channels, patterns and shard channels.
    pub subscriptions: [usize; 3],
    /// Number of commands in the transaction that the client has opened; `None`: no transaction.
    pub queued: Option<usize>,
    /// The client's last command; empty: CLIENT INFO.
    pub command: &'a str,
    /// The user as whom the client has logged in; empty: the default one.
    pub user: &'a [u8],
    /// The client speaks RESP3.
    pub resp3: bool,
}

impl fmt::Display for ClientInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channels, patterns, shards] = self.subscriptions;
        let (name, resp) = (String::from_utf8_lossy(self.name), if self.resp3 { 3 } else { 2 });
        let ([remote, local], [age, idle]) = (self.addresses, self.seconds);
        let address = |f: &mut fmt::Formatter<'_>, address: Option<SocketAddr>| match address {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("0.0.0.0:0"),
        };
        write!(f, "id={} addr=", self.id)?;
        address(f, remote)?;
        f.write_str(" laddr=")?;
        address(f, local)?;
        write!(f, " fd=0 name={name} age={age} idle={idle} flags=")?;
        let flags = [
            ('O', self.is_monitor),
            ('P', channels + patterns + shards > 0),
            ('x', self.queued.is_some()),
            ('b', self.is_blocked),
        ];
        let mut flags = flags.iter().filter(|(_, is_set)| *is_set).peekable();
        if flags.peek().is_none() {
            f.write_char('N')?;
        }
        flags.try_for_each(|(flag, _)| f.write_char(*flag))?;
        write!(f, " db={} sub={channels} psub={patterns} ssub={shards} multi=", self.database)?;
        match self.queued {
            Some(queued) => write!(f, "{queued}")?,
            None => f.write_str("-1")?,
        }
        // What buffers a Redis would have is unknown; clients parse the fields.
        f.write_str(" watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0")?;
        let command = if self.command.is_empty() { "client|info" } else { self.command };
        write!(f, " events=r cmd={command} user=")?;
        match self.user {
            b"" => f.write_str("default")?,
            user => f.write_str(&String::from_utf8_lossy(user))?,
        }
        writeln!(f, " redir=-1 resp={resp} lib-name= lib-ver=")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_line() {
        let info = ClientInfo {
            id: 7,
            addresses: ["[::1]:5", "127.0.0.1:6"].map(|address| address.parse().ok()),
            name: b"me",
            seconds: [9, 8],
            is_blocked: true,
            database: 1,
            subscriptions: [1, 2, 3],
            queued: Some(4),
            command: "blpop",
            user: b"app",
            resp3: true,
            ..ClientInfo::default()
        };
        let line = "id=7 addr=[::1]:5 laddr=127.0.0.1:6 fd=0 name=me age=9 idle=8 flags=Pxb db=1 sub=1 psub=2 ssub=3 \
                    multi=4 watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 \
                    events=r cmd=blpop user=app redir=-1 resp=3 lib-name= lib-ver=\n";
        assert_eq!(info.to_string(), line);
        let default = ClientInfo::default().to_string();
        assert!(default.starts_with("id=0 addr=0.0.0.0:0 laddr=0.0.0.0:0 ") && default.contains(" multi=-1 "));
        assert!(default.contains(" flags=N ") && default.contains(" cmd=client|info user=default "));
    }
}
