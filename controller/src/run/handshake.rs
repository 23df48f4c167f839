//! The handshake key of an installation, by which the filter and redis_proxy recognise each other.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use redis_mesh_core::hex::to_hex;

use crate::render::handshake::HandshakeKey;

use super::request::chain;

/// The name of the Secret that holds the key.
const NAME: &str = "redis-mesh-handshake";
/// The key in the Secret.
const FIELD: &str = "key";

/// Reads the key. The first replica creates it.
pub async fn key(client: &Client, namespace: &str) -> Result<HandshakeKey, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |error: kube::Error| format!("Secret {namespace}/{NAME}: {}", chain(&error));
    let secret = match secrets.get_opt(NAME).await.map_err(failed)? {
        Some(secret) => secret,
        None => {
            let mut random = [0u8; 32];
            getrandom::fill(&mut random).map_err(|error| format!("the system has no random numbers: {error}"))?;
            let text = to_hex(&random);
            let labels = [("app.kubernetes.io/managed-by".to_owned(), "redis-mesh".to_owned())];
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    labels: Some(labels.into()),
                    ..ObjectMeta::default()
                },
                data: Some([(FIELD.to_owned(), ByteString(text.into_bytes()))].into()),
                ..Secret::default()
            };
            match secrets.create(&PostParams::default(), &secret).await {
                Ok(secret) => secret,
                // Another replica has created it meanwhile.
                Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(NAME).await.map_err(failed)?,
                Err(error) => return Err(failed(error)),
            }
        }
    };
    let key = secret.data.and_then(|mut data| data.remove(FIELD)).map(|ByteString(bytes)| bytes).unwrap_or_default();
    match String::from_utf8(key) {
        Ok(key) if key.len() >= 16 => Ok(HandshakeKey::given(&key)),
        _ => Err(format!(
            "Secret {namespace}/{NAME} has no `{FIELD}` of at least 16 characters; delete the Secret, and the controller creates another one"
        )),
    }
}
