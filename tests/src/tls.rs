//! TLS termination before a server that has none: an Envoy with a certificate made for the test.

use std::net::SocketAddr;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::envoy::Envoy;
use crate::workspace;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The certificate of the authority, PEM.
    pub certificate: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// Creates an authority.
    pub fn new(name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// Issues a certificate for these names or IP addresses.
    pub fn issue(&self, names: &[&str]) -> Result<Identity> {
        let params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>())?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    /// Returns the manifest of a Secret with the certificate under the key `ca.crt`.
    pub fn secret(&self, name: &str, namespace: &str) -> String {
        let data = STANDARD.encode(&self.certificate);
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {namespace}\ndata:\n  ca.crt: {data}\n"
        )
    }
}

/// Terminates TLS at `listen` and forwards to `to`. With `client_authority` (PEM), clients must
/// present a certificate that it issued.
pub fn terminate(
    listen: SocketAddr,
    to: SocketAddr,
    identity: &Identity,
    client_authority: Option<&str>,
) -> Result<Envoy> {
    let dir = workspace::scratch("tls")?;
    let (certificate, key, ca) = (dir.join("tls.crt"), dir.join("tls.key"), dir.join("ca.crt"));
    std::fs::write(&certificate, &identity.certificate)?;
    std::fs::write(&key, &identity.key)?;
    let mut validation = String::new();
    if let Some(authority) = client_authority {
        std::fs::write(&ca, authority)?;
        validation = format!(", validation_context: {{trusted_ca: {{filename: {}}}}}", ca.display());
    }
    let required = client_authority.is_some();
    let (certificate, key) = (certificate.display(), key.display());
    let address =
        |addr: SocketAddr| format!("{{socket_address: {{address: {}, port_value: {}}}}}", addr.ip(), addr.port());
    let (listen, to) = (address(listen), address(to));
    Envoy::start(&format!(
        r#"
static_resources:
  listeners:
    - name: tls
      address: {listen}
      filter_chains:
        - filters:
            - name: envoy.filters.network.tcp_proxy
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: tls
                cluster: redis
          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: {required}
              common_tls_context:
                {{tls_certificates: [{{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}]{validation}}}
  clusters:
    - name: redis
      type: STATIC
      load_assignment:
        cluster_name: redis
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {to}}}}}]}}]
"#
    ))
}
