//! The status of an object.
//!
//! `Accepted`: the object is valid and no other object has precedence. `ResolvedRefs`: the
//! objects that it names exist. `Programmed`: a proxy has taken the configuration that follows
//! from it, or, with the reason `Applied`, it has been written to the mesh. `Warnings`: what is in force as it is written puts data or protection at
//! risk; the condition is there only where there are any.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use redis_mesh_core::wire::DataPath;
use serde_json::json;

use crate::crd::status::ResourceStatus;
use crate::diagnostic::{Diagnostic, Problem, Reason, some_of};
use crate::render::prepared_service::PreparedService;

use super::evaluation::Evaluation;
use super::names::{FIELD_MANAGER, ObjectKey};
use super::witness::ledger::Claim;

/// The longest message in bytes. The API server's limit is 32,768.
const MAX_MESSAGE: usize = 4096;
/// The type of the condition that is true where there is something to worry about.
const WARNINGS: &str = "Warnings";
/// The reason of a condition of which it isn't known yet whether it is true.
pub const PENDING: &str = "Pending";
/// The reason of the condition `Programmed` of an object from which something follows that Envoy refuses.
pub const REJECTED: &str = "Rejected";
/// The longest note of an Event in bytes.
const MAX_NOTE: usize = 1000;

/// The facts from which a status is made.
pub struct StatusFacts<'a> {
    /// The evaluation of the object as it is now.
    pub evaluation: &'a Evaluation,
    /// The services in force.
    pub in_force: Vec<&'a PreparedService>,
    /// The last generation without errors.
    pub good_generation: Option<i64>,
    /// Why the object has no effect, though it is valid.
    pub unused: Option<String>,
    /// True if the object had errors ever since this controller started, but objects exist that
    /// were rendered from it before.
    pub has_remains: bool,
    /// Why Secrets that the object names can't be read.
    pub unreadable: Vec<String>,
    /// Why rendered objects could not be written.
    pub failures: Vec<String>,
    /// Why Istio rejects rendered objects.
    pub rejections: Vec<String>,
    /// Why the object isn't in force as it is, since a proxy refuses it; empty before that is known.
    pub withheld: Option<&'a str>,
    /// What can be said of what was written.
    pub claim: Claim,
    /// Why no sidecar gets the dynamic module from this controller, where it was asked to bring
    /// it.
    pub module_refusal: Option<&'a Problem>,
}

/// The status that an object should have. Conditions that don't change keep their times.
pub fn status(facts: &StatusFacts<'_>, present: &ResourceStatus) -> ResourceStatus {
    let evaluation = facts.evaluation;
    let conditions = [Some(accepted(facts)), Some(resolved(facts)), Some(programmed(facts)), warnings(evaluation)];
    let conditions = conditions.into_iter().flatten().map(|(kind, is_true, reason, message)| {
        let status = match (is_true, &*reason) {
            (true, _) => "True",
            (false, PENDING) => "Unknown",
            (false, _) => "False",
        };
        let known = present.conditions.iter().find(|known| known.type_ == kind && known.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.into_owned(),
            message: shortened(message, MAX_MESSAGE),
            observed_generation: Some(evaluation.generation),
            last_transition_time: known
                .map_or_else(|| Time(Timestamp::now()), |known| known.last_transition_time.clone()),
        }
    });
    let paths = facts.in_force.iter().map(|prepared| prepared.service.path.name());
    let natively = facts.in_force.iter().filter(|prepared| prepared.is_native()).map(|_| DataPath::Native.name());
    let paths: BTreeSet<&str> = paths.chain(natively).collect();
    ResourceStatus {
        conditions: conditions.collect(),
        observed_generation: Some(evaluation.generation),
        data_path: (!paths.is_empty()).then(|| paths.into_iter().collect::<Vec<_>>().join(",")),
    }
}

/// Type, whether true, reason, message.
type ConditionParts = (&'static str, bool, Cow<'static, str>, String);

fn accepted(facts: &StatusFacts<'_>) -> ConditionParts {
    let evaluation = facts.evaluation;
    let is_against = |reason| matches!(reason, Reason::Invalid | Reason::Conflict | Reason::Unsupported);
    let worst = [(Reason::Conflict, "Conflict"), (Reason::Invalid, "Invalid"), (Reason::Unsupported, "Unsupported")];
    for (reason, name) in worst {
        if evaluation.messages_of(|found| found == reason).next().is_some() {
            return ("Accepted", false, name.into(), joined(evaluation.messages_of(is_against)));
        }
    }
    let warnings = joined(evaluation.messages_of(|reason| reason == Reason::NoEffect));
    let warnings: Vec<String> =
        [Some(warnings), facts.unused.clone()].into_iter().flatten().filter(|text| !text.is_empty()).collect();
    let message = if warnings.is_empty() { "valid".to_owned() } else { format!("valid, but: {}", warnings.join("; ")) };
    ("Accepted", true, "Accepted".into(), message)
}

