//! TLS in a DestinationRule. Certificates are files in the sidecar's container, or those of the
//! mesh.

use serde_json::Value;

use super::rule_fields::RuleFields;
use super::tls::SNI;

/// The name by which Istio's agent knows the certificate authorities of the system.
const SYSTEM: &str = "system";
/// The character that separates paths in the names of Istio's agent.
const SEPARATOR: char = '~';

/// TLS as a DestinationRule asks for it.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleTls {
    /// No TLS.
    Disabled,
    /// TLS with the certificates of the mesh.
    IstioMutual(PeerNames),
    /// TLS with certificates in files.
    Files(FileTls),
    /// TLS that can't be carried over, because of this field.
    Unknown(String),
}

/// The names of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerNames {
    /// The server name to ask for (SNI); none for the default.
    pub sni: Option<String>,
    /// Names of which the server's certificate must carry one; empty for any.
    pub names: Vec<String>,
}

/// TLS with certificates in files of the sidecar's container.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTls {
    /// The names of the server.
    pub server: PeerNames,
    /// The path of the certificate authorities, or `system`.
    pub authorities: String,
    /// The paths of the client's certificate and private key.
    pub certificate: Option<(String, String)>,
    /// True if the server's certificate is verified.
    pub verify: bool,
}

/// True if `tls` of a policy asks for TLS. A mode that nobody knows counts as one.
pub fn asks_for_tls(tls: &Value) -> bool {
    match &tls["mode"] {
        Value::Null => false,
        mode => mode.as_str() != Some("DISABLE"),
    }
}

/// Reads `tls` of a policy.
pub fn read(fields: &mut RuleFields<'_, '_>) -> RuleTls {
    let mode = match fields.value("mode").map(Value::as_str) {
        None | Some(Some("DISABLE")) => return RuleTls::Disabled,
        Some(mode) => mode.unwrap_or_default(),
    };
    let unknown = |fields: &RuleFields<'_, '_>, name: &str| RuleTls::Unknown(fields.path_of(name));
    let names = fields.value("subjectAltNames").and_then(Value::as_array).into_iter().flatten();
    let server = PeerNames {
        sni: fields.text("sni").map(str::to_owned),
        names: names.filter_map(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    };
    if server.sni.as_ref().is_some_and(|sni| sni.len() > SNI || sni.contains(char::is_control)) {
        return unknown(fields, "sni");
    }
    match mode {
        "ISTIO_MUTUAL" => {
            fields.only(&["mode", "sni", "subjectAltNames"]);
            return RuleTls::IstioMutual(server);
        }
        "SIMPLE" | "MUTUAL" => {}
        _ => return unknown(fields, "mode"),
    }
    // Istio hears of it only from rules for chosen pods.
    if fields.text("credentialName").is_some() {
        return unknown(fields, "credentialName");
    }
    let files = ["clientCertificate", "privateKey", "caCertificates"];
    if let Some(name) = files.into_iter().find(|name| fields.text(name).is_some_and(|path| path.contains(SEPARATOR))) {
        return unknown(fields, name);
    }
    let mut certificate = None;
    if mode == "MUTUAL" {
        let (Some(chain), Some(key)) = (fields.text("clientCertificate"), fields.text("privateKey")) else {
            return unknown(fields, "clientCertificate");
        };
        certificate = Some((chain.to_owned(), key.to_owned()));
    }
    fields.only(&["mode", "sni", "subjectAltNames", "insecureSkipVerify", files[0], files[1], files[2]]);
    RuleTls::Files(FileTls {
        server,
        authorities: fields.text("caCertificates").unwrap_or(SYSTEM).to_owned(),
        certificate,
        verify: fields.value("insecureSkipVerify") != Some(&Value::Bool(true)),
    })
}
