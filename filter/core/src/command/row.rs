//! A row of the command table.

use super::attributes::{Categories, Flags, Tips};
use super::key_spec::{Begin, Extract, Find, KeyFlags, KeySpec};
use super::reply::Reply;

/// How the redis_proxy of Envoy 1.40 treats a command: the argument that it routes by, if it knows
/// the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    /// redis_proxy doesn't know the command, or refuses it.
    Unsupported,
    /// Answered by redis_proxy itself and never sent on.
    Local,
    /// Routed by argument 1, whether or not that is a key.
    Simple,
    /// Routed by argument 3, which is no key if the script has no keys; refused without an
    /// argument 3.
    Eval,
    /// Routed by argument 2.
    Object,
    /// One upstream command for each argument.
    SplitKeys,
    /// One upstream SET for each pair of arguments.
    SplitPairs,
    /// Sent to every shard of the cluster that argument 1, the cursor, routes to.
    Scan,
    /// Without a key: sent to every shard of the catch-all route's cluster.
    AllShards,
    /// Without a key: sent to one shard of the catch-all route's cluster.
    RandomShard,
    /// Part of a transaction: routed by the first key of the transaction.
    Transaction,
}

/// How a command whose keys belong to several destinations can be split into commands of one
/// destination each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// The command can't be split.
    No,
    /// Split by key; the replies are arrays whose elements are in the order of the keys (MGET).
    Array,
    /// Split by key, each with the argument that belongs to it; every reply is OK (MSET).
    Ok,
    /// Split by key; the replies are integers to be added (DEL, EXISTS, …).
    Sum,
}

/// A row of the command table: a command or a subcommand.
#[derive(Debug)]
pub struct Command {
    /// The name in lower case; that of a subcommand is `container|subcommand`.
    pub name: &'static str,
    /// The number of arguments, the name included; a negative number is a minimum.
    pub arity: i8,
    /// The flags.
    pub flags: Flags,
    /// The ACL categories.
    pub categories: Categories,
    /// The hints for clients and proxies.
    pub tips: Tips,
    /// Where the keys are.
    pub key_specs: KeySpecs,
    /// Argument 1 is the only key, and nothing but the key decides where the command goes and how.
    /// True of most commands, and of most of those that are sent.
    pub has_one_key: bool,
    /// How redis_proxy treats the command.
    pub proxy: Proxy,
    /// How the command can be split.
    pub split: Split,
    /// The form of the reply in RESP3.
    pub reply: &'static Reply,
    /// The reply contains names of keys.
    pub returns_keys: bool,
    /// The subcommands of a container, sorted by name.
    pub subcommands: &'static [Command],
}

/// Where a command's keys are.
#[derive(Clone, Copy, Debug)]
pub struct KeySpecs {
    /// First key, last key, step: the form that servers had before key specs, for COMMAND's own
    /// answer.
    pub legacy: (i8, i8, i8),
    /// The key specs.
    pub specs: &'static [KeySpec],
    /// How keys are found: by the specs, or by the command's grammar where the specs don't
    /// suffice.
    pub extract: Extract,
}

impl Command {
    /// True if so many arguments, the name included, satisfy the arity.
    pub fn accepts(&self, arguments: usize) -> bool {
        let needed = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { arguments >= needed } else { arguments == needed }
    }

    /// True if redis_proxy, which takes the first argument for the key, sends the command to the
    /// wrong node of a Redis Cluster. The node then redirects the command to the right one.
    pub fn strays(&self) -> bool {
        self.key_specs.legacy.0 != 1 && !self.key_specs.specs.is_empty()
    }

    /// True if the command may change data or reach other clients, so that replicas mustn't get
    /// it.
    pub fn is_write(&self) -> bool {
        self.flags.intersects(Flags(Flags::WRITE.0 | Flags::MAY_REPLICATE.0))
    }

    /// True if the command reads data and changes none, so that a replica may answer it.
    pub fn is_read(&self) -> bool {
        self.flags.contains(Flags::READONLY) && !self.is_write()
    }

    /// True if redis_proxy serves the command, or one of the subcommands of a container.
    pub fn is_on_proxy(&self) -> bool {
        self.proxy != Proxy::Unsupported || self.subcommands.iter().any(Command::is_on_proxy)
    }

    /// Returns the name for messages: of `config|get` it is `CONFIG GET`.
    pub fn shown_name(&self) -> String {
        self.name.to_ascii_uppercase().replace('|', " ")
    }

    /// Returns the name without that of the container: of `config|get` it is `get`.
    pub fn own_name(&self) -> &'static str {
        self.name.rsplit_once('|').map_or(self.name, |(_, own)| own)
    }
}

/// A row as the generator writes it: name, arity, flags, categories, tips, legacy keys, key specs.
/// Rarer facts are method calls on the row.
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
