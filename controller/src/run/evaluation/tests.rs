//! Random clusters in which evaluation amid neighbours is compared with the evaluation of
//! everything.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::*;
use crate::crd;
use crate::discovery::DiscoveryChange;
use crate::inventory::NamespacedName;
use crate::render::native::DynamicModule;
use crate::render::plan::{self, PlanHistory};
use crate::render::planned_object::PlannedObject;
use crate::render::sharing::HostsByNamespace;
use crate::run::change::StoreChange;
use crate::run::digest::digest;
use crate::run::digest_cache::DigestCache;
use crate::run::names::{ObjectKind, RenderedKey};
use crate::run::queue::EvaluationQueue;
use crate::validate::options::{ModuleAvailability, ValidateOptions};

/// A small generator whose sequence is its seed's.
struct TestRandom(u64);

impl TestRandom {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64*, <https://en.wikipedia.org/wiki/Xorshift>
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const NAMESPACES: &[&str] = &["a", "b"];
const HOSTS: &[&str] =
    &["r.a.svc.cluster.local", "s.b.svc.cluster.local", "h.a.svc.cluster.local", "cache.example.com"];

fn options() -> MeshOptions {
    MeshOptions {
        module: Some(DynamicModule::among_others("/module.so".to_owned())),
        ..MeshOptions::of_tests("istio-system")
    }
}

fn new_store() -> Store {
    Store::new(ValidateOptions { module: ModuleAvailability::Sidecars, ..ValidateOptions::default() })
}

/// A change as JSON, so that it can be given to two store: what kind, and the object or its
/// absence.
fn random_change(random: &mut TestRandom, clock: usize) -> Value {
    let (namespace, number) = (random.one(NAMESPACES), random.below(3));
    let metadata = json!({
        "namespace": namespace, "name": format!("o{number}"), "uid": format!("u{clock}"), "generation": clock,
        "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", random.below(60)),
    });
    let auth = |random: &mut TestRandom| match random.below(3) {
        0 => Value::Null,
        1 => json!({"plain": {"password": "p"}}),
        _ => json!({"secret": {"name": random.one(&["x", "y"])}}),
    };
    let gone = random.below(4) == 0;
    match random.below(7) {
        0 | 1 => {
            let routes: Vec<Value> = (0..random.below(3))
                .map(|index| {
                    let key = json!({"key": {"prefix": format!("p{index}")}});
                    json!({"match": if index == 0 { Value::Null } else { key }, "route": {"host": random.one(HOSTS)}})
                })
                .collect();
            let hosts: Vec<&str> = (0..1 + random.below(2)).map(|_| random.one(HOSTS)).collect();
            let spec = json!({"host": hosts, "settings": {"auth": auth(random)}, "redis": routes});
            json!({"what": "RedisService", "gone": gone, "metadata": metadata, "spec": spec})
        }
        2 => {
            let pool = json!({"redis": {"mode": random.one(&["PROXY", "CLUSTER", "NEITHER"]), "auth": auth(random)}});
            let spec = json!({"host": random.one(HOSTS), "trafficPolicy": {"connectionPool": pool}});
            json!({"what": "RedisDestination", "gone": gone, "metadata": metadata, "spec": spec})
        }
        3 => {
            let (namespace, name, address) =
                [("a", "r", "10.0.0.1"), ("b", "s", "10.0.0.2"), ("a", "h", "None"), ("b", "t", "10.1.0.1")]
                    [random.below(4)];
            let ports = json!([{"name": "redis", "port": 6379}]);
            let metadata = json!({"namespace": namespace, "name": name});
            json!({"what": "Service", "gone": gone, "metadata": metadata, "spec": {"clusterIP": address, "ports": ports}})
        }
        4 => {
            let metadata = json!({
                "namespace": "a", "name": random.one(&["h-1", "h-2"]), "labels": {"kubernetes.io/service-name": "h"},
            });
            let endpoints = json!([{"addresses": [random.one(&["10.1.0.1", "10.1.0.2"])]}]);
            json!({"what": "EndpointSlice", "gone": gone, "metadata": metadata, "addressType": "IPv4",
                "ports": [{"name": "redis", "port": 6379}], "endpoints": endpoints})
        }
        5 => {
            let namespace = random.one(&["a", "b", "istio-system"]);
            let metadata = json!({"namespace": namespace, "name": random.one(&["p", "q"])});
            let policy = match random.below(4) {
                0 => json!({"tls": {"mode": random.one(&["SIMPLE", "DISABLE", "NEW"])}}),
                1 => json!({"connectionPool": {"tcp": {"maxConnections": 1 + random.below(3)}}}),
                2 => json!({"loadBalancer": {"simple": random.one(&["PASSTHROUGH", "RANDOM"])}}),
                _ => Value::Null,
            };
            let host = random.one(&["r", "s.b.svc.cluster.local", "*.svc.cluster.local", "*", "cache.example.com"]);
            let spec = json!({"host": host, "trafficPolicy": policy});
            json!({"what": "DestinationRule", "gone": gone, "metadata": metadata, "spec": spec})
        }
        _ => {
            let metadata = json!({"namespace": namespace, "name": random.one(&["x", "y"])});
            json!({"what": "Secret", "gone": gone, "metadata": metadata, "stringData": {"password": random.one(&["1", "2"])}})
        }
    }
}

