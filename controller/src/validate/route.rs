//! Routes of a RedisService.

use std::collections::HashMap;
use std::sync::Arc;

use redis_mesh_core::wire;

use crate::crd::service::{DestinationRef, MirrorSpec, RedisServiceSpec};
use crate::diagnostic::{Code, Diagnostics, Problem, Subject};

use super::destination::{Destinations, RulesPlace, ValidatedDestination};
use super::faults::{faults, share};
use super::host;
use super::host_port::HostPort;
use super::key_match::{key_match, report_overlaps};
use super::service::{ValidatedMirror, ValidatedRoute, ValidatedTarget};

/// The rules of a RedisService as far as they are the same for each of its hosts.
pub struct Rules<'a> {
    spec: &'a RedisServiceSpec,
    keys: Vec<Option<wire::KeyMatch>>,
    faults_of_routes: Vec<Vec<wire::Fault>>,
    mirrors: Vec<Vec<CopiedShare>>,
    /// The faults of the whole service.
    pub faults: Vec<wire::Fault>,
}

/// Which commands a mirror gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CopiedShare {
    per_million: u32,
    exclude_read_commands: bool,
    include_admin: bool,
}

/// The host for which routes are resolved.
pub struct RouteContext<'a> {
    /// The RedisService.
    pub subject: &'a Subject,
    /// The place of its rules.
    pub place: &'a RulesPlace<'a>,
    /// The host and port to which clients connect.
    pub listener: &'a HostPort,
    /// The field that names the host.
    pub field: &'a str,
}

/// Routes with their destinations.
pub struct ResolvedRoutes {
    /// The destinations with their mirrors, each once.
    pub targets: Vec<ValidatedTarget>,
    /// The routes to these targets.
    pub routes: Vec<ValidatedRoute>,
}

