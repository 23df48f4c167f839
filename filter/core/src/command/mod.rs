//! What is known of every Redis command: its name, arity and flags, where its keys are, how Envoy's redis_proxy routes
//! it, and what its reply looks like in RESP3.
//!
//! The facts are rows of `table.rs`, which is generated from real servers; the few facts that no server
//! reports are kept by hand beside the generator. What is written here and in the modules below only reads rows.

mod args;
mod describe;
pub mod glob;
mod grammar;
mod key_spec;
mod keys;
mod known;
mod reply;
pub mod script;
mod table;

pub use args::{Args, canonical, each_command};
pub use describe::{Protocol, describe};
pub use grammar::Patterns;
pub use key_spec::{Access, Arguments, Begin, Extract, Find, Key, KeyFlags, KeySpec, Keys, KeysError};
pub use known::Known;
pub use reply::{Reply, When};

use std::fmt;

/// A set of named bits. The order of the names is the order in which servers print them.
macro_rules! bits {
    ($(#[$doc:meta])* $set:ident($repr:ty) { $($(#[$bit_doc:meta])* $bit:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        pub struct $set(pub(crate) $repr);

        impl $set {
            bits!(@consts $set $repr; 0; $($(#[$bit_doc])* $bit = $text,)*);

            /// The names of the bits, lowest bit first.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Whether every bit of `other` is set in `self`.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether `self` and `other` have a bit in common.
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The names of the bits that are set, lowest bit first.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name)
            }
        }

        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.names()).finish()
            }
        }
    };
    (@consts $set:ident $repr:ty; $at:expr; $(#[$doc:meta])* $bit:ident = $text:literal, $($rest:tt)*) => {
        $(#[$doc])*
        #[doc = concat!("`", $text, "`")]
        pub const $bit: $set = $set(1 << ($at));
        bits!(@consts $set $repr; $at + 1; $($rest)*);
    };
    (@consts $set:ident $repr:ty; $at:expr;) => {};
}
use bits;

bits! {
    /// A command's flags, as servers report them.
    Flags(u32) {
        WRITE = "write",
        READONLY = "readonly",
        DENYOOM = "denyoom",
        ADMIN = "admin",
        PUBSUB = "pubsub",
        NOSCRIPT = "noscript",
        BLOCKING = "blocking",
        LOADING = "loading",
        STALE = "stale",
        SKIP_MONITOR = "skip_monitor",
        /// Valkey 8 and later call it `skip_commandlog`.
        SKIP_SLOWLOG = "skip_slowlog",
        ASKING = "asking",
        FAST = "fast",
        NO_AUTH = "no_auth",
        NO_MANDATORY_KEYS = "no_mandatory_keys",
        NO_ASYNC_LOADING = "no_async_loading",
        NO_MULTI = "no_multi",
        MOVABLEKEYS = "movablekeys",
        ALLOW_BUSY = "allow_busy",
        /// Kept by hand, no server reports it: the command may change data or reach other clients although it isn't
        /// flagged as a write (scripts, functions, PUBLISH), or scripts are executed that it brings (SCRIPT LOAD).
        MAY_REPLICATE = "may_replicate",
    }
}

bits! {
    /// A command's ACL categories.
    Categories(u32) {
        KEYSPACE = "keyspace",
        READ = "read",
        WRITE = "write",
        SET = "set",
        SORTEDSET = "sortedset",
        LIST = "list",
        HASH = "hash",
        STRING = "string",
        BITMAP = "bitmap",
        HYPERLOGLOG = "hyperloglog",
        GEO = "geo",
        STREAM = "stream",
        PUBSUB = "pubsub",
        ADMIN = "admin",
        FAST = "fast",
        SLOW = "slow",
        BLOCKING = "blocking",
        DANGEROUS = "dangerous",
        CONNECTION = "connection",
        TRANSACTION = "transaction",
        SCRIPTING = "scripting",
    }
}

bits! {
    /// Hints for clients and proxies, as servers report them.
    Tips(u16) {
        NONDETERMINISTIC_OUTPUT = "nondeterministic_output",
        NONDETERMINISTIC_OUTPUT_ORDER = "nondeterministic_output_order",
        REQUEST_ALL_NODES = "request_policy:all_nodes",
        REQUEST_ALL_SHARDS = "request_policy:all_shards",
        REQUEST_MULTI_SHARD = "request_policy:multi_shard",
        REQUEST_SPECIAL = "request_policy:special",
        RESPONSE_ONE_SUCCEEDED = "response_policy:one_succeeded",
        RESPONSE_ALL_SUCCEEDED = "response_policy:all_succeeded",
        RESPONSE_AGG_LOGICAL_AND = "response_policy:agg_logical_and",
        RESPONSE_AGG_MIN = "response_policy:agg_min",
        RESPONSE_AGG_SUM = "response_policy:agg_sum",
        RESPONSE_SPECIAL = "response_policy:special",
    }
}

/// How Envoy 1.40's redis_proxy treats a command: which argument it routes by, if it knows the command at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    /// `unknown command`, or known and refused.
    Unsupported,
    /// Answered by redis_proxy itself, never sent on.
    Local,
    /// Routed by argument 1, whatever that is.
    Simple,
    /// Routed by argument 3, which may be a plain argument where there are no keys; without an argument 3 it is
    /// refused.
    Eval,
    /// Routed by argument 2.
    Object,
    /// One upstream command for each argument.
    SplitKeys,
    /// One upstream SET for each pair of arguments.
    SplitPairs,
    /// Sent to every shard of the cluster that argument 1, the cursor, routes to.
    Scan,
    /// Keyless: sent to every shard of the catch-all route's cluster.
    AllShards,
    /// Keyless: sent to one shard of the catch-all route's cluster.
    RandomShard,
    /// Part of a transaction: routed by the first key of the transaction.
    Transaction,
}

