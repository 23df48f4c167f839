//! One change amid many, and what may not come first.

use serde_json::{Value, json};

use super::*;
use crate::crd;
use crate::render::mesh_options::MeshOptions;
use crate::render::plan::{self, PlanHistory};
use crate::run::applier::{Performed, marked};
use crate::run::change::StoreChange;
use crate::run::evaluation::evaluate;
use crate::run::names::ObjectKind;
use crate::run::order::{OrderContext, order};
use crate::run::rendered::{Extent, Prepared, Rendered};
use crate::run::state::ObjectStates;
use crate::run::store::Store;
use crate::validate::options::ValidateOptions;

fn options() -> MeshOptions {
    MeshOptions::of_tests("istio-system")
}

/// Hosts, each with a RedisService that asks clients for a password, and with a cluster.
struct Fixture {
    store: Store,
    states: ObjectStates,
    objects: RenderedObjects,
    generation: i64,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            store: Store::new(ValidateOptions::default()),
            states: ObjectStates::default(),
            objects: RenderedObjects::new("us".to_owned()),
            generation: 0,
        }
    }

    fn add(&mut self, name: &str, password: &str) {
        self.generation += 1;
        let (generation, version) = (self.generation, self.generation.to_string());
        let metadata = json!({
            "namespace": "a", "name": name, "uid": name, "generation": generation, "resourceVersion": version,
        });
        let service = json!({
            "metadata": metadata,
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "redis", "port": 6379}]},
        });
        self.store.apply(StoreChange::Service(Box::new(serde_json::from_value(service).unwrap()))).unwrap();
        let rules = json!({"host": [name], "settings": {"auth": {"plain": {"password": password}}}});
        let pool = json!({"tcp": {"connectTimeout": "3s"}});
        let destination = json!({"host": name, "trafficPolicy": {"connectionPool": pool}});
        for (kind, spec) in [(ObjectKind::Service, rules), (ObjectKind::Destination, destination)] {
            let object =
                json!({"apiVersion": crd::API_VERSION, "kind": kind.name(), "metadata": metadata, "spec": spec});
            self.store.apply(StoreChange::Object(kind, Box::new(serde_json::from_value(object).unwrap()))).unwrap();
        }
    }

    /// Takes a RedisService away.
    fn remove(&mut self, name: &str) -> (ObjectKey, StateChange) {
        let key = key(name);
        (key.clone(), self.states.update(&key, None).0)
    }

    /// Evaluates the objects of these hosts.
    fn evaluate(&mut self, names: &[&str]) -> Vec<(ObjectKey, StateChange)> {
        let keys: Vec<ObjectKey> = self.store.objects().keys().cloned().collect();
        let changed = keys.into_iter().filter(|key| names.contains(&key.name.name.as_str()));
        let changes = changed.map(|key| {
            let evaluation = evaluate(&self.store, &key, &options()).unwrap();
            (key.clone(), self.states.update(&key, Some((evaluation, None))).0)
        });
        changes.collect()
    }

    fn operations(&mut self) -> Vec<(ApplyPhase, Operation)> {
        let plan = plan::plan(&self.states.in_force(), &options(), &PlanHistory::default());
        let rendered = Rendered { plan, stage: Prepared { extent: Extent::Whole } };
        let options = options();
        let context = OrderContext { options: &options, frozen: Vec::new(), awaits_module: false, is_confirmed: true };
        order(rendered, &mut self.objects, &context).stage.operations
    }

    /// Performs all operations.
    fn apply(&mut self) {
        for (_, operation) in self.operations() {
            let Operation::Apply { key, planned, revision, digest, .. } = operation else { continue };
            let object = marked(planned.build(&options(), revision), "us", digest, revision);
            let object = Box::new(serde_json::from_value(object).unwrap());
            self.objects.performed(&key, Performed::Applied(object, digest));
        }
        assert!(self.operations().is_empty());
    }

    fn arranged(&mut self, urgent: &UrgentChanges) -> Vec<RankedOperation> {
        let operations = self.operations();
        arrange(operations, &mut self.objects, urgent, "istio-system")
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::Service, name: crate::inventory::NamespacedName::new("a", name) }
}

/// The names of the hosts in a WasmPlugin's configuration, with the passwords that clients need.
fn hosts(step: &RankedOperation) -> BTreeMap<String, String> {
    let object = step.operation.planned().unwrap().build(&options(), 1);
    let hosts = object["spec"]["pluginConfig"]["hosts"].as_array().cloned().unwrap_or_default();
    let name = |host: &Value| host["host"].as_str().unwrap().split('.').next().unwrap().to_owned();
    hosts.iter().map(|host| (name(host), host.to_string())).collect()
}

/// The names of objects without the parts that all have, with their class.
fn order_of(steps: &[RankedOperation]) -> Vec<(Urgency, String)> {
    let short = |step: &RankedOperation| step.operation.key().name.name.replace("redis-mesh-", "");
    steps.iter().map(|step| (step.urgency, short(step))).collect()
}

