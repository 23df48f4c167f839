//! What waits where the root namespace has changed, and where the objects are another controller's.

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::super::applier::{Performed, marked};
use super::*;
use crate::crd;
use crate::render::plan::{self, PlanHistory};
use crate::run::change::StoreChange;
use crate::run::evaluation::evaluate;
use crate::run::names::ObjectKind;
use crate::run::store::Store;
use crate::validate::options::ValidateOptions;

/// The plan for a host of which clients and Redis ask for a password: a WasmPlugin or a filter of
/// the host's own, and a cluster.
fn planned(options: &MeshOptions) -> RenderPlan {
    planned_with(options, json!({"tcp": {"connectTimeout": "3s"}}))
}

/// The objects of a host with this connection pool.
fn planned_with(options: &MeshOptions, pool: Value) -> RenderPlan {
    let mut store = Store::new(ValidateOptions::default());
    let metadata = |name: &str| json!({"namespace": "a", "name": name, "uid": "u", "generation": 1});
    let service = json!({
        "metadata": metadata("r"),
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "redis", "port": 6379}]},
    });
    store.apply(StoreChange::Service(Box::new(serde_json::from_value(service).unwrap()))).unwrap();
    let host = "r.a.svc.cluster.local";
    let rules = json!({"host": [host], "settings": {"auth": {"plain": {"password": "p"}}}});
    let destination = json!({"host": host, "trafficPolicy": {"connectionPool": pool}});
    for (kind, spec) in [(ObjectKind::Service, rules), (ObjectKind::Destination, destination)] {
        let object = json!({
            "apiVersion": crd::API_VERSION, "kind": kind.name(), "metadata": metadata("o"), "spec": spec,
        });
        store.apply(StoreChange::Object(kind, Box::new(serde_json::from_value(object).unwrap()))).unwrap();
    }
    let keys = store.objects().keys();
    let evaluations = keys.filter_map(|key| evaluate(&store, key, options));
    let prepared: Vec<_> = evaluations.flat_map(|evaluation| evaluation.prepared_services).collect();
    plan::plan(&prepared, options, &PlanHistory::default())
}

/// The objects of a plan as a controller has written them.
fn written(plan: &RenderPlan, options: &MeshOptions, controller: &str) -> Vec<(RenderedKey, ObservedObject)> {
    let of = |planned: &Arc<PlannedObject>| {
        let mut object = planned.build(options, 1);
        object["metadata"]["labels"][CONTROLLER] = controller.into();
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        (RenderedKey::of(planned), ObservedObject::of(&object))
    };
    plan.objects.iter().map(of).collect()
}

fn in_cluster(objects: Vec<(RenderedKey, ObservedObject)>) -> RenderedObjects {
    let mut rendered = RenderedObjects::new("us".to_owned());
    for (key, object) in objects {
        rendered.observe(key, Box::new(object));
    }
    rendered
}

fn ordered(objects: &mut RenderedObjects, options: &MeshOptions, is_confirmed: bool) -> Ordered {
    let rendered = Rendered { plan: planned(options), stage: Prepared { extent: Extent::Whole } };
    let context = OrderContext { options, frozen: Vec::new(), awaits_module: false, is_confirmed };
    order(rendered, objects, &context).stage
}

fn deletions(ordered: &Ordered) -> Vec<&RenderedKey> {
    let deleted = ordered.operations.iter().filter(|(_, operation)| operation.planned().is_none());
    deleted.map(|(_, operation)| operation.key()).collect()
}

#[test]
fn what_is_in_force_stays_until_its_successor_in_another_namespace_is_applied() {
    let (old, new) = (MeshOptions::of_tests("old"), MeshOptions::of_tests("new"));
    // With a login the host has a filter of its own, and the WasmPlugin only refuses connections to it.
    let login = json!({"redis": {"auth": {"plain": {"password": "l"}}}});
    for pool in [login, json!({"tcp": {"connectTimeout": "3s"}})] {
        let was = written(&planned_with(&old, pool.clone()), &old, "us");
        assert!(was.len() >= 2, "there is nothing to wait for");
        let is = planned_with(&new, pool);
        // Whichever object can't be written in the new namespace, what it succeeds stays in the old one.
        for missing in &is.objects {
            let key = RenderedKey::of(missing);
            let mut blocked = Blocked::new("new");
            blocked.after(&key, Some(missing));
            for (key, object) in was.iter().filter(|(old, _)| old.name.name == key.name.name) {
                assert!(blocked.blocks(key, None, Some(object)), "{key} is deleted without {}", missing.name);
            }
        }
    }
    let was = written(&planned(&old), &old, "us");
    // The clusters to which a listener leads stay with it.
    let (cluster, object) = was.iter().find(|(key, object)| object.is_foundation(key)).unwrap();
    let (listener, _) = was.iter().find(|(key, object)| !object.is_foundation(key)).unwrap();
    let mut blocked = Blocked::new("new");
    assert!(!blocked.blocks(cluster, None, Some(object)));
    blocked.after(listener, None);
    assert!(blocked.blocks(cluster, None, Some(object)));
}

