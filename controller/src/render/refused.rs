//! The hosts whose connections the filter of a WasmPlugin refuses, unless they come through the listeners that
//! the rules have changed.
//!
//! A Service that is created again gets another address, and with it a listener of Istio's that leads to
//! the Service's own pods, as if there were no rules. On `proxy` the filter recognises the host by its
//! cluster there, and the handshake fails. Where the rules are in the changed listener alone, the filter
//! is told which of Istio's own clusters they don't lead to.

use std::collections::BTreeSet;

use redis_mesh_core::wire;

use super::mesh_options::MeshOptions;
use super::plugin_hosts::PluginHosts;
use super::prepared_service::{PreparedService, leads_elsewhere, name_in_tokens};

/// The names of the hosts among the services of a namespace and port whose connections are refused;
/// `has_own_filter` tells which of them have filters of their own. Hosts that are kept in the WasmPlugin
/// are known by their tokens alone where their rules lead elsewhere, and those that it refuses stay so.
///
/// Where each host has a filter of its own by the installation's choice, there is no WasmPlugin that
/// others' hosts of the port would share.
pub fn names<'a>(
    prepared_services: impl Iterator<Item = &'a PreparedService>,
    has_own_filter: impl Fn(&PreparedService) -> bool,
    kept: &PluginHosts,
    options: &MeshOptions,
) -> Vec<String> {
    let is_refused = |prepared: &&PreparedService| {
        !options.per_host && is_refused(prepared, has_own_filter(prepared), &options.root_namespace)
    };
    let refused = prepared_services.filter(is_refused);
    let refused = refused.map(|prepared| name_in_tokens(&prepared.service));
    let led_elsewhere = kept.hosts.iter().filter(|host| host.selector.clusters.is_empty());
    let led_elsewhere =
        led_elsewhere.flat_map(|host| &host.selector.listeners).filter_map(|token| wire::name_in(token));
    let kept = led_elsewhere.map(str::to_owned).chain(kept.refused.iter().cloned());
    let names: BTreeSet<String> = refused.chain(kept).collect();
    names.into_iter().collect()
}

/// True if a connection to Istio's own cluster of the host may not pass: it would reach another Redis than
/// the rules say, or need no password though they ask for one.
fn is_refused(prepared: &PreparedService, has_own_filter: bool, root_namespace: &str) -> bool {
    let service = &prepared.service;
    // A WasmPlugin in the root namespace is for everybody, also where the rules are not.
    let is_limited =
        prepared.namespace == root_namespace && prepared.listener_place(root_namespace).0.namespaces().is_some();
    let asks = service.client_auth.is_some() || service.path == wire::DataPath::Proxy;
    !is_limited && !prepared.listeners.is_empty() && (leads_elsewhere(service) || has_own_filter && asks)
}
