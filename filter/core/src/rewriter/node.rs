//! The proxy in which the rewriter runs, as its node's id tells.

/// True if the rewriter serves connections in the proxy of this node; elsewhere they pass untouched.
///
/// Istio names a node `KIND~ADDRESS~NAME~DOMAIN`. What is rendered is for sidecars: in a gateway
/// (`router`) or a waypoint no listener has the parts that a host needs besides the filter, which a
/// WasmPlugin brings there too. The node of an Envoy outside of Istio has any other id.
pub fn is_served(node_id: Option<&str>) -> bool {
    let parts = node_id.map(|id| id.split('~').collect::<Vec<_>>()).unwrap_or_default();
    parts.len() != 4 || parts[0] == "sidecar"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_and_waypoints_are_not_served() {
        let served = |id| is_served(Some(id));
        assert!(served("sidecar~10.0.0.1~client.shop~shop.svc.cluster.local"));
        assert!(!served("router~10.0.0.2~gateway.istio-system~istio-system.svc.cluster.local"));
        assert!(!served("waypoint~10.0.0.3~waypoint.shop~shop.svc.cluster.local"));
        // No node of Istio's.
        for id in ["envoy-1", "", "a~b", "~"] {
            assert!(served(id), "{id:?}");
        }
        assert!(is_served(None));
    }
}