fn told(change: &Value) -> StoreChange {
    let mut object = change.clone();
    let what = change["what"].as_str().unwrap_or_default().to_owned();
    let fields = object.as_object_mut().unwrap();
    fields.shift_remove("what");
    let is_gone = fields.shift_remove("gone") == Some(Value::Bool(true));
    let text = |name: &str| change["metadata"][name].as_str().unwrap_or_default();
    let key = NamespacedName::new(text("namespace"), text("name"));
    let ours = |kind| {
        if is_gone {
            return StoreChange::ObjectGone(ObjectKey { kind, name: key.clone() });
        }
        let mut object = object.clone();
        object["apiVersion"] = crd::API_VERSION.into();
        object["kind"] = kind.name().into();
        StoreChange::Object(kind, Box::new(serde_json::from_value(object).unwrap()))
    };
    match (what.as_str(), is_gone) {
        ("RedisService", _) => ours(ObjectKind::Service),
        ("RedisDestination", _) => ours(ObjectKind::Destination),
        ("Service", true) => StoreChange::ServiceGone(key),
        ("Service", false) => StoreChange::Service(Box::new(serde_json::from_value(object).unwrap())),
        ("EndpointSlice", true) => StoreChange::SliceGone(key),
        ("EndpointSlice", false) => StoreChange::Slice(Box::new(serde_json::from_value(object).unwrap())),
        ("DestinationRule", true) => StoreChange::RuleGone(key),
        ("DestinationRule", false) => StoreChange::Rule(Box::new(serde_json::from_value(object).unwrap())),
        ("Secret", true) => StoreChange::SecretGone(key),
        _ => StoreChange::Secret(Box::new(serde_json::from_value(object).unwrap())),
    }
}

fn said(evaluation: &Evaluation) -> String {
    let services: Vec<_> =
        evaluation.prepared_services.iter().map(|prepared| format!("{:?}", prepared.service)).collect();
    let messages: Vec<_> = evaluation.messages.iter().map(ToString::to_string).collect();
    format!("{services:#?} {messages:#?} {:?}", evaluation.lacking)
}

