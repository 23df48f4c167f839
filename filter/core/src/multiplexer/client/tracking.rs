//! CLIENT TRACKING (<https://redis.io/docs/latest/commands/client-tracking/>): a client is told when
//! keys change that it has read.
//!
//! A server tells it over the connection over which the key was read.

use super::reply_queue::Sequence;
use crate::command::Args;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use std::collections::BTreeSet;

/// The number of prefixes of a client, and the bytes that they may have together. Redis has no such
/// limits.
const MAX_PREFIXES: (usize, usize) = (1024, 64 * 1024);

/// The error of Redis to CLIENT CACHING where it can't be used.
const NOT_TRACKING: &str =
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled";

/// How a client tracks.
#[derive(Debug, Default)]
pub struct Tracking {
    /// What it has asked for.
    pub options: TrackingOptions,
    /// What CLIENT CACHING has said of the next command.
    pub caching: Option<bool>,
    /// The connections that were told that the next command is to be tracked.
    pub prepared: Vec<ConnectionId>,
    /// Servers that tell of all keys tell of those with any prefix: they know them by other names.
    pub is_wide: bool,
    /// Servers that are to tell of all keys weren't known when they were to be asked.
    pub is_stale: bool,
    /// The first and the last command that may have read keys of which no server tells: once they are
    /// answered, the client is told to forget all keys.
    pub untracked: Option<(Sequence, Sequence)>,
}

/// What CLIENT TRACKING ON asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackingOptions {
    /// The server tells of all keys with one of the prefixes.
    pub broadcasts: bool,
    /// The prefixes, if it does.
    pub prefixes: BTreeSet<Vec<u8>>,
    /// Only what CLIENT CACHING YES precedes is tracked.
    pub opts_in: bool,
    /// What CLIENT CACHING NO precedes isn't tracked.
    pub opts_out: bool,
    /// The server doesn't tell of what the connection itself changes.
    pub excludes_own: bool,
}

/// What CLIENT TRACKING changes.
#[derive(Debug, PartialEq, Eq)]
pub enum TrackingChange {
    /// It begins, or its options change.
    On {
        /// The options from now on.
        options: TrackingOptions,
        /// The prefixes that are new. A server that was told others before is told only these.
        added: BTreeSet<Vec<u8>>,
    },
    /// It ends.
    Off,
}

impl TrackingChange {
    /// Parses CLIENT TRACKING of a client that tracks with these options by now.
    ///
    /// # Errors
    /// The text of Redis's error.
    pub fn parse(args: &Args<'_>, now: Option<&TrackingOptions>) -> Result<TrackingChange, String> {
        let mut options = TrackingOptions::default();
        let mut prefixes: Vec<Vec<u8>> = Vec::new();
        let mut at = 3;
        while at < args.count {
            let has_value = at + 1 < args.count;
            if args.is_word(at, b"redirect") && has_value {
                return Err("ERR redis-mesh: CLIENT TRACKING REDIRECT isn't served: the numbers of connections are not those of Redis; use RESP3".into());
            } else if args.is_word(at, b"bcast") {
                options.broadcasts = true;
            } else if args.is_word(at, b"optin") {
                options.opts_in = true;
            } else if args.is_word(at, b"optout") {
                options.opts_out = true;
            } else if args.is_word(at, b"noloop") {
                options.excludes_own = true;
            } else if args.is_word(at, b"prefix") && has_value {
                at += 1;
                prefixes.push(args.get(at).to_vec());
            } else {
                return Err("ERR syntax error".into());
            }
            at += 1;
        }
        if args.is_word(2, b"off") {
            return Ok(TrackingChange::Off);
        }
        if !args.is_word(2, b"on") {
            return Err("ERR syntax error".into());
        }
        let added = options.add(prefixes, now)?;
        Ok(TrackingChange::On { options, added })
    }
}

