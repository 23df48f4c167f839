//! The content of a RedisDestination: how a host is reached.

use std::time::Duration;

use crate::crd::destination::{Mode, RedisDestination, TcpSpec, TlsMode};
use crate::diagnostic::{Code, Diagnostics, FieldReporter, Loaded, Problem, Subject};
use crate::exports::Exports;
use crate::inventory::{Inventory, NamespacedName};
use crate::quantity;

use super::auth::{self, RedisCredentials};
use super::export;
use super::host::{self, HostName};
use super::options::ValidateOptions;
use super::scope;
use super::tls::{self, TlsContext, TlsOptions};

/// The content of a RedisDestination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationPolicy {
    /// The object; none for the defaults.
    pub object: Option<Subject>,
    /// What the endpoints are: `PROXY` that any of them may answer any command, `CLUSTER` a Redis
    /// Cluster; none where no object says it.
    pub mode: Option<Mode>,
    /// The login of the mesh.
    pub login: Option<RedisCredentials>,
    /// True if the mesh's own mutual TLS is asked for by name.
    pub istio_mutual: bool,
    /// TLS that redis-mesh configures.
    pub tls: Option<TlsOptions>,
    /// True if the object says whether there is TLS, be it that there is none.
    pub says_tls: bool,
    /// The settings of TCP connections.
    pub tcp: TcpOptions,
    /// The nodes at which a Redis Cluster is discovered; empty for the host itself.
    pub discovery: Vec<Discovery>,
    /// The namespaces whose clients it reaches.
    pub exports: Exports,
    /// The ServiceEntries because of which the host is another Redis for the clients of their namespaces.
    pub overriding: Vec<NamespacedName>,
    /// True where an object says how the host is reached, but is not exported to the clients.
    pub is_withheld: bool,
}

/// The settings of TCP connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpOptions {
    /// The time limit for establishing a connection.
    pub connect_timeout: Option<Duration>,
    /// The greatest number of connections.
    pub max_connections: Option<u32>,
    /// TCP keepalive; none for the defaults of the operating system.
    pub keepalive: Option<Keepalive>,
}

/// TCP keepalive. Fields that are not given have the defaults of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// The number of unanswered probes after which a connection is closed.
    pub probes: Option<u32>,
    /// The time without traffic before the first probe, in seconds.
    pub time: Option<u64>,
    /// The time between two probes, in seconds.
    pub interval: Option<u64>,
}

/// The longest time in seconds that Linux takes for TCP keepalive (`MAX_TCP_KEEPIDLE` and
/// `MAX_TCP_KEEPINTVL`). With a longer one Envoy can't open a connection. The bound of the number of
/// probes, `MAX_TCP_KEEPCNT`, stands in the schema.
pub const KEEPALIVE_SECONDS: u64 = 32_767;

/// An entry of `discoveryEndpoints`.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// The host.
    pub host: String,
    /// The port; none for that of the destination.
    pub port: Option<u16>,
    /// The Service of that name.
    pub service: Option<NamespacedName>,
}

/// Reads a RedisDestination for `host`.
pub fn read(
    loaded: &Loaded<RedisDestination>,
    host: &str,
    inventory: &Inventory,
    options: &ValidateOptions,
    diagnostics: &mut Diagnostics,
) -> DestinationPolicy {
    let (subject, namespace) = (scope::subject(loaded), scope::namespace(loaded));
    let mut policy = DestinationPolicy { object: Some(subject.clone()), ..DestinationPolicy::default() };
    policy.exports =
        export::read(&loaded.object.spec.export_to, &namespace, &mut diagnostics.at(&subject, "spec.exportTo"));
    let Some(traffic) = &loaded.object.spec.traffic_policy else { return policy };
    if let Some(spec) = &traffic.tls {
        policy.says_tls = true;
        policy.istio_mutual = spec.mode == TlsMode::IstioMutual;
        let context = TlsContext { host, namespace: &namespace, inventory, now: options.clock.map(|clock| clock()) };
        policy.tls = tls::read(spec, context, &mut diagnostics.at(&subject, "spec.trafficPolicy.tls"));
    }
    let Some(pool) = &traffic.connection_pool else { return policy };
    let mut field = diagnostics.at(&subject, "spec.trafficPolicy.connectionPool");
    if let Some(tcp) = &pool.tcp {
        policy.tcp = self::tcp(tcp, &mut field.at(".tcp"));
    }
    let Some(redis) = &pool.redis else { return policy };
    policy.mode = redis.mode;
    if let Some(auth) = &redis.auth {
        policy.login = auth::login(auth, &namespace, inventory, &mut field.at(".redis.auth"));
    }
    for (index, text) in redis.discovery_endpoints.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let mut field = field.at(format_args!(".redis.discoveryEndpoints[{index}]"));
        match discovery(text, &namespace, options) {
            Ok(entry) => policy.discovery.push(entry),
            Err(problem) => field.add(problem),
        }
    }
    if policy.mode != Some(Mode::Cluster) && !redis.discovery_endpoints.is_empty() {
        let (message, remedy) = ("has an effect with mode CLUSTER only", "set mode: CLUSTER, or remove it");
        field.at(".redis.discoveryEndpoints").report(Code::DiscoveryWithoutCluster, message, remedy);
    }
    policy
}