/// The objects that a sync has written into an empty cluster.
fn applied(options: &MeshOptions) -> (RenderedObjects, Vec<(RenderedKey, Value)>) {
    let mut objects = in_cluster(Vec::new());
    let mut written = Vec::new();
    for (_, operation) in ordered(&mut objects, options, true).operations {
        let Operation::Apply { key, planned, revision, digest, .. } = operation else { panic!("a deletion") };
        let mut object = marked(planned.build(options, revision), "us", digest, revision);
        object["metadata"]["uid"] = key.to_string().into();
        object["metadata"]["generation"] = 1.into();
        objects.performed(&key, Performed::Applied(Box::new(serde_json::from_value(object.clone()).unwrap()), digest));
        written.push((key, object));
    }
    (objects, written)
}

fn observed(object: &Value) -> Box<ObservedObject> {
    Box::new(ObservedObject::of(&serde_json::from_value(object.clone()).unwrap()))
}

#[test]
fn marks_that_somebody_has_changed_are_restored_and_others_are_left() {
    let options = MeshOptions::of_tests("old");
    let (mut objects, written) = applied(&options);
    assert!(ordered(&mut objects, &options, true).operations.is_empty());
    let edits: [(&str, Value); 8] = [
        ("/metadata/annotations/redis-mesh.io~1for", Value::Null),
        ("/metadata/annotations/redis-mesh.io~1for", "RedisService x/y".into()),
        ("/metadata/annotations/redis-mesh.io~1digest", Value::Null),
        ("/metadata/annotations/redis-mesh.io~1digest", "1".into()),
        ("/metadata/labels/redis-mesh.io~1controller", Value::Null),
        ("/metadata/labels/app.kubernetes.io~1part-of", Value::Null),
        ("/metadata/labels/app.kubernetes.io~1part-of", "x".into()),
        ("/metadata/labels/app.kubernetes.io~1managed-by", "x".into()),
    ];
    for (key, object) in &written {
        for (at, value) in &edits {
            let mut edited = object.clone();
            let Some(mark) = edited.pointer_mut(at) else { continue };
            *mark = value.clone();
            for part in ["labels", "annotations"] {
                edited["metadata"][part].as_object_mut().unwrap().retain(|_, value| !value.is_null());
            }
            assert!(objects.observe(key.clone(), observed(&edited)), "{key}: {at} {value}");
            let operations = ordered(&mut objects, &options, true).operations;
            let keys: Vec<&RenderedKey> = operations.iter().map(|(_, operation)| operation.key()).collect();
            assert_eq!(keys, [key], "{at} {value}");
            objects.observe(key.clone(), observed(object));
            assert!(ordered(&mut objects, &options, true).operations.is_empty(), "{key}: {at} {value}");
        }
        // What somebody has added wouldn't go by another write.
        let mut added = object.clone();
        added["metadata"]["labels"]["team"] = "x".into();
        added["metadata"]["annotations"]["redis-mesh.io/note"] = "x".into();
        assert!(!objects.observe(key.clone(), observed(&added)), "{key}");
    }
    let count = |at: &str| written.iter().filter(|(_, object)| object.pointer(at).is_some()).count();
    assert!(count(edits[0].0) > 0 && count(edits[7].0) == written.len());
}