/// How a command whose keys belong to several destinations can be served in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// It can't.
    No,
    /// Parts by key; the replies are arrays whose elements stand in the order of the keys (MGET).
    Array,
    /// Parts by key with the arguments that belong to it; every part answers OK (MSET).
    Ok,
    /// Parts by key; the replies are integers to be added (DEL, EXISTS, …).
    Sum,
}

/// A row of the table.
#[derive(Debug)]
pub struct Command {
    /// Lower case; a subcommand is `container|subcommand`.
    pub name: &'static str,
    /// The number of arguments, the name included; negative: at least so many.
    pub arity: i8,
    /// What kind of command it is.
    pub flags: Flags,
    /// Its ACL categories.
    pub categories: Categories,
    /// Its hints.
    pub tips: Tips,
    /// First key, last key, step: the form that servers had before key specs, for COMMAND's own answer.
    pub legacy_keys: (i8, i8, i8),
    /// Where the keys are.
    pub specs: &'static [KeySpec],
    /// Argument 1 is its key, and nothing else of it decides where it goes and how: most commands, and most of what is sent.
    pub has_one_key: bool,
    /// By what the keys are found: the specs, or knowledge of the command's grammar where the specs don't suffice.
    pub extract: Extract,
    /// How redis_proxy treats it.
    pub proxy: Proxy,
    /// Whether it can be served in parts.
    pub split: Split,
    /// What its reply becomes in RESP3.
    pub reply: &'static Reply,
    /// The reply contains names of keys.
    pub returns_keys: bool,
    /// The subcommands of a container, sorted by name.
    pub subcommands: &'static [Command],
}

impl Command {
    /// Whether a command of so many arguments (the name counts) satisfies the arity.
    pub fn accepts(&self, arguments: usize) -> bool {
        let needed = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { arguments >= needed } else { arguments == needed }
    }

    /// Whether redis_proxy, which looks at the first argument, takes something else for its key. A Redis Cluster then sends it on to the right
    /// node.
    pub fn strays(&self) -> bool {
        self.legacy_keys.0 != 1 && !self.specs.is_empty()
    }

    /// Whether it may change data or reach other clients, so that a replica or a read-only mirror mustn't get it.
    pub fn is_write(&self) -> bool {
        self.flags.intersects(Flags(Flags::WRITE.0 | Flags::MAY_REPLICATE.0))
    }

    /// Whether it reads data and changes none, so that a replica may answer it.
    pub fn is_read(&self) -> bool {
        self.flags.contains(Flags::READONLY) && !self.is_write()
    }

    /// Whether redis_proxy takes it: a container, if it takes one of the subcommands.
    pub fn is_on_proxy(&self) -> bool {
        self.proxy != Proxy::Unsupported || self.subcommands.iter().any(Command::is_on_proxy)
    }