impl DestinationPolicy {
    /// The defaults in the place of an object that is not exported to the clients.
    pub fn withheld() -> DestinationPolicy {
        DestinationPolicy { is_withheld: true, ..DestinationPolicy::default() }
    }

    /// The namespace of the object.
    pub fn namespace(&self) -> Option<&str> {
        self.object.as_ref()?.name.split_once('/').map(|(namespace, _)| namespace)
    }
}

impl Discovery {
    /// The host.
    pub fn name(self) -> HostName {
        HostName { host: self.host, service: self.service }
    }
}

/// Reads an entry of `discoveryEndpoints`.
pub fn discovery(text: &str, namespace: &str, options: &ValidateOptions) -> Result<Discovery, Problem> {
    let wrong = || {
        let remedy = "write a host, and behind a colon a port from 1 to 65535";
        Problem::new(Code::InvalidDiscoveryEndpoint, format!("`{text}` is not HOST:PORT"), remedy)
    };
    // `[::1]:6379` and `::1` are addresses; of anything else, what stands behind the last colon
    // is a port.
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            (address, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")).ok_or_else(wrong)?)
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, ""),
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" if !text.ends_with(':') => None,
        digits => Some(digits.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
    };
    match host::name(host, namespace, &options.cluster_domain) {
        Ok(name) => Ok(Discovery { host: name.host, port, service: name.service }),
        // The name of one pod of a headless Service is a good field for discovery.
        Err(_) if host.ends_with(&format!(".svc.{}", options.cluster_domain)) => {
            Ok(Discovery { host: host.to_owned(), port, service: None })
        }
        Err(problem) => Err(problem),
    }
}

fn tcp(spec: &TcpSpec, field: &mut FieldReporter<'_>) -> TcpOptions {
    let parse = |text: &Option<String>, field: &mut FieldReporter<'_>| -> Option<Duration> {
        quantity::duration(text.as_ref()?).map_err(|problem| field.add(problem)).ok()
    };
    let mut timeout = field.at(".connectTimeout");
    let connect_timeout = parse(&spec.connect_timeout, &mut timeout);
    if connect_timeout.is_some_and(|duration| duration < Duration::from_millis(1)) {
        timeout.report(Code::DurationTooShort, "must be at least 1ms", "write a longer time");
    }
    let keepalive = spec.tcp_keepalive.as_ref().map(|spec| {
        let mut field = field.at(".tcpKeepalive");
        let mut whole = |text: &Option<String>, name: &str| -> Option<u64> {
            let mut field = field.at(name);
            let duration = parse(text, &mut field)?;
            if duration.subsec_nanos() != 0 || duration.is_zero() {
                field.report(Code::NotWholeSeconds, "must be whole seconds, at least 1s", "write a time such as 30s");
            }
            if duration.as_secs() > KEEPALIVE_SECONDS {
                let message = format!(
                    "is longer than {KEEPALIVE_SECONDS}s, the longest time that Linux takes: every connection would be closed"
                );
                field.report(Code::DurationTooLong, message, "write a shorter time, such as 300s");
            }
            Some(duration.as_secs())
        };
        Keepalive {
            probes: spec.probes,
            time: whole(&spec.time, ".time"),
            interval: whole(&spec.interval, ".interval"),
        }
    });
    TcpOptions { connect_timeout, max_connections: spec.max_connections, keepalive }
}
