//! Validated services → the objects of Istio that make its sidecars serve them.
//!
//! Whatever arrives first, a filter or a listener, nothing is misrouted meanwhile: a host on `proxy` is known to the filter by
//! its address too, and the handshake then fails at whatever is behind it; a host on `direct` that leads elsewhere is known
//! only by what the listener itself says of where it leads.

use std::sync::Arc;

use serde_json::Value;

use crate::diagnostic::Diagnostics;
use crate::validate::service::ValidatedService;

use super::mesh_options::MeshOptions;
use super::plan::{PlanHistory, plan};
use super::prepared_service::PreparedService;

/// Builds all objects, in a fixed order.
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
