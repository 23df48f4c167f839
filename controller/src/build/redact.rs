//! The same output without its secrets, to be looked at rather than applied.

use std::sync::Arc;

use crate::validate::auth::Hidden;
use crate::validate::{Target, ValidatedService};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// The same services with every password and private key replaced.
pub fn services(services: &[ValidatedService]) -> Vec<ValidatedService> {
    services.iter().cloned().map(service).collect()
}

fn service(mut service: ValidatedService) -> ValidatedService {
    if let Some(login) = &mut service.client_auth {
        login.password = Hidden::new(REDACTED);
    }
    for Target { destination, mirrors } in &mut service.targets {
        for destination in std::iter::once(destination).chain(mirrors.iter_mut().map(|mirror| &mut mirror.destination))
        {
            let policy = &mut Arc::make_mut(destination).policy;
            if let Some(login) = &mut policy.login {
                login.password = Hidden::new(REDACTED);
            }
            if let Some((_, key)) = policy.tls.as_mut().and_then(|tls| tls.certificate.as_mut()) {
                *key = Hidden::new(REDACTED);
            }
        }
    }
    service
}
