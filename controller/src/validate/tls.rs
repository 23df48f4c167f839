//! TLS to a destination.

use crate::crd::destination::{TlsMode, TlsSpec};
use crate::diagnostic::{FieldReporter, Reason};
use crate::inventory::{Inventory, NamespacedName};

use super::auth::{self, SecretText};

/// TLS to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The server name to ask for.
    pub sni: Option<String>,
    /// Names of which the server's certificate must carry one; empty only where it is not verified.
    pub names: Vec<String>,
    /// The authorities to verify it by; none: the system's.
    pub authorities: Option<String>,
    /// Our certificate and its key.
    pub certificate: Option<(String, SecretText)>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
}

/// Reads `trafficPolicy.tls` of a RedisDestination for `host`.
pub fn read(
    spec: &TlsSpec,
    host: &str,
    namespace: &str,
    inventory: &Inventory,
    place: &mut FieldReporter<'_>,
) -> Option<TlsOptions> {
    let mutual = match spec.mode {
        TlsMode::Disable | TlsMode::IstioMutual => {
            let given = [
                (spec.sni.is_some(), "sni"),
                (!spec.subject_alt_names.is_empty(), "subjectAltNames"),
                (spec.secret.is_some(), "secret"),
                (spec.insecure_skip_verify.is_some(), "insecureSkipVerify"),
            ];
            for (_, field) in given.iter().filter(|(given, _)| *given) {
                place
                    .at(format_args!(".{field}"))
                    .invalid("this mode takes no other field; use SIMPLE or MUTUAL, or remove this");
            }
            return None;
        }
        TlsMode::Simple => false,
        TlsMode::Mutual => true,
    };
    let mut tls = TlsOptions {
        sni: spec.sni.clone().or_else(|| host.parse::<std::net::IpAddr>().is_err().then(|| host.to_owned())),
        names: spec.subject_alt_names.clone(),
        authorities: None,
        certificate: None,
        verify: spec.insecure_skip_verify != Some(true),
    };
    if tls.names.is_empty() && tls.verify {
        tls.names = vec![spec.sni.clone().unwrap_or_else(|| host.to_owned())];
    }
    let Some(reference) = &spec.secret else {
        if mutual {
            place.invalid("mode MUTUAL needs a secret with tls.crt and tls.key");
        }
        return Some(tls);
    };
    let mut place = place.at(".secret.name");
    let key = NamespacedName::new(namespace, &reference.name);
    let secret = auth::secret(&reference.name, namespace, inventory, &mut place)?;
    let mut pem = |field: &str, mark: &str| -> Option<String> {
        match auth::value(secret, field)? {
            Ok(text) if text.contains(mark) => Some(format!("{text}\n")),
            Ok(_) => {
                place
                    .report(Reason::Invalid, format!("key `{field}` of Secret {key} is not in PEM format (`{mark}…`)"));
                None
            }
            Err(problem) => {
                place.report(Reason::Invalid, format!("key `{field}` of Secret {key} {problem}"));
                None
            }
        }
    };
    tls.authorities = pem("ca.crt", "-----BEGIN CERTIFICATE").or_else(|| pem("cacert", "-----BEGIN CERTIFICATE"));
    let (certificate, private) = (pem("tls.crt", "-----BEGIN CERTIFICATE"), pem("tls.key", "PRIVATE KEY-----"));
    match (certificate, private) {
        (Some(certificate), Some(private)) if mutual => tls.certificate = Some((certificate, SecretText::new(private))),
        _ if mutual => place
            .report(Reason::Unresolved, format!("mode MUTUAL needs the keys `tls.crt` and `tls.key` in Secret {key}")),
        _ => {}
    }
    if !mutual && tls.authorities.is_none() && tls.verify {
        place.report(
            Reason::Unresolved,
            format!("Secret {key} has no key `ca.crt`; add it, or remove secret to trust the system's authorities"),
        );
    }
    Some(tls)
}