impl Tracking {
    /// Notes that a command may have read keys of which no server tells.
    pub fn note_untracked(&mut self, sequence: Sequence) {
        let (first, last) = self.untracked.unwrap_or((sequence, sequence));
        self.untracked = Some((first.min(sequence), last.max(sequence)));
    }

    /// Returns true if such a command has been answered, since `next` is the one to be answered next.
    pub fn take_untracked(&mut self, next: Sequence) -> bool {
        let Some((_, last)) = self.untracked.take_if(|(first, _)| next > *first) else { return false };
        self.untracked = (next <= last).then_some((next, last));
        true
    }
}

impl TrackingOptions {
    /// Takes in prefixes, and what a client that tracks already has asked for before. Returns the
    /// prefixes that are new.
    fn add(&mut self, prefixes: Vec<Vec<u8>>, now: Option<&TrackingOptions>) -> Result<BTreeSet<Vec<u8>>, String> {
        const SWITCHES: &str =
            "before disabling tracking for this client, and then re-enabling it with a different mode.";
        if !self.broadcasts && !prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
        }
        if now.is_some_and(|now| now.broadcasts != self.broadcasts) {
            return Err(format!("ERR You can't switch BCAST mode on/off {SWITCHES}"));
        }
        if self.broadcasts && (self.opts_in || self.opts_out) {
            return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
        }
        if self.opts_in && self.opts_out {
            return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
        }
        if now.is_some_and(|now| self.opts_in && now.opts_out || self.opts_out && now.opts_in) {
            return Err(format!("ERR You can't switch OPTIN/OPTOUT mode {SWITCHES}"));
        }
        if !self.broadcasts {
            return Ok(BTreeSet::new());
        }
        self.prefixes = now.map(|now| now.prefixes.clone()).unwrap_or_default();
        self.add_prefixes(prefixes)
    }

    fn add_prefixes(&mut self, mut prefixes: Vec<Vec<u8>>) -> Result<BTreeSet<Vec<u8>>, String> {
        let before = self.prefixes.clone();
        let (count, bytes) = MAX_PREFIXES;
        let all = before.iter().chain(&prefixes);
        if before.len() + prefixes.len() > count || all.map(Vec::len).sum::<usize>() > bytes {
            return Err("ERR redis-mesh: too many prefixes for CLIENT TRACKING".into());
        }
        for (place, prefix) in prefixes.iter().enumerate() {
            let overlaps = |other: &&Vec<u8>| prefix.starts_with(other) || other.starts_with(prefix);
            let found = |which: &str, other: &[u8]| {
                let (prefix, other) = (String::from_utf8_lossy(prefix), String::from_utf8_lossy(other));
                format!(
                    "ERR Prefix '{prefix}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap."
                )
            };
            if let Some(other) = before.iter().find(overlaps) {
                return Err(found("an existing", other));
            }
            if let Some(other) = prefixes.get(place + 1..).unwrap_or_default().iter().find(overlaps) {
                return Err(found("another provided", other));
            }
        }
        if prefixes.is_empty() {
            prefixes.push(Vec::new());
        }
        self.prefixes.extend(prefixes.iter().cloned());
        Ok(prefixes.into_iter().collect())
    }

    /// Returns the words of the command for a server that is told these prefixes. With `is_wide`, it is
    /// to tell of all keys: it knows them by other names than the client.
    pub fn words<'p>(&self, prefixes: &'p BTreeSet<Vec<u8>>, is_wide: bool) -> Vec<&'p [u8]> {
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON"];
        let flags: [(bool, &[u8]); 4] = [
            (self.broadcasts, b"BCAST"),
            (self.opts_in, b"OPTIN"),
            (self.opts_out, b"OPTOUT"),
            (self.excludes_own, b"NOLOOP"),
        ];
        words.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, word)| *word));
        // Without any, it tells of all keys.
        let are_all = is_wide || prefixes.contains(&b""[..]);
        for prefix in prefixes.iter().filter(|_| !are_all) {
            words.extend([b"PREFIX", prefix.as_slice()]);
        }
        words
    }

    /// Returns true if the client wants to hear of a key, by the name that it has for it.
    pub fn concern(&self, key: &[u8]) -> bool {
        !self.broadcasts || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

impl Tracking {
    /// Notes what CLIENT CACHING says of the next command.
    ///
    /// # Errors
    /// The text of Redis's error.
    pub fn set_caching(tracking: Option<&mut Tracking>, args: &Args<'_>) -> Result<(), String> {
        let Some(tracking) = tracking else { return Err(NOT_TRACKING.into()) };
        let refuse = |word: &str, mode: &str| {
            Err(format!("ERR CLIENT CACHING {word} is only valid when tracking is enabled in {mode} mode."))
        };
        if args.is_word(2, b"yes") {
            if !tracking.options.opts_in {
                return refuse("YES", "OPTIN");
            }
            tracking.caching = Some(true);
        } else if args.is_word(2, b"no") {
            if !tracking.options.opts_out {
                return refuse("NO", "OPTOUT");
            }
            tracking.caching = Some(false);
        } else {
            return Err("ERR syntax error".into());
        }
        Ok(())
    }

    /// Returns the reply to CLIENT TRACKINGINFO.
    pub fn info(tracking: Option<&Tracking>, resp3: bool) -> Vec<u8> {
        let (options, caching) =
            tracking.map(|tracking| (tracking.options.clone(), tracking.caching)).unwrap_or_default();
        let flags = [
            (tracking.is_none(), "off"),
            (tracking.is_some(), "on"),
            (options.broadcasts, "bcast"),
            (options.opts_in, "optin"),
            (caching == Some(true), "caching-yes"),
            (options.opts_out, "optout"),
            (caching == Some(false), "caching-no"),
            (options.excludes_own, "noloop"),
        ];
        let flags: Vec<&str> = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| *flag).collect();
        let mut out = Vec::new();
        encode::header(&mut out, if resp3 { b'%' } else { b'*' }, if resp3 { 3 } else { 6 });
        encode::bulk(&mut out, b"flags");
        encode::header(&mut out, if resp3 { b'~' } else { b'*' }, flags.len() as u64);
        flags.iter().for_each(|flag| encode::bulk(&mut out, flag.as_bytes()));
        encode::bulk(&mut out, b"redirect");
        out.extend_from_slice(if tracking.is_some() { b":0\r\n" } else { b":-1\r\n" });
        encode::bulk(&mut out, b"prefixes");
        encode::array(&mut out, options.prefixes.len());
        options.prefixes.iter().for_each(|prefix| encode::bulk(&mut out, prefix));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_server_is_told_all_prefixes_or_none() {
        let mut options = TrackingOptions { broadcasts: true, ..TrackingOptions::default() };
        let words = |options: &TrackingOptions| {
            let words = options.words(&options.prefixes, false);
            words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>().join(" ")
        };
        options.add(vec![b"a".to_vec(), b"b".to_vec()], None).unwrap();
        assert_eq!(words(&options), "CLIENT TRACKING ON BCAST PREFIX a PREFIX b");
        let before = options.clone();
        let added = options.add(Vec::new(), Some(&before)).unwrap();
        assert_eq!((added.len(), words(&options)), (1, "CLIENT TRACKING ON BCAST".to_owned()));
        assert!(options.add(vec![b"c".to_vec()], Some(&options.clone())).is_err());
        let many = (0..2000).map(|number: u32| number.to_be_bytes().to_vec()).collect();
        assert!(options.add(many, None).unwrap_err().contains("too many"));
    }

    #[test]
    fn what_was_read_untracked_is_forgotten_as_soon_as_it_is_answered() {
        let mut tracking = Tracking::default();
        for sequence in [5, 9, 7] {
            tracking.note_untracked(sequence);
        }
        let told: Vec<bool> = [5, 6, 8, 9, 10, 11].into_iter().map(|next| tracking.take_untracked(next)).collect();
        assert_eq!(told, [false, true, true, true, true, false]);
    }
}
