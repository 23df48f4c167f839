//! RedisDestination: the way to one Redis.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::auth::Auth;
use super::duration::DURATION;
use super::export::{self, EXPORT};
use super::status::ResourceStatus;

/// The description that `kubectl explain redisdestination` shows.
pub const DESCRIPTION: &str = "RedisDestination says how one Redis is reached: as a single server or a Redis Cluster, with which \
    login, over TLS or not. It takes effect wherever that Redis is a destination, and for the clients of its host even where no \
    RedisService names that host.";

/// The way to a Redis.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.aeraki.io",
    version = "v1alpha1",
    kind = "RedisDestination",
    plural = "redisdestinations",
    namespaced,
    shortname = "rd",
    category = "redis-aeraki-io",
    status = "ResourceStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Host","type":"string","jsonPath":".spec.host","description":"The Redis that this object is about"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.trafficPolicy.connectionPool.redis.mode","description":"PROXY (interchangeable endpoints) or CLUSTER"}"#,
    printcolumn = r#"{"name":"TLS","type":"string","jsonPath":".spec.trafficPolicy.tls.mode","description":"TLS to this Redis","priority":1}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Valid, and no other object has precedence"}"#,
    printcolumn = r#"{"name":"Resolved","type":"string","jsonPath":".status.conditions[?(@.type==\"ResolvedRefs\")].status","description":"The objects that it names exist"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"Handed to the mesh"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RedisDestinationSpec {
    /// The host of the Redis. A fully qualified name, or the short name of a Service in the
    /// namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// The namespaces whose clients this object reaches, with its login and its clusters: `*` (default)
    /// for all, `.` for the namespace of this object, and names. For the clients elsewhere this
    /// object doesn't exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = EXPORT)))]
    #[x_kube(validation = Rule::new(export::RULE).message(export::MESSAGE))]
    pub export_to: Vec<String>,
    /// Settings of the connections to this Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Settings of the connections to a Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Settings of the connections' transport and of Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// TLS to this Redis. Without it, the mesh decides: mutual TLS between sidecars where the
    /// mesh has that, else plain TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// Settings of the connections' transport and of Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPool {
    /// Settings of the TCP connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpSpec>,
    /// Settings that are particular to Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisSettings>,
}

/// Settings of the TCP connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpSpec {
    /// The greatest number of connections from one proxy to this Redis. By default there is no
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub max_connections: Option<u32>,
    /// The time limit for establishing a connection, such as `500ms`; at least `1ms`. Default
    /// `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub connect_timeout: Option<String>,
    /// TCP keepalive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// TCP keepalive. Fields that are not given have the defaults of the operating system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// The number of unanswered probes after which the connection is closed; at most 127, which is
    /// Linux's bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 127))]
    pub probes: Option<u32>,
    /// The time without traffic before the first probe, such as `300s`; whole seconds, at most
    /// `32767s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub time: Option<String>,
    /// The time between two probes, such as `30s`; whole seconds, at most `32767s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub interval: Option<String>,
}

/// Settings that are particular to Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisSettings {
    /// What the endpoints of the host are. `PROXY`: interchangeable, so that any of them may answer
    /// any command: proxies, Redis Enterprise, a gateway. `CLUSTER`: a Redis Cluster, which clients
    /// use like a single Redis. Without it, the host is one Redis; where it has several ready
    /// endpoints, a warning says so, and a later release will refuse that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The login at this Redis. The mesh logs in, so clients need not know the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The nodes at which a Redis Cluster is discovered, each `HOST:PORT` or `HOST`. By default
    /// the endpoints of the host itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 261)))]
    pub discovery_endpoints: Vec<String>,
}

/// The topology of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    // Comments on the variants would turn the schema's `enum` into a `oneOf`, which is no
    // structural schema.
    #[allow(missing_docs)]
    Proxy,
    #[allow(missing_docs)]
    Cluster,
}

/// TLS to a Redis, in the words of Istio's DestinationRule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'MUTUAL' || has(self.secret)").message("mode MUTUAL needs a secret with tls.crt and tls.key"),
    validation = Rule::new("!(self.mode in ['DISABLE', 'ISTIO_MUTUAL']) || !(has(self.secret) || has(self.sni) || has(self.subjectAltNames) || has(self.insecureSkipVerify))").message("modes DISABLE and ISTIO_MUTUAL take no other field")
)]
pub struct TlsSpec {
    /// `DISABLE`: plain TCP. `SIMPLE`: TLS with verification of the server's certificate.
    /// `MUTUAL`: TLS with a client certificate, too. `ISTIO_MUTUAL`: TLS with the certificates of
    /// the mesh; needed for a Redis Cluster whose pods have sidecars, since Istio finds that out
    /// for other destinations only.
    pub mode: TlsMode,
    /// The server name to ask for. By default the host, where that is a DNS name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub sni: Option<String>,
    /// Names of which the server's certificate must have one. By default `sni`, else the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub subject_alt_names: Vec<String>,
    /// A Secret in the namespace of this object: `ca.crt` (or `cacert`) to verify the server by,
    /// `tls.crt` and `tls.key` to present. Without a CA, the system's certificate authorities are
    /// trusted. All of it in PEM; a private key must not be encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<TlsSecret>,
    /// Accepts any certificate of the server. For tests only: anybody on the network's path can
    /// then read everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

/// Names a Secret that holds certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The mode of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum TlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}