    /// The name as people write it: of `config|get` it is `CONFIG GET`.
    pub fn shown_name(&self) -> String {
        self.name.to_ascii_uppercase().replace('|', " ")
    }

    /// The name that a client writes: of `config|get` it is `get`.
    pub fn own_name(&self) -> &'static str {
        self.name.rsplit_once('|').map_or(self.name, |(_, own)| own)
    }
}

/// Every command, sorted by name; subcommands are with their containers.
pub fn all() -> &'static [Command] {
    &table::COMMANDS
}

/// A command by its name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    if name.len() > table::LONGEST_NAME {
        return None;
    }
    let mut slot = first_slot(name, table::INDEX.len());
    loop {
        // An index past the table marks an empty slot, where the probing ends.
        let command = table::COMMANDS.get(usize::from(*table::INDEX.get(slot)?))?;
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        slot = (slot + 1) % table::INDEX.len();
    }
}

/// A container's subcommand by its own name, in any case.
pub fn lookup_subcommand(container: &'static Command, name: &[u8]) -> Option<&'static Command> {
    container.subcommands.iter().find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(name))
}

/// Where the search for a name begins in an index of so many slots (a power of two); the generator places by the same
/// function.
///
/// Two overlapping loads cover every name of up to 16 bytes, so the cost doesn't grow with the name.
#[doc(hidden)]
pub fn first_slot(name: &[u8], slots: usize) -> usize {
    let word = if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        u64::from_le_bytes(*head) ^ u64::from_le_bytes(*tail).rotate_left(24)
    } else if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32
    } else {
        name.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    // Sets bit 5 of every byte: all that upper and lower case differ by. What else it makes equal, the comparison
    // tells apart.
    let folded = (word | 0x2020_2020_2020_2020) ^ (name.len() as u64) << 59;
    let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % slots
}

/// A row as the generator writes it: name, arity, flags, categories, tips, legacy keys, key specs. What is rare
/// follows as calls on it.
macro_rules! row {
    ($name:literal, $arity:expr, [$($flag:ident)*], [$($category:ident)*], [$($tip:ident)*], $legacy:expr,
     [$([$($key_flag:ident)*] $begin:expr => $find:expr),*]) => {
        $crate::command::Command {
            name: $name,
            arity: $arity,
            flags: $crate::command::Flags(0 $(| $crate::command::Flags::$flag.0)*),
            categories: $crate::command::Categories(0 $(| $crate::command::Categories::$category.0)*),
            tips: $crate::command::Tips(0 $(| $crate::command::Tips::$tip.0)*),
            legacy_keys: $legacy,
            specs: &[$($crate::command::KeySpec {
                flags: $crate::command::KeyFlags(0 $(| $crate::command::KeyFlags::$key_flag.0)*),
                begin: $begin,
                find: $find,
            }),*],
            has_one_key: false,
            extract: $crate::command::Extract::Specs,
            proxy: $crate::command::Proxy::Unsupported,
            split: $crate::command::Split::No,
            reply: &$crate::command::reply::PLAIN,
            returns_keys: false,
            subcommands: &[],
        }
        .look_for_one_key()
    };
}
use row;

