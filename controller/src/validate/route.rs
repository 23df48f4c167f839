//! Routes and faults of a RedisService.

use std::collections::HashMap;
use std::sync::Arc;

use redis_mesh_core::{command, wire};

use crate::crd::service::{DestinationRef, FaultSpec, FaultType, KeyMatchSpec, Percent, RedisServiceSpec};
use crate::diagnostic::{self, Diagnostics, Reason, Subject};
use crate::quantity;

use super::destination::{Destinations, ValidatedDestination};
use super::host::{self, HostName};
use super::host_port::HostPort;
use super::service::{ValidatedMirror, ValidatedRoute, ValidatedTarget};

/// The part of the routes that is the same for every host of the object.
pub struct Rules<'a> {
    spec: &'a RedisServiceSpec,
    keys: Vec<Option<wire::KeyMatch>>,
    faults_of_routes: Vec<Vec<wire::Fault>>,
    mirrors: Vec<Vec<(u32, bool)>>,
    /// Faults of the whole service.
    pub faults: Vec<wire::Fault>,
}

/// For whom routes are resolved.
pub struct RouteContext<'a> {
    /// The object.
    pub subject: &'a Subject,
    /// Its namespace.
    pub namespace: &'a str,
    /// What clients connect to.
    pub listener: &'a HostPort,
    /// The field that names it.
    pub field: &'a str,
}

/// Routes with what they lead to.
pub struct ResolvedRoutes {
    /// Destinations with their mirrors, each once.
    pub targets: Vec<ValidatedTarget>,
    /// Routes into them.
    pub routes: Vec<ValidatedRoute>,
}

