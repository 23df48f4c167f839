//! Warnings about services that are served as they are written, at a risk to data or protection.

use crate::diagnostic::{Code, Diagnostics, Problem, some_of};

use super::destination::ValidatedDestination;
use super::service::ValidatedService;

/// The command that makes a user for the mesh. What `+info +keys` stands for depends on the
/// clients.
const CREATE_USER: &str = "redis-cli ACL SETUSER mesh on '>PASSWORD' '~*' '&*' +@all -@admin -@dangerous +info +keys";

/// Reports the risks of a service. They are reported of the object from which the service follows,
/// which is the one whose clients they concern.
pub fn report(service: &ValidatedService, diagnostics: &mut Diagnostics) {
    for destination in service.destinations() {
        if let Some(problem) = several_endpoints(destination) {
            diagnostics.add(&service.owner, field(service, destination, ".redis.mode"), problem);
        }
    }
    if !service.takes_scripts() {
        return;
    }
    for destination in service.destinations() {
        if let Some(problem) = privileged_login(destination) {
            let of_service = "spec.settings.scripts".to_owned();
            let field =
                if is_of(service, destination) { field(service, destination, ".redis.auth") } else { of_service };
            diagnostics.add(&service.owner, field, problem);
        }
    }
}

/// True if the service follows from the RedisDestination itself.
fn is_of(service: &ValidatedService, destination: &ValidatedDestination) -> bool {
    destination.policy.object.as_ref() == Some(&service.owner)
}

/// The field of the service's object that is about a destination: in a RedisDestination `own` of
/// the connection pool, in a RedisService the first that names the destination.
fn field(service: &ValidatedService, destination: &ValidatedDestination, own: &str) -> String {
    if is_of(service, destination) {
        return format!("spec.trafficPolicy.connectionPool{own}");
    }
    route_field(service, destination)
}

/// The field of a RedisService that is the first to name a destination.
pub fn route_field(service: &ValidatedService, destination: &ValidatedDestination) -> String {
    let named = service.routes.iter().find_map(|route| {
        let (index, target) = (route.index?, service.targets.get(route.target)?);
        let is_it = |known: &ValidatedDestination| known.address == destination.address;
        if is_it(&target.destination) {
            return Some(format!("spec.redis[{index}].route.host"));
        }
        let mirror = target.mirrors.iter().position(|mirror| is_it(&mirror.destination))?;
        Some(format!("spec.redis[{index}].mirror[{mirror}].route.host"))
    });
    named.unwrap_or_else(|| "spec.host".to_owned())
}

/// Several endpoints without a mode: each data path has its own idea of them, and neither need be
/// the right one.
fn several_endpoints(destination: &ValidatedDestination) -> Option<Problem> {
    let endpoints = destination.unexplained_endpoints();
    if endpoints.is_empty() {
        return None;
    }
    let message = format!(
        "{} has {} ready endpoints ({}), and no mode says what they are to each other, so commands for one key may reach any of them; a later release refuses this",
        destination.address,
        endpoints.len(),
        some_of(endpoints),
    );
    let remedy = format!(
        "write `mode` in a RedisDestination for {}: PROXY if any of them may answer any command (proxies, Redis Enterprise, a gateway), CLUSTER for a Redis Cluster; until there are the modes REPLICATION, SENTINEL and SHARDED, lead to a Service that selects one primary",
        destination.address.host
    );
    Some(Problem::new(Code::SeveralEndpoints, message, remedy))
}

/// A login as Redis's `default` user, who may do everything unless somebody has changed that.
fn privileged_login(destination: &ValidatedDestination) -> Option<Problem> {
    let login = destination.policy.login.as_ref()?;
    if login.username.as_deref().is_some_and(|name| name != "default") {
        return None;
    }
    let object = destination.policy.object.as_ref()?;
    let message = format!(
        "{} {} logs in at {} as the user `default`, and clients may run scripts, which can call commands that are otherwise refused where the mesh logs in (MIGRATE, CLUSTER MEET)",
        object.kind, object.name, destination.address,
    );
    let remedy = format!(
        "log in as a user without @admin and @dangerous, which this makes: {CREATE_USER} (the last two stand for what clients need of @dangerous); or set settings.scripts: Refuse"
    );
    Some(Problem::new(Code::PrivilegedLogin, message, remedy))
}
