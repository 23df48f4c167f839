//! The evaluation of one object: validated and prepared for rendering together with its
//! neighbours only.
//!
//! The neighbours are the objects that claim the same hosts in a namespace that counts, and those
//! that say how the hosts to which the object routes are reached.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Diagnostics, Reason, Subject};
use crate::render::mesh_options::MeshOptions;
use crate::render::prepared_service::PreparedService;
use crate::render::{imports, lost_filters, unseen};
use crate::validate;

use super::names::ObjectKey;
use super::store::{ParsedObject, Store};

/// The result of the evaluation of one object.
#[derive(Default)]
pub struct Evaluation {
    /// The generation of the object.
    pub generation: i64,
    /// The services that follow from the object.
    pub prepared_services: Vec<Arc<PreparedService>>,
    /// The messages about the object.
    pub messages: Vec<Diagnostic>,
    /// RedisDestinations on which the services depend.
    pub uses: BTreeSet<ObjectKey>,
    /// RedisDestinations among [`Evaluation::uses`] that have errors.
    pub lacking: BTreeSet<ObjectKey>,
}

impl Evaluation {
    /// True if another object has precedence for a part of it.
    pub fn has_conflict(&self) -> bool {
        self.messages_of(|reason| reason == Reason::Conflict).next().is_some()
    }

    /// True if there are no errors but conflicts, so that the rest of the object can take effect.
    pub fn is_good_for_the_rest(&self) -> bool {
        let is_harmless = |message: &Diagnostic| !message.is_error() || message.reason() == Reason::Conflict;
        self.lacking.is_empty() && self.messages.iter().all(is_harmless)
    }

    /// True if there are no errors.
    pub fn is_good(&self) -> bool {
        self.lacking.is_empty() && self.messages.iter().all(|message| !message.is_error())
    }

    /// The messages with these reasons.
    pub fn messages_of(&self, wanted: impl Fn(Reason) -> bool) -> impl Iterator<Item = &Diagnostic> {
        self.messages.iter().filter(move |message| wanted(message.reason()))
    }
}

/// Evaluates an object; none if the store doesn't have it.
pub fn evaluate(store: &Store, key: &ObjectKey, options: &MeshOptions) -> Option<Evaluation> {
    let object = store.objects().get(key)?;
    let (mut services, mut destinations) = (Vec::new(), Vec::new());
    // Neighbours come in the order of their names, which decides between objects that were
    // created in the same second.
    let neighbours = store.neighbours(key);
    for known in neighbours.iter().filter_map(|neighbour| store.objects().get(neighbour)) {
        match &known.parsed {
            Some(ParsedObject::Service(object)) => services.push(object.clone()),
            Some(ParsedObject::Destination(object)) => destinations.push(object.clone()),
            None => {}
        }
    }
    let mut diagnostics = Diagnostics::default();
    let validated = validate::validate(&services, &destinations, store.inventory(), store.options(), &mut diagnostics);
    let is_own = |subject: &Subject| ObjectKey::of(subject).as_ref() == Some(key);
    // Errors of other objects are reported where those are evaluated; here they would hide what
    // the filter refuses.
    let mut own = Diagnostics::default();
    let mut prepared_services: Vec<Arc<PreparedService>> = validated
        .into_iter()
        .filter(|service| is_own(&service.owner))
        .map(|service| Arc::new(PreparedService::new(service, options, &mut own)))
        .collect();
    // The iterator collects in place, into the allocation of the services, which are much larger.
    prepared_services.shrink_to_fit();
    for prepared in &prepared_services {
        imports::report(&prepared.service, store.inventory(), &options.root_namespace, &mut own);
        lost_filters::report(&prepared.service, store.inventory(), &options.root_namespace, &mut own);
        unseen::report(&prepared.service, store.inventory(), &mut own);
    }
    let mut evaluation = Evaluation { generation: object.generation, prepared_services, ..Evaluation::default() };
    let shapes = neighbours.iter().filter_map(|key| store.objects().get(key)).map(|object| &object.shape);
    let found: Vec<&Diagnostic> = shapes.chain([&diagnostics]).flat_map(Diagnostics::iter).collect();
    let is_wrong = found.iter().any(|message| is_own(&message.subject) && message.is_error());
    // Where a field has an error, the service was built with a default; further errors would be
    // misleading.
    let own = own.iter().filter(|message| !is_wrong || !message.is_error());
    let mut faulty = BTreeSet::new();
    for message in found.into_iter().chain(own) {
        if is_own(&message.subject) {
            if !evaluation.messages.contains(message) {
                evaluation.messages.push(message.clone());
            }
        } else if message.is_error() {
            faulty.extend(ObjectKey::of(&message.subject));
        }
    }
    let used = evaluation.prepared_services.iter().flat_map(|prepared| prepared.service.destinations());
    let used = used.filter_map(|destination| ObjectKey::of(destination.policy.object.as_ref()?));
    evaluation.uses = used.filter(|used| used != key).collect();
    evaluation.lacking = evaluation.uses.intersection(&faulty).cloned().collect();
    Some(evaluation)
}

#[cfg(test)]
mod tests;
