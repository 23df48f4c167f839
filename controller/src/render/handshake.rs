//! The password by which a filter and the `redis_proxy` behind it recognise each other.
//!
//! The catch-all backend of the listener is part of the password. A filter with another catch-all
//! isn't let in: it would send untagged commands to the wrong destination, or tagged commands to
//! a destination that takes tags for parts of keys.

use crate::validate::service::ValidatedService;

use super::backend::Backends;
use super::digest::digest;
use super::redact::REDACTED;
use redis_mesh_core::hex::to_hex;

/// The secret from which handshakes and salts are made.
#[derive(Clone)]
pub struct HandshakeKey {
    key: String,
    redacted: bool,
}

impl HandshakeKey {
    /// A key that the user gives.
    pub fn given(key: &str) -> HandshakeKey {
        HandshakeKey { key: to_hex(&digest(&["given", key])), redacted: false }
    }

    /// A key made from the hosts and credentials of the manifests. It is as secret as the
    /// credentials, and doesn't change with routes.
    pub fn derived(services: &[ValidatedService]) -> HandshakeKey {
        let mut parts: Vec<String> = Vec::new();
        for service in services {
            parts.push(format!("host {}", service.address));
            let logins = service.destinations().into_iter().filter_map(|destination| destination.policy.login.as_ref());
            for login in logins.chain(&service.client_auth) {
                parts.push(format!("login {}", login.password.reveal()));
            }
        }
        parts.sort();
        parts.dedup();
        let parts: Vec<&str> = std::iter::once("derived").chain(parts.iter().map(String::as_str)).collect();
        HandshakeKey { key: to_hex(&digest(&parts)), redacted: false }
    }

    /// A key for output without secrets.
    pub fn redacted() -> HandshakeKey {
        HandshakeKey { key: String::new(), redacted: true }
    }

    /// The password between the filter and the `redis_proxy` of a service.
    pub fn password(&self, service: &ValidatedService, backends: &Backends) -> String {
        let catch_all = backends.catch_all.as_ref().map(|backend| backend.content()).unwrap_or_default();
        if self.redacted {
            return REDACTED.to_owned();
        }
        to_hex(&digest(&["handshake", &self.key, &service.address.to_string(), &catch_all]))
    }

    /// The salt of the client passwords of a service, in hex.
    pub fn salt(&self, service: &ValidatedService) -> Vec<u8> {
        digest(&["salt", &self.key, &service.address.to_string()])[..16].to_vec()
    }
}
