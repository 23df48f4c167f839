//! RedisService: rules for the commands that clients send to a host.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::auth::Auth;
use super::duration::DURATION;
use super::export::{self, EXPORT};
use super::status::ResourceStatus;

/// The description that `kubectl explain redisservice` shows.
pub const DESCRIPTION: &str = "RedisService holds rules for the commands that clients send to a Redis host: the destination of each key, \
    mirrors, the login that clients must present, and faults to inject.";

/// Rules for the commands that clients send to these hosts.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.aeraki.io",
    version = "v1alpha1",
    kind = "RedisService",
    plural = "redisservices",
    namespaced,
    shortname = "rsvc",
    category = "redis-aeraki-io",
    status = "ResourceStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Hosts","type":"string","jsonPath":".spec.host","description":"The hosts whose clients this object governs"}"#,
    printcolumn = r#"{"name":"Path","type":"string","jsonPath":".status.dataPath","description":"The data path: direct, proxy or native"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Valid, and no other object has precedence"}"#,
    printcolumn = r#"{"name":"Resolved","type":"string","jsonPath":".status.conditions[?(@.type==\"ResolvedRefs\")].status","description":"The objects that it names exist"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"Handed to the mesh"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RedisServiceSpec {
    /// The hosts whose clients these rules govern. Fully qualified names, or the short names of
    /// Services in the namespace of this object.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 253)))]
    pub host: Vec<String>,
    /// The namespaces whose clients these rules reach: `*` (default)
    /// for all, `.` for the namespace of this object, and names. For the clients elsewhere this
    /// object doesn't exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = EXPORT)))]
    #[x_kube(validation = Rule::new(export::RULE).message(export::MESSAGE))]
    pub export_to: Vec<String>,
    /// Settings that apply to all commands of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsSpec>,
    /// Routes. An exact key has precedence, then the longest prefix, then regular expressions in
    /// the order written, then the route without `match`. A key that no route takes is refused.
    /// Without any route, everything goes to the host itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20000))]
    pub redis: Vec<RouteSpec>,
    /// Faults to inject into all commands of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub faults: Vec<FaultSpec>,
}

/// Settings that apply to all commands of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingsSpec {
    /// The login that clients must present with AUTH or HELLO. Without it, clients need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The nodes of a Redis Cluster that serve reads: `MASTER` (default), `PREFER_MASTER`,
    /// `REPLICA`, `PREFER_REPLICA`, `ANY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_policy: Option<ReadPolicySpec>,
    /// For how long Redis may be silent while a reply is to come, such as `5s` (default); `0s`: for
    /// as long as it takes. It doesn't hold for commands that block. On `native` it is also for how long
    /// a command waits for another node of a Redis Cluster to take the place of one that can't be
    /// reached (`0s`: `5s`): with a few seconds more than `cluster-node-timeout`, clients see nothing of
    /// a failover. Without effect on `direct`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub op_timeout: Option<String>,
    /// Matches keys without regard to the case of ASCII letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case_insensitive: Option<bool>,
    /// Counts each command by name, and measures its latency. Without effect on the data path
    /// `direct`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_command_stats: Option<bool>,
    /// Chooses among the endpoints of a destination that is no Redis Cluster by the part of the
    /// key in braces rather than by the whole key. (A Redis Cluster always does so.) Data path
    /// `proxy` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_hashtagging: Option<bool>,
    /// Follows MOVED and ASK. Default true where a destination is a Redis Cluster. Data path
    /// `proxy` only; on `native`, redirections are always followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_redirection: Option<bool>,
    /// The longest time that commands wait to be sent together; needs `maxBufferSizeBeforeFlush`.
    /// Default `3ms`. Data path `proxy` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub buffer_flush_timeout: Option<String>,
    /// The number of bytes of commands that are collected before they are sent. By default every
    /// command is sent at once. Data path `proxy` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295u32))]
    pub max_buffer_size_before_flush: Option<u32>,
    /// Without effect: redirections are followed to the nodes that the Redis Cluster names only.
    /// A script chooses the words of an error, so connections to other addresses would be a
    /// client's to choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295u32))]
    pub max_upstream_unknown_connections: Option<u32>,
    /// Whether clients may run and load scripts and functions (EVAL, EVALSHA, FCALL, SCRIPT LOAD, …).
    /// Default `Allow`, but `Refuse` on the data path `proxy` before a Redis Cluster: there
    /// redis_proxy takes an error that a script makes up for a redirection, and runs the script again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scripts: Option<ScriptsSpec>,
    /// Permits commands that reveal or change credentials or take the server over, where the mesh
    /// logs in for the clients. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_admin_commands: Option<bool>,
}

