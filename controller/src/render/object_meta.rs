//! Labels, names and places of rendered objects.

use redis_mesh_core::hex::to_hex;
use serde_json::{Value, json};

use crate::validate::host_port::HostPort;

use super::digest::digest;

/// The end of the names of the EnvoyFilters of destinations. Those of hosts end in a port.
pub const DESTINATION_SUFFIX: &str = "-destination";

/// Annotation of a rendered object: the object from which it follows, `KIND NAMESPACE/NAME`.
pub const PURPOSE: &str = "redis-mesh.io/for";

/// The labels of rendered objects.
pub fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "redis-mesh", "app.kubernetes.io/part-of": "redis-mesh"})
}

/// The namespace and the name of an object: in the namespace given, unless it is kept from the
/// readers of that namespace.
pub fn placed(namespace: &str, name: String, kept_from: Option<&str>, root_namespace: &str) -> (String, String) {
    match kept_from {
        Some(clients) => (root_namespace.to_owned(), format!("{name}-in-{clients}")),
        None => (namespace.to_owned(), name),
    }
}

/// The greatest length of the first part of a name, which leaves room for suffixes.
const LONGEST: usize = 150;

/// The name of an object about an address.
pub fn object_name(address: &HostPort, suffix: &str) -> String {
    // The domain is left out of the names of Services only: without it, two hosts outside of the
    // cluster could have one name.
    let host = match address.host.strip_suffix(".cluster.local") {
        Some(host) if host.ends_with(".svc") => host,
        _ => &address.host,
    };
    let name = format!("redis-mesh-{}-{}", host.replace(['_', ':'], "-"), address.port);
    // The name of an object takes neither `_` nor `:`, and may be no longer than a host. A digest
    // makes up for what is lost, so that no two hosts have one name.
    if name.len() <= LONGEST && !host.contains(['_', ':']) {
        return format!("{name}{suffix}");
    }
    let end = name.len().min(LONGEST);
    let beginning = name.get(..end).unwrap_or(&name).trim_end_matches(['-', '.']);
    format!("{beginning}-{}-{}{suffix}", &to_hex(&digest(&[host]))[..8], address.port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_addresses_have_one_name() {
        let long = |end: &str| format!("{}.example.{end}", [&"x".repeat(60)[..]; 3].join("."));
        let hosts = [
            "r.a.svc.cluster.local",
            "cache.example",
            "cache.example.cluster.local",
            "a-b.example",
            "a_b.example",
            "::1",
            "1.2.3.4",
            &long("com"),
            &long("org"),
        ];
        let name = |host: &&str| object_name(&HostPort { host: (*host).to_owned(), port: 65535 }, DESTINATION_SUFFIX);
        let names: BTreeSet<String> = hosts.iter().map(name).collect();
        assert_eq!(names.len(), hosts.len(), "{names:?}");
        for name in names {
            let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            assert!(name.bytes().all(is_fine), "{name}");
            let with_namespace = format!("{name}-in-{}", "n".repeat(63));
            assert!(with_namespace.len() <= 253, "{with_namespace}");
        }
    }
}