impl<'a> Rules<'a> {
    /// Reads and checks everything that needs no host.
    pub fn read(spec: &'a RedisServiceSpec, subject: &Subject, diagnostics: &mut Diagnostics) -> Rules<'a> {
        let case_insensitive = spec.settings.as_ref().and_then(|settings| settings.case_insensitive) == Some(true);
        let mut rules =
            Rules { spec, keys: Vec::new(), faults_of_routes: Vec::new(), mirrors: Vec::new(), faults: Vec::new() };
        for (index, route) in spec.redis.iter().enumerate() {
            let mut place = diagnostics.at(subject, format!("spec.redis[{index}]"));
            let key = match route.matches.as_ref().and_then(|matches| matches.key.as_ref()) {
                Some(key) => key_match(key, &mut place.at(".match.key")),
                None => Some(wire::KeyMatch::Any),
            };
            rules.keys.push(key);
            rules.mirrors.push(
                route
                    .mirror
                    .iter()
                    .enumerate()
                    .map(|(index, mirror)| {
                        let share = share(
                            mirror.percentage.as_ref(),
                            &mut place.at(format_args!(".mirror[{index}].percentage.value")),
                        );
                        (share, mirror.exclude_read_commands == Some(true))
                    })
                    .collect(),
            );
            rules.faults_of_routes.push(faults(&route.faults, &mut place.at(".faults")));
        }
        rules.faults = faults(&spec.faults, &mut diagnostics.at(subject, "spec.faults"));
        overlaps(&rules.keys, case_insensitive, subject, diagnostics);
        rules
    }

    /// Resolves the destinations for one host. None if one of them can't be.
    pub fn resolve(
        &self,
        place: &RouteContext<'_>,
        resolver: &mut Destinations<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ResolvedRoutes> {
        let mut resolved = ResolvedRoutes { targets: Vec::new(), routes: Vec::new() };
        type Identity = (HostPort, Vec<(HostPort, u32, bool)>);
        let mut known: HashMap<Identity, usize> = HashMap::new();
        if self.spec.redis.is_empty() {
            let name = name_of(&place.listener.host, place, resolver)?;
            let field = &mut diagnostics.at(place.subject, place.field);
            let destination = resolver.resolve(&name, Some(place.listener.port), place.namespace, None, field)?;
            resolved.targets.push(ValidatedTarget { destination, mirrors: Vec::new() });
            resolved.routes.push(ValidatedRoute::to_the_host());
            return Some(resolved);
        }
        let mut complete = true;
        for (index, spec) in self.spec.redis.iter().enumerate() {
            let field = format!("spec.redis[{index}].route");
            let main = destination(&spec.route, &field, place, resolver, diagnostics);
            let mut mirrors: Vec<ValidatedMirror> = Vec::new();
            for (position, (mirror, (per_million, exclude_read_commands))) in
                spec.mirror.iter().zip(&self.mirrors[index]).enumerate()
            {
                let field = format!("spec.redis[{index}].mirror[{position}].route");
                let Some(copy) = destination(&mirror.route, &field, place, resolver, diagnostics) else {
                    complete = false;
                    continue;
                };
                if main.as_ref().is_some_and(|main| main.address == copy.address) {
                    let message = format!(
                        "is the same as the route's own destination {}; every command would be executed twice there",
                        copy.address
                    );
                    diagnostics.at(place.subject, &field).invalid(message);
                } else if mirrors.iter().any(|known| known.destination.address == copy.address) {
                    diagnostics.at(place.subject, &field).invalid(format!("names {} a second time", copy.address));
                }
                mirrors.push(ValidatedMirror {
                    destination: copy,
                    per_million: *per_million,
                    exclude_read_commands: *exclude_read_commands,
                });
            }
            let (Some(main), Some(Some(key))) = (main, self.keys.get(index)) else {
                complete = false;
                continue;
            };
            let identity = (
                main.address.clone(),
                mirrors
                    .iter()
                    .map(|m| (m.destination.address.clone(), m.per_million, m.exclude_read_commands))
                    .collect(),
            );
            let target = *known.entry(identity).or_insert_with(|| {
                resolved.targets.push(ValidatedTarget { destination: main, mirrors });
                resolved.targets.len() - 1
            });
            let matched = spec.matches.as_ref().and_then(|matches| matches.key.as_ref());
            resolved.routes.push(ValidatedRoute {
                key: key.clone(),
                remove_prefix: matched.and_then(|key| key.remove_prefix) == Some(true),
                target,
                read_policy: spec.read_policy,
                faults: self.faults_of_routes[index].clone(),
                index: Some(index),
            });
        }
        complete.then_some(resolved)
    }
}

fn name_of(host: &str, place: &RouteContext<'_>, resolver: &Destinations<'_>) -> Option<HostName> {
    host::name(host, place.namespace, resolver.cluster_domain()).ok()
}

fn destination(
    spec: &DestinationRef,
    field: &str,
    place: &RouteContext<'_>,
    resolver: &mut Destinations<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<ValidatedDestination>> {
    if spec.host.is_empty() {
        return None;
    }
    let name = host::name(&spec.host, place.namespace, resolver.cluster_domain());
    let name = name.map_err(|message| diagnostics.at(place.subject, format!("{field}.host")).invalid(message)).ok()?;
    // The message is about the port only where there is one to be wrong.
    let port = spec.port.and_then(|port| u16::try_from(port).ok());
    let is_known = name.service.as_ref().is_none_or(|key| resolver.has_service(key));
    let field = if port.is_some() && is_known { format!("{field}.port") } else { format!("{field}.host") };
    resolver.resolve(&name, port, place.namespace, Some(place.listener), &mut diagnostics.at(place.subject, field))
}

fn key_match(spec: &KeyMatchSpec, place: &mut diagnostic::FieldReporter<'_>) -> Option<wire::KeyMatch> {
    let given: Vec<&str> =
        [("prefix", spec.prefix.is_some()), ("exact", spec.exact.is_some()), ("regex", spec.regex.is_some())]
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect();
    if spec.remove_prefix == Some(true) && spec.prefix.is_none() {
        place.at(".removePrefix").invalid("needs a prefix; add one, or remove this");
    }
    match given[..] {
        [] => {
            place.invalid("says nothing; give one of prefix, exact and regex, or leave match out to take every key");
            return None;
        }
        [_] => {}
        _ => {
            place.invalid(format!("gives {}; keep one of them", given.join(" and ")));
            return None;
        }
    }
    if let Some(prefix) = &spec.prefix {
        if prefix.is_empty() {
            place.at(".prefix").invalid("is empty and takes every key; leave match out instead");
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
            place.at(".regex").invalid(format!("`{regex}` is not a regular expression: {error}"));
            None
        }
    }
}

/// Routes that can never be reached.
fn overlaps(keys: &[Option<wire::KeyMatch>], case_insensitive: bool, subject: &Subject, diagnostics: &mut Diagnostics) {
    let folded = |text: &str| if case_insensitive { text.to_ascii_lowercase() } else { text.to_owned() };
    let mut seen: HashMap<(u8, String), usize> = HashMap::new();
    let mut prefixes: Vec<(String, usize)> = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        if let Some(wire::KeyMatch::Prefix(prefix)) = key {
            prefixes.push((folded(prefix), index));
        }
    }
    let mut takes_all: Option<usize> = None;
    for (index, key) in keys.iter().enumerate() {
        let (identity, field) = match key {
            Some(wire::KeyMatch::Exact(exact)) => ((0, folded(exact)), "exact"),
            Some(wire::KeyMatch::Prefix(prefix)) => ((1, folded(prefix)), "prefix"),
            Some(wire::KeyMatch::Regex(regex)) => ((2, regex.clone()), "regex"),
            Some(wire::KeyMatch::Any) => ((3, String::new()), ""),
            None => continue,
        };
        let mut place = diagnostics.at(subject, format!("spec.redis[{index}]"));
        if let Some(first) = seen.get(&identity) {
            if let Some(wire::KeyMatch::Any) = key {
                place.invalid(format!(
                    "has no match, as spec.redis[{first}] has none; only one route can take what no other takes"
                ));
            } else {
                let alike = if case_insensitive && field != "regex" { " (caseInsensitive is set)" } else { "" };
                place
                    .at(format_args!(".match.key.{field}"))
                    .invalid(format!("is the same as in spec.redis[{first}]{alike}; this route is never reached"));
            }
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
                place
                    .at(".match.key.regex")
                    .invalid(format!("this route is never reached: its keys are taken by {shadow}"));
            } else if is_universal(regex) {
                takes_all = Some(index);
            }
        }
    }
    if let (Some(regex), Some(any)) = (takes_all, keys.iter().position(|key| *key == Some(wire::KeyMatch::Any))) {
        let message =
            format!("is never reached: spec.redis[{regex}] takes every key by its regex; remove one of the two");
        diagnostics.at(subject, format!("spec.redis[{any}]")).invalid(message);
    }
}

/// True for the ways to write a regular expression that takes every key.
fn is_universal(regex: &str) -> bool {
    let inner = regex.strip_prefix('^').unwrap_or(regex);
    let inner =
        if regex.starts_with('^') && inner == "$" { return false } else { inner.strip_suffix('$').unwrap_or(inner) };
    matches!(inner, "" | ".*" | "(.*)" | ".*?")
}

/// What every key that the expression takes begins with, if that can be seen at once.
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

fn share(percent: Option<&Percent>, place: &mut diagnostic::FieldReporter<'_>) -> u32 {
    match percent.map(|percent| quantity::per_million(percent.value)) {
        None => 1_000_000,
        Some(Ok(share)) => share,
        Some(Err(message)) => {
            place.invalid(message);
            0
        }
    }
}

fn faults(specs: &[FaultSpec], place: &mut diagnostic::FieldReporter<'_>) -> Vec<wire::Fault> {
    let mut faults = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let mut place = place.at(format_args!("[{index}]"));
        let kind = match spec.kind {
            Some(FaultType::Error) => wire::FaultKind::Error,
            Some(FaultType::Delay) | None => wire::FaultKind::Delay,
        };
        let delay = match spec.delay.as_deref().map(quantity::duration) {
            Some(Ok(delay)) => Some(delay),
            Some(Err(message)) => {
                place.at(".delay").invalid(message);
                None
            }
            None => None,
        };
        if kind == wire::FaultKind::Delay
            && spec.delay.as_deref().is_none_or(|text| quantity::duration(text).is_ok_and(|delay| delay.is_zero()))
        {
            place.at(".delay").invalid("a fault of type DELAY needs one, such as 200ms");
        }
        if let Some(delay) = delay
            && !delay.is_zero()
            && delay.as_millis() == 0
        {
            place.at(".delay").invalid("is shorter than 1ms, the shortest time that can be waited");
        }
        for (index, command) in spec.commands.iter().enumerate() {
            if command.is_empty() {
                continue;
            }
            let mut place = place.at(format_args!(".commands[{index}]"));
            if command.contains(|c: char| c.is_whitespace() || c.is_control()) {
                place.invalid(format!("`{}` is not the name of a command; a name is one word", command.trim()));
            } else if command::lookup(command.as_bytes()).is_none() {
                let hint = diagnostic::did_you_mean(
                    &command.to_ascii_lowercase(),
                    command::all().iter().map(|known| known.name),
                );
                place.report(
                    Reason::NoEffect,
                    format!("`{command}` is no command that Redis or Valkey is known to have{hint}"),
                );
            }
        }
        faults.push(wire::Fault {
            kind,
            per_million: share(spec.percentage.as_ref(), &mut place.at(".percentage.value")),
            delay_ms: delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)).unwrap_or_default(),
            commands: spec.commands.iter().map(|command| command.to_ascii_uppercase()).collect(),
        });
    }
    let total = |applies: &dyn Fn(&wire::Fault) -> bool| -> u64 {
        faults.iter().filter(|fault| applies(fault)).map(|fault| u64::from(fault.per_million)).sum()
    };
    let mut commands: Vec<&String> = faults.iter().flat_map(|fault| &fault.commands).collect();
    commands.sort();
    commands.dedup();
    let over = if total(&|fault| fault.commands.is_empty()) > 1_000_000 {
        Some("all commands".to_owned())
    } else {
        commands
            .iter()
            .find(|command| total(&|fault| fault.commands.is_empty() || fault.commands.contains(command)) > 1_000_000)
            .map(|command| format!("`{command}`"))
    };
    if let Some(over) = over {
        place.report(
            Reason::NoEffect,
            format!(
                "the percentages for {over} add up to more than 100; what comes last is hit less often than it says"
            ),
        );
    }
    faults
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
