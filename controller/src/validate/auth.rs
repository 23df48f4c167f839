//! Credentials: where they come from, and that they never show.

use std::fmt;

use k8s_openapi::api::core::v1::Secret;

use crate::crd::Auth;
use crate::diagnostic::{FieldReporter, Reason, did_you_mean, nearest};
use crate::inventory::{Inventory, NamespacedName};

/// A text that is never printed by accident.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretText(String);

impl SecretText {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> SecretText {
        SecretText(text.into())
    }

    /// The text, for where it has to go.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A user and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// None: Redis's `default` user.
    pub username: Option<String>,
    /// The password.
    pub password: SecretText,
}

/// Looks credentials up.
pub fn login(
    auth: &Auth,
    namespace: &str,
    inventory: &Inventory,
    place: &mut FieldReporter<'_>,
) -> Option<Credentials> {
    match (&auth.secret, &auth.plain) {
        (None, Some(plain)) => {
            let username = plain.username.clone().filter(|name| !name.is_empty());
            if username.as_deref().is_some_and(|name| name.contains(char::is_whitespace)) {
                place.at(".plain.username").invalid("must not contain white space");
            }
            (!plain.password.is_empty()).then(|| Credentials { username, password: SecretText::new(&plain.password) })
        }
        (Some(reference), None) => {
            let mut place = place.at(".secret");
            let secret = secret(&reference.name, namespace, inventory, &mut place.at(".name"))?;
            let key = NamespacedName::new(namespace, &reference.name);
            let password = match &reference.password_field {
                Some(field) => named(secret, &key, field, &mut place.at(".passwordField")),
                None => match ["password", "token"].into_iter().find(|field| has(secret, field)) {
                    Some(field) => named(secret, &key, field, &mut place),
                    None => {
                        let message = format!(
                            "Secret {key} has neither `password` nor `token`{}; name the key with passwordField",
                            keys(secret)
                        );
                        place.report(Reason::Unresolved, message);
                        None
                    }
                },
            };
            let username = match &reference.username_field {
                Some(field) => Some(named(secret, &key, field, &mut place.at(".usernameField"))?),
                None if has(secret, "username") => Some(named(secret, &key, "username", &mut place)?),
                None => None,
            };
            Some(Credentials { username, password: SecretText::new(password?) })
        }
        (Some(_), Some(_)) => {
            place.invalid("names both secret and plain; keep one of them");
            None
        }
        (None, None) => {
            place.invalid("names neither secret nor plain; add one of them, or remove auth");
            None
        }
    }
}

/// The Secret, or a report that there is none.
pub fn secret<'a>(
    name: &str,
    namespace: &str,
    inventory: &'a Inventory,
    place: &mut FieldReporter<'_>,
) -> Option<&'a Secret> {
    if name.is_empty() {
        return None;
    }
    let key = NamespacedName::new(namespace, name);
    let found = inventory.secret(&key);
    if found.is_none() {
        let elsewhere = inventory.similar_secrets().find(|known| known.name == name).map(|known| {
            format!("; there is one in namespace {}, but a Secret is looked up in the namespace of the object that names it", known.namespace)
        });
        let hint = elsewhere.or_else(|| {
            let names = inventory
                .similar_secrets()
                .filter(|known| known.namespace == namespace)
                .map(|known| known.name.as_str());
            nearest(name, names).map(|name| format!("; did you mean `{name}`?"))
        });
        place.report(
            Reason::Unresolved,
            format!("there is no Secret {key}{}", hint.unwrap_or_else(|| "; add it".to_owned())),
        );
    }
    found
}

fn has(secret: &Secret, field: &str) -> bool {
    secret.string_data.as_ref().is_some_and(|data| data.contains_key(field))
        || secret.data.as_ref().is_some_and(|data| data.contains_key(field))
}

/// The value of a key, without white space at its ends, which is where editors and `echo` put it.
pub fn value(secret: &Secret, field: &str) -> Option<Result<String, &'static str>> {
    let text = match secret.string_data.as_ref().and_then(|data| data.get(field)) {
        Some(text) => text.clone(),
        None => match String::from_utf8(secret.data.as_ref()?.get(field)?.0.clone()) {
            Ok(text) => text,
            Err(_) => return Some(Err("is not UTF-8 text")),
        },
    };
    let trimmed = text.trim();
    Some(if trimmed.is_empty() { Err("is empty") } else { Ok(trimmed.to_owned()) })
}

fn named(secret: &Secret, key: &NamespacedName, field: &str, place: &mut FieldReporter<'_>) -> Option<String> {
    match value(secret, field) {
        Some(Ok(text)) => Some(text),
        Some(Err(problem)) => {
            place.report(Reason::Invalid, format!("key `{field}` of Secret {key} {problem}"));
            None
        }
        None => {
            let hint = did_you_mean(field, names(secret));
            let hint = if hint.is_empty() { keys(secret) } else { hint };
            place.report(Reason::Unresolved, format!("Secret {key} has no key `{field}`{hint}"));
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
