//! Certificates of a Secret: parsed, and written anew.
//!
//! **Invariant:** Envoy gets only what has been parsed here. One certificate that Envoy can't read
//! makes it refuse a cluster, and a sidecar that starts with a refused cluster never gets ready.

use num_bigint::BigUint;
use pem::{EncodeConfig, LineEnding, Pem};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::diagnostic::Code;

/// The tags of certificates. Behind the certificate, the last has settings of OpenSSL, which Envoy
/// doesn't look at.
const CERTIFICATES: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
/// The tag of a list of revoked certificates.
const REVOCATIONS: &str = "X509 CRL";

/// The sizes in bits of the RSA keys that Envoy takes
/// ([`TlsCertificate`](https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/security/ssl#certificate-selection)),
/// and BoringSSL.
pub const RSA_BITS: std::ops::RangeInclusive<u64> = 2048..=8192;
/// The keys that Envoy takes, in words.
pub const KEYS: &str = "RSA of 2048 to 8192 bits, ECDSA over P-256, P-384 or P-521, or Ed25519";

/// Why the value of a key of a Secret can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The code.
    pub code: Code,
    /// What is wrong, as the end of a sentence whose subject is the value.
    pub message: String,
    /// The remedy.
    pub remedy: String,
}

impl Unusable {
    /// A value that isn't what it should be.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Unusable {
        Unusable { code: Code::InvalidSecretValue, message: message.into(), remedy: remedy.into() }
    }
}

/// The curves on which Envoy takes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    const ALL: [(Curve, &'static str); 3] =
        [(Curve::P256, "1.2.840.10045.3.1.7"), (Curve::P384, "1.3.132.0.34"), (Curve::P521, "1.3.132.0.35")];

    /// The curve with this object identifier.
    pub fn of(identifier: &str) -> Option<Curve> {
        Curve::ALL.iter().find(|(_, known)| *known == identifier).map(|(curve, _)| *curve)
    }

    /// The length of a coordinate in bytes.
    pub fn length(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

/// The public key of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// The modulus and the exponent.
    Rsa(BigUint, BigUint),
    /// The uncompressed point.
    Ec(Curve, Vec<u8>),
    /// The 32 bytes.
    Ed25519(Vec<u8>),
}

/// The last day of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiryDate {
    /// The subject of the certificate.
    pub subject: String,
    /// Seconds since 1970.
    pub seconds: i64,
    /// The date as text.
    pub text: String,
}

/// A chain of certificates, that of the client first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// PEM.
    pub pem: String,
    /// The public key of the first.
    pub key: PublicKey,
    /// The last days of all.
    pub expiries: Vec<ExpiryDate>,
}

/// Certificate authorities, and their lists of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// PEM.
    pub pem: String,
    /// The last days of all.
    pub expiries: Vec<ExpiryDate>,
}

/// Reads a chain of certificates.
pub fn chain(text: &str) -> Result<Chain, Unusable> {
    let mut written = String::new();
    let (mut expiries, mut key) = (Vec::new(), None);
    for block in certificates(text)? {
        let (certificate, der) = certificate(&block)?;
        if key.is_none() {
            key = Some(public_key(&certificate)?);
        }
        expiries.push(expiry(&certificate));
        written += &write("CERTIFICATE", der);
    }
    let key = key.ok_or_else(none_there)?;
    Ok(Chain { pem: written, key, expiries })
}

/// Reads certificate authorities.
pub fn authorities(text: &str) -> Result<Authorities, Unusable> {
    let mut written = String::new();
    let mut expiries = Vec::new();
    for block in certificates(text)? {
        let (certificate, der) = certificate(&block)?;
        expiries.push(expiry(&certificate));
        written += &write("CERTIFICATE", der);
    }
    if expiries.is_empty() {
        return Err(none_there());
    }
    for block in blocks(text)?.iter().filter(|block| block.tag() == REVOCATIONS) {
        match CertificateRevocationList::from_der(block.contents()) {
            Ok(([], _)) => written += &write(REVOCATIONS, block.contents()),
            _ => return Err(Unusable::new("holds a list of revoked certificates that can't be read", "replace it")),
        }
    }
    Ok(Authorities { pem: written, expiries })
}