/// What a store says that has been looked at after each change is what one says that is only
/// shown the end: nothing that a change concerns was left out.
#[test]
fn what_a_change_concerns_is_looked_at_again() {
    let (mut with_services, mut with_messages) = (0, 0);
    for seed in 1..=40 {
        let mut random = TestRandom(seed * 0x9e37_79b9);
        let options = options();
        let (mut store, mut queue) = (new_store(), EvaluationQueue::default());
        let mut evaluations: BTreeMap<ObjectKey, String> = BTreeMap::new();
        let mut present: BTreeMap<String, Value> = BTreeMap::new();
        for clock in 1..=60 {
            let change = random_change(&mut random, clock);
            queue.add(store.apply(told(&change)).unwrap().evaluate);
            present.insert(
                format!("{}{}{}", change["what"], change["metadata"]["namespace"], change["metadata"]["name"]),
                change,
            );
            for key in queue.take(&store) {
                match evaluate(&store, &key, &options) {
                    Some(evaluation) => evaluations.insert(key, said(&evaluation)),
                    None => evaluations.remove(&key),
                };
            }
            if clock % 5 != 0 {
                continue;
            }
            let mut fresh = new_store();
            for change in present.values().filter(|change| change["gone"] == false) {
                fresh.apply(told(change)).unwrap();
            }
            let keys: Vec<_> = fresh.objects().keys().cloned().collect();
            let expected: BTreeMap<ObjectKey, String> = keys
                .into_iter()
                .map(|key| {
                    let evaluation = evaluate(&fresh, &key, &options).unwrap();
                    with_services += usize::from(!evaluation.prepared_services.is_empty());
                    with_messages += usize::from(!evaluation.messages.is_empty());
                    (key, said(&evaluation))
                })
                .collect();
            assert_eq!(
                evaluations,
                expected,
                "seed {seed}, after {clock} changes, the last {change}",
                change = present.len()
            );
        }
    }
    // The changes are such that there is something to compare.
    assert!(with_services > 300 && with_messages > 300, "{with_services} {with_messages}");
}

/// A plan for one service alone holds all that differs between the plans for everything.
#[test]
fn what_is_planned_alone_is_all_that_differs() {
    let options = MeshOptions { per_host: true, ..options() };
    let root = options.root_namespace.as_str();
    let built =
        |prepared_services: &BTreeMap<ObjectKey, Vec<Arc<PreparedService>>>| -> BTreeMap<(String, String), String> {
            let prepared_services: Vec<_> = prepared_services.values().flatten().cloned().collect();
            let plan = plan::plan(&prepared_services, &options, &PlanHistory::default());
            let build = |planned: &PlannedObject| {
                ((planned.namespace.clone(), planned.name.clone()), planned.build(&options, 1).to_string())
            };
            plan.objects.iter().map(|planned| build(planned)).collect()
        };
    let mut alone = 0;
    for seed in 1..=40 {
        let mut random = TestRandom(seed * 0x2545_f491);
        let (mut store, mut queue) = (new_store(), EvaluationQueue::default());
        let mut prepared_services: BTreeMap<ObjectKey, Vec<Arc<PreparedService>>> = BTreeMap::new();
        for clock in 1..=80 {
            queue.add(store.apply(told(&random_change(&mut random, clock))).unwrap().evaluate);
            let before = prepared_services.clone();
            for key in queue.take(&store) {
                match evaluate(&store, &key, &options) {
                    Some(evaluation) => prepared_services.insert(key, evaluation.prepared_services),
                    None => prepared_services.remove(&key),
                };
            }
            let is_same_size = before.len() == prepared_services.len()
                && before.iter().all(|(key, old)| prepared_services.get(key).is_some_and(|new| new.len() == old.len()));
            if !is_same_size {
                continue;
            }
            let pairs = before.values().flatten().zip(prepared_services.values().flatten());
            let changed = pairs.filter(|(old, new)| !Arc::ptr_eq(old, new));
            let planned: Option<Vec<_>> =
                changed.map(|(old, new)| plan::plan_alone(old, new, &HostsByNamespace::default(), root)).collect();
            let Some(planned) = planned.filter(|planned| !planned.is_empty()) else { continue };
            alone += 1;
            let mut expected = built(&before);
            for planned in planned.into_iter().flatten() {
                expected
                    .insert((planned.namespace.clone(), planned.name.clone()), planned.build(&options, 1).to_string());
            }
            assert_eq!(expected, built(&prepared_services), "seed {seed}, change {clock}");
        }
    }
    assert!(alone > 50, "{alone}");
}

