//! Requests to the admin interface of an Envoy
//! (<https://www.envoyproxy.io/docs/envoy/latest/operations/admin>).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Uri};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, Config};
use serde_json::Value;

use super::ledger::{ResourceType, ShownMarker, Sighting, UpdateCounts};
use crate::render::marker;
use crate::run::request::chain;

/// The time after which an Envoy counts as one that doesn't answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The time that a large answer may take.
const LONG_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of the clusters that are ready, in `/config_dump`.
const ACTIVE: &str = "dynamic_active_clusters";
/// The greatest number of names in one request.
const MANY_NAMES: usize = 100;

/// The clusters and listeners of an Envoy, as far as they tell what it has refused.
#[derive(Default)]
pub struct TakenResources {
    /// The clusters that were asked for and are there, with the time of their last change in
    /// milliseconds since 1970.
    pub clusters: BTreeMap<String, u64>,
    /// The clusters that were asked for and aren't ready yet. A cluster that Envoy refuses since it can't
    /// balance its load stays among these, too.
    pub warming: BTreeSet<String>,
    /// Why listeners were refused, by name.
    pub refused_listeners: BTreeMap<String, String>,
}

/// The admin interface of an Envoy.
#[derive(Clone)]
pub struct WitnessAdmin {
    url: Arc<str>,
    client: Client,
}

impl WitnessAdmin {
    /// The interface at a base URL.
    pub fn new(url: &str) -> Result<WitnessAdmin, String> {
        let uri: Uri = url.parse().map_err(|error| format!("--witness {url}: {error}"))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(format!("--witness {url}: not a URL such as http://127.0.0.1:15000"));
        }
        let client =
            Client::try_from(Config::new(uri)).map_err(|error| format!("--witness {url}: {}", chain(&error)))?;
        Ok(WitnessAdmin { url: url.into(), client })
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks which marker the proxy has, and how many updates it has refused.
    pub async fn look(&self) -> Result<Sighting, String> {
        let filter =
            "^(cluster_manager.cds|listener_manager.lds|extension_config_discovery..*).update_(rejected|time):?";
        // The marker first, so that the counts are at least as new.
        let marker = self.get("/config_dump?resource=dynamic_active_clusters&name_regex=^redis-mesh-marker$", TIMEOUT);
        let marker = shown(&json(&marker.await?)?);
        let counts = counts(&self.get(&format!("/stats?filter={filter}"), TIMEOUT).await?);
        Ok(Sighting { marker, counts })
    }

    /// Asks for clusters of these names, and for listeners that were refused.
    pub async fn resources(&self, names: &[&str]) -> Result<TakenResources, String> {
        let (mut clusters, mut warming) = (BTreeMap::new(), BTreeSet::new());
        let filter = match names.len() {
            0..=MANY_NAMES => {
                format!("&name_regex=^({})$", names.iter().map(|name| escaped(name)).collect::<Vec<_>>().join("|"))
            }
            _ => String::new(),
        };
        for resource in [ACTIVE, "dynamic_warming_clusters"] {
            let path = format!("/config_dump?resource={resource}{filter}");
            let dump = json(&self.get(&path, LONG_TIMEOUT).await?)?;
            for cluster in dump["configs"].as_array().into_iter().flatten() {
                let name = cluster["cluster"]["name"].as_str().unwrap_or_default().to_owned();
                match resource {
                    ACTIVE => drop(clusters.insert(name, milliseconds(&cluster["last_updated"]))),
                    _ => drop(warming.insert(name)),
                }
            }
        }
        let path = "/config_dump?resource=dynamic_listeners&mask=name,error_state.details";
        let dump = json(&self.get(path, LONG_TIMEOUT).await?)?;
        let refused = dump["configs"].as_array().into_iter().flatten().filter_map(|listener| {
            let details = listener["error_state"]["details"].as_str()?;
            Some((listener["name"].as_str()?.to_owned(), details.to_owned()))
        });
        Ok(TakenResources { clusters, warming, refused_listeners: refused.collect() })
    }

    /// Asks for the namespace of the proxy's pod.
    pub async fn namespace(&self) -> Result<Option<String>, String> {
        let info = json(&self.get("/server_info", TIMEOUT).await?)?;
        Ok(info["node"]["metadata"]["NAMESPACE"].as_str().map(str::to_owned))
    }

    async fn get(&self, path: &str, patience: Duration) -> Result<String, String> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        match tokio::time::timeout(patience, self.client.request_text(request)).await {
            Ok(result) => result.map_err(|error| chain(&error)),
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        }
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("the answer is no JSON: {error}"))
}

/// A name as a part of a regular expression in a URL.
fn escaped(name: &str) -> String {
    regex_lite::escape(name).replace('%', "%25").replace('+', "%2B").replace('&', "%26").replace('#', "%23")
}

/// The marker in an answer of `/config_dump`.
fn shown(dump: &Value) -> Option<ShownMarker> {
    let cluster = dump["configs"].as_array()?.first()?;
    let number = cluster["cluster"]["metadata"]["filter_metadata"][marker::METADATA][marker::BATCH].as_str()?;
    Some(ShownMarker { number: number.parse().ok()?, at: milliseconds(&cluster["last_updated"]) })
}

fn milliseconds(time: &Value) -> u64 {
    let time = time.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    time.and_then(|time| u64::try_from(time.as_millisecond()).ok()).unwrap_or_default()
}

/// The counts in an answer of `/stats`, which has a line `NAME: VALUE` for each.
fn counts(text: &str) -> [UpdateCounts; 3] {
    let mut counts = [UpdateCounts::default(); 3];
    for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
        let Ok(value) = value.trim().parse::<u64>() else { continue };
        let of = match name {
            name if name.starts_with("cluster_manager.cds.") => ResourceType::Clusters,
            name if name.starts_with("listener_manager.lds.") => ResourceType::Listeners,
            _ => ResourceType::Extensions,
        };
        let counts = &mut counts[of as usize];
        match name.rsplit_once('.') {
            Some((_, "update_rejected")) => counts.rejected += value,
            Some((_, "update_time")) => counts.accepted_at = counts.accepted_at.max(value),
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_of_envoy_is_read() {
        let text = "cluster_manager.cds.update_rejected: 2\ncluster_manager.cds.update_time: 1796000000123\n\
                    extension_config_discovery.network_filter.a.update_rejected: 1\n\
                    extension_config_discovery.network_filter.b.update_rejected: 2\n\
                    listener_manager.lds.update_time: 5\nx: y\n";
        let expected = [
            UpdateCounts { rejected: 2, accepted_at: 1_796_000_000_123 },
            UpdateCounts { rejected: 0, accepted_at: 5 },
            UpdateCounts { rejected: 3, accepted_at: 0 },
        ];
        assert_eq!(counts(text), expected);
        let mut dump = json!({"configs": [{
            "cluster": marker::cluster(17, "ab"),
            "last_updated": "1970-01-01T00:00:01.250Z",
        }]});
        assert_eq!(shown(&dump), Some(ShownMarker { number: 17, at: 1250 }));
        dump["configs"][0]["cluster"]["metadata"] = Value::Null;
        assert_eq!([shown(&dump), shown(&json!({}))], [None, None]);
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        for wrong in ["", "127.0.0.1:15000", "https://x", "http://", "http:// x"] {
            let Err(error) = WitnessAdmin::new(wrong) else { panic!("{wrong} is accepted") };
            assert!(error.starts_with("--witness"), "{error}");
        }
    }
}