/// The blocks of a PEM file. A block without its end is an error, since the file was cut off.
pub fn blocks(text: &str) -> Result<Vec<Pem>, Unusable> {
    let remedy = "write the whole file into the Secret";
    let blocks = pem::parse_many(text)
        .map_err(|error| Unusable::new(format!("is not in PEM format ({error})").replace('\n', " "), remedy))?;
    if blocks.len() != text.matches("-----BEGIN ").count() {
        return Err(Unusable::new("is cut off: a block in PEM format has no end", remedy));
    }
    Ok(blocks)
}

/// Writes a block.
pub fn write(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

fn none_there() -> Unusable {
    let message = "is not in PEM format (`-----BEGIN CERTIFICATE…`)";
    Unusable::new(message, "write it into the Secret in PEM format")
}

fn certificates(text: &str) -> Result<Vec<Pem>, Unusable> {
    Ok(blocks(text)?.into_iter().filter(|block| CERTIFICATES.contains(&block.tag())).collect())
}

fn certificate(block: &Pem) -> Result<(X509Certificate<'_>, &[u8]), Unusable> {
    let der = block.contents();
    let unreadable = || Unusable::new("holds a certificate that can't be read", "replace it by a whole one");
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
    if !rest.is_empty() && block.tag() != "TRUSTED CERTIFICATE" {
        return Err(unreadable());
    }
    // What the parser leaves for later is read at once by Envoy.
    let is_whole = certificate.public_key().parsed().is_ok()
        && certificate.extensions().iter().all(|extension| extension.parsed_extension().error().is_none());
    if !is_whole {
        return Err(unreadable());
    }
    Ok((certificate, der.get(..der.len() - rest.len()).unwrap_or(der)))
}

fn expiry(certificate: &X509Certificate<'_>) -> ExpiryDate {
    let until = certificate.validity().not_after;
    ExpiryDate { subject: certificate.subject().to_string(), seconds: until.timestamp(), text: until.to_string() }
}

/// The key of a client's certificate, if Envoy takes it.
fn public_key(certificate: &X509Certificate<'_>) -> Result<PublicKey, Unusable> {
    let unsupported = |what: &str| {
        let message = format!("holds a certificate with {what}");
        Unusable { code: Code::UnsupportedKey, message, remedy: format!("use a key that Envoy takes: {KEYS}") }
    };
    let key = certificate.public_key();
    let identifier = key.algorithm.algorithm.to_id_string();
    match (identifier.as_str(), key.parsed()) {
        ("1.2.840.113549.1.1.1", Ok(Parsed::RSA(rsa))) => {
            let modulus = BigUint::from_bytes_be(rsa.modulus);
            match RSA_BITS.contains(&modulus.bits()) {
                true => Ok(PublicKey::Rsa(modulus, BigUint::from_bytes_be(rsa.exponent))),
                false => Err(unsupported(&format!("an RSA key of {} bits", modulus.bits()))),
            }
        }
        ("1.2.840.10045.2.1", Ok(Parsed::EC(point))) => {
            let named = key.algorithm.parameters.as_ref().and_then(|parameters| Oid::try_from(parameters).ok());
            let curve = named.and_then(|named| Curve::of(&named.to_id_string()));
            let curve = curve.ok_or_else(|| unsupported("a key on another curve"))?;
            let bytes = point.data();
            if bytes.first() != Some(&4) || bytes.len() != 1 + 2 * curve.length() {
                return Err(unsupported("a key in another form than an uncompressed point"));
            }
            // BoringSSL looks only at keys on curves, since those might be for key agreement.
            let usage = certificate.key_usage().ok().flatten();
            match usage.is_none_or(|usage| usage.value.digital_signature()) {
                true => Ok(PublicKey::Ec(curve, bytes.to_vec())),
                false => Err(unsupported("a key that may not sign (its key usage lacks digitalSignature)")),
            }
        }
        ("1.3.101.112", _) if key.subject_public_key.data.len() == 32 => {
            Ok(PublicKey::Ed25519(key.subject_public_key.data.to_vec()))
        }
        _ => Err(unsupported("a key of another kind")),
    }
}