fn resolved(facts: &StatusFacts<'_>) -> ConditionParts {
    let evaluation = facts.evaluation;
    let mut messages = facts.unreadable.clone();
    let missing = joined(evaluation.messages_of(|reason| reason == Reason::Unresolved));
    if !missing.is_empty() {
        messages.push(missing);
    }
    if !messages.is_empty() {
        return ("ResolvedRefs", false, "RefNotFound".into(), messages.join("; "));
    }
    if !evaluation.lacking.is_empty() {
        let names = evaluation.lacking.iter().map(ToString::to_string).collect();
        let message = format!("depends on {}, whose status has the errors", some_of(names));
        return ("ResolvedRefs", false, "RefNotAccepted".into(), message);
    }
    ("ResolvedRefs", true, "ResolvedRefs".into(), "the objects that it names exist".to_owned())
}

fn programmed(facts: &StatusFacts<'_>) -> ConditionParts {
    let say = |is_true, reason: &'static str, message| ("Programmed", is_true, reason.into(), message);
    if facts.evaluation.has_conflict() {
        let message = match facts.in_force.is_empty() {
            true => "it has no effect while another object has precedence".to_owned(),
            false => "only hosts for which no other object has precedence are in force".to_owned(),
        };
        return say(false, "NotProgrammed", message);
    }
    if !facts.evaluation.is_good() {
        return match facts.good_generation {
            Some(generation) => say(
                false,
                "LastGoodKept",
                format!(
                    "the configuration of generation {generation}, credentials included, stays in force until the errors are corrected"
                ),
            ),
            None if facts.has_remains => {
                let message =
                    "configuration that was rendered from it before is left as it is until the errors are corrected";
                say(false, "LastGoodKept", message.to_owned())
            }
            None => say(false, "NotProgrammed", "nothing is rendered until the errors are corrected".to_owned()),
        };
    }
    if !facts.failures.is_empty() {
        return say(false, "ApplyFailed", facts.failures.join("; "));
    }
    if !facts.rejections.is_empty() {
        return say(false, "RejectedByIstio", facts.rejections.join("; "));
    }
    in_force(facts)
}

/// The condition `Programmed` of an object that was written as it is, unless proxies refuse it.
fn in_force(facts: &StatusFacts<'_>) -> ConditionParts {
    let say = |is_true, reason: &'static str, message| ("Programmed", is_true, reason.into(), message);
    match facts.withheld {
        Some("") => {
            return say(
                false,
                PENDING,
                "a proxy refuses what was written together with it; it is being found out whose fault that is"
                    .to_owned(),
            );
        }
        Some(words) => return say(false, REJECTED, words.to_owned()),
        None => {}
    }
    let ways: BTreeSet<String> = facts.in_force.iter().map(|prepared| way(prepared, facts.module_refusal)).collect();
    let ways = some_of(ways.into_iter().collect());
    let ways = if ways.is_empty() { "in force".to_owned() } else { ways };
    match facts.claim {
        Claim::Taken => say(true, "Programmed", ways),
        Claim::NoWitness => say(true, "Applied", ways),
        Claim::Unreachable => say(
            true,
            "Applied",
            format!("{ways}; the witness doesn't answer, so it isn't known whether proxies have taken it"),
        ),
        Claim::OthersRefused => say(
            true,
            "Applied",
            format!(
                "{ways}; the witness refuses what others have written, so it isn't known whether proxies have taken it"
            ),
        ),
        Claim::Awaited | Claim::Late => {
            say(false, PENDING, "written to the mesh; no proxy has been seen with it yet".to_owned())
        }
        Claim::Forbidden => say(
            false,
            PENDING,
            "not written to the mesh while the witness doesn't answer (--witness-policy Require)".to_owned(),
        ),
    }
}

/// The condition `Warnings`; none where there are none. Its reason has the code of each warning in
/// camel case, so that a new one is told by an Event.
fn warnings(evaluation: &Evaluation) -> Option<ConditionParts> {
    let risks = || evaluation.messages_of(|reason| reason == Reason::Risk);
    let codes: BTreeSet<String> = risks().map(|message| camel_case(message.problem.code.text())).collect();
    if codes.is_empty() {
        return None;
    }
    let reason = codes.into_iter().collect::<Vec<_>>().join(",");
    Some((WARNINGS, true, reason.into(), joined(risks())))
}