impl Command {
    const fn look_for_one_key(mut self) -> Self {
        let looked_at = Flags(Flags::ADMIN.0 | Flags::BLOCKING.0 | Flags::PUBSUB.0 | Flags::NO_MULTI.0);
        let is_key = match self.specs {
            [KeySpec { flags, begin: Begin::Index(1), find: Find::Range { last: 0, .. } }] => {
                !flags.intersects(KeyFlags(KeyFlags::NOT_KEY.0 | KeyFlags::INCOMPLETE.0))
            }
            _ => false,
        };
        self.has_one_key = is_key && !self.flags.intersects(looked_at);
        self
    }
    const fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }
    const fn split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }
    const fn reply(mut self, reply: &'static Reply) -> Self {
        self.reply = reply;
        self
    }
    const fn extract(mut self, extract: Extract) -> Self {
        self.extract = extract;
        self.has_one_key = false;
        self
    }
    const fn returns_keys(mut self) -> Self {
        self.returns_keys = true;
        self.has_one_key = false;
        self
    }
    const fn subcommands(mut self, subcommands: &'static [Command]) -> Self {
        self.subcommands = subcommands;
        self.has_one_key = false;
        self
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for command in all() {
            for name in [command.name.to_owned(), command.name.to_uppercase()] {
                assert!(std::ptr::eq(lookup(name.as_bytes()).unwrap(), command), "{name}");
            }
            for sub in command.subcommands {
                let found = lookup_subcommand(command, sub.own_name().to_uppercase().as_bytes());
                assert!(std::ptr::eq(found.unwrap(), sub), "{}", sub.name);
                assert!(lookup(sub.name.as_bytes()).is_none());
            }
        }
    }

    #[test]
    fn names_that_are_no_commands_are_not_found() {
        for name in ["", "g", "ge", "gets", "get ", "config|get", "\0\0\0", "GE\x54\x20", "set\0", "@et"] {
            assert!(lookup(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(lookup(&[b'g'; 1000]).is_none());
        assert!(lookup(&[0xff; 8]).is_none());
    }

    #[test]
    fn probing_is_short() {
        let mut longest = 0;
        for command in all() {
            let mut slot = first_slot(command.name.as_bytes(), table::INDEX.len());
            let mut steps = 1;
            while all()[usize::from(table::INDEX[slot])].name != command.name {
                slot = (slot + 1) % table::INDEX.len();
                steps += 1;
            }
            longest = longest.max(steps);
        }
        assert!(longest <= 6, "{longest}");
    }

    #[test]
    fn requests_resolve_to_the_subcommand() {
        let name = |arguments: &[&str]| match Known::of(arguments).map(|known| known.row().ok_or(known.container)) {
            Some(Ok(command)) => command.name.to_owned(),
            Some(Err(container)) => format!("{} …", container.name),
            None => "?".to_owned(),
        };
        assert_eq!(name(&["CONFIG", "Get", "x"]), "config|get");
        assert_eq!(name(&["config"]), "config …");
        assert_eq!(name(&["config", "nonsense"]), "config …");
        assert_eq!(name(&["gEt", "config"]), "get");
        assert_eq!(name(&["nonsense"]), "?");
        assert_eq!(name(&[]), "?");
    }

    #[test]
    fn reads_and_writes() {
        let kind = |name: &str| {
            let command = lookup(name.as_bytes()).unwrap();
            (command.is_read(), command.is_write())
        };
        for write in ["set", "xadd", "getset", "getex", "xack", "publish", "flushall", "eval", "fcall", "sort"] {
            assert_eq!(kind(write), (false, true), "{write}");
        }
        for read in ["get", "xread", "sort_ro", "eval_ro", "fcall_ro", "pfcount", "hgetall", "scan", "dbsize"] {
            assert_eq!(kind(read), (true, false), "{read}");
        }
        for neither in ["ping", "multi", "watch", "config", "script"] {
            assert_eq!(kind(neither), (false, false), "{neither}");
        }
    }

    #[test]
    fn what_redis_proxy_takes() {
        let on_proxy = |name: &str| {
            let arguments: Vec<&str> = name.split(' ').collect();
            Known::of(&arguments[..]).is_some_and(|known| known.command.is_on_proxy())
        };
        for name in ["get", "client", "client setname", "cluster slots", "config get", "bf.add", "object freq"] {
            assert!(on_proxy(name), "{name}");
        }
        for name in ["client list", "cluster reset", "object help", "blpop", "lcs", "command"] {
            assert!(!on_proxy(name), "{name}");
        }
    }

    #[test]
    fn the_keys_of_every_command_can_be_told() {
        for command in all().iter().flat_map(|command| std::iter::once(command).chain(command.subcommands)) {
            let complete = |spec: &KeySpec| {
                !spec.flags.contains(KeyFlags::INCOMPLETE) && spec.begin != Begin::Unknown && spec.find != Find::Unknown
            };
            assert!(command.extract != Extract::Specs || command.specs.iter().all(complete), "{}", command.name);
        }
    }

    #[test]
    fn arity() {
        let accepts = |name: &str, n| lookup(name.as_bytes()).unwrap().accepts(n);
        assert!(accepts("get", 2) && !accepts("get", 1) && !accepts("get", 3));
        assert!(accepts("mset", 3) && accepts("mset", 4000) && !accepts("mset", 2));
    }
}
