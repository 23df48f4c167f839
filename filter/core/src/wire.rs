//! What the controller tells a filter: one JSON document, [`FilterConfig`].
//!
//! These are the only serde types of the core. They carry no invariants; the compiled forms are [`crate::rewriter::config::RewriterConfig`]
//! for `direct` and `proxy` and [`crate::proxy::config::Document`] for `native`. Their `try_from` refuses a document as a
//! whole. Both the controller and the filter hosts use that same check, so a configuration that a filter would refuse is
//! never shipped.

use serde::{Deserialize, Serialize};

/// The whole configuration of one filter plugin: every managed host that its connections may belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilterConfig {
    /// Names the plugin. A worker's VM keeps one configuration per name, the last one received, and every connection
    /// created under that name reads it anew for each command.
    pub name: String,
    /// Raised by every push and never reused. Envoy doesn't hand a configuration to a VM again while a plugin with the
    /// very same bytes is held by an open connection, so a rollback must differ from what it rolls back to.
    pub revision: u64,
    /// The managed hosts. A connection that matches none of them passes through untouched.
    pub hosts: Vec<Host>,
    /// Bounds on what a client may send.
    #[serde(default)]
    pub limits: Limits,
}

/// One managed Redis host as its clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// `FQDN:port`, for messages and stats.
    pub host: String,
    /// Which connections belong to this host. All three lists empty: every connection of the plugin.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// What stands behind the filter on the listener.
    pub path: DataPath,
    /// What clients must present; absent: nothing is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// `direct` only: the login that the filter performs at Redis for the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_login: Option<UpstreamLogin>,
    /// `proxy` only, required there: the password by which the filter and the `redis_proxy` behind it recognise each
    /// other (one of its `downstream_auth_passwords`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<String>,
    /// Somebody other than the client holds the credentials of Redis (the filter on `direct` and `native`, `redis_proxy`
    /// on `proxy`), so commands that reveal or change credentials are refused.
    #[serde(default)]
    pub guard_credentials: bool,
    /// Lifts the refusals of `guard_credentials`.
    #[serde(default)]
    pub allow_admin_commands: bool,
    /// `settings.caseInsensitive`: keys match routes without regard to ASCII case.
    #[serde(default)]
    pub case_insensitive: bool,
    /// `native` only: which nodes answer commands that only read, where a route says nothing else.
    #[serde(default, skip_serializing_if = "ReadPolicy::is_default")]
    pub read_policy: ReadPolicy,
    /// `native` only: milliseconds that Redis may take for a reply, but for commands that wait by themselves; 0: any time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub op_timeout_ms: u64,
    /// `native` only: count how long each command takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub command_stats: bool,
    /// The destinations that the routes name by index.
    pub targets: Vec<Target>,
    /// Precedence: exact, then longest prefix, then regex in order, then `any`.
    pub routes: Vec<Route>,
    /// Faults of the whole host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// What stands in a listener's metadata instead of a host where the filter of that host stands there itself: a filter that
/// serves many hosts leaves such connections alone, even if it knows the host by other means.
pub const CONFIGURED_BY_ITSELF: &str = "configured by itself";

/// Which connections belong to a host; a connection matches if any entry of any list matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Values of the listener's metadata, namespace `redis-mesh`, key `host`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Names of the cluster that `tcp_proxy` would use, such as `outbound|6379||HOST`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Original destinations, `IP:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl Selector {
    /// True when the selector takes every connection.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.clusters.is_empty() && self.addresses.is_empty()
    }
}

/// The names of an enum's variants in the document. A visitor for each enum, as serde would derive it, is a kilobyte of the
/// wasm filter.
macro_rules! named {
    ($kind:ident { $($variant:ident: $name:literal),* $(,)? }) => {
        impl $kind {
            /// Its name in the document.
            pub const fn name(self) -> &'static str {
                match self {
                    $($kind::$variant => $name,)*
                }
            }
        }

        impl From<$kind> for &'static str {
            fn from(it: $kind) -> &'static str {
                it.name()
            }
        }

        impl TryFrom<String> for $kind {
            type Error = String;

            fn try_from(name: String) -> Result<$kind, String> {
                let index = index_of(&name, &[$($name),*])?;
                [$($kind::$variant),*].get(index).copied().ok_or(name)
            }
        }
    };
}

fn index_of(name: &str, names: &[&str]) -> Result<usize, String> {
    names.iter().position(|known| *known == name).ok_or_else(|| format!("{name} is none of {}", names.join(", ")))
}

/// What stands behind the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum DataPath {
    /// `tcp_proxy`: one destination, all of Redis.
    Direct,
    /// `redis_proxy`: several destinations, Redis Cluster, mirrors.
    Proxy,
    /// Nothing: the filter is the dynamic module, which has connections of its own. All of Redis to several destinations.
    Native,
}

named!(DataPath { Direct: "direct", Proxy: "proxy", Native: "native" });