impl<'a> Rules<'a> {
    /// Reads and checks everything that doesn't depend on the host.
    pub fn read(spec: &'a RedisServiceSpec, subject: &Subject, diagnostics: &mut Diagnostics) -> Rules<'a> {
        let case_insensitive = spec.settings.as_ref().and_then(|settings| settings.case_insensitive) == Some(true);
        let mut rules =
            Rules { spec, keys: Vec::new(), faults_of_routes: Vec::new(), mirrors: Vec::new(), faults: Vec::new() };
        for (index, route) in spec.redis.iter().enumerate() {
            let mut field = diagnostics.at(subject, format!("spec.redis[{index}]"));
            let key = match route.matches.as_ref().and_then(|matches| matches.key.as_ref()) {
                Some(key) => key_match(key, &mut field.at(".match.key")),
                None => Some(wire::KeyMatch::Any),
            };
            rules.keys.push(key);
            let mirrors = route.mirror.iter().enumerate().map(|(index, mirror)| {
                let field = &mut field.at(format_args!(".mirror[{index}].percentage.value"));
                CopiedShare {
                    per_million: share(mirror.percentage.as_ref(), field),
                    exclude_read_commands: mirror.exclude_read_commands == Some(true),
                    include_admin: mirror.include_admin == Some(true),
                }
            });
            rules.mirrors.push(mirrors.collect());
            rules.faults_of_routes.push(faults(&route.faults, &mut field.at(".faults")));
        }
        rules.faults = faults(&spec.faults, &mut diagnostics.at(subject, "spec.faults"));
        report_overlaps(&rules.keys, case_insensitive, subject, diagnostics);
        rules
    }

    /// Resolves the routes for one host; none if a destination can't be resolved, which is then
    /// reported.
    pub fn resolve(
        &self,
        context: &RouteContext<'_>,
        resolver: &mut Destinations<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ResolvedRoutes> {
        if self.spec.redis.is_empty() {
            return to_the_host(context, resolver, diagnostics);
        }
        type Identity = (HostPort, Vec<(HostPort, CopiedShare)>);
        let mut known: HashMap<Identity, usize> = HashMap::new();
        let mut resolved = ResolvedRoutes { targets: Vec::new(), routes: Vec::new() };
        let mut is_complete = true;
        for (index, spec) in self.spec.redis.iter().enumerate() {
            let field = format!("spec.redis[{index}].route");
            let main = destination(&spec.route, &field, context, resolver, diagnostics);
            let mut mirrors: Vec<ValidatedMirror> = Vec::new();
            for (position, mirror) in spec.mirror.iter().enumerate() {
                let at = (index, position);
                match self.mirror(mirror, at, context, resolver, diagnostics) {
                    Some(mirror) => {
                        let field = format!("spec.redis[{index}].mirror[{position}].route");
                        check_mirror(&mirror, main.as_deref(), &mirrors, (context.subject, &field), diagnostics);
                        mirrors.push(mirror);
                    }
                    None => is_complete = false,
                }
            }
            let (Some(main), Some(Some(key))) = (main, self.keys.get(index)) else {
                is_complete = false;
                continue;
            };
            let copy = |mirror: &ValidatedMirror| (mirror.destination.address.clone(), CopiedShare::of(mirror));
            let identity = (main.address.clone(), mirrors.iter().map(copy).collect());
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
        is_complete.then_some(resolved)
    }

    /// Resolves the mirror at a position of a route.
    fn mirror(
        &self,
        spec: &MirrorSpec,
        (route, position): (usize, usize),
        context: &RouteContext<'_>,
        resolver: &mut Destinations<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ValidatedMirror> {
        let field = format!("spec.redis[{route}].mirror[{position}].route");
        let destination = destination(&spec.route, &field, context, resolver, diagnostics)?;
        let CopiedShare { per_million, exclude_read_commands, include_admin } =
            *self.mirrors.get(route)?.get(position)?;
        Some(ValidatedMirror { destination, per_million, exclude_read_commands, include_admin })
    }
}

impl CopiedShare {
    fn of(mirror: &ValidatedMirror) -> CopiedShare {
        let ValidatedMirror { per_million, exclude_read_commands, include_admin, .. } = *mirror;
        CopiedShare { per_million, exclude_read_commands, include_admin }
    }
}

/// The routes of an object without any: everything goes to the host itself.
fn to_the_host(
    context: &RouteContext<'_>,
    resolver: &mut Destinations<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<ResolvedRoutes> {
    let name = host::name(&context.listener.host, context.place.namespace, resolver.cluster_domain()).ok()?;
    let field = &mut diagnostics.at(context.subject, context.field);
    let destination = resolver.resolve(&name, Some(context.listener.port), context.place, field)?;
    let targets = vec![ValidatedTarget { destination, mirrors: Vec::new() }];
    Some(ResolvedRoutes { targets, routes: vec![ValidatedRoute::to_the_host()] })
}

/// Reports a mirror that is the route's own destination, or another mirror of the route.
fn check_mirror(
    mirror: &ValidatedMirror,
    main: Option<&ValidatedDestination>,
    others: &[ValidatedMirror],
    (subject, field): (&Subject, &str),
    diagnostics: &mut Diagnostics,
) {
    let address = &mirror.destination.address;
    let problem = if main.is_some_and(|main| main.address == *address) {
        let message = format!(
            "is the same as the route's own destination {address}; every command would be executed twice there"
        );
        Problem::new(Code::MirrorOfItself, message, "name another destination")
    } else if others.iter().any(|known| known.destination.address == *address) {
        Problem::new(Code::DuplicateMirror, format!("names {address} a second time"), "remove one of the two")
    } else {
        return;
    };
    diagnostics.add(subject, field, problem);
}

/// Resolves a destination that `field` names.
fn destination(
    spec: &DestinationRef,
    field: &str,
    context: &RouteContext<'_>,
    resolver: &mut Destinations<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<ValidatedDestination>> {
    if spec.host.is_empty() {
        return None;
    }
    let name = host::name(&spec.host, context.place.namespace, resolver.cluster_domain());
    let name = name.map_err(|problem| diagnostics.add(context.subject, format!("{field}.host"), problem)).ok()?;
    // The mistake is in the port only where there is a port and the Service exists.
    let port = spec.port.and_then(|port| u16::try_from(port).ok());
    let is_known = name.service.as_ref().is_none_or(|key| resolver.has_service(key));
    let field = if port.is_some() && is_known { format!("{field}.port") } else { format!("{field}.host") };
    resolver.resolve(&name, port, context.place, &mut diagnostics.at(context.subject, field))
}