#[test]
fn an_object_is_about_each_subject_once() {
    let planned = planned(&MeshOptions::of_tests("old"));
    for object in &planned.objects {
        let ObjectContent::Cluster { destination, usage, scope, prepared_services } = &object.content else { continue };
        let content = ObjectContent::Cluster {
            destination: destination.clone(),
            usage: *usage,
            scope: scope.clone(),
            prepared_services: [prepared_services.as_slice(); 3].concat(),
        };
        let (namespace, name) = (object.namespace.clone(), object.name.clone());
        let object = PlannedObject { namespace, name, clients: Default::default(), content };
        let subjects: Vec<String> = object.subjects().iter().map(|subject| subject.kind.clone()).collect();
        let known: BTreeSet<&String> = subjects.iter().collect();
        assert_eq!(known.len(), subjects.len(), "{subjects:?}");
        return;
    }
    panic!("there is no cluster");
}

#[test]
fn a_failure_holds_up_nobody_else() {
    let options = MeshOptions::of_tests("old");
    let plan = planned(&options);
    let other: Value = json!({
        "metadata": {"annotations": {"redis-mesh.io/for": "RedisService b/x"}},
        "spec": {"pluginConfig": {"name": "n", "revision": 1, "hosts": []}},
    });
    let mut other =
        serde_json::from_value::<DynamicObject>(json!({"metadata": other["metadata"], "spec": other["spec"]}))
            .map(|object| ObservedObject::of(&object))
            .unwrap();
    other.controller = Some("us".to_owned());
    let key =
        RenderedKey { kind: envoy_filter::KIND, name: crate::inventory::NamespacedName::new("b", "redis-mesh-x") };
    for missing in &plan.objects {
        let mut blocked = Blocked::new("old");
        blocked.after(&RenderedKey::of(missing), Some(missing));
        assert!(!blocked.blocks(&key, None, Some(&other)), "{}", missing.name);
    }
}

#[test]
fn a_write_without_an_answer_that_was_done_is_no_failure() {
    let options = MeshOptions::of_tests("old");
    let plan = planned(&options);
    let (mut objects, written) = applied(&options);
    for planned in &plan.objects {
        objects.failed(&RenderedKey::of(planned), "connection reset by peer");
    }
    // What watches show of it.
    for (key, object) in written {
        objects.observe(key, observed(&object));
    }
    assert!(ordered(&mut objects, &options, true).operations.is_empty());
    for planned in &plan.objects {
        assert_eq!(objects.failure(&RenderedKey::of(planned)), None);
    }
}

#[test]
fn an_unconfirmed_root_namespace_takes_nothing_away_from_the_one_before() {
    let (old, new) = (MeshOptions::of_tests("old"), MeshOptions::of_tests("new"));
    let mut was = written(&planned(&old), &old, "us");
    let beacon: DynamicObject = serde_json::from_value(envoy_filter::beacon("old", 1)).unwrap();
    let name = crate::inventory::NamespacedName::new("old", envoy_filter::BEACON);
    was.push((RenderedKey { kind: envoy_filter::KIND, name }, ObservedObject::of(&beacon)));
    let count = was.len() - 1;
    let mut objects = in_cluster(was);
    assert_eq!(deletions(&ordered(&mut objects, &new, false)), Vec::<&RenderedKey>::new());
    assert_eq!(deletions(&ordered(&mut objects, &new, true)).len(), count);
}

#[test]
fn the_objects_of_another_installation_are_left_alone() {
    let options = MeshOptions::of_tests("old");
    let plan = planned(&options);
    let mut objects = in_cluster(written(&plan, &options, "them"));
    let left = ordered(&mut objects, &options, true);
    assert!(left.operations.is_empty());
    assert_eq!(left.refused.len(), plan.objects.len());
    let failure = objects.failure(&left.refused[0].0).cloned().unwrap_or_default();
    assert!(failure.contains("the namespace them"), "{failure}");
    // Nor are they deleted, wherever they are.
    let elsewhere = self::MeshOptions::of_tests("new");
    assert!(deletions(&ordered(&mut objects, &elsewhere, true)).is_empty());
    // Handed over, they are as good as one's own, and get one's label.
    objects.succeed(Arc::new(BTreeSet::from(["them".to_owned()])));
    let taken = ordered(&mut objects, &options, true);
    assert_eq!(taken.operations.len(), plan.objects.len());
    assert!(taken.refused.is_empty());
    assert_eq!(deletions(&ordered(&mut objects, &elsewhere, true)).len(), plan.objects.len());
}