/// Which nodes of a destination answer commands that only read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum ReadPolicy {
    /// The master.
    #[default]
    Master,
    /// The master, or a replica while the master can't be reached.
    PreferMaster,
    /// A replica.
    Replica,
    /// A replica, or the master while no replica can be reached.
    PreferReplica,
    /// Any node.
    Any,
}

named!(ReadPolicy {
    Master: "master",
    PreferMaster: "preferMaster",
    Replica: "replica",
    PreferReplica: "preferReplica",
    Any: "any",
});

impl ReadPolicy {
    fn is_default(&self) -> bool {
        *self == ReadPolicy::default()
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(it: &bool) -> bool {
    !it
}

/// The passwords that clients may present, as salted hashes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientAuth {
    /// The only user name that is accepted; absent: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Hex; at least 16 bytes.
    pub salt: String,
    /// Hex of `SHA-256(salt ‖ password)`, one for each accepted password.
    pub password_sha256: Vec<String>,
}

/// How a Redis is reached on `native`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// The name of its cluster in Envoy.
    pub cluster: String,
    /// The login there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<UpstreamLogin>,
    /// Of a Redis Cluster whose nodes are no members of `cluster`, as where it was found by a name in DNS: the name of the
    /// ORIGINAL_DST cluster through which a node is reached by its address. Absent: nodes are members of `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
}

/// The login at Redis that the filter performs before anything else.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamLogin {
    /// ACL user; absent: `AUTH password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// In clear, since Redis takes it no other way.
    pub password: String,
}

impl std::fmt::Debug for UpstreamLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamLogin").field("username", &self.username).field("password", &"[redacted]").finish()
    }
}

/// Where commands of a route go: a destination with its mirrors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// `FQDN:port` of the destination, for messages and stats.
    pub destination: String,
    /// The destination is a Redis Cluster.
    #[serde(default)]
    pub cluster: bool,
    /// At most four. Whether a command is mirrored is decided for each mirror and each command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// `proxy` only: the tag of each subset of `mirrors`, indexed by the bit mask of the chosen ones, so of length
    /// `2^mirrors.len()`. A tag is `\u{1}`, base32 characters, `:`. `null` means untagged, which `redis_proxy` sends to
    /// its catch-all route. Empty on `direct` and `native`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Option<String>>,
    /// `native` only, required there: how the destination is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
}

/// One mirror of a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// `FQDN:port`, for messages and stats.
    pub destination: String,
    /// Share of the commands that are mirrored, in parts per million (1,000,000 = all).
    pub per_million: u32,
    /// Leave out commands that only read, by Redis's own command flags.
    #[serde(default)]
    pub exclude_read_commands: bool,
    /// `native` only: the mirror is a Redis Cluster.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cluster: bool,
    /// `native` only, required there: how the mirror is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
}

/// One routing rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Which keys.
    #[serde(rename = "match")]
    pub key: KeyMatch,
    /// Remove the matched prefix from the key before it goes out; only with `prefix`.
    #[serde(default)]
    pub remove_prefix: bool,
    /// Index into [`Host::targets`].
    pub target: u32,
    /// `native` only: in the place of [`Host::read_policy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_policy: Option<ReadPolicy>,
    /// Faults of this route, before those of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// Which keys a route takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeyMatch {
    /// The whole key.
    Exact(String),
    /// The beginning of the key; not empty.
    Prefix(String),
    /// A regular expression (regex-lite's syntax) found anywhere in the key.
    Regex(String),
    /// Every key. Commands without a key go there too.
    Any,
}

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Answer `-Fault Injected: Error` in the command's place, or only delay the command.
    #[serde(rename = "type")]
    pub kind: FaultKind,
    /// Share of the commands that are hit, in parts per million. The shares of several faults that apply to one command
    /// add up, as in Envoy's redis_proxy.
    pub per_million: u32,
    /// Milliseconds to wait; required with `delay`, allowed with `error`.
    #[serde(default)]
    pub delay_ms: u64,
    /// Command names in any case; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum FaultKind {
    /// Delay the command.
    Delay,
    /// Answer an error in its place.
    Error,
}

named!(FaultKind { Delay: "delay", Error: "error" });

/// Bounds on what a client may send; the defaults are Redis's own where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Arguments of one command (Redis: 1,048,576).
    pub max_arguments: u32,
    /// Bytes of one argument (Redis's `proto-max-bulk-len`: 512 MiB).
    pub max_bulk_bytes: u64,
    /// Bytes of an inline command or of a length line (Redis: 64 KiB).
    pub max_inline_bytes: u32,
    /// Bytes of a command that has to be held back as a whole because every key of it decides its route (64 MiB).
    pub max_held_bytes: u32,
    /// Bytes of replies that may be read at once to give them their RESP3 form (16 MiB).
    pub max_shaped_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_arguments: 1024 * 1024,
            max_bulk_bytes: 512 * 1024 * 1024,
            max_inline_bytes: 64 * 1024,
            max_held_bytes: 64 * 1024 * 1024,
            max_shaped_bytes: 16 * 1024 * 1024,
        }
    }
}
