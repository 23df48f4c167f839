//! TLS to a destination.

use k8s_openapi::api::core::v1::Secret;

use crate::crd::destination::{TlsMode, TlsSpec};
use crate::diagnostic::{Code, FieldReporter};
use crate::inventory::{Inventory, NamespacedName};

use super::auth::{self, SecretText};
use super::certificates::{self, ExpiryDate, Unusable};
use super::private_key;

/// The length in bytes of the longest server name that Envoy takes
/// ([`UpstreamTlsContext`](https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/transport_sockets/tls/v3/tls.proto)).
pub const SNI: usize = 255;

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

/// What the settings of TLS are read for and with.
#[derive(Clone, Copy)]
pub struct TlsContext<'a> {
    /// The host of the destination.
    pub host: &'a str,
    /// The namespace of the object.
    pub namespace: &'a str,
    /// The objects that there are.
    pub inventory: &'a Inventory,
    /// The time in seconds since 1970; none where certificates aren't held against it.
    pub now: Option<i64>,
}

/// Reads `trafficPolicy.tls` of a RedisDestination; none where TLS is off or is the mesh's own.
pub fn read(spec: &TlsSpec, context: TlsContext<'_>, field: &mut FieldReporter<'_>) -> Option<TlsOptions> {
    let TlsContext { host, namespace, inventory, now } = context;
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
    if tls.sni.as_ref().is_some_and(|sni| sni.len() > SNI || sni.contains(char::is_control)) {
        let message = format!("is not the name of a server, or longer than {SNI} bytes");
        field.at(".sni").report(Code::InvalidHost, message, "write a DNS name, such as redis.example.com");
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
    read_secret(&mut tls, is_mutual, SecretMaterial { key: &key, secret, now, field: &mut field });
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

fn read_secret(tls: &mut TlsOptions, is_mutual: bool, mut material: SecretMaterial<'_, '_>) {
    let key = material.key;
    // What isn't verified by them isn't rendered either.
    if tls.verify {
        let name = ["ca.crt", "cacert"].into_iter().find(|name| material.has(name));
        match name.map(|name| (name, material.read(name, certificates::authorities))) {
            Some((name, Some(authorities))) => {
                material.report_expired(name, &authorities.expiries);
                tls.authorities = Some(authorities.pem);
            }
            Some((_, None)) => {}
            None if is_mutual => {}
            None => {
                let remedy = "add it, or remove secret to trust the system's authorities";
                let message = format!("Secret {key} has no key `ca.crt`");
                material.field.report(Code::MissingAuthority, message, remedy);
            }
        }
    }
    if !is_mutual {
        return;
    }
    if !(material.has("tls.crt") && material.has("tls.key")) {
        let message = format!("mode MUTUAL needs the keys `tls.crt` and `tls.key` in Secret {key}");
        return material.field.report(Code::MissingCertificate, message, "add them, or use SIMPLE");
    }
    let Some(chain) = material.read("tls.crt", certificates::chain) else { return };
    material.report_expired("tls.crt", &chain.expiries);
    let private = material.read("tls.key", |text| private_key::read(text, &chain.key));
    tls.certificate = private.map(|private| (chain.pem, private));
}

/// A Secret with certificates, and where to report what is wrong with them.
struct SecretMaterial<'a, 'b> {
    key: &'a NamespacedName,
    secret: &'a Secret,
    now: Option<i64>,
    field: &'a mut FieldReporter<'b>,
}

impl SecretMaterial<'_, '_> {
    fn has(&self, name: &str) -> bool {
        auth::value(self.secret, name).is_some()
    }

    /// Reads the value of a key; none if it can't be used, which is then reported.
    fn read<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, Unusable>) -> Option<T> {
        let found = match auth::value(self.secret, name)? {
            Ok(text) => read(&text),
            Err(problem) => Err(Unusable::new(problem, "write it into the Secret in PEM format")),
        };
        let report = |Unusable { code, message, remedy }: Unusable| {
            self.field.report(code, format!("key `{name}` of Secret {} {message}", self.key), remedy);
        };
        found.map_err(report).ok()
    }

    /// Reports certificates whose time is over: with them connections fail, but Envoy takes them.
    fn report_expired(&mut self, name: &str, expiries: &[ExpiryDate]) {
        for expiry in expiries.iter().filter(|expiry| self.now.is_some_and(|now| expiry.seconds < now)) {
            let message = format!(
                "key `{name}` of Secret {} holds a certificate ({}) that expired on {}, so TLS with it fails",
                self.key, expiry.subject, expiry.text
            );
            self.field.report(Code::ExpiredCertificate, message, "renew it");
        }
    }
}
