//! What a client has subscribed to on `direct`, as far as its commands tell.

use crate::command::Args;
use std::collections::BTreeSet;

/// How many bytes of names are kept for a client, each with what it costs beside them.
const MAX_BYTES: usize = 64 * 1024;
/// What a name costs beside its bytes.
const NAME_COST: usize = 48;

/// The subscriptions of a client: to channels, patterns, and shard channels, each by its names.
#[derive(Debug, Default)]
pub(super) struct ClientSubscriptions {
    kinds: [Names; 3],
    /// The cost of all names.
    bytes: usize,
}

/// The names that a client has subscribed to.
#[derive(Debug)]
enum Names {
    Known(BTreeSet<Box<[u8]>>),
    /// There may be any, or none.
    Unknown,
}

impl Default for Names {
    fn default() -> Names {
        Names::Known(BTreeSet::new())
    }
}

/// Whether a client has subscribed to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscribed {
    Yes,
    No,
    /// Redis alone knows.
    Perhaps,
}

impl ClientSubscriptions {
    /// Whether there are any.
    pub(super) fn any(&self) -> Subscribed {
        let is_known = |names: &Names| matches!(names, Names::Known(known) if !known.is_empty());
        if self.kinds.iter().any(is_known) {
            Subscribed::Yes
        } else if self.kinds.iter().any(|names| matches!(names, Names::Unknown)) {
            Subscribed::Perhaps
        } else {
            Subscribed::No
        }
    }

    /// Takes in a command that has gone on to Redis. In a transaction (`is_queued`) it isn't certain
    /// that the command will be executed.
    pub(super) fn follow(&mut self, name: &str, args: &Args<'_>, is_queued: bool) {
        let kind = match name {
            "subscribe" | "unsubscribe" => 0,
            "psubscribe" | "punsubscribe" => 1,
            "ssubscribe" | "sunsubscribe" => 2,
            _ => return,
        };
        let begins = !name.contains("unsub");
        let is_for_all = !begins && args.count == 1;
        let Some(names) = self.kinds.get_mut(kind) else { return };
        let cost = |name: &[u8]| name.len() + NAME_COST;
        if is_queued || !(args.complete() || is_for_all) {
            *names = Names::Unknown;
        } else if is_for_all {
            *names = Names::default();
        } else if let Names::Known(known) = names {
            for name in (1..args.count).map(|index| args.get(index)) {
                if !begins {
                    self.bytes -= if known.remove(name) { cost(name) } else { 0 };
                } else if self.bytes + cost(name) > MAX_BYTES {
                    *names = Names::Unknown;
                    break;
                } else if known.insert(name.into()) {
                    self.bytes += cost(name);
                }
            }
        }
        let kept = |names: &Names| match names {
            Names::Known(known) => known.iter().map(|name| cost(name)).sum(),
            Names::Unknown => 0,
        };
        if is_for_all || matches!(self.kinds.get(kind), Some(Names::Unknown)) {
            self.bytes = self.kinds.iter().map(kept).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::each_command;
    use crate::resp::encode;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn follow(subscriptions: &mut ClientSubscriptions, line: &str, is_queued: bool) -> Subscribed {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        each_command(&bytes, |args| {
            subscriptions.follow(&String::from_utf8_lossy(args.get(0)), args, is_queued);
        });
        subscriptions.any()
    }

    #[test]
    fn they_end_one_by_one_or_all_at_once() {
        use Subscribed::{No, Perhaps, Yes};
        let mut all = ClientSubscriptions::default();
        for (line, expected) in [
            ("subscribe", No),
            ("subscribe a b", Yes),
            ("unsubscribe b c", Yes),
            ("unsubscribe a", No),
            ("subscribe a", Yes),
            ("psubscribe a*", Yes),
            ("unsubscribe", Yes),
            ("punsubscribe a*", No),
            ("ssubscribe s s", Yes),
            ("sunsubscribe s", No),
        ] {
            assert_eq!(follow(&mut all, line, false), expected, "{line}");
            assert!(all.bytes > 0 || expected != Yes, "{line}");
        }
        assert_eq!(all.bytes, 0);
        // Nobody knows what becomes of a transaction, until everything ends.
        assert_eq!(follow(&mut all, "subscribe a", true), Perhaps);
        assert_eq!(follow(&mut all, "unsubscribe a", false), Perhaps);
        assert_eq!(follow(&mut all, "unsubscribe", false), No);
    }

    #[test]
    fn more_names_than_are_kept_are_not_known() {
        let mut all = ClientSubscriptions::default();
        follow(&mut all, "psubscribe p*", false);
        let before = all.bytes;
        for number in 0..10_000 {
            follow(&mut all, &format!("subscribe {number}"), false);
            assert!(all.bytes <= MAX_BYTES);
        }
        assert_eq!((all.bytes, follow(&mut all, "punsubscribe p*", false)), (before, Subscribed::Perhaps));
        assert_eq!(follow(&mut all, "unsubscribe", false), Subscribed::No);
        assert_eq!(all.bytes, 0);
    }
}
