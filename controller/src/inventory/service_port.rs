//! Ports of Services, and what they are taken for.

use k8s_openapi::api::core::v1::Service;

/// The port of Redis where nothing names another one.
pub const REDIS_PORT: u16 = 6379;

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a Service has only one.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// The sign by which Istio takes the port for HTTP, in words; none if it doesn't.
    pub http: Option<Box<str>>,
    /// True if it is Redis by its name or `appProtocol`.
    pub is_redis: bool,
}

/// The TCP ports of a Service.
pub fn ports(service: &Service) -> Vec<ServicePort> {
    if let Some(port) = port_of_alias(service, REDIS_PORT) {
        return vec![port];
    }
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports
        .iter()
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let number = u16::try_from(port.port).ok()?;
            let protocol = port.app_protocol.as_deref();
            let is_redis = is_redis_name(&name) || protocol == Some("redis");
            Some(ServicePort { http: http_sign(&name, protocol), name, number, is_redis })
        })
        .collect()
}

/// The name that an ExternalName Service stands for.
pub fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then_some(spec.external_name.as_deref()).flatten()
}

/// The port of this number of an ExternalName Service that lists none, which it need not: an alias has
/// the ports of the name that it stands for.
pub fn port_of_alias(service: &Service, number: u16) -> Option<ServicePort> {
    let lists_none = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_none_or(Vec::is_empty);
    (lists_none && external_name(service).is_some()).then(|| ServicePort {
        name: String::new(),
        number,
        http: None,
        is_redis: true,
    })
}

/// The sign by which Istio takes a port for HTTP: its `appProtocol`, or without one its name, each up
/// to the first `-`
/// (<https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/>).
fn http_sign(name: &str, app_protocol: Option<&str>) -> Option<Box<str>> {
    let text = app_protocol.unwrap_or(name).to_ascii_lowercase();
    let word = text.split('-').next().unwrap_or_default();
    let is_http = match word {
        "http" | "http2" | "http_proxy" | "grpc" => true,
        "kubernetes.io/h2c" | "kubernetes.io/ws" => app_protocol.is_some(),
        _ => false,
    };
    let sign = match app_protocol {
        Some(protocol) => format!("its appProtocol `{protocol}`"),
        None => format!("its name `{name}`"),
    };
    is_http.then(|| sign.into_boxed_str())
}

/// `redis`, `redis-cache`, `tcp-redis` and the like.
pub fn is_redis_name(name: &str) -> bool {
    matches!(name.split('-').collect::<Vec<_>>()[..], ["redis", ..] | ["tcp" | "tls", "redis", ..])
}

/// The TCP ports of a Service that are Redis: its only one, or those that are Redis by name or
/// `appProtocol`, or 6379.
pub fn redis_ports(all: Vec<ServicePort>) -> Vec<ServicePort> {
    if all.len() <= 1 {
        return all;
    }
    let (named, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|port| port.is_redis);
    if !named.is_empty() {
        return named;
    }
    others.into_iter().filter(|port| port.number == REDIS_PORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_istio_takes_for_http() {
        let name = |name: &str| http_sign(name, None).is_some();
        for http in ["http", "http-redis", "HTTP-redis", "http2-x", "grpc", "grpc-web-x", "http_proxy"] {
            assert!(name(http), "{http}");
        }
        for other in ["", "redis", "tcp-redis", "tcp-http", "https-redis", "tls-redis", "httpredis", "kubernetes.io/ws"]
        {
            assert!(!name(other), "{other}");
        }
        let protocol = |protocol: &str, name: &str| http_sign(name, Some(protocol)).is_some();
        for http in ["http", "kubernetes.io/h2c", "kubernetes.io/ws", "http2"] {
            assert!(protocol(http, "tcp-redis"), "{http}");
        }
        // An `appProtocol` decides, even one that Istio doesn't know.
        for other in ["redis", "tcp", "https", "kubernetes.io/wss", "example.com/redis"] {
            assert!(!protocol(other, "http-redis"), "{other}");
        }
    }
}
