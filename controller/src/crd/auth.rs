//! Credentials in objects of both kinds.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Credentials: exactly one of `secret` and `plain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secret) != has(self.plain)").message("give exactly one of secret and plain"))]
pub struct Auth {
    /// A Secret in the namespace of this object that holds the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReference>,
    /// Credentials in the object itself. Everybody who may read the object can read them; prefer
    /// `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<PlainAuth>,
}

/// A Secret and the keys in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the password. By default `password`, or `token` where there is no `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub password_field: Option<String>,
    /// The key of the user name. By default `username`, if the Secret has it. Without a user
    /// name, the login is for Redis's `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub username_field: Option<String>,
}

/// Credentials in the object itself.
#[derive(Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlainAuth {
    /// The password.
    #[schemars(length(min = 1))]
    pub password: String,
    /// The user name; by default Redis's `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

impl std::fmt::Debug for PlainAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainAuth").field("username", &self.username).field("password", &"[redacted]").finish()
    }
}
