//! The configuration that the controller gives a filter: one JSON document, [`FilterConfig`].
//!
//! These are the only serde types of the core. They carry no invariants; the compiled forms are
//! [`crate::rewriter::config::RewriterConfig`] for the data paths `direct` and `proxy`, and
//! [`crate::multiplexer::config::ListenerConfig`] for `native`. Their `from_json` accepts or refuses a
//! document as a whole. The controller and the hosts of the filters use the same check, so the
//! controller never ships a configuration that a filter would refuse.

use serde::{Deserialize, Serialize};

/// The configuration of one filter plugin: every managed host that its connections may belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilterConfig {
    /// The name of the plugin. Each worker's VM keeps the last configuration that it received
    /// under a name, and every connection that was created under the name reads it for each
    /// command.
    pub name: String,
    /// A number that every push increases, never used twice. Envoy doesn't give a configuration to
    /// a VM again while an open connection holds a plugin with the same bytes, so a rollback must
    /// differ from the configuration that it restores.
    pub revision: u64,
    /// The managed hosts. A connection that belongs to none of them passes unchanged.
    pub hosts: Vec<Host>,
    /// The hosts whose connections are served only through the listeners that their rules have
    /// changed, each by the name in the tokens of those listeners ([`token`]). A connection to Istio's own
    /// cluster of such a host comes through a listener that the rules haven't reached, and one whose
    /// token is of another state of the rules leads where they led: both are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Bounds on what a client may send.
    #[serde(default)]
    pub limits: Limits,
}

/// A managed Redis host as its clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// `FQDN:port`, for messages and stats.
    pub host: String,
    /// The connections that belong to this host. All three lists empty: every connection of the
    /// plugin.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// The kind of filter that follows this one on the listener.
    pub path: DataPath,
    /// The passwords that clients must present; absent: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// `direct` only: the login that the filter performs at Redis for the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_login: Option<UpstreamLogin>,
    /// `direct` only: the service whose cluster a connection must lead to before the filter logs in, as
    /// [`mesh_service`] names it; absent: the login is for whatever the listener leads to. Anyone in a
    /// mesh may have Istio put other servers in the place of a host, for the clients of a namespace
    /// of his own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_for: Option<String>,
    /// `proxy` only, required there: the password by which the filter and the `redis_proxy` that
    /// follows recognise each other (one of its `downstream_auth_passwords`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<String>,
    /// The credentials of Redis are held by the mesh (the filter on `direct` and `native`,
    /// `redis_proxy` on `proxy`) rather than by the client, so commands that reveal or change
    /// credentials are refused.
    #[serde(default)]
    pub guard_credentials: bool,
    /// Lifts the refusals of `guard_credentials`.
    #[serde(default)]
    pub allow_admin_commands: bool,
    /// Commands that run scripts or functions, or load them, are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuse_scripts: bool,
    /// `proxy` only: the only destination has several endpoints, and nothing says that any of them
    /// may answer any command, so commands for all servers are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub several_endpoints: bool,
    /// `settings.caseInsensitive`: keys match routes without regard to ASCII case.
    #[serde(default)]
    pub case_insensitive: bool,
    /// `native` only: the nodes that answer commands that only read, unless a route has a policy
    /// of its own.
    #[serde(default, skip_serializing_if = "ReadPolicy::is_default")]
    pub read_policy: ReadPolicy,
    /// `native` only: for how many milliseconds Redis may be silent while a reply is to come, except
    /// to commands that block; 0: there is no limit; absent: 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_timeout_ms: Option<u64>,
    /// `native` only: count commands by name and measure their latency.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub command_stats: bool,
    /// The destinations that the routes name by index.
    pub targets: Vec<Target>,
    /// The routes. An exact match has precedence, then the longest prefix, then the first regex,
    /// then `any`.
    pub routes: Vec<Route>,
    /// Faults of the whole host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// The value in a listener's metadata, in place of a host, that says that the listener has a
/// filter of its own for the host. A filter that serves many hosts leaves such connections alone,
/// even if it knows the host by other means.
pub const CONFIGURED_BY_ITSELF: &str = "configured by itself";

/// The token by which a filter recognises the host of a listener that leads to a cluster. `name` is the
/// host and port, behind the namespace of the clients and a slash where the rules are for these only.
pub fn token(name: &str, cluster: &str) -> String {
    format!("{name} to {cluster}")
}

/// The name in such a token.
pub fn name_in(token: &str) -> Option<&str> {
    token.split_once(" to ").map(|(name, _)| name)
}

/// The namespace of the clients in such a name, if it has one.
pub fn clients_in(name: &str) -> Option<&str> {
    name.split_once('/').map(|(clients, _)| clients)
}

/// The host and port in such a name.
pub fn address_in(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, address)| address)
}

/// The name of Istio's own cluster of a host.
pub fn istio_cluster(host: &str, port: impl std::fmt::Display) -> String {
    format!("outbound|{port}||{host}")
}

/// The name of a service of the mesh: the namespace of the Service or ServiceEntry that brings the host
/// into the mesh, and the host, both as Istio writes them into the metadata of the service's clusters.
pub fn mesh_service(namespace: &str, host: &str) -> String {
    format!("{namespace}/{host}")
}

/// The connections that belong to a host. A connection belongs to it if an entry of any list
/// matches.
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

