//! Credentials: read from Secrets or objects, and never shown.

use std::fmt;

use k8s_openapi::api::core::v1::Secret;

use crate::crd::Auth;
use crate::crd::auth::{PlainAuth, SecretReference};
use crate::diagnostic::{Code, FieldReporter, did_you_mean, nearest};
use crate::inventory::{Inventory, NamespacedName};

/// A text that debug output doesn't show.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> SecretText {
        SecretText(text.into())
    }

    /// The text, for the places where it has to go.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisCredentials {
    /// The user name; none for Redis's `default` user.
    pub username: Option<String>,
    /// The password.
    pub password: SecretText,
}

/// Reads credentials; none if they can't be read, which is then reported.
pub fn login(
    auth: &Auth,
    namespace: &str,
    inventory: &Inventory,
    field: &mut FieldReporter<'_>,
) -> Option<RedisCredentials> {
    match (&auth.secret, &auth.plain) {
        (None, Some(plain)) => written(plain, &mut field.at(".plain")),
        (Some(reference), None) => of_secret(reference, namespace, inventory, &mut field.at(".secret")),
        (Some(_), Some(_)) => {
            field.report(Code::AmbiguousCredentials, "names both secret and plain", "keep one of them");
            None
        }
        (None, None) => {
            let remedy = "add one of them, or remove auth";
            field.report(Code::MissingCredentials, "names neither secret nor plain", remedy);
            None
        }
    }
}

fn written(plain: &PlainAuth, field: &mut FieldReporter<'_>) -> Option<RedisCredentials> {
    let username = plain.username.clone().filter(|name| !name.is_empty());
    if username.as_deref().is_some_and(|name| name.contains(char::is_whitespace)) {
        let message = "must not contain white space";
        field.at(".username").report(Code::InvalidUsername, message, "write the user's name alone");
    }
    (!plain.password.is_empty()).then(|| RedisCredentials { username, password: SecretText::new(&plain.password) })
}

fn of_secret(
    reference: &SecretReference,
    namespace: &str,
    inventory: &Inventory,
    field: &mut FieldReporter<'_>,
) -> Option<RedisCredentials> {
    let secret = secret(&reference.name, namespace, inventory, &mut field.at(".name"))?;
    let key = NamespacedName::new(namespace, &reference.name);
    let password = match &reference.password_field {
        Some(name) => named(secret, &key, name, &mut field.at(".passwordField")),
        None => match ["password", "token"].into_iter().find(|name| has(secret, name)) {
            Some(name) => named(secret, &key, name, field),
            None => {
                let message = format!("Secret {key} has neither `password` nor `token`{}", keys(secret));
                field.report(Code::MissingSecretKey, message, "name the key with passwordField");
                None
            }
        },
    };
    let username = match &reference.username_field {
        Some(name) => Some(named(secret, &key, name, &mut field.at(".usernameField"))?),
        None if has(secret, "username") => Some(named(secret, &key, "username", field)?),
        None => None,
    };
    Some(RedisCredentials { username, password: SecretText::new(password?) })
}

/// Returns the Secret, or reports that there is none.
pub fn secret<'a>(
    name: &str,
    namespace: &str,
    inventory: &'a Inventory,
    field: &mut FieldReporter<'_>,
) -> Option<&'a Secret> {
    if name.is_empty() {
        return None;
    }
    let key = NamespacedName::new(namespace, name);
    let found = inventory.secret(&key);
    if found.is_none() {
        let elsewhere = inventory.similar_secrets().find(|known| known.name == name).map(|known| {
            format!(
                "there is one in namespace {}, but a Secret is looked up in the namespace of the object that names it",
                known.namespace
            )
        });
        let suggested = || {
            let known = inventory.similar_secrets().filter(|known| known.namespace == namespace);
            did_you_mean(name, known.map(|known| known.name.as_str()))
        };
        let remedy = elsewhere.or_else(suggested).unwrap_or_else(|| "add it".to_owned());
        field.report(Code::UnknownSecret, format!("there is no Secret {key}"), remedy);
    }
    found
}

fn has(secret: &Secret, name: &str) -> bool {
    secret.string_data.as_ref().is_some_and(|data| data.contains_key(name))
        || secret.data.as_ref().is_some_and(|data| data.contains_key(name))
}

/// The value of a key, or why it can't be used. White space at its ends is removed, since editors
/// and `echo` put it there.
pub fn value(secret: &Secret, name: &str) -> Option<Result<String, &'static str>> {
    let text = match secret.string_data.as_ref().and_then(|data| data.get(name)) {
        Some(text) => text.clone(),
        None => match String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()) {
            Ok(text) => text,
            Err(_) => return Some(Err("is not UTF-8 text")),
        },
    };
    let trimmed = text.trim();
    Some(if trimmed.is_empty() { Err("is empty") } else { Ok(trimmed.to_owned()) })
}

fn named(secret: &Secret, key: &NamespacedName, name: &str, field: &mut FieldReporter<'_>) -> Option<String> {
    match value(secret, name) {
        Some(Ok(text)) => Some(text),
        Some(Err(problem)) => {
            let message = format!("key `{name}` of Secret {key} {problem}");
            field.report(Code::InvalidSecretValue, message, "write its value into the Secret");
            None
        }
        None => {
            let meant = nearest(name, names(secret));
            let hint = if meant.is_some() { String::new() } else { keys(secret) };
            let remedy = did_you_mean(name, names(secret)).unwrap_or_else(|| "add it, or name another one".to_owned());
            field.report(Code::MissingSecretKey, format!("Secret {key} has no key `{name}`{hint}"), remedy);
            None
        }
    }
}

fn names(secret: &Secret) -> impl Iterator<Item = &str> {
    let data = secret.data.iter().flatten().map(|(name, _)| name.as_str());
    data.chain(secret.string_data.iter().flatten().map(|(name, _)| name.as_str()))
}

fn keys(secret: &Secret) -> String {
    let names: Vec<_> = names(secret).collect();
    if names.is_empty() { " (it is empty)".to_owned() } else { format!(" (it has {})", names.join(", ")) }
}
