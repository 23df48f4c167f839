//! Validated service → the filter's configuration.

use std::time::Duration;

use redis_mesh_core::multiplexer::config::ListenerConfig;
use redis_mesh_core::rewriter::config::RewriterConfig;
use redis_mesh_core::wire;
use sha2::{Digest, Sha256};

use crate::crd::service::ReadPolicySpec;
use crate::diagnostic::{Code, Diagnostics, Problem};
use crate::validate::auth::RedisCredentials;
use crate::validate::destination::ValidatedDestination;
use crate::validate::service::{ValidatedMirror, ValidatedRoute, ValidatedService};

use super::backend::Backends;
use super::handshake::HandshakeKey;
use super::native;
use redis_mesh_core::hex::to_hex;

/// Names the cluster by which the dynamic module reaches a destination, and the cluster of its
/// nodes where there is one.
pub type ReachFn<'a> = &'a dyn Fn(&ValidatedDestination) -> (String, Option<String>);

/// A [`ReachFn`] for documents in which the names of clusters don't matter.
pub fn by_address(destination: &ValidatedDestination) -> (String, Option<String>) {
    (destination.address.to_string(), None)
}

/// One host of the document.
pub fn host(
    service: &ValidatedService,
    backends: &Backends,
    key: &HandshakeKey,
    selector: wire::Selector,
    reach: ReachFn<'_>,
) -> wire::Host {
    let is_native = service.path == wire::DataPath::Native;
    let logs_in = service.destinations().iter().any(|destination| destination.policy.login.is_some());
    let single = service.single_destination().filter(|_| service.path == wire::DataPath::Direct);
    let handshake = (service.path == wire::DataPath::Proxy).then(|| key.password(service, backends));
    wire::Host {
        host: service.address.to_string(),
        selector,
        path: service.path,
        client_auth: service.client_auth.as_ref().map(|login| client_auth(login, &key.salt(service))),
        upstream_login: single.and_then(|destination| destination.policy.login.as_ref()).map(login),
        login_for: None,
        handshake,
        guard_credentials: logs_in,
        allow_admin_commands: service.settings.allow_admin_commands,
        refuse_scripts: service.refuses_scripts(),
        several_endpoints: service.path == wire::DataPath::Proxy && has_several_endpoints(service),
        case_insensitive: service.settings.case_insensitive,
        read_policy: if is_native { read_policy(service.settings.read_policy) } else { Default::default() },
        op_timeout_ms: service.settings.op_timeout.filter(|_| is_native).map(milliseconds),
        command_stats: is_native && service.settings.enable_command_stats,
        targets: targets(service, backends, reach),
        routes: service.routes.iter().map(|route| self::route(route, is_native)).collect(),
        faults: service.faults.clone(),
    }
}

/// True if the only destination has several endpoints, and nothing says what they are.
fn has_several_endpoints(service: &ValidatedService) -> bool {
    service.single_destination().is_some_and(|destination| !destination.unexplained_endpoints().is_empty())
}

fn targets(service: &ValidatedService, backends: &Backends, reach: ReachFn<'_>) -> Vec<wire::Target> {
    let is_native = service.path == wire::DataPath::Native;
    let upstream = |destination: &ValidatedDestination| {
        is_native.then(|| {
            let (cluster, nodes) = reach(destination);
            let key_hash = native::key_hash(destination, &service.settings);
            wire::Upstream { cluster, login: destination.policy.login.as_ref().map(login), nodes, key_hash }
        })
    };
    let mirror = |mirror: &ValidatedMirror| wire::Mirror {
        destination: mirror.destination.address.to_string(),
        per_million: mirror.per_million,
        exclude_read_commands: mirror.exclude_read_commands,
        include_admin: is_native && mirror.include_admin,
        cluster: is_native && mirror.destination.is_cluster(),
        upstream: upstream(&mirror.destination),
    };
    let tags = |index: usize| match service.path {
        wire::DataPath::Proxy => backends.tags.get(index).cloned().unwrap_or_default(),
        wire::DataPath::Direct | wire::DataPath::Native => Vec::new(),
    };
    let targets = service.targets.iter().enumerate().map(|(index, target)| wire::Target {
        destination: target.destination.address.to_string(),
        cluster: target.destination.is_cluster(),
        mirrors: target.mirrors.iter().map(mirror).collect(),
        tags: tags(index),
        upstream: upstream(&target.destination),
    });
    targets.collect()
}

fn route(route: &ValidatedRoute, is_native: bool) -> wire::Route {
    wire::Route {
        key: route.key.clone(),
        remove_prefix: route.remove_prefix,
        target: u32::try_from(route.target).unwrap_or(u32::MAX),
        read_policy: route.read_policy.filter(|_| is_native).map(read_policy),
        faults: route.faults.clone(),
    }
}

fn login(login: &RedisCredentials) -> wire::UpstreamLogin {
    wire::UpstreamLogin { username: login.username.clone(), password: login.password.reveal().to_owned() }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn read_policy(policy: ReadPolicySpec) -> wire::ReadPolicy {
    match policy {
        ReadPolicySpec::Master => wire::ReadPolicy::Master,
        ReadPolicySpec::PreferMaster => wire::ReadPolicy::PreferMaster,
        ReadPolicySpec::Replica => wire::ReadPolicy::Replica,
        ReadPolicySpec::PreferReplica => wire::ReadPolicy::PreferReplica,
        ReadPolicySpec::Any => wire::ReadPolicy::Any,
    }
}

fn client_auth(login: &RedisCredentials, salt: &[u8]) -> wire::ClientAuth {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(login.password.reveal().as_bytes());
    wire::ClientAuth {
        username: login.username.clone(),
        salt: to_hex(salt),
        password_sha256: vec![to_hex(&hash.finalize())],
    }
}

/// A document for one plugin.
pub fn document(name: String, revision: u64, hosts: Vec<wire::Host>) -> wire::FilterConfig {
    wire::FilterConfig { name, revision, hosts, refused: Vec::new(), limits: wire::Limits::default() }
}

/// The document as JSON, which can express every document.
pub fn json(config: &wire::FilterConfig) -> String {
    serde_json::to_string(config).unwrap_or_default()
}

/// Reports what a filter would refuse. It is the last check, and finds nothing where validation
/// is complete.
pub fn check(config: &wire::FilterConfig, service: &ValidatedService, diagnostics: &mut Diagnostics) {
    if diagnostics.has_errors() {
        // Known errors would be found again, in other words.
        return;
    }
    let is_native = config.hosts.iter().any(|host| host.path == wire::DataPath::Native);
    let compiled = match is_native {
        true => ListenerConfig::try_from(config.clone()).map(drop),
        false => RewriterConfig::try_from(config.clone()).map(drop),
    };
    if let Err(error) = compiled {
        let message = format!("the filter would refuse this: {error}");
        let problem = Problem::new(Code::FilterRefuses, message, "correct what the message names");
        diagnostics.add(&service.owner, "", problem);
    }
}