/// The names of an enum's variants in the document. The visitor that serde derives for each enum
/// would add a kilobyte to the wasm filter.
macro_rules! named {
    ($kind:ident { $($variant:ident: $name:literal),* $(,)? }) => {
        impl $kind {
            /// Returns the variant's name in the document.
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

/// The data path of a host: the kind of filter that follows, and what the path can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum DataPath {
    /// `tcp_proxy` follows: one destination, all of Redis.
    Direct,
    /// `redis_proxy` follows: several destinations, Redis Cluster, mirrors.
    Proxy,
    /// Nothing follows: the filter is the dynamic module, which opens connections of its own.
    /// Several destinations, all of Redis.
    Native,
}

named!(DataPath { Direct: "direct", Proxy: "proxy", Native: "native" });

/// The nodes of a destination that answer commands that only read.
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
    /// The salt in hexadecimal, at least 16 bytes.
    pub salt: String,
    /// `SHA-256(salt ‖ password)` in hexadecimal, one for each accepted password.
    pub password_sha256: Vec<String>,
}

/// The upstream of a Redis on `native`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// The name of the cluster in Envoy.
    pub cluster: String,
    /// The login at the Redis; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<UpstreamLogin>,
    /// For a Redis Cluster whose nodes aren't members of `cluster`, such as one that is found by a
    /// name in DNS: the name of the cluster of type ORIGINAL_DST through which nodes are reached
    /// by their addresses. Absent: nodes are members of `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// For a destination that is no Redis Cluster: each key is placed on one of the cluster's
    /// healthy members, as `redis_proxy` with the load balancer MAGLEV places it, by the hash of
    /// this. Absent: any member answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_hash: Option<KeyHash>,
}

/// What of a key is hashed to place it on one of several servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum KeyHash {
    /// The whole key.
    Key,
    /// The hash tag of the key, if it has one: `enable_hashtagging` of `redis_proxy`.
    Tag,
}

named!(KeyHash { Key: "key", Tag: "tag" });

/// The login that the filter performs at Redis before anything else.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamLogin {
    /// The ACL user; absent: AUTH has a password alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password in clear, as Redis needs it.
    pub password: String,
}

impl std::fmt::Debug for UpstreamLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamLogin").field("username", &self.username).field("password", &"[redacted]").finish()
    }
}

/// The target of routes: a destination with its mirrors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// `FQDN:port` of the destination, for messages and stats.
    pub destination: String,
    /// The destination is a Redis Cluster.
    #[serde(default)]
    pub cluster: bool,
    /// At most four mirrors. Whether a command is mirrored is decided for each mirror and each
    /// command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// `proxy` only: the tag of each subset of `mirrors`, indexed by the bit mask of the chosen
    /// ones, so of length `2^mirrors.len()`. A tag is `\u{1}`, base32 characters, `:`. `null`
    /// means untagged, which `redis_proxy` sends to its catch-all route. Empty on `direct` and
    /// `native`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Option<String>>,
    /// `native` only, required there: the upstream of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
}

/// A mirror of a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// `FQDN:port`, for messages and stats.
    pub destination: String,
    /// Share of the commands that are mirrored, in parts per million (1,000,000 = all).
    pub per_million: u32,
    /// Don't mirror commands that only read, by Redis's own command flags.
    #[serde(default)]
    pub exclude_read_commands: bool,
    /// `native` only: mirror commands, too, that administer a server or change all that it holds.
    #[serde(default, skip_serializing_if = "is_false")]
    pub include_admin: bool,
    /// `native` only: the mirror is a Redis Cluster.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cluster: bool,
    /// `native` only, required there: the upstream of the mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
}

/// A routing rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The keys that the route takes.
    #[serde(rename = "match")]
    pub key: KeyMatch,
    /// Remove the matched prefix from the key before it goes out; only with `prefix`.
    #[serde(default)]
    pub remove_prefix: bool,
    /// Index into [`Host::targets`].
    pub target: u32,
    /// `native` only: takes the place of [`Host::read_policy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_policy: Option<ReadPolicy>,
    /// Faults of this route, which come before those of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// The keys that a route takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeyMatch {
    /// One key.
    Exact(String),
    /// Keys with this prefix, which isn't empty.
    Prefix(String),
    /// Keys in which this regular expression (in the syntax of the crate regex-lite) is found
    /// anywhere.
    Regex(String),
    /// Every key that no other route takes. Commands without a key take this route too.
    Any,
}

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// The command is answered with `-Fault Injected: Error`, or only delayed.
    #[serde(rename = "type")]
    pub kind: FaultKind,
    /// Share of the commands that get the fault, in parts per million. The shares of several
    /// faults that apply to one command add up, as in Envoy's redis_proxy.
    pub per_million: u32,
    /// Delay in milliseconds; required with `delay`, allowed with `error`.
    #[serde(default)]
    pub delay_ms: u64,
    /// Names of the commands that the fault applies to, in any case; empty: all commands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum FaultKind {
    /// The command is delayed.
    Delay,
    /// The command is answered with an error.
    Error,
}

named!(FaultKind { Delay: "delay", Error: "error" });

/// Bounds on what a client may send; the defaults are Redis's own where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Arguments of one command (Redis: 2,147,483,647).
    pub max_arguments: u32,
    /// Bytes of one argument (Redis's `proto-max-bulk-len`: 512 MiB).
    pub max_bulk_bytes: u64,
    /// Bytes of an inline command or of a length line (Redis: 64 KiB).
    pub max_inline_bytes: u32,
    /// Bytes of a command that has to be held as a whole because all its keys decide about its
    /// route (64 MiB).
    pub max_held_bytes: u32,
    /// Bytes of replies that are read at once to give them their RESP3 form (16 MiB).
    pub max_shaped_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_arguments: i32::MAX as u32,
            max_bulk_bytes: 512 * 1024 * 1024,
            max_inline_bytes: 64 * 1024,
            max_held_bytes: 64 * 1024 * 1024,
            max_shaped_bytes: 16 * 1024 * 1024,
        }
    }
}
