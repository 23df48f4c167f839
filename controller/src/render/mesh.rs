//! Validated services → the objects of Istio by which sidecars serve them.
//!
//! Filter and listener may reach a sidecar in any order, and no command is misrouted meanwhile.
//! The filter recognises a host on `proxy` by its address, too, and the handshake fails at any
//! other listener. It recognises a host on `direct` that leads elsewhere only by the token in the
//! listener's metadata, which names the cluster. A connection to such a host that comes through another
//! listener is refused ([`super::refused`]).

use std::sync::Arc;

use serde_json::Value;

use crate::diagnostic::Diagnostics;
use crate::validate::service::ValidatedService;

use super::mesh_options::MeshOptions;
use super::plan::{PlanHistory, plan};
use super::prepared_service::PreparedService;

/// Builds all objects in a fixed order.
pub fn build(
    services: &[ValidatedService],
    options: &MeshOptions,
    revision: u64,
    diagnostics: &mut Diagnostics,
) -> Vec<Value> {
    let prepared_services: Vec<Arc<PreparedService>> =
        services.iter().map(|service| Arc::new(PreparedService::new(service.clone(), options, diagnostics))).collect();
    let plan = plan(&prepared_services, options, &PlanHistory::default());
    plan.objects.iter().map(|planned| planned.build(options, revision)).collect()
}
