//! RedisService: what becomes of the commands that clients send to a host.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::auth::Auth;
use super::duration::DURATION;
use super::status::ResourceStatus;

/// `kubectl explain redisservice`.
pub const DESCRIPTION: &str = "RedisService says what becomes of the commands that clients send to a Redis host: which destination each \
    key goes to, where commands are mirrored, what clients must present, and which faults are injected.";

/// What becomes of the commands that clients send to these hosts.
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
    printcolumn = r#"{"name":"Path","type":"string","jsonPath":".status.dataPath","description":"How the traffic is served: direct, proxy or native"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Valid, and no other object has precedence"}"#,
    printcolumn = r#"{"name":"Resolved","type":"string","jsonPath":".status.conditions[?(@.type==\"ResolvedRefs\")].status","description":"What it refers to exists"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"Handed to the mesh"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RedisServiceSpec {
    /// The hosts whose clients these rules govern. Fully qualified names, or the short names of Services in the namespace
    /// of this object.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 253)))]
    pub host: Vec<String>,
    /// Settings of the whole service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsSpec>,
    /// Routes. An exact key has precedence, then the longest prefix, then regular expressions in the order written, then
    /// the route without `match`. A key that no route takes is refused. Without any route, everything goes to the host
    /// itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20000))]
    pub redis: Vec<RouteSpec>,
    /// Faults to inject into all commands of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub faults: Vec<FaultSpec>,
}

/// Settings of the whole service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingsSpec {
    /// What clients must present with AUTH or HELLO. Without it nothing is asked of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Which nodes of a Redis Cluster serve reads: `MASTER` (default), `PREFER_MASTER`, `REPLICA`, `PREFER_REPLICA`, `ANY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_policy: Option<ReadPolicySpec>,
    /// How long a command may take, such as `5s` (the default). Data path `proxy` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub op_timeout: Option<String>,
    /// Match keys without regard to the case of ASCII letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case_insensitive: Option<bool>,
    /// Count each command by name, and measure its latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_command_stats: Option<bool>,
    /// Where a destination has several endpoints that are no Redis Cluster: choose one by the part of the key in braces
    /// rather than by the whole key. (In a Redis Cluster that is always so.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_hashtagging: Option<bool>,
    /// Follow MOVED and ASK. Default true where a destination is a Redis Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_redirection: Option<bool>,
    /// How long commands wait to be sent together; needs `maxBufferSizeBeforeFlush`. Default `3ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub buffer_flush_timeout: Option<String>,
    /// How many bytes of commands are collected before they are sent. By default every command is sent at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_buffer_size_before_flush: Option<u32>,
    /// How many connections one worker may open to nodes that it learnt from MOVED or ASK only. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_upstream_unknown_connections: Option<u32>,
    /// Where the mesh logs in for the client, let clients use commands that reveal or change credentials or take the
    /// server over. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_admin_commands: Option<bool>,
}

/// Which nodes of a Redis Cluster serve reads.
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

/// Which commands go where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// Which keys this route takes; without it, all that no other route takes, and commands without a key.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RouteMatch>,
    /// The destination.
    pub route: DestinationRef,
    /// Copies of the commands go to these too. Their replies are dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub mirror: Vec<MirrorSpec>,
    /// Faults to inject into the commands of this route, before those of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub faults: Vec<FaultSpec>,
    /// As `settings.readPolicy`, for this route. Data path `native` only, unless it is the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_policy: Option<ReadPolicySpec>,
}

/// What a command must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyMatchSpec>,
}

/// What the key must be: exactly one of `prefix`, `exact` and `regex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.prefix), has(self.exact), has(self.regex)].exists_one(given, given)").message("give exactly one of prefix, exact and regex"),
    validation = Rule::new("!has(self.prefix) || self.prefix != ''").message("an empty prefix takes every key: leave match out instead"),
    validation = Rule::new("!has(self.removePrefix) || !self.removePrefix || has(self.prefix)").message("removePrefix needs a prefix")
)]
pub struct KeyMatchSpec {
    /// What the key begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 900))]
    pub prefix: Option<String>,
    /// Remove the prefix from the key before the command goes out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_prefix: Option<bool>,
    /// The whole key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub exact: Option<String>,
    /// A regular expression that is found anywhere in the key; anchor it with `^` and `$` where that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub regex: Option<String>,
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRef {
    /// The host of a Redis. A fully qualified name, or the short name of a Service in the namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// The port. By default the Service's only port, or the one that is Redis by its name, its `appProtocol` or its number
    /// 6379.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u32>,
}

/// Where copies of commands go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorSpec {
    /// The destination of the copies.
    pub route: DestinationRef,
    /// Share of the commands that are copied. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Percent>,
    /// Leave out commands that only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_read_commands: Option<bool>,
}

/// A share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Percent {
    /// From 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub value: f64,
}

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.delay) || (has(self.type) && self.type == 'ERROR')").message("a fault of type DELAY needs a delay"))]
pub struct FaultSpec {
    /// `DELAY` (default): the command waits. `ERROR`: the answer is an error, after `delay` if there is one.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FaultType>,
    /// Share of the commands that are hit. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Percent>,
    /// How long to wait, such as `200ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub delay: Option<String>,
    /// The commands that are hit, in any case. Default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(min = 1, max = 64)))]
    pub commands: Vec<String>,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum FaultType {
    Delay,
    Error,
}