#[test]
fn one_change_comes_before_many_and_brings_in_nothing_of_them() {
    let mut fixture = Fixture::new();
    fixture.add("old", "one");
    fixture.evaluate(&["old"]);
    fixture.apply();
    let before = hosts_in(&fixture);
    fixture.add("b", "b");
    fixture.add("c", "c");
    fixture.add("old", "two");
    fixture.evaluate(&["b", "c"]);
    let mut urgent = UrgentChanges::default();
    urgent.add(&fixture.evaluate(&["old"]));
    let steps = fixture.arranged(&urgent);
    let order = order_of(&steps);
    let (first, rest) = order.split_first().unwrap();
    assert_eq!(*first, (Urgency::Urgent, "6379".to_owned()), "{order:?}");
    assert!(rest.iter().all(|(urgency, _)| *urgency == Urgency::Usual), "{order:?}");
    // The hosts whose clusters are not there yet are not in it, and come in when they are.
    let narrowed = hosts(&steps[0]);
    assert_eq!(narrowed.keys().collect::<Vec<_>>(), ["old"]);
    assert_ne!(narrowed["old"], before["old"]);
    let last = steps.iter().rposition(|step| step.operation.key().name.name == "redis-mesh-6379").unwrap();
    assert_eq!(hosts(&steps[last]).keys().collect::<Vec<_>>(), ["b", "c", "old"]);
    assert!(steps[..last].iter().filter(|step| step.phase == ApplyPhase::Clusters).count() == 2, "{order:?}");
    let revision = |step: &RankedOperation| match &step.operation {
        Operation::Apply { revision, .. } => *revision,
        Operation::Delete(_) => 0,
    };
    assert!(revision(&steps[last]) > revision(&steps[0]));
}

fn hosts_in(fixture: &Fixture) -> BTreeMap<String, String> {
    let hosts = fixture.objects.observed().values().flat_map(|object| &object.plugin.hosts);
    let name = |host: &str| host.split('.').next().unwrap().to_owned();
    hosts.map(|host| (name(&host.host), serde_json::to_string(host).unwrap())).collect()
}

#[test]
fn what_is_taken_away_goes_first() {
    let mut fixture = Fixture::new();
    fixture.add("old", "one");
    fixture.add("other", "x");
    fixture.evaluate(&["old", "other"]);
    fixture.apply();
    fixture.add("b", "b");
    let mut changes = fixture.evaluate(&["b"]);
    changes.push(fixture.remove("old"));
    // So many at once that they are not urgent by being few.
    let unchanged = || StateChange { before: Vec::new(), after: Vec::new(), is_good: true };
    changes.extend((0..FEW).map(|i| (key(&format!("many-{i}")), unchanged())));
    let mut urgent = UrgentChanges::default();
    urgent.add(&changes);
    assert_eq!(urgent.hosts.keys().collect::<Vec<_>>(), [&key("old")]);
    let steps = fixture.arranged(&urgent);
    assert_eq!(order_of(&steps)[0], (Urgency::Urgent, "6379".to_owned()));
    let narrowed = hosts(&steps[0]);
    assert!(narrowed.contains_key("other") && !narrowed.contains_key("b"), "{narrowed:?}");
    urgent.retain(|_| false);
    assert!(fixture.arranged(&urgent).iter().all(|step| step.urgency == Urgency::Usual));
}

#[test]
fn what_has_failed_comes_last_with_what_depends_on_it() {
    let mut fixture = Fixture::new();
    fixture.add("b", "b");
    fixture.add("c", "c");
    fixture.evaluate(&["b", "c"]);
    let failing = fixture.operations().into_iter().find(|(phase, _)| *phase == ApplyPhase::Clusters).unwrap();
    fixture.objects.failed(failing.1.key(), "no");
    let steps = fixture.arranged(&UrgentChanges::default());
    let order = order_of(&steps);
    let at = steps.iter().position(|step| step.operation.key() == failing.1.key()).unwrap();
    assert_eq!(order[at].0, Urgency::Retried, "{order:?}");
    assert!(steps[..at].iter().any(|step| step.phase == ApplyPhase::Clusters), "{order:?}");
    for step in &steps[at..] {
        assert_eq!(step.urgency, Urgency::Retried, "{order:?}");
    }
}

#[test]
fn another_password_is_urgent_and_the_same_rules_are_not() {
    let mut fixture = Fixture::new();
    fixture.add("old", "one");
    fixture.evaluate(&["old"]);
    let change = |fixture: &mut Fixture| fixture.evaluate(&["old"]).into_iter().find(|(at, _)| *at == key("old"));
    assert!(!tightens(&change(&mut fixture).unwrap().1));
    fixture.add("old", "two");
    assert!(tightens(&change(&mut fixture).unwrap().1));
    assert!(tightens(&fixture.remove("old").1));
}
