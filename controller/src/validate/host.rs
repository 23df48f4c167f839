//! Host names: the Service that has a name, and its ports.

use k8s_openapi::api::core::v1::Service;

use crate::diagnostic::{Code, FieldReporter, Problem, did_you_mean};
use crate::inventory::{self, Inventory, NamespacedName};

pub use crate::inventory::REDIS_PORT;

/// A fully qualified host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName {
    /// The name in lower case, without a dot at its end.
    pub host: String,
    /// The Service of that name; none where the host lies outside of the cluster's domain.
    pub service: Option<NamespacedName>,
}

impl HostName {
    /// The namespace to which the host belongs.
    pub fn namespace(&self) -> Option<&str> {
        self.service.as_ref().map(|key| key.namespace.as_str())
    }
}

/// Resolves a host as an object in `namespace` names it.
pub fn name(text: &str, namespace: &str, cluster_domain: &str) -> Result<HostName, Problem> {
    let invalid = |message: String, remedy: &str| Err(Problem::new(Code::InvalidHost, message, remedy));
    if text.contains('*') {
        return invalid(format!("`{text}`: wildcards are not possible"), "name each host");
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(HostName { host: text.to_owned(), service: None });
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return invalid(format!("`{text}` holds a port"), &format!("a host is a name alone, here `{host}`"));
    }
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if host.len() > 253 || !host.split('.').all(is_label) {
        return invalid(format!("`{text}` is not a host name"), "write a DNS name, such as redis.example.com");
    }
    let host = if !host.contains('.') {
        format!("{host}.{namespace}.svc.{cluster_domain}")
    } else if host.ends_with(".svc") {
        format!("{host}.{cluster_domain}")
    } else {
        host
    };
    let Some(within) = host.strip_suffix(&format!(".svc.{cluster_domain}")) else {
        return Ok(HostName { host, service: None });
    };
    match within.split('.').collect::<Vec<_>>()[..] {
        [service, namespace] => {
            let service = Some(NamespacedName::new(namespace, service));
            Ok(HostName { host, service })
        }
        _ => {
            let message =
                format!("`{text}` is not the name of a Service, which is NAME.NAMESPACE.svc.{cluster_domain}");
            invalid(message, "name the Service")
        }
    }
}

/// True for a label of a DNS name. Underscores are taken, too, as in names of SRV records.
pub fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Returns the Service, or reports that there is none.
pub fn service<'a>(
    key: &NamespacedName,
    inventory: &'a Inventory,
    field: &mut FieldReporter<'_>,
) -> Option<&'a Service> {
    let found = inventory.service(key);
    if found.is_none() {
        let elsewhere = inventory
            .similar_services()
            .find(|known| known.name == key.name)
            .map(|known| format!("there is one in namespace {}", known.namespace));
        let suggested = || {
            let known = inventory.similar_services().filter(|known| known.namespace == key.namespace);
            did_you_mean(&key.name, known.map(|known| known.name.as_str()))
        };
        let remedy = elsewhere.or_else(suggested).unwrap_or_else(|| "add it, with its EndpointSlices".to_owned());
        field.report(Code::UnknownService, format!("there is no Service {key}"), remedy);
    }
    found
}

/// The problem of a Service of which no port is known to be Redis.
pub fn no_redis_port(key: &NamespacedName, service: &Service) -> Problem {
    let ports = inventory::ports(service);
    if ports.is_empty() {
        return Problem::new(Code::NoRedisPort, format!("Service {key} has no TCP port"), "add one");
    }
    let message = format!("none of the ports of Service {key} is known to be Redis ({})", listed(&ports));
    Problem::new(Code::NoRedisPort, message, "name one `redis` or `tcp-redis`, or set its appProtocol to redis")
}

/// The ports in a message.
pub fn listed(ports: &[inventory::ServicePort]) -> String {
    let one = |port: &inventory::ServicePort| match port.name.as_str() {
        "" => port.number.to_string(),
        name => format!("{} {name}", port.number),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let full =
            |text| name(text, "app", "cluster.local").map(|name| (name.host, name.service.map(|key| key.to_string())));
        let service = |host: &str, key: &str| Ok((host.to_owned(), Some(key.to_owned())));
        let dns = |host: &str| Ok((host.to_owned(), None));
        assert_eq!(full("redis"), service("redis.app.svc.cluster.local", "app/redis"));
        assert_eq!(full("redis.data.svc"), service("redis.data.svc.cluster.local", "data/redis"));
        assert_eq!(full("Redis.data.svc.cluster.local."), service("redis.data.svc.cluster.local", "data/redis"));
        assert_eq!(full("cache.example.com"), dns("cache.example.com"));
        assert_eq!(full("10.0.0.1"), dns("10.0.0.1"));
        for wrong in [
            "*.example.com",
            "redis:6379",
            "a..b",
            "-a.b",
            "a b",
            "redis-0.redis.data.svc.cluster.local",
            "svc.cluster.local.svc.cluster.local.x.svc",
            "",
        ] {
            assert!(full(wrong).is_err(), "{wrong}");
        }
    }
}
