//! The place of an EnvoyFilter in the sidecars: the host that it is about, and the listeners that it
//! patches, which Istio names by addresses.
//!
//! An address may come to belong to another host, and a host may get another address. So an EnvoyFilter that
//! stays as it is, since the object that it follows from has errors, is moved to where its host is now.

use std::collections::BTreeSet;

use redis_mesh_core::wire;
use serde::Deserialize;
use serde_json::Value;

/// The name of a listener that Istio gives to none. An EnvoyFilter whose host has no address patches this
/// one, so that its rules are still there when the host has an address again.
pub const NOWHERE: &str = "redis-mesh-nowhere";

/// The host of an EnvoyFilter and the listeners that it patches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlace {
    /// The host, `FQDN:port`.
    pub host: String,
    /// The names of the listeners.
    pub listeners: BTreeSet<String>,
    /// True if the EnvoyFilter holds the configuration of a filter of the host's own, and no `exportTo` limits
    /// it: such a host has a filter of its own in any case.
    pub has_own_filter: bool,
}

/// The part of a filter's configuration that is read.
#[derive(Deserialize)]
struct ConfiguredHosts {
    hosts: Vec<ConfiguredHost>,
}

#[derive(Deserialize)]
struct ConfiguredHost {
    host: String,
}

impl ListenerPlace {
    /// The place of an EnvoyFilter with these patches; none if it is not about the listeners of one host.
    pub fn of(patches: &[Value]) -> Option<ListenerPlace> {
        let listeners: BTreeSet<String> = patches.iter().filter_map(listener_of).map(str::to_owned).collect();
        if listeners.is_empty() {
            return None;
        }
        let has_own_filter =
            patches.iter().any(|patch| patch["applyTo"] == "EXTENSION_CONFIG" && patch["match"]["proxy"].is_null());
        Some(ListenerPlace { host: patches.iter().find_map(host_of)?, listeners, has_own_filter })
    }
}

/// Makes patches of listeners patch these ones instead. Every listener of a host has the same patches.
pub fn move_to(patches: &mut Vec<Value>, listeners: &[String]) {
    let Some(pattern) = patches.iter().find_map(listener_of).map(str::to_owned) else { return };
    let before = std::mem::take(patches);
    for patch in before {
        match listener_of(&patch) {
            None => patches.push(patch),
            Some(name) if name == pattern => patches.extend(listeners.iter().map(|listener| {
                let mut patch = patch.clone();
                patch["match"]["listener"]["name"] = listener.as_str().into();
                patch
            })),
            Some(_) => {}
        }
    }
}

fn listener_of(patch: &Value) -> Option<&str> {
    patch["match"]["listener"]["name"].as_str()
}

/// The host that a patch names: in a listener's metadata, or in the configuration of the host's own filter.
fn host_of(patch: &Value) -> Option<String> {
    let value = &patch["patch"]["value"];
    match patch["applyTo"].as_str()? {
        "LISTENER" => {
            let token = value["metadata"]["filter_metadata"]["redis-mesh"]["host"].as_str()?;
            let name = wire::name_in(token).unwrap_or(token);
            (token != wire::CONFIGURED_BY_ITSELF).then(|| wire::address_in(name).to_owned())
        }
        "EXTENSION_CONFIG" => {
            let config: ConfiguredHosts = serde_json::from_str(inline(value)?).ok()?;
            config.hosts.into_iter().next().map(|first| first.host)
        }
        _ => None,
    }
}

/// The text of the secret by which a filter gets its configuration.
fn inline(value: &Value) -> Option<&str> {
    let fields = value.as_object()?;
    fields.get("inline_string").and_then(Value::as_str).or_else(|| fields.values().find_map(inline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::envoy_filter::{metadata, other_cluster};

    fn patches(listeners: &[&str], token: &str) -> Vec<Value> {
        let tokens = listeners.iter().map(|listener| metadata(listener, token));
        tokens.chain(listeners.iter().map(|listener| other_cluster(listener, "c"))).collect()
    }

    #[test]
    fn patches_move_to_the_listeners_of_their_host() {
        let (host, token) = ("r.a.svc.cluster.local:6379", "r.a.svc.cluster.local:6379 to outbound|6379||s");
        let mut moved = patches(&["10.0.0.1_6379", "fd00::1_6379"], token);
        let place = ListenerPlace::of(&moved).unwrap();
        assert_eq!((place.host.as_str(), place.listeners.len()), (host, 2));
        for to in [&["10.0.0.2_6379"][..], &["a_1", "b_1", "c_1"], &[NOWHERE], &["10.0.0.1_6379"]] {
            let to: Vec<String> = to.iter().map(|name| (*name).to_owned()).collect();
            move_to(&mut moved, &to);
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            assert_eq!(moved, patches(&to, token));
        }
        // Rules for the clients of one namespace are about the same host.
        let of_web = ListenerPlace::of(&patches(&["a_1"], &format!("web/{token}"))).unwrap();
        assert_eq!(of_web.host, host);
        assert_eq!(ListenerPlace::of(&[]), None);
        assert_eq!(ListenerPlace::of(&patches(&["a_1"], wire::CONFIGURED_BY_ITSELF)), None);
    }
}
