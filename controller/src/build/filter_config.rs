//! Validated service → the filter's own document.

use redis_mesh_core::config::{Path, ProxyConfig};
use redis_mesh_core::wire;
use sha2::{Digest, Sha256};

use crate::diagnostic::{Diagnostics, Reason};
use crate::validate::ValidatedService;
use crate::validate::auth::Login;

use super::backend::Backends;
use super::handshake::HandshakeKey;
use super::hex;

/// One host of the document.
pub fn host(
    service: &ValidatedService,
    backends: &Backends,
    key: &HandshakeKey,
    selector: wire::Selector,
) -> wire::Host {
    let is_direct = match service.path {
        Path::Direct => true,
        Path::Proxy => false,
    };
    let logins = service.destinations().iter().any(|destination| destination.policy.login.is_some());
    let upstream =
        service.single_destination().filter(|_| is_direct).and_then(|destination| destination.policy.login.as_ref());
    wire::Host {
        host: service.address.to_string(),
        selector,
        path: match service.path {
            Path::Direct => wire::DataPath::Direct,
            Path::Proxy => wire::DataPath::Proxy,
        },
        client_auth: service.client_auth.as_ref().map(|login| client_auth(login, &key.salt(service))),
        upstream_login: upstream.map(|login| wire::UpstreamLogin {
            username: login.username.clone(),
            password: login.password.reveal().to_owned(),
        }),
        handshake: (!is_direct).then(|| key.password(service, backends)),
        guard_credentials: logins,
        allow_admin_commands: service.settings.allow_admin_commands,
        case_insensitive: service.settings.case_insensitive,
        read_policy: wire::ReadPolicy::default(),
        op_timeout_ms: 0,
        targets: service
            .targets
            .iter()
            .enumerate()
            .map(|(index, target)| wire::Target {
                destination: target.destination.address.to_string(),
                cluster: target.destination.is_cluster(),
                mirrors: target
                    .mirrors
                    .iter()
                    .map(|mirror| wire::Mirror {
                        destination: mirror.destination.address.to_string(),
                        per_million: mirror.per_million,
                        exclude_read_commands: mirror.exclude_read_commands,
                        cluster: false,
                        upstream: None,
                    })
                    .collect(),
                tags: if is_direct { Vec::new() } else { backends.tags.get(index).cloned().unwrap_or_default() },
                upstream: None,
            })
            .collect(),
        routes: service
            .routes
            .iter()
            .map(|route| wire::Route {
                key: route.key.clone(),
                remove_prefix: route.remove_prefix,
                target: u32::try_from(route.target).unwrap_or(u32::MAX),
                read_policy: None,
                faults: route.faults.clone(),
            })
            .collect(),
        faults: service.faults.clone(),
    }
}

fn client_auth(login: &Login, salt: &[u8]) -> wire::ClientAuth {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(login.password.reveal().as_bytes());
    wire::ClientAuth { username: login.username.clone(), salt: hex(salt), password_sha256: vec![hex(&hash.finalize())] }
}

/// A document for one plugin.
pub fn document(name: String, revision: u64, hosts: Vec<wire::Host>) -> wire::FilterConfig {
    wire::FilterConfig { name, revision, hosts, limits: wire::Limits::default() }
}

/// The document's text. There is nothing in it that JSON could not express.
pub fn json(config: &wire::FilterConfig) -> String {
    serde_json::to_string(config).unwrap_or_default()
}

/// What a filter would refuse is refused here: the last check, which finds nothing where validation is complete.
pub fn check(config: &wire::FilterConfig, service: &ValidatedService, diagnostics: &mut Diagnostics) {
    if diagnostics.has_errors() {
        // What is already known to be wrong would only be found again, in other words.
        return;
    }
    if let Err(error) = ProxyConfig::try_from(config.clone()) {
        diagnostics.add(&service.owner, "", Reason::Invalid, format!("the filter would refuse this: {error}"));
    }
}