/// A digest that was kept is that of what would be built, whatever has changed in the meantime.
#[test]
fn a_digest_that_is_kept_is_that_of_what_is_built() {
    let options = MeshOptions { per_host: true, ..options() };
    for seed in 1..=8 {
        let mut random = TestRandom(seed * 0x2545_f491);
        let (mut store, mut queue) = (new_store(), EvaluationQueue::default());
        let mut prepared_services: BTreeMap<ObjectKey, Vec<Arc<PreparedService>>> = BTreeMap::new();
        let mut digests = DigestCache::default();
        for clock in 1..=80 {
            queue.add(store.apply(told(&random_change(&mut random, clock))).unwrap().evaluate);
            for key in queue.take(&store) {
                match evaluate(&store, &key, &options) {
                    Some(evaluation) => prepared_services.insert(key, evaluation.prepared_services),
                    None => prepared_services.remove(&key),
                };
            }
            let everything: Vec<_> = prepared_services.values().flatten().cloned().collect();
            for planned in &plan::plan(&everything, &options, &PlanHistory::default()).objects {
                let kept = digests.digest_of(&RenderedKey::of(planned), planned, &options);
                let built = digest(&planned.build(&options, 0));
                assert_eq!(kept, built, "seed {seed}, change {clock}, {}", planned.name);
            }
        }
    }
}

/// Each object evaluated amid its neighbours says what all say together.
#[test]
fn neighbours_are_all_that_matters() {
    for seed in 1..=60 {
        let mut random = TestRandom(seed * 0x51_7cc1);
        let (mut store, mut queue) = (new_store(), EvaluationQueue::default());
        for clock in 1..=40 {
            queue.add(store.apply(told(&random_change(&mut random, clock))).unwrap().evaluate);
        }
        let (mut services, mut destinations) = (Vec::new(), Vec::new());
        for object in store.objects().values() {
            match &object.parsed {
                Some(ParsedObject::Service(object)) => services.push(object.clone()),
                Some(ParsedObject::Destination(object)) => destinations.push(object.clone()),
                None => {}
            }
        }
        let mut diagnostics = Diagnostics::default();
        let all = validate::validate(&services, &destinations, store.inventory(), store.options(), &mut diagnostics);
        let together: BTreeSet<String> = all.iter().map(|service| format!("{service:?}")).collect();
        let each: BTreeSet<String> = store
            .objects()
            .keys()
            .flat_map(|key| evaluate(&store, key, &options()).unwrap().prepared_services)
            .map(|prepared| format!("{:?}", prepared.service))
            .collect();
        assert_eq!(each, together, "seed {seed}");
    }
}

/// An EnvoyFilter of a user's about `tcp_proxy` may concern every object; one that comes again as it was, or is about
/// something else, concerns none.
#[test]
fn a_users_envoy_filter_concerns_every_object() {
    let mut store = new_store();
    let object = json!({"apiVersion": crd::API_VERSION, "kind": "RedisService",
        "metadata": {"namespace": "a", "name": "r", "uid": "u", "generation": 1}, "spec": {"host": ["r"]}});
    store.apply(StoreChange::Object(ObjectKind::Service, Box::new(serde_json::from_value(object).unwrap()))).unwrap();
    let filter = |filter: &str| {
        let listener = json!({"filterChain": {"filter": {"name": filter}}});
        let patch =
            json!({"applyTo": "NETWORK_FILTER", "match": {"listener": listener}, "patch": {"operation": "MERGE"}});
        let object = json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"namespace": "a", "name": "mine"}, "spec": {"configPatches": [patch]}});
        StoreChange::UserFilter(Box::new(serde_json::from_value(object).unwrap()))
    };
    let mut concerned = |change| store.apply(change).map(|affected| affected.evaluate.len()).ok();
    let tcp_proxy = || filter("envoy.filters.network.tcp_proxy");
    assert_eq!([concerned(tcp_proxy()), concerned(tcp_proxy())], [Some(1), Some(0)]);
    assert_eq!(concerned(filter("envoy.filters.network.rbac")), Some(1));
    let gone = || StoreChange::UserFilterGone(NamespacedName::new("a", "mine"));
    assert_eq!([concerned(gone()), concerned(tcp_proxy()), concerned(gone())], [Some(0), Some(1), Some(1)]);
}

