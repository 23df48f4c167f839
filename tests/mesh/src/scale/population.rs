//! The objects of a cluster in which many teams use Redis.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// The number of namespaces that share the objects.
pub const NAMESPACES: usize = 20;
/// The number of kinds of RedisServices, which take turns.
const WAYS: usize = 10;

/// A description of the kinds, for the report.
pub const MIX: &str = "Of ten RedisServices, four ask their clients for a password from a Secret of their own, two inject \
    faults, three route by prefix to two destinations (one of them, and one more that has one destination only, with a \
    RedisDestination whose password is in a Secret).";

/// The namespace of the RedisService of this number, of its Service and of its Secrets.
pub fn namespace(number: usize) -> String {
    format!("team-{:02}", number % NAMESPACES)
}

/// The name of the RedisService of this number, and of all that belongs to it.
pub fn name(number: usize) -> String {
    format!("redis-{number:04}")
}

fn host(number: usize) -> String {
    format!("{}.{}.svc.cluster.local", name(number), namespace(number))
}

/// Returns the objects that a RedisService refers to: the Service with its endpoints, and Secrets.
pub fn surroundings(number: usize) -> Vec<Value> {
    let metadata = json!({"name": name(number), "namespace": namespace(number)});
    let mut slice = metadata.clone();
    slice["labels"] = json!({"kubernetes.io/service-name": name(number)});
    let endpoint = |i: usize| {
        let first = u32::from(Ipv4Addr::new(172, 16, 0, 1));
        let address = Ipv4Addr::from(first + (2 * number + i) as u32);
        json!({"addresses": [address], "conditions": {"ready": true}})
    };
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {
                "selector": {"app": name(number)},
                "ports": [{"name": "tcp-redis", "port": 6379, "targetPort": 6379}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice,
            "addressType": "IPv4",
            "ports": [{"name": "tcp-redis", "port": 6379, "protocol": "TCP"}],
            "endpoints": [endpoint(0), endpoint(1)],
        }),
    ];
    if matches!(number % WAYS, 0..=3 | 8 | 9) {
        let password = format!("password of {number}");
        objects.push(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": password},
        }));
    }
    objects
}

/// Returns the RedisService and its RedisDestination.
pub fn ours(number: usize) -> Vec<Value> {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "redis.aeraki.io/v1alpha1", "kind": kind,
            "metadata": {"name": name(number), "namespace": namespace(number)}, "spec": spec,
        })
    };
    let secret = json!({"secret": {"name": name(number)}});
    let login = || {
        let policy = json!({"connectionPool": {"redis": {"auth": secret}}});
        object("RedisDestination", json!({"host": host(number), "trafficPolicy": policy}))
    };
    let mut service = json!({"host": [host(number)], "faults": faults(1)});
    let mut objects = Vec::new();
    match number % WAYS {
        0..=3 => service["settings"] = json!({"auth": secret}),
        4 | 5 => {}
        6 | 7 => service["redis"] = routes(number, 2),
        8 => objects.push(login()),
        _ => {
            service["redis"] = routes(number, 2);
            objects.push(login());
        }
    }
    objects.push(object("RedisService", service));
    objects
}

/// Returns faults that are injected into a percentage of some commands.
pub fn faults(percentage: usize) -> Value {
    json!([{"type": "ERROR", "percentage": {"value": percentage}, "commands": ["GETDEL", "COPY"]}])
}

/// Returns routes of this number of prefixes to the Service of a lower number, and of all other
/// keys to the host itself.
pub fn routes(number: usize, prefixes: usize) -> Value {
    let other = host(number - number % WAYS);
    let mut routes: Vec<Value> = (0..prefixes)
        .map(|i| json!({"match": {"key": {"prefix": format!("prefix-{i}:")}}, "route": {"host": other}}))
        .collect();
    routes.push(json!({"route": {"host": host(number)}}));
    Value::Array(routes)
}