/// `several-endpoints` as `SeveralEndpoints`.
fn camel_case(code: &str) -> String {
    let words = code.split('-').filter_map(|word| word.split_at_checked(1));
    words.map(|(first, rest)| first.to_ascii_uppercase() + rest).collect()
}

/// The data path of a service, and the reason for it.
fn way(prepared: &PreparedService, module_refusal: Option<&Problem>) -> String {
    let (address, path) = (&prepared.service.address, prepared.service.path.name());
    let natively = if prepared.is_native() { "native where sidecars have the dynamic module, else " } else { "" };
    let refusal = module_refusal.filter(|_| prepared.service.choice.native && !prepared.is_native());
    let refusal = refusal.map(|problem| format!(" (not native: [{}] {problem})", problem.code)).unwrap_or_default();
    format!("{address} by {natively}{path}: {}{refusal}", prepared.service.choice.reason)
}

/// The messages with their codes, as `[CODE] FIELD: MESSAGE; REMEDY`.
fn joined<'a>(messages: impl Iterator<Item = &'a Diagnostic>) -> String {
    let texts = messages.map(|message| match message.field.as_str() {
        "" => format!("[{}] {}", message.problem.code, message.problem),
        field => format!("[{}] {field}: {}", message.problem.code, message.problem),
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn shortened(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

/// Writes a status. Returns the `resourceVersion` that the object then has; none if the object is
/// gone.
pub async fn write(client: Client, key: ObjectKey, status: ResourceStatus) -> Result<Option<String>, kube::Error> {
    let api = Api::<DynamicObject>::namespaced_with(client, &key.name.namespace, &key.kind.resource());
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name.name, &parameters, &Patch::Merge(json!({"status": status}))).await {
        // The object was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        result => result.map(|object| object.metadata.resource_version),
    }
}

/// Writes an Event for each condition that has changed.
pub async fn publish(
    recorder: &Recorder,
    object: &ObjectReference,
    before: &ResourceStatus,
    after: &ResourceStatus,
) -> Result<(), kube::Error> {
    for condition in &after.conditions {
        let Some(type_) = news(condition, before) else { continue };
        let event = Event {
            type_,
            reason: condition.reason.clone(),
            note: Some(shortened(condition.message.clone(), MAX_NOTE)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        recorder.publish(&event, object).await?;
    }
    Ok(())
}

/// The type of the Event that a condition is worth; none if it is worth none.
fn news(condition: &Condition, before: &ResourceStatus) -> Option<EventType> {
    let known = before.conditions.iter().find(|known| known.type_ == condition.type_);
    let is_news = known.is_none_or(|known| (&known.status, &known.reason) != (&condition.status, &condition.reason));
    let is_good = condition.status == "True" && condition.type_ != WARNINGS;
    // Success is reported once, by the last condition.
    let is_worth_it = is_news && condition.reason != PENDING && (!is_good || condition.type_ == "Programmed");
    is_worth_it.then_some(if is_good { EventType::Normal } else { EventType::Warning })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Code, Subject};

    fn evaluation(messages: &[(Reason, &str)]) -> Evaluation {
        let code = |reason: &Reason| match reason {
            Reason::Invalid => Code::InvalidHost,
            Reason::Conflict => Code::HostTaken,
            Reason::Unresolved => Code::UnknownSecret,
            Reason::Unsupported => Code::NoModule,
            Reason::NoEffect => Code::UnusedSetting,
            Reason::Risk => Code::SeveralEndpoints,
        };
        let message = |(reason, message): &(Reason, &str)| Diagnostic {
            subject: Subject::default(),
            field: "spec.x".to_owned(),
            span: None,
            problem: Problem::new(code(reason), *message, "do something"),
        };
        Evaluation { generation: 3, messages: messages.iter().map(message).collect(), ..Evaluation::default() }
    }

    fn facts(evaluation: &Evaluation) -> StatusFacts<'_> {
        StatusFacts {
            evaluation,
            in_force: Vec::new(),
            good_generation: None,
            unused: None,
            has_remains: false,
            unreadable: Vec::new(),
            failures: Vec::new(),
            rejections: Vec::new(),
            withheld: None,
            claim: Claim::Taken,
            module_refusal: None,
        }
    }

    #[test]
    fn programmed_is_what_a_proxy_has_taken() {
        let evaluation = evaluation(&[]);
        let check = |withheld, claim, expected: (&str, &str)| {
            let status = status(&StatusFacts { withheld, claim, ..facts(&evaluation) }, &ResourceStatus::default());
            let programmed = status.conditions.iter().find(|condition| condition.type_ == "Programmed").unwrap();
            assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), expected, "{claim:?}");
        };
        check(None, Claim::Taken, ("True", "Programmed"));
        for claim in [Claim::NoWitness, Claim::Unreachable, Claim::OthersRefused] {
            check(None, claim, ("True", "Applied"));
        }
        for claim in [Claim::Awaited, Claim::Late, Claim::Forbidden] {
            check(None, claim, ("Unknown", "Pending"));
        }
        check(Some(""), Claim::Taken, ("Unknown", "Pending"));
        check(Some("Envoy refuses it"), Claim::Taken, ("False", "Rejected"));
    }

    fn said(evaluation: &Evaluation, good_generation: Option<i64>) -> Vec<(String, String, String)> {
        let facts = StatusFacts { good_generation, ..facts(evaluation) };
        let status = status(&facts, &ResourceStatus::default());
        status.conditions.into_iter().map(|it| (it.status, it.reason, it.message)).collect()
    }

    #[test]
    fn what_is_wrong_is_said_where_it_belongs() {
        let check = |messages: &[(Reason, &str)], expected: &[&str]| {
            let said = said(&evaluation(messages), None);
            assert_eq!(said.iter().map(|it| it.1.as_str()).collect::<Vec<_>>(), expected, "{messages:?}");
        };
        check(&[], &["Accepted", "ResolvedRefs", "Programmed"]);
        check(&[(Reason::NoEffect, "a")], &["Accepted", "ResolvedRefs", "Programmed"]);
        let risky = [(Reason::Risk, "a")];
        check(&risky, &["Accepted", "ResolvedRefs", "Programmed", "SeveralEndpoints"]);
        assert_eq!(
            said(&evaluation(&risky), None)[3],
            ("True".into(), "SeveralEndpoints".into(), "[several-endpoints] spec.x: a; do something".into())
        );
        check(&[(Reason::Invalid, "a")], &["Invalid", "ResolvedRefs", "NotProgrammed"]);
        check(&[(Reason::Invalid, "a"), (Reason::Conflict, "b")], &["Conflict", "ResolvedRefs", "NotProgrammed"]);
        check(&[(Reason::Unresolved, "a")], &["Accepted", "RefNotFound", "NotProgrammed"]);
        check(&[(Reason::Unsupported, "a")], &["Unsupported", "ResolvedRefs", "NotProgrammed"]);
        assert_eq!(said(&evaluation(&[(Reason::Invalid, "a")]), Some(2))[2].1, "LastGoodKept");
        assert!(said(&evaluation(&[(Reason::NoEffect, "has no effect")]), None)[0].2.contains("spec.x: has no effect"));
    }

    #[test]
    fn times_change_only_with_what_they_are_the_time_of() {
        let evaluation = evaluation(&[]);
        let facts = facts(&evaluation);
        let mut first = status(&facts, &ResourceStatus::default());
        for condition in &mut first.conditions {
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        let second = status(&facts, &first);
        assert_eq!(first, second);
        let failing = StatusFacts { failures: vec!["no".to_owned()], ..facts };
        let third = status(&failing, &second);
        assert!(!crate::crd::status::is_same(&second, &third));
        assert_ne!(third.conditions[2].last_transition_time, second.conditions[2].last_transition_time);
        assert_eq!(third.conditions[0].last_transition_time, second.conditions[0].last_transition_time);
    }

    #[test]
    fn a_warning_is_told_by_an_event_once() {
        let status = |messages: &[(Reason, &str)], more: Option<Code>, before: &ResourceStatus| {
            let mut evaluation = evaluation(messages);
            let more =
                more.map(|code| Diagnostic { problem: Problem::new(code, "b", "c"), ..evaluation.messages[0].clone() });
            evaluation.messages.extend(more);
            super::status(&facts(&evaluation), before)
        };
        let before = status(&[], None, &ResourceStatus::default());
        let after = status(&[(Reason::Risk, "a")], None, &before);
        let told = |before: &ResourceStatus, after: &ResourceStatus| {
            let told =
                after.conditions.iter().filter_map(|condition| Some((news(condition, before)?, &condition.reason)));
            told.map(|(type_, reason)| (type_ == EventType::Warning, reason.clone())).collect::<Vec<_>>()
        };
        assert_eq!(told(&before, &after), [(true, "SeveralEndpoints".to_owned())]);
        assert_eq!(told(&after, &after), []);
        let both = status(&[(Reason::Risk, "a")], Some(Code::PrivilegedLogin), &after);
        assert_eq!(told(&after, &both), [(true, "PrivilegedLogin,SeveralEndpoints".to_owned())]);
        assert_eq!(told(&both, &before), []);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = shortened("ä".repeat(100), 51);
        assert!(text.len() <= 51 && text.ends_with(" ..."), "{text}");
    }
}
