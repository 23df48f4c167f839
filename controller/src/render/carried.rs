//! What a user's DestinationRule brings into a cluster that redis-mesh adds in a mesh. What a
//! RedisDestination says has precedence, field by field.

use serde_json::{Map, Value, json};

use crate::diagnostic::{Code, Diagnostics, Problem, some_of};
use crate::quantity::seconds;
use crate::validate::destination::ValidatedDestination;
use crate::validate::policy::TcpOptions;
use crate::validate::rule_fields::OutlierOptions;
use crate::validate::rule_tls::RuleTls;
use crate::validate::service::ValidatedService;
use crate::validate::user_rules::{CarriedRule, UserRules};

use super::mesh_tls;

/// The settings of TCP connections to a destination through a cluster that redis-mesh adds.
pub fn tcp(destination: &ValidatedDestination) -> TcpOptions {
    let own = &destination.policy.tcp;
    let rule = carried(destination).map(|carried| carried.tcp.clone()).unwrap_or_default();
    TcpOptions {
        connect_timeout: own.connect_timeout.or(rule.connect_timeout),
        max_connections: own.max_connections.or(rule.max_connections),
        keepalive: own.keepalive.or(rule.keepalive),
    }
}

fn carried(destination: &ValidatedDestination) -> Option<&CarriedRule> {
    destination.rules.as_ref()?.carried.as_ref()
}

/// TLS as a rule asks for it; none where a RedisDestination says what there is.
fn tls(destination: &ValidatedDestination) -> Option<&RuleTls> {
    carried(destination)?.tls.as_ref().filter(|_| !destination.policy.says_tls)
}

/// Adds to a cluster what the rule for all clients says of TLS and of servers that fail.
pub fn complete(cluster: &mut Map<String, Value>, destination: &ValidatedDestination) {
    let socket = match tls(destination) {
        None | Some(RuleTls::Unknown(_)) => None,
        Some(RuleTls::Disabled) => {
            cluster.shift_remove("transport_socket_matches");
            None
        }
        Some(RuleTls::IstioMutual(server)) => Some(mesh_tls::istio_mutual(destination, server)),
        Some(RuleTls::Files(files)) => Some(mesh_tls::by_files(files)),
    };
    if let Some(socket) = socket {
        cluster.shift_remove("transport_socket_matches");
        cluster.insert("transport_socket".to_owned(), socket);
    }
    if let Some(outliers) = carried(destination).and_then(|carried| carried.outliers.as_ref()) {
        cluster.insert("outlier_detection".to_owned(), outlier_detection(outliers));
        let common = cluster.entry("common_lb_config").or_insert_with(|| json!({}));
        common["healthy_panic_threshold"] = json!({"value": outliers.min_health_percent});
    }
}

/// The detection of servers that fail, as Istio translates it.
fn outlier_detection(outliers: &OutlierOptions) -> Value {
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    let share = |number: u32| if number > 0 { 100 } else { 0 };
    if let Some(number) = outliers.consecutive_5xx {
        add("consecutive_5xx", number.into());
        add("enforcing_consecutive_5xx", share(number).into());
    }
    if let Some(number) = outliers.consecutive_gateway {
        add("consecutive_gateway_failure", number.into());
        add("enforcing_consecutive_gateway_failure", share(number).into());
    }
    if outliers.splits_local {
        add("split_external_local_origin_errors", true.into());
        add("enforcing_local_origin_success_rate", 0.into());
        if let Some(number) = outliers.consecutive_local {
            add("consecutive_local_origin_failure", number.into());
            add("enforcing_consecutive_local_origin_failure", 100.into());
        }
    }
    if let Some(interval) = outliers.interval {
        add("interval", seconds(interval).into());
    }
    if let Some(time) = outliers.base_ejection_time {
        add("base_ejection_time", seconds(time).into());
    }
    if let Some(percent) = outliers.max_ejection_percent {
        add("max_ejection_percent", percent.into());
    }
    add("enforcing_success_rate", 0.into());
    Value::Object(fields)
}

/// Reports what DestinationRules say of a destination that redis-mesh reaches through a cluster of
/// its own, and that has no effect there.
pub fn report(service: &ValidatedService, destination: &ValidatedDestination, diagnostics: &mut Diagnostics) {
    let Some(rules) = &destination.rules else { return };
    let policy = &destination.policy;
    let subject = policy.object.as_ref().unwrap_or(&service.owner);
    let field = if policy.object.is_some() { "spec.trafficPolicy" } else { "spec.host" };
    let logs_in = !policy.says_tls && policy.login.is_some();
    let refused = logs_in.then(|| login_in_clear(rules, destination)).flatten();
    let is_refused = refused.is_some();
    let problems = [refused, left(rules, destination, is_refused), partial(rules, destination)];
    problems.into_iter().flatten().for_each(|problem| diagnostics.add(subject, field, problem));
}

fn login_in_clear(rules: &UserRules, destination: &ValidatedDestination) -> Option<Problem> {
    let (key, what) = rules.lost_tls()?;
    let message = format!(
        "DestinationRule {key} asks for TLS to {} in a way that isn't possible here ({what}), and the mesh would log in in clear",
        destination.address
    );
    let remedy = "write `tls` in the RedisDestination, which has precedence (DISABLE to log in in clear all the same)";
    Some(Problem::new(Code::LoginInClear, message, remedy))
}

/// The fields of the rule for all clients that have no effect, apart from TLS that is refused.
fn left(rules: &UserRules, destination: &ValidatedDestination, is_refused: bool) -> Option<Problem> {
    let carried = rules.carried.as_ref()?;
    let unknown = match &carried.tls {
        Some(RuleTls::Unknown(field)) if !destination.policy.says_tls && !is_refused => Some(field),
        _ => None,
    };
    let fields: Vec<String> = unknown.into_iter().chain(&carried.left).cloned().collect();
    if fields.is_empty() {
        return None;
    }
    let message = format!(
        "of DestinationRule {}, these fields have no effect on the connections to {}, which redis-mesh reaches through a cluster of its own: {}",
        carried.key,
        destination.address,
        some_of(fields)
    );
    let remedy = "remove them there, or write in a RedisDestination what they are for";
    Some(Problem::new(Code::DestinationRuleLeft, message, remedy))
}

/// The rules for some clients only, which have no effect.
fn partial(rules: &UserRules, destination: &ValidatedDestination) -> Option<Problem> {
    if rules.partial.is_empty() {
        return None;
    }
    let names = rules.partial.iter().map(|partial| partial.key.to_string()).collect();
    let message = format!(
        "DestinationRules for some clients only have no effect on the connections to {}, which redis-mesh reaches through a cluster of its own: {}",
        destination.address,
        some_of(names)
    );
    let asks_for_tls = rules.partial.iter().any(|partial| partial.asks_for_tls);
    let also = if asks_for_tls { " (which ask for TLS)" } else { "" };
    let remedy = "write one in the namespace of the host or in Istio's root namespace without exportTo and workloadSelector, or use a RedisDestination";
    Some(Problem::new(Code::DestinationRuleOfSome, format!("{message}{also}"), remedy))
}
