//! A row of the command table.

use super::attributes::{Categories, Flags, Tips};
use super::key_spec::{Begin, Extract, Find, KeyFlags, KeySpec};
use super::reply::Reply;

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
    /// Where the keys are.
    pub key_specs: KeySpecs,
    /// Argument 1 is its key, and nothing else of it decides where it goes and how: most commands, and most of what is sent.
    pub has_one_key: bool,
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

/// Where a command's keys are.
#[derive(Clone, Copy, Debug)]
pub struct KeySpecs {
    /// First key, last key, step: the form that servers had before key specs, for COMMAND's own answer.
    pub legacy: (i8, i8, i8),
    /// The key specs.
    pub specs: &'static [KeySpec],
    /// How keys are found: by the specs, or by the command's grammar where the specs don't suffice.
    pub extract: Extract,
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
        self.key_specs.legacy.0 != 1 && !self.key_specs.specs.is_empty()
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
            key_specs: $crate::command::KeySpecs {
                legacy: $legacy,
                specs: &[$($crate::command::KeySpec {
                    flags: $crate::command::KeyFlags(0 $(| $crate::command::KeyFlags::$key_flag.0)*),
                    begin: $begin,
                    find: $find,
                }),*],
                extract: $crate::command::Extract::Specs,
            },
            has_one_key: false,
            proxy: $crate::command::Proxy::Unsupported,
            split: $crate::command::Split::No,
            reply: &$crate::command::reply::PLAIN,
            returns_keys: false,
            subcommands: &[],
        }
        .look_for_one_key()
    };
}
pub(super) use row;

impl Command {
    pub(super) const fn look_for_one_key(mut self) -> Self {
        let looked_at = Flags(Flags::ADMIN.0 | Flags::BLOCKING.0 | Flags::PUBSUB.0 | Flags::NO_MULTI.0);
        let is_key = match self.key_specs.specs {
            [KeySpec { flags, begin: Begin::Index(1), find: Find::Range { last: 0, .. } }] => {
                !flags.intersects(KeyFlags(KeyFlags::NOT_KEY.0 | KeyFlags::INCOMPLETE.0))
            }
            _ => false,
        };
        self.has_one_key = is_key && !self.flags.intersects(looked_at);
        self
    }
    pub(super) const fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }
    pub(super) const fn split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }
    pub(super) const fn reply(mut self, reply: &'static Reply) -> Self {
        self.reply = reply;
        self
    }
    pub(super) const fn extract(mut self, extract: Extract) -> Self {
        self.key_specs.extract = extract;
        self.has_one_key = false;
        self
    }
    pub(super) const fn returns_keys(mut self) -> Self {
        self.returns_keys = true;
        self.has_one_key = false;
        self
    }
    pub(super) const fn subcommands(mut self, subcommands: &'static [Command]) -> Self {
        self.subcommands = subcommands;
        self.has_one_key = false;
        self
    }
}
