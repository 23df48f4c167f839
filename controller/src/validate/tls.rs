//! TLS to a destination.

use k8s_openapi::api::core::v1::Secret;

use crate::crd::destination::{TlsMode, TlsSpec};
use crate::diagnostic::{Code, FieldReporter};
use crate::inventory::{Inventory, NamespacedName};

use super::auth::{self, SecretText};

/// The settings of TLS to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The server name to ask for (SNI).
    pub sni: Option<String>,
    /// Names of which the server's certificate must carry one; empty only where the certificate
    /// is not verified.
    pub names: Vec<String>,
    /// The certificate authorities in PEM; none for those of the system.
    pub authorities: Option<String>,
    /// The client's certificate and private key in PEM.
    pub certificate: Option<(String, SecretText)>,
    /// True if the server's certificate is verified.
    pub verify: bool,
}

/// Reads `trafficPolicy.tls` of a RedisDestination for `host`; none where TLS is off or is the
/// mesh's own.
pub fn read(
    spec: &TlsSpec,
    host: &str,
    namespace: &str,
    inventory: &Inventory,
    field: &mut FieldReporter<'_>,
) -> Option<TlsOptions> {
    let is_mutual = match spec.mode {
        TlsMode::Disable | TlsMode::IstioMutual => {
            report_unused(spec, field);
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
        if is_mutual {
            let message = "mode MUTUAL needs a secret with tls.crt and tls.key";
            field.report(Code::MutualWithoutSecret, message, "name one, or use SIMPLE");
        }
        return Some(tls);
    };
    let mut field = field.at(".secret.name");
    let key = NamespacedName::new(namespace, &reference.name);
    let secret = auth::secret(&reference.name, namespace, inventory, &mut field)?;
    read_secret(&mut tls, is_mutual, (&key, secret), &mut field);
    Some(tls)
}

/// The modes DISABLE and ISTIO_MUTUAL take no other field.
fn report_unused(spec: &TlsSpec, field: &mut FieldReporter<'_>) {
    let given = [
        (spec.sni.is_some(), "sni"),
        (!spec.subject_alt_names.is_empty(), "subjectAltNames"),
        (spec.secret.is_some(), "secret"),
        (spec.insecure_skip_verify.is_some(), "insecureSkipVerify"),
    ];
    for (_, name) in given.iter().filter(|(given, _)| *given) {
        let (message, remedy) = ("this mode takes no other field", "use SIMPLE or MUTUAL, or remove this");
        field.at(format_args!(".{name}")).report(Code::UnusedTlsField, message, remedy);
    }
}

fn read_secret(
    tls: &mut TlsOptions,
    is_mutual: bool,
    (key, secret): (&NamespacedName, &Secret),
    field: &mut FieldReporter<'_>,
) {
    let mut pem = |name: &str, mark: &str| -> Option<String> {
        let problem = match auth::value(secret, name)? {
            Ok(text) if text.contains(mark) => return Some(format!("{text}\n")),
            Ok(_) => format!("is not in PEM format (`{mark}…`)"),
            Err(problem) => problem.to_owned(),
        };
        let message = format!("key `{name}` of Secret {key} {problem}");
        field.report(Code::InvalidSecretValue, message, "write it into the Secret in PEM format");
        None
    };
    tls.authorities = pem("ca.crt", "-----BEGIN CERTIFICATE").or_else(|| pem("cacert", "-----BEGIN CERTIFICATE"));
    let (certificate, private) = (pem("tls.crt", "-----BEGIN CERTIFICATE"), pem("tls.key", "PRIVATE KEY-----"));
    match (certificate, private) {
        (Some(certificate), Some(private)) if is_mutual => {
            tls.certificate = Some((certificate, SecretText::new(private)));
        }
        _ if is_mutual => {
            let message = format!("mode MUTUAL needs the keys `tls.crt` and `tls.key` in Secret {key}");
            field.report(Code::MissingCertificate, message, "add them, or use SIMPLE");
        }
        _ => {}
    }
    if !is_mutual && tls.authorities.is_none() && tls.verify {
        let remedy = "add it, or remove secret to trust the system's authorities";
        field.report(Code::MissingAuthority, format!("Secret {key} has no key `ca.crt`"), remedy);
    }
}
