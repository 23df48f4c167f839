//! Output without secrets, which is for reading and can't be applied.

use std::sync::Arc;

use crate::validate::auth::SecretText;
use crate::validate::service::{ValidatedService, ValidatedTarget};

/// The text in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// The same services with every password and private key replaced.
pub fn services(services: &[ValidatedService]) -> Vec<ValidatedService> {
    services.iter().cloned().map(service).collect()
}

fn service(mut service: ValidatedService) -> ValidatedService {
    if let Some(login) = &mut service.client_auth {
        login.password = SecretText::new(REDACTED);
    }
    for ValidatedTarget { destination, mirrors } in &mut service.targets {
        for destination in std::iter::once(destination).chain(mirrors.iter_mut().map(|mirror| &mut mirror.destination))
        {
            let policy = &mut Arc::make_mut(destination).policy;
            if let Some(login) = &mut policy.login {
                login.password = SecretText::new(REDACTED);
            }
            if let Some((_, key)) = policy.tls.as_mut().and_then(|tls| tls.certificate.as_mut()) {
                *key = SecretText::new(REDACTED);
            }
        }
    }
    service
}