/// What becomes of commands that run or load scripts and functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs)]
pub enum ScriptsSpec {
    Allow,
    Refuse,
}

/// The nodes of a Redis Cluster that serve reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum ReadPolicySpec {
    #[default]
    Master,
    PreferMaster,
    Replica,
    PreferReplica,
    Any,
}

/// A destination for the commands with certain keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// The keys that this route takes. Without it, the route takes all keys that no other route
    /// takes, and commands without a key.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RouteMatch>,
    /// The destination.
    pub route: DestinationRef,
    /// Destinations that get copies of the commands. Their replies are dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub mirror: Vec<MirrorSpec>,
    /// Faults to inject into the commands of this route, before the faults of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub faults: Vec<FaultSpec>,
    /// The nodes of a Redis Cluster that serve the reads of this route, as in
    /// `settings.readPolicy`. On the data path `proxy`, all routes must have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_policy: Option<ReadPolicySpec>,
}

/// A condition on commands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// A condition on the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyMatchSpec>,
}

/// A condition on the key: exactly one of `prefix`, `exact` and `regex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.prefix), has(self.exact), has(self.regex)].exists_one(given, given)").message("give exactly one of prefix, exact and regex"),
    validation = Rule::new("!has(self.prefix) || self.prefix != ''").message("an empty prefix takes every key: leave match out instead"),
    validation = Rule::new("!has(self.removePrefix) || !self.removePrefix || has(self.prefix)").message("removePrefix needs a prefix")
)]
pub struct KeyMatchSpec {
    /// The beginning of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 900))]
    pub prefix: Option<String>,
    /// Removes the prefix from the key before the command is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_prefix: Option<bool>,
    /// The whole key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub exact: Option<String>,
    /// A regular expression that matches anywhere in the key. Anchor it with `^` and `$` to match
    /// the whole key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub regex: Option<String>,
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRef {
    /// The host of a Redis. A fully qualified name, or the short name of a Service in the
    /// namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// The port. By default the Service's only port, or the one that is Redis by its name, its
    /// `appProtocol` or its number 6379.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u32>,
}

/// A destination that gets copies of commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorSpec {
    /// The destination of the copies.
    pub route: DestinationRef,
    /// The share of the commands that are copied. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Percent>,
    /// Doesn't copy commands that only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_read_commands: Option<bool>,
    /// Also copies commands that administer a server or change all that it holds, such as FLUSHALL,
    /// CONFIG SET, SCRIPT LOAD, FUNCTION LOAD and SWAPDB. Only on the data path `native`; on
    /// `proxy` they are never copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_admin: Option<bool>,
}

/// A share in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Percent {
    /// A number from 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub value: f64,
}

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.delay) || (has(self.type) && self.type == 'ERROR')").message("a fault of type DELAY needs a delay"))]
pub struct FaultSpec {
    /// `DELAY` (default): the command waits. `ERROR`: the command is answered with an error,
    /// after `delay` if there is one.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FaultType>,
    /// The share of the commands that are hit. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Percent>,
    /// The time to wait, such as `200ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub delay: Option<String>,
    /// The names of the commands that are hit, in upper or lower case. Default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(min = 1, max = 64)))]
    pub commands: Vec<String>,
}

/// The effect of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum FaultType {
    Delay,
    Error,
}
