//! The conditions of routes on keys.

use std::collections::HashMap;

use redis_mesh_core::wire;

use crate::crd::service::KeyMatchSpec;
use crate::diagnostic::{Code, Diagnostics, FieldReporter, Problem, Subject};

/// Reads the condition of a route; none if it has a mistake, which is then reported.
pub fn key_match(spec: &KeyMatchSpec, field: &mut FieldReporter<'_>) -> Option<wire::KeyMatch> {
    let given: Vec<&str> =
        [("prefix", spec.prefix.is_some()), ("exact", spec.exact.is_some()), ("regex", spec.regex.is_some())]
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect();
    if spec.remove_prefix == Some(true) && spec.prefix.is_none() {
        let message = "needs a prefix";
        field.at(".removePrefix").report(Code::RemovePrefixWithoutPrefix, message, "add one, or remove this");
    }
    match given[..] {
        [] => {
            let remedy = "give one of prefix, exact and regex, or leave match out to take every key";
            field.report(Code::EmptyMatch, "says nothing", remedy);
            return None;
        }
        [_] => {}
        _ => {
            field.report(Code::AmbiguousMatch, format!("gives {}", given.join(" and ")), "keep one of them");
            return None;
        }
    }
    if let Some(prefix) = &spec.prefix {
        if prefix.is_empty() {
            let message = "is empty and takes every key";
            field.at(".prefix").report(Code::EmptyMatch, message, "leave match out instead");
            return None;
        }
        return Some(wire::KeyMatch::Prefix(prefix.clone()));
    }
    if let Some(exact) = &spec.exact {
        return Some(wire::KeyMatch::Exact(exact.clone()));
    }
    let regex = spec.regex.as_ref()?;
    match regex_lite::Regex::new(regex) {
        Ok(_) if regex.is_empty() => None,
        Ok(_) => Some(wire::KeyMatch::Regex(regex.clone())),
        Err(error) => {
            let message = format!("`{regex}` is not a regular expression: {error}");
            field.at(".regex").report(Code::InvalidRegex, message, "correct it");
            None
        }
    }
}

/// Reports routes that can never be reached.
pub fn report_overlaps(
    keys: &[Option<wire::KeyMatch>],
    case_insensitive: bool,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) {
    let folded = |text: &str| if case_insensitive { text.to_ascii_lowercase() } else { text.to_owned() };
    let mut seen: HashMap<(u8, String), usize> = HashMap::new();
    let prefixes = keys.iter().enumerate().filter_map(|(index, key)| match key {
        Some(wire::KeyMatch::Prefix(prefix)) => Some((folded(prefix), index)),
        _ => None,
    });
    let prefixes: Vec<(String, usize)> = prefixes.collect();
    let mut takes_all: Option<usize> = None;
    for (index, key) in keys.iter().enumerate() {
        let (identity, name) = match key {
            Some(wire::KeyMatch::Exact(exact)) => ((0, folded(exact)), "exact"),
            Some(wire::KeyMatch::Prefix(prefix)) => ((1, folded(prefix)), "prefix"),
            Some(wire::KeyMatch::Regex(regex)) => ((2, regex.clone()), "regex"),
            Some(wire::KeyMatch::Any) => ((3, String::new()), ""),
            None => continue,
        };
        let field = &mut diagnostics.at(subject, format!("spec.redis[{index}]"));
        if let Some(first) = seen.get(&identity) {
            report_duplicate(name, *first, case_insensitive, field);
            continue;
        }
        seen.insert(identity, index);
        if let Some(wire::KeyMatch::Regex(regex)) = key {
            let shadow =
                takes_all.map(|first| format!("spec.redis[{first}], whose regex takes every key")).or_else(|| {
                    let literal = folded(&anchored_literal(regex)?);
                    let (prefix, first) = prefixes.iter().find(|(prefix, _)| literal.starts_with(prefix.as_str()))?;
                    Some(format!("the prefix `{prefix}` of spec.redis[{first}], which has precedence"))
                });
            if let Some(shadow) = shadow {
                let message = format!("this route is never reached: its keys are taken by {shadow}");
                let remedy = "remove it, or narrow the other";
                field.at(".match.key.regex").report(Code::UnreachableRoute, message, remedy);
            } else if is_universal(regex) {
                takes_all = Some(index);
            }
        }
    }
    if let (Some(regex), Some(any)) = (takes_all, keys.iter().position(|key| *key == Some(wire::KeyMatch::Any))) {
        let message = format!("is never reached: spec.redis[{regex}] takes every key by its regex");
        let problem = Problem::new(Code::UnreachableRoute, message, "remove one of the two");
        diagnostics.add(subject, format!("spec.redis[{any}]"), problem);
    }
}

/// Reports a route with the same condition as an earlier one; `name` is the field of the
/// condition, empty where there is none.
fn report_duplicate(name: &str, first: usize, case_insensitive: bool, field: &mut FieldReporter<'_>) {
    if name.is_empty() {
        let message = format!("has no match, as spec.redis[{first}] has none");
        return field.report(Code::DuplicateRoute, message, "only one route can take what no other takes");
    }
    let alike = if case_insensitive && name != "regex" { " (caseInsensitive is set)" } else { "" };
    let message = format!("is the same as in spec.redis[{first}]{alike}; this route is never reached");
    field.at(format_args!(".match.key.{name}")).report(Code::DuplicateRoute, message, "remove one of the two");
}

/// True for the ways to write a regular expression that takes every key.
fn is_universal(regex: &str) -> bool {
    let inner = regex.strip_prefix('^').unwrap_or(regex);
    let inner =
        if regex.starts_with('^') && inner == "$" { return false } else { inner.strip_suffix('$').unwrap_or(inner) };
    matches!(inner, "" | ".*" | "(.*)" | ".*?")
}

/// The literal text with which every key begins that the expression takes; none if that can't be
/// seen easily.
fn anchored_literal(regex: &str) -> Option<String> {
    let rest = regex.strip_prefix('^')?;
    if rest.contains('|') || rest.contains("(?") {
        return None;
    }
    let end = rest.find(|c: char| r"\.+*?()[]{}^$".contains(c)).unwrap_or(rest.len());
    let mut literal: String = rest[..end].to_owned();
    if rest[end..].starts_with(['*', '?', '{']) {
        literal.pop();
    }
    Some(literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        for (regex, literal) in [
            ("^user:", Some("user:")),
            ("^user:[0-9]+$", Some("user:")),
            ("^ab*", Some("a")),
            ("^a|b", None),
            ("user", None),
            ("^.*", Some("")),
        ] {
            assert_eq!(anchored_literal(regex).as_deref(), literal, "{regex}");
        }
    }

    #[test]
    fn universal() {
        for regex in [".*", "^.*$", "^", "$", "^.*"] {
            assert!(is_universal(regex), "{regex}");
        }
        for regex in ["^$", "a.*", ".+"] {
            assert!(!is_universal(regex), "{regex}");
        }
    }
}
