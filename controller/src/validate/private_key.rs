//! Private keys of a Secret: parsed, held against the certificate, and written anew.

use num_bigint::BigUint;
use pem::Pem;
use pkcs1::RsaPrivateKeyRef;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::Decode;
use pkcs8::der::asn1::{ObjectIdentifier, OctetStringRef};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use sec1::EcPrivateKey;

use crate::diagnostic::Code;

use super::auth::SecretText;
use super::certificates::{self, Curve, KEYS, PublicKey, Unusable};

const REMEDY: &str = "write the certificate's private key into the Secret in PEM format";

/// Reads a private key that belongs to the public key of a certificate. Returns it in PEM.
pub fn read(text: &str, public: &PublicKey) -> Result<SecretText, Unusable> {
    let blocks = certificates::blocks(text)?;
    let block = blocks.iter().find(|block| block.tag().ends_with("PRIVATE KEY"));
    let Some(block) = block else {
        return Err(Unusable::new("is not in PEM format (`-----BEGIN PRIVATE KEY…`)", REMEDY));
    };
    if block.tag() == "ENCRYPTED PRIVATE KEY" || block.headers().get("Proc-Type").is_some() {
        let remedy = "decrypt it (`openssl pkey -in tls.key -out decrypted.key`), and write that into the Secret";
        return Err(Unusable {
            code: Code::EncryptedKey,
            message: "is encrypted".to_owned(),
            remedy: remedy.to_owned(),
        });
    }
    match parse(block)?.belongs_to(public) {
        true => Ok(SecretText::new(certificates::write(block.tag(), block.contents()))),
        false => {
            let message = "is not the private key of the certificate in `tls.crt`, or damaged".to_owned();
            let remedy = "write the key and the certificate into the Secret that were made for each other".to_owned();
            Err(Unusable { code: Code::KeyOfAnotherCertificate, message, remedy })
        }
    }
}

/// A private key as it was parsed. None of its parts has been compared with another.
enum Parsed<'a> {
    Rsa(RsaPrivateKeyRef<'a>),
    Ec(Curve, EcPrivateKey<'a>),
    Ed25519(&'a [u8]),
}

fn parse(block: &Pem) -> Result<Parsed<'_>, Unusable> {
    let unreadable = || Unusable::new("holds a private key that can't be read", REMEDY);
    let der = block.contents();
    let rsa = |der| RsaPrivateKeyRef::from_der(der).map(Parsed::Rsa).map_err(|_| unreadable());
    match block.tag() {
        "RSA PRIVATE KEY" => rsa(der),
        "EC PRIVATE KEY" => ec(der, None),
        "PRIVATE KEY" => {
            let info = PrivateKeyInfoRef::from_der(der).map_err(|_| unreadable())?;
            // BoringSSL knows the first version only, which has no public key.
            if info.public_key.is_some() {
                let message = "holds a private key in version 2 of PKCS#8";
                return Err(Unusable::new(message, "write it anew: `openssl pkey -in tls.key -out new.key`"));
            }
            let inner = info.private_key.as_bytes();
            match info.algorithm.oid.to_string().as_str() {
                "1.2.840.113549.1.1.1" => rsa(inner),
                "1.2.840.10045.2.1" => {
                    let named =
                        info.algorithm.parameters.and_then(|parameters| ObjectIdentifier::try_from(parameters).ok());
                    ec(inner, Some(named.ok_or_else(unsupported)?))
                }
                "1.3.101.112" => {
                    let seed = <&OctetStringRef>::from_der(inner).map_err(|_| unreadable())?;
                    Ok(Parsed::Ed25519(seed.as_bytes()))
                }
                _ => Err(unsupported()),
            }
        }
        _ => Err(unsupported()),
    }
}

fn unsupported() -> Unusable {
    let (code, message) = (Code::UnsupportedKey, "holds a private key of another kind".to_owned());
    Unusable { code, message, remedy: format!("use a key that Envoy takes: {KEYS}") }
}

fn ec(der: &[u8], named: Option<ObjectIdentifier>) -> Result<Parsed<'_>, Unusable> {
    let key = EcPrivateKey::from_der(der);
    let key = key.map_err(|_| Unusable::new("holds a private key that can't be read", REMEDY))?;
    let own = key.parameters.and_then(|parameters| parameters.named_curve());
    let is_one = own.is_none() || named.is_none() || own == named;
    let curve = named.or(own).filter(|_| is_one).and_then(|curve| Curve::of(&curve.to_string()));
    Ok(Parsed::Ec(curve.ok_or_else(unsupported)?, key))
}

impl Parsed<'_> {
    /// True if this is the private key of a public key, and its parts belong together, as
    /// BoringSSL looks.
    fn belongs_to(&self, public: &PublicKey) -> bool {
        match (self, public) {
            (Parsed::Rsa(key), PublicKey::Rsa(modulus, exponent)) => rsa_belongs_to(key, modulus, exponent),
            (Parsed::Ec(curve, key), PublicKey::Ec(other, point)) => {
                curve == other && key.public_key.is_none_or(|own| own == point) && ec_belongs_to(*curve, key, point)
            }
            (Parsed::Ed25519(seed), PublicKey::Ed25519(public)) => {
                Ed25519KeyPair::from_seed_and_public_key(seed, public).is_ok()
            }
            (Parsed::Rsa(_) | Parsed::Ec(..) | Parsed::Ed25519(_), _) => false,
        }
    }
}

/// The equations of [RFC 8017](https://www.rfc-editor.org/rfc/rfc8017#section-3.2) for two primes.
/// `ring` looks at them for keys up to 4096 bits only.
fn rsa_belongs_to(key: &RsaPrivateKeyRef<'_>, modulus: &BigUint, exponent: &BigUint) -> bool {
    let number = |part: &pkcs8::der::asn1::UintRef<'_>| BigUint::from_bytes_be(part.as_bytes());
    let one = BigUint::from(1u8);
    let (n, e, d) = (number(&key.modulus), number(&key.public_exponent), number(&key.private_exponent));
    let (p, q) = (number(&key.prime1), number(&key.prime2));
    if key.other_prime_infos.is_some() || n != *modulus || e != *exponent || &p * &q != n || p <= one || q <= one {
        return false;
    }
    let (of_p, of_q) = (&p - &one, &q - &one);
    let is_odd = |number: &BigUint| number.bit(0);
    [&n, &e, &p, &q].into_iter().all(is_odd)
        && e > one
        && e.bits() <= 33
        && d < n
        && (&d * &e) % &of_p == one
        && (&d * &e) % &of_q == one
        && number(&key.exponent1) == &d % &of_p
        && number(&key.exponent2) == &d % &of_q
        && number(&key.coefficient) < p
        && (number(&key.coefficient) * &q) % &p == one
}

fn ec_belongs_to(curve: Curve, key: &EcPrivateKey<'_>, point: &[u8]) -> bool {
    // Old versions of OpenSSL leave zeros out at the beginning.
    let digits = key.private_key.iter().position(|byte| *byte != 0).and_then(|zeros| key.private_key.get(zeros..));
    let Some(digits) = digits.filter(|digits| digits.len() <= curve.length()) else { return false };
    let scalar = [vec![0; curve.length() - digits.len()], digits.to_vec()].concat();
    let algorithm = match curve {
        Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        Curve::P521 => {
            let (key, public) = (p521::SecretKey::from_slice(&scalar), p521::PublicKey::from_sec1_bytes(point));
            return matches!((key, public), (Ok(key), Ok(public)) if key.public_key() == public);
        }
    };
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &scalar, point, &SystemRandom::new()).is_ok()
}
