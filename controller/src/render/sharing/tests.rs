//! Hosts that come, grow, shrink and go.

use serde_json::{Value, json};

use super::*;
use crate::crd::{self, RedisService};
use crate::diagnostic::{Diagnostics, Loaded, Origin};
use crate::inventory::Inventory;
use crate::render::mesh_options::MeshOptions;
use crate::render::plan::{self, PlanHistory, RenderPlan};
use crate::render::planned_object::ObjectContent;
use crate::validate::options::ValidateOptions;
use crate::validate::validate;

fn options() -> MeshOptions {
    MeshOptions::of_tests("istio-system")
}

/// A host with rules of this size at least, in bytes.
fn host(name: &str, size: usize) -> Arc<PreparedService> {
    let mut inventory = Inventory::default();
    let number = name.bytes().fold(1u8, |sum, byte| sum.wrapping_add(byte));
    let service = json!({
        "metadata": {"namespace": "a", "name": name},
        "spec": {"clusterIP": format!("10.0.0.{number}"), "ports": [{"name": "redis", "port": 6379}]},
    });
    inventory.add_service(serde_json::from_value(service).unwrap());
    let routes = |count: usize| -> Vec<Value> {
        let to = json!({"host": name});
        let keyed = (0..count).map(|i| json!({"match": {"key": {"prefix": format!("{i:0>985}")}}, "route": to}));
        keyed.chain([json!({"route": to})]).collect()
    };
    let object: RedisService = serde_json::from_value(json!({
        "apiVersion": crd::API_VERSION, "kind": "RedisService", "metadata": {"namespace": "a", "name": name},
        "spec": {"host": [name], "redis": routes(size / 1000)},
    }))
    .unwrap();
    let loaded = [Arc::new(Loaded { origin: Origin::default(), object })];
    let mut diagnostics = Diagnostics::default();
    let mut services = validate(&loaded, &[], &inventory, &ValidateOptions::default(), &mut diagnostics);
    Arc::new(PreparedService::new(services.pop().unwrap(), &options(), &mut diagnostics))
}

/// The hosts of a mesh, by their names and sizes in thousands of bytes.
fn hosts(sizes: &[(&str, usize)]) -> Vec<Arc<PreparedService>> {
    sizes.iter().map(|(name, size)| host(name, size * 1000)).collect()
}

fn first_label(prepared: &PreparedService) -> String {
    prepared.service.address.host.split('.').next().unwrap_or_default().to_owned()
}

/// The hosts with filters of their own, and where the hosts are afterwards.
fn apart(members: &[Arc<PreparedService>], past: &SharingHistory) -> (Vec<String>, SharingHistory) {
    let (shared, apart) = divide(&members.iter().collect::<Vec<_>>(), 0, past);
    let (mut after, mut together) = (HostsByNamespace::default(), HostsByNamespace::default());
    apart.iter().for_each(|prepared| after.insert(prepared));
    shared.iter().for_each(|prepared| together.insert(prepared));
    let size: usize = shared.iter().map(|prepared| prepared.size).sum();
    assert!(size <= MAX_PLUGIN, "the WasmPlugin has {size} bytes");
    let mut names: Vec<String> = apart.iter().map(|prepared| first_label(prepared)).collect();
    names.sort();
    (names, SharingHistory { apart: Arc::new(after), together })
}

#[test]
fn no_more_hosts_get_filters_of_their_own_than_must() {
    let start = SharingHistory::default();
    let (moved, past) = apart(&hosts(&[("a", 90), ("b", 50), ("c", 30)]), &start);
    assert!(moved.is_empty());
    // The host that is new, rather than the larger one that has clients.
    let (moved, _) = apart(&hosts(&[("a", 90), ("b", 50), ("c", 30), ("d", 95), ("e", 9)]), &past);
    assert_eq!(moved, ["d"]);
    // Where nothing is new, the largest: only one has to go.
    let (moved, past) = apart(&hosts(&[("a", 90), ("b", 100), ("c", 30)]), &past);
    assert!(moved.is_empty());
    let (moved, _) = apart(&hosts(&[("a", 90), ("b", 100), ("c", 70)]), &past);
    assert_eq!(moved, ["b"]);
}

#[test]
fn hosts_come_back_only_where_there_is_ample_room() {
    let (moved, past) = apart(&hosts(&[("a", 100), ("b", 90), ("c", 80)]), &SharingHistory::default());
    assert_eq!(moved, ["a"]);
    // Around the limit nothing changes, however often.
    let mut past = past;
    for size in [60, 80, 75, 90, 60] {
        let (moved, after) = apart(&hosts(&[("a", 100), ("b", 90), ("c", size)]), &past);
        assert_eq!(moved, ["a"], "{size}");
        assert_eq!(after.apart, past.apart);
        past = after;
    }
    let (moved, past) = apart(&hosts(&[("a", 100), ("b", 50), ("c", 30)]), &past);
    assert!(moved.is_empty());
    let (moved, _) = apart(&hosts(&[("a", 100), ("b", 90), ("c", 60)]), &past);
    assert!(moved.is_empty());
}

fn plugins(plan: &RenderPlan) -> Vec<(String, usize)> {
    let of = plan.objects.iter().filter_map(|planned| match &planned.content {
        ObjectContent::Plugin { prepared_services, .. } => Some((planned.name.clone(), prepared_services.len())),
        _ => None,
    });
    of.collect()
}

/// What comes or goes with a WasmPlugin are the listeners of everybody's hosts.
#[test]
fn a_plugin_stays_while_its_hosts_change() {
    let plan = |members: &[Arc<PreparedService>], options: &MeshOptions| {
        plugins(&plan::plan(members, options, &PlanHistory::default()))
    };
    let name = || "redis-mesh-6379".to_owned();
    assert_eq!(plan(&hosts(&[("a", 10)]), &options()), [(name(), 1)]);
    assert_eq!(plan(&hosts(&[("a", 300)]), &options()), [(name(), 0)]);
    assert_eq!(plan(&[], &options()), []);
    let declared = MeshOptions { ports: [6379, 6380].into(), ..options() };
    assert_eq!(plan(&[], &declared), [(name(), 0), ("redis-mesh-6380".to_owned(), 0)]);
    assert_eq!(plan(&hosts(&[("a", 10)]), &declared)[0], (name(), 1));
    assert_eq!(plan(&[], &MeshOptions { per_host: true, ..declared }), []);
}
