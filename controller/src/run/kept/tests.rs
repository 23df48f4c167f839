//! Services that go, come back with other addresses, and leave theirs to somebody else's.

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::*;
use crate::crd;
use crate::render::plan::{self, PlanHistory, RenderPlan};
use crate::render::planned_object::ObjectContent;
use crate::run::change::StoreChange;
use crate::run::evaluation::evaluate;
use crate::run::names::ObjectKind;
use crate::run::observed::kept_hosts;
use crate::run::state::ObjectStates;
use crate::validate::options::ValidateOptions;

fn options() -> MeshOptions {
    MeshOptions::of_tests("istio-system")
}

struct Fixture {
    store: Store,
    states: ObjectStates,
    generation: i64,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture { store: Store::new(ValidateOptions::default()), states: ObjectStates::default(), generation: 0 }
    }

    /// Adds a Service of a namespace, or removes it.
    fn service(&mut self, namespace: &str, address: Option<&str>) {
        let ports = json!([{"name": "redis", "port": 6379}]);
        let service = json!({
            "metadata": {"namespace": namespace, "name": "r"}, "spec": {"clusterIP": address, "ports": ports},
        });
        let change = match address {
            Some(_) => StoreChange::Service(Box::new(serde_json::from_value(service).unwrap())),
            None => StoreChange::ServiceGone(NamespacedName::new(namespace, "r")),
        };
        self.store.apply(change).unwrap();
    }

    /// Sets the endpoints of a namespace's Service.
    fn endpoints(&mut self, namespace: &str, addresses: &[&str]) {
        let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        let slice = json!({
            "metadata": {"namespace": namespace, "name": "r", "labels": {"kubernetes.io/service-name": "r"}},
            "addressType": "IPv4", "ports": [{"name": "redis", "port": 6379}], "endpoints": endpoints,
        });
        self.store.apply(StoreChange::Slice(Box::new(serde_json::from_value(slice).unwrap()))).unwrap();
    }

    /// Has the RedisService of `a` ask for a password on this data path, and evaluates it.
    fn rules(&mut self, path: &str) {
        self.generation += 1;
        let host = json!(["r.a.svc.cluster.local"]);
        let object = json!({
            "apiVersion": crd::API_VERSION, "kind": "RedisService",
            "metadata": {
                "namespace": "a", "name": "o", "uid": "u", "generation": self.generation,
                "resourceVersion": self.generation.to_string(), "annotations": {"redis-mesh.io/data-path": path},
            },
            "spec": {"host": host, "settings": {"auth": {"plain": {"password": "p"}}}},
        });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.store.apply(StoreChange::Object(ObjectKind::Service, Box::new(object))).unwrap();
        self.evaluate();
    }

    fn key() -> ObjectKey {
        ObjectKey { kind: ObjectKind::Service, name: NamespacedName::new("a", "o") }
    }

    fn evaluate(&mut self) {
        let key = Fixture::key();
        let evaluation = evaluate(&self.store, &key, &options()).unwrap();
        self.states.update(&key, Some((evaluation, Some("u".to_owned()))));
    }

    /// Lets what is kept follow its hosts, and plans everything.
    fn plan(&mut self) -> RenderPlan {
        for key in self.states.kept() {
            let state = self.states.get(&key).unwrap();
            if let Some(services) = readdressed(&state.in_force, &self.store, &options()) {
                self.states.replace_kept(&key, services);
            }
        }
        plan::plan(&self.states.in_force(), &options(), &PlanHistory::default())
    }

    /// The listeners that the plan patches, and the hosts of its WasmPlugin.
    fn planned(&mut self) -> (Vec<String>, Vec<wire::Host>) {
        let plan = self.plan();
        let built = || plan.objects.iter().map(|planned| planned.build(&options(), 1));
        let places = built().filter_map(|object| observed(&object).place);
        let listeners = places.flat_map(|place| place.listeners).collect();
        let hosts = plan.objects.iter().filter_map(|planned| match &planned.content {
            ObjectContent::Plugin { prepared_services, .. } => {
                Some(prepared_services.iter().map(|prepared| prepared.host(&options())).collect::<Vec<_>>())
            }
            _ => None,
        });
        (listeners, hosts.flatten().collect())
    }
}

fn observed(object: &Value) -> ObservedObject {
    ObservedObject::of(&serde_json::from_value(object.clone()).unwrap())
}

/// The host still asks for its password, and takes connections to these addresses only.
fn asks(hosts: &[wire::Host], addresses: &[&str]) {
    let [host] = hosts else { panic!("{} hosts", hosts.len()) };
    assert!(host.client_auth.is_some());
    assert_eq!(host.selector.addresses, addresses);
    assert!(host.selector.clusters.contains(&"outbound|6379||r.a.svc.cluster.local".to_owned()));
}

#[test]
fn what_is_kept_ends_at_the_address_of_a_service_that_is_gone() {
    for path in ["proxy", "direct"] {
        let mut mesh = Fixture::new();
        mesh.service("a", Some("10.0.0.1"));
        mesh.rules(path);
        let at = |address: &str| match path {
            "proxy" => vec![format!("{address}_6379")],
            _ => Vec::new(),
        };
        let (listeners, hosts) = mesh.planned();
        assert_eq!(listeners, at("10.0.0.1"));
        asks(&hosts, &["10.0.0.1:6379"]);
        // The address is somebody else's before the first look.
        mesh.service("a", None);
        mesh.service("b", Some("10.0.0.1"));
        mesh.evaluate();
        let (listeners, hosts) = mesh.planned();
        assert_eq!(listeners, [""; 0]);
        asks(&hosts, &[]);
        // Back under its name, with another address, it is the host for which the password was asked.
        mesh.service("a", Some("10.0.0.2"));
        mesh.rules("sideways");
        let (listeners, hosts) = mesh.planned();
        assert_eq!(listeners, at("10.0.0.2"));
        asks(&hosts, &["10.0.0.2:6379"]);
        mesh.rules(path);
        assert_eq!(mesh.planned().0, listeners);
        assert!(mesh.states.kept().is_empty());
    }
}