/// Rules of a host, and rules that lead to one, in a namespace at which istiod doesn't look. A cluster of
/// redis-mesh leads there without istiod.
#[test]
fn a_namespace_at_which_istiod_doesn_t_look() {
    let (mut store, mut queue) = (Store::new(ValidateOptions::default()), EvaluationQueue::default());
    let selectors: Vec<LabelSelector> = serde_json::from_value(json!([{"matchLabels": {"istio": "on"}}])).unwrap();
    store.apply(StoreChange::Discovery(DiscoveryChange::Selectors(selectors.try_into().unwrap()))).unwrap();
    let of = |what: &str, namespace: &str, name: &str, spec: Value| {
        let metadata = json!({"namespace": namespace, "name": name, "uid": spec.to_string(), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z"});
        told(&json!({"what": what, "gone": false, "metadata": metadata, "spec": spec}))
    };
    let service = |address: &str| json!({"clusterIP": address, "ports": [{"name": "redis", "port": 6379}]});
    let to = |host: &str| json!({"host": ["s"], "redis": [{"route": {"host": host}}]});
    let pool = json!({"connectionPool": {"redis": {"mode": "CLUSTER"}}});
    let namespace = |name: &str, labels: Value| {
        StoreChange::Discovery(DiscoveryChange::Namespace(name.to_owned(), serde_json::from_value(labels).unwrap()))
    };
    for change in [
        of("Service", "a", "r", service("10.0.0.1")),
        of("Service", "a", "c", service("10.0.0.2")),
        of("Service", "b", "s", service("10.0.0.3")),
        of("RedisDestination", "a", "c", json!({"host": "c", "trafficPolicy": pool})),
        of("RedisService", "a", "o0", json!({"host": ["r"]})),
        of("RedisService", "b", "o1", to("r.a.svc.cluster.local")),
        namespace("b", json!({"istio": "on"})),
        namespace("a", json!({})),
    ] {
        queue.add(store.apply(change).unwrap().evaluate);
    }
    let codes = |store: &Store, namespace: &str, name: &str| -> Vec<String> {
        let key = ObjectKey { kind: ObjectKind::Service, name: NamespacedName::new(namespace, name) };
        let evaluation = evaluate(store, &key, &MeshOptions::of_tests("istio-system")).unwrap();
        let errors = evaluation.messages.iter().filter(|message| message.is_error());
        errors.map(ToString::to_string).collect()
    };
    for name in [("a", "o0"), ("b", "o1")] {
        let errors = codes(&store, name.0, name.1);
        assert!(errors.len() == 1 && errors[0].contains("[unseen-namespace]"), "{errors:?}");
        assert!(errors[0].contains("label namespace a") && errors[0].contains("`istio=on`"), "{errors:?}");
    }
    store.apply(of("RedisService", "b", "o1", to("c.a.svc.cluster.local"))).unwrap();
    assert_eq!(codes(&store, "b", "o1"), Vec::<String>::new());
    let affected = store.apply(namespace("a", json!({"istio": "on"}))).unwrap();
    assert_eq!(affected.evaluate.len(), 3);
    assert_eq!(codes(&store, "a", "o0"), Vec::<String>::new());
}
