//! Tests of the store.

use serde_json::json;

use super::*;

fn service(version: &str, generation: u64, message: &str) -> StoreChange {
    let condition = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": message,
        "lastTransitionTime": format!("2026-01-01T00:00:{:02}Z", version.len()),
    });
    let object = json!({
        "apiVersion": crd::API_VERSION, "kind": "RedisService",
        "metadata": {"namespace": "a", "name": "r", "uid": "u", "generation": generation, "resourceVersion": version},
        "spec": {"host": ["r"]}, "status": {"conditions": [condition]},
    });
    StoreChange::Object(ObjectKind::Service, Box::new(serde_json::from_value(object).unwrap()))
}

/// A status that somebody edits is looked at again; one that we have written is not, nor one
/// from before that.
#[test]
fn a_status_that_was_edited_is_noticed() {
    let mut store = Store::new(ValidateOptions::default());
    let affected = store.apply(service("7", 1, "ours")).unwrap();
    let key = affected.evaluate.into_iter().next().unwrap();
    assert!(affected.status.is_none());
    let written = |store: &Store, message: &str| {
        let mut status = store.objects()[&key].status.clone();
        status.conditions[0].message = message.to_owned();
        status
    };
    let status = written(&store, "newer");
    store.set_status(&key, status, Some("9"));
    for (version, said, is_edited) in [
        ("8", "ours", false),
        ("9", "newer", false),
        ("10", "newer", false),
        ("11", "edited", true),
        ("12", "edited", false),
    ] {
        let affected = store.apply(service(version, 1, said)).unwrap();
        assert_eq!(affected.status.is_some(), is_edited, "{version}");
        assert!(affected.evaluate.is_empty(), "{version}");
    }
    assert_eq!(store.objects()[&key].status.conditions[0].message, "edited");
    let affected = store.apply(service("13", 2, "edited")).unwrap();
    assert!(affected.status.is_none() && !affected.evaluate.is_empty());
}

#[test]
fn a_sidecar_that_imports_other_hosts_concerns_every_object() {
    let mut store = Store::new(ValidateOptions::default());
    store.apply(service("7", 1, "ours")).unwrap();
    let sidecar = |hosts: Value| {
        let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"namespace": "a", "name": "default"}, "spec": {"egress": hosts}});
        StoreChange::Sidecar(Box::new(serde_json::from_value(object).unwrap()))
    };
    let mut concerned = |change: StoreChange| store.apply(change).map(|affected| affected.evaluate.len()).ok();
    assert_eq!(concerned(sidecar(json!([{"hosts": ["./*"]}]))), Some(1));
    assert_eq!(concerned(sidecar(json!([{"hosts": ["./*"]}]))), Some(0));
    assert_eq!(concerned(sidecar(json!([{"hosts": ["*/*"]}]))), Some(1));
    assert_eq!(concerned(sidecar(json!("no list"))), None);
    let gone = || StoreChange::SidecarGone(NamespacedName::new("a", "default"));
    assert_eq!([concerned(gone()), concerned(gone())], [Some(1), Some(0)]);
}