#[test]
fn what_is_kept_follows_the_pods_of_a_headless_service() {
    let mut mesh = Fixture::new();
    mesh.service("a", Some("None"));
    mesh.endpoints("a", &["10.1.0.1", "10.1.0.2"]);
    mesh.rules("proxy");
    assert_eq!(mesh.planned().0, ["10.1.0.1_6379", "10.1.0.2_6379"]);
    mesh.rules("sideways");
    assert_eq!(mesh.planned().0, ["10.1.0.1_6379", "10.1.0.2_6379"]);
    // A pod of somebody else gets the address of one that is gone, and is named twice for a moment.
    mesh.service("b", Some("None"));
    mesh.endpoints("b", &["10.1.0.2"]);
    assert_eq!(mesh.planned().0, ["10.1.0.1_6379"]);
    mesh.endpoints("a", &["10.1.0.1", "10.1.0.3"]);
    assert_eq!(mesh.planned().0, ["10.1.0.1_6379", "10.1.0.3_6379"]);
    mesh.service("a", None);
    assert_eq!(mesh.planned().0, [""; 0]);
}

#[test]
fn what_another_replica_has_rendered_follows_its_host_too() {
    for (path, per_host) in [("proxy", false), ("proxy", true), ("direct", true)] {
        let mut mesh = Fixture::new();
        mesh.service("a", Some("10.0.0.1"));
        mesh.rules(path);
        let options = MeshOptions { per_host, ..options() };
        let evaluation = evaluate(&mesh.store, &Fixture::key(), &options).unwrap();
        let plan = plan::plan(&evaluation.prepared_services, &options, &PlanHistory::default());
        let built = plan.objects.iter().map(|planned| planned.build(&options, 1));
        let filter = built.filter(|object| observed(object).place.is_some()).collect::<Vec<_>>();
        let [filter] = &filter[..] else { panic!("{} EnvoyFilters of listeners", filter.len()) };
        let goes = |mesh: &Fixture| relocated(&observed(filter), "a", &mesh.store);
        assert_eq!(goes(&mesh), None, "{path} {per_host}");
        mesh.service("b", Some("10.0.0.3"));
        assert_eq!(goes(&mesh), None);
        mesh.service("a", None);
        assert_eq!(goes(&mesh), Some(vec![NOWHERE.to_owned()]));
        mesh.service("a", Some("10.0.0.2"));
        assert_eq!(goes(&mesh), Some(vec!["10.0.0.2_6379".to_owned()]));
    }
}

#[test]
fn a_host_in_a_plugin_that_another_replica_has_written_takes_only_its_present_addresses() {
    let mut mesh = Fixture::new();
    mesh.service("a", Some("10.0.0.1"));
    mesh.rules("direct");
    let (_, mut hosts) = mesh.planned();
    at_present(&mut hosts[0], "a", &mesh.store);
    asks(&hosts, &["10.0.0.1:6379"]);
    mesh.service("a", None);
    mesh.service("b", Some("10.0.0.1"));
    at_present(&mut hosts[0], "a", &mesh.store);
    asks(&hosts, &[]);
    hosts[0].selector.clusters.clear();
    at_present(&mut hosts[0], "a", &mesh.store);
    assert!(!hosts[0].selector.is_empty());
}

/// What a replica keeps of an object that has errors, when that is deleted or the replica never had it in force.
#[test]
fn what_an_earlier_replica_left_of_an_object_with_errors_stays_and_ends_with_it() {
    let mut fixture = Fixture::new();
    fixture.service("a", Some("10.0.0.1"));
    fixture.rules("direct");
    let plugin = |plan: &RenderPlan| {
        let plugin =
            plan.objects.iter().find(|planned| matches!(planned.content, ObjectContent::Plugin { .. })).cloned();
        plugin.unwrap()
    };
    let planned = plugin(&fixture.plan());
    let mut built = planned.build(&options(), 1);
    let refused = ["r.a.svc.cluster.local:6379", "web/r.a.svc.cluster.local:6379", "r.b.svc.cluster.local:6379"];
    built["spec"]["pluginConfig"]["refused"] = json!(refused);
    let (key, object) = (RenderedKey::of(&planned), observed(&built));
    let kept = kept_hosts([(&key, &object)].into_iter(), |_, host| host == "r.a.svc.cluster.local");
    let past = PlanHistory { kept, ..PlanHistory::default() };
    let after = plugin(&plan::plan(&[], &options(), &past)).build(&options(), 1);
    let config = &after["spec"]["pluginConfig"];
    assert_eq!((&config["refused"], &config["hosts"]), (&json!(refused[..2]), &built["spec"]["pluginConfig"]["hosts"]));

    // Another replica has never had the rules in force. The end of the object concerns what is in the cluster.
    fixture.states = ObjectStates::default();
    fixture.rules("sideways");
    assert!(fixture.states.in_force().is_empty());
    let (change, _) = fixture.states.update(&Fixture::key(), None);
    assert!(!change.is_good);
}
