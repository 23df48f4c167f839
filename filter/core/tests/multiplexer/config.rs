//! Configurations of hosts.

use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::wire;
use std::sync::Arc;

/// The upstream of a server. The server `one` asks for a password.
fn upstream(name: &str) -> Option<wire::Upstream> {
    let login = wire::UpstreamLogin { username: None, password: "secret".into() };
    Some(wire::Upstream {
        cluster: name.to_owned(),
        login: (name == "one").then_some(login),
        nodes: None,
        key_hash: None,
    })
}

/// Returns a host on data path `native` with routes to these destinations, one upstream for each.
fn host(routes: &[(wire::KeyMatch, u32)], destinations: &[&str]) -> wire::Host {
    let target = |name: &&str| wire::Target {
        destination: (*name).to_owned(),
        cluster: false,
        mirrors: Vec::new(),
        tags: Vec::new(),
        upstream: upstream(name),
    };
    let route = |(key, target): &(wire::KeyMatch, u32)| wire::Route {
        key: key.clone(),
        remove_prefix: false,
        target: *target,
        read_policy: None,
        faults: Vec::new(),
    };
    wire::Host {
        host: "h:6379".into(),
        selector: wire::Selector::default(),
        path: wire::DataPath::Native,
        client_auth: None,
        upstream_login: None,
        login_for: None,
        handshake: None,
        guard_credentials: false,
        allow_admin_commands: false,
        refuse_scripts: false,
        several_endpoints: false,
        case_insensitive: false,
        read_policy: wire::ReadPolicy::default(),
        command_stats: false,
        op_timeout_ms: Some(0),
        targets: destinations.iter().map(target).collect(),
        routes: routes.iter().map(route).collect(),
        faults: Vec::new(),
    }
}

/// Returns a host that routes keys with `a:` to the server `one`, and all others to the server
/// `two`.
pub fn two() -> wire::Host {
    host(&[(wire::KeyMatch::Prefix("a:".into()), 0), (wire::KeyMatch::Any, 1)], &["one", "two"])
}

/// The same, where `a:` is removed from keys.
pub fn stripped() -> wire::Host {
    let mut host = two();
    host.routes[0].remove_prefix = true;
    host
}

/// A host whose only destination is the server `one`.
pub fn one() -> wire::Host {
    host(&[(wire::KeyMatch::Any, 0)], &["one"])
}

/// A host whose clients log in at its only destination, the server `two`, themselves.
pub fn without_login() -> wire::Host {
    host(&[(wire::KeyMatch::Any, 0)], &["two"])
}

/// A host whose only destination is the cluster `three`, on whose members keys are placed.
pub fn placed() -> wire::Host {
    let mut host = host(&[(wire::KeyMatch::Any, 0)], &["three"]);
    for upstream in host.targets.iter_mut().filter_map(|target| target.upstream.as_mut()) {
        upstream.key_hash = Some(wire::KeyHash::Key);
    }
    host
}

/// A host that routes keys with `a:` to the server `two`, and all others to the server `one`.
pub fn turned() -> wire::Host {
    host(&[(wire::KeyMatch::Prefix("a:".into()), 0), (wire::KeyMatch::Any, 1)], &["two", "one"])
}

pub fn compiled(host: &wire::Host) -> Arc<HostConfig> {
    Arc::new(HostConfig::new(host, &wire::Limits::default()).unwrap())
}
