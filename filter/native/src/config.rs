//! The configuration of each of the module's filters, and the latest configuration of each
//! listener, which open connections follow.

use crate::envoy::{self, LogLevel, Meter};
use crate::metrics::FilterMetrics;
use redis_mesh_core::config::json_of;
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// A configured filter: one of the module's three.
pub enum FilterKind {
    /// `proxy`, for clients.
    Downstream(Arc<LatestConfig>, Arc<FilterMetrics>),
    /// `anchor`, for connections on which upstream connections are opened.
    Dialer(Arc<FilterMetrics>),
    /// `carrier`, for connections to Redis.
    Upstream(Arc<FilterMetrics>),
}

/// The latest configuration of one name. It lives as long as a listener or a connection refers to
/// it.
pub struct LatestConfig {
    value: Mutex<Versioned>,
}

/// A configuration with its metrics, and its number among all that this process has got.
#[derive(Clone)]
struct Versioned {
    generation: u64,
    config: Arc<HostConfig>,
    metrics: Arc<FilterMetrics>,
}

static CONFIGS: Mutex<BTreeMap<String, Weak<LatestConfig>>> = Mutex::new(BTreeMap::new());
/// The generation of the latest configuration of all, by which a worker learns without a lock that
/// there is a new one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Under each of these locks a value is replaced as a whole, so a panic leaves no change half
/// done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The suffix of the names of this module's filters and internal clusters: empty, or `-` and a
/// text that differs from that of another version of the module in the same Envoy, whose dialers
/// and upstream connections are not this one's.
static SUFFIX: OnceLock<String> = OnceLock::new();

/// The name of an internal cluster, with this module's suffix.
pub fn cluster(name: &str) -> String {
    format!("{name}{}", SUFFIX.get().map(String::as_str).unwrap_or_default())
}

impl FilterKind {
    /// Configures the filter of this name. The error is a sentence for Envoy's log.
    pub fn new(meter: Meter, name: &[u8], config: &[u8]) -> Result<FilterKind, String> {
        let name = String::from_utf8_lossy(name);
        let (base, suffix) = name.split_at(name.find('-').unwrap_or(name.len()));
        // Checked first, since the metrics of a refused configuration must not be kept anywhere.
        if let Some(known) = SUFFIX.get().filter(|known| *known != suffix) {
            return Err(format!("the filter {name:?} must have the suffix {known:?} of the module's other filters"));
        }
        let kind = match base {
            "proxy" => configure(meter, config),
            "anchor" => Ok(FilterKind::Dialer(Arc::new(FilterMetrics::of_dialer(meter)))),
            "carrier" => Ok(FilterKind::Upstream(Arc::new(FilterMetrics::of_upstream(meter)))),
            _ => {
                Err(format!("the module has no filter {name:?}; its filters are \"proxy\", \"anchor\" and \"carrier\""))
            }
        }?;
        SUFFIX.get_or_init(|| suffix.to_owned());
        Ok(kind)
    }

    /// Makes this the configuration of a filter that Envoy has removed: its metrics, which others
    /// may hold, no longer count.
    pub fn forget(&self) {
        let (FilterKind::Downstream(_, metrics) | FilterKind::Dialer(metrics) | FilterKind::Upstream(metrics)) = self;
        metrics.forget();
    }
}

impl LatestConfig {
    /// The latest configuration with its metrics.
    pub fn get(&self) -> (Arc<HostConfig>, Arc<FilterMetrics>) {
        let latest = lock(&self.value);
        (latest.config.clone(), latest.metrics.clone())
    }
}

fn configure(meter: Meter, bytes: &[u8]) -> Result<FilterKind, String> {
    let ListenerConfig { name, revision, host: config } =
        ListenerConfig::from_json(json_of(bytes)).map_err(|error| error.to_string())?;
    let metrics = Arc::new(FilterMetrics::of_downstream(meter, config.clone()));
    let mut configs = lock(&CONFIGS);
    configs.retain(|_, latest| latest.strong_count() > 0);
    let generation = GENERATION.load(Ordering::Relaxed) + 1;
    let value = Versioned { generation, config, metrics: metrics.clone() };
    let latest = match configs.get(&name).and_then(Weak::upgrade) {
        Some(latest) => {
            *lock(&latest.value) = value;
            latest
        }
        None => {
            let latest = Arc::new(LatestConfig { value: Mutex::new(value) });
            configs.insert(name.clone(), Arc::downgrade(&latest));
            latest
        }
    };
    GENERATION.store(generation, Ordering::Release);
    envoy::log(LogLevel::Info, &format!("redis-mesh: {name} revision {revision} configured"));
    Ok(FilterKind::Downstream(latest, metrics))
}

/// Hands over the configurations that are newer than the generation `seen`, and returns the
/// generation up to which they are seen now.
pub fn newer(seen: u64, mut each: impl FnMut(Arc<HostConfig>, Arc<FilterMetrics>)) -> u64 {
    // A configuration that comes after this has a higher number, so the next call finds it, even
    // if this one does too.
    let now = GENERATION.load(Ordering::Acquire);
    if now != seen {
        let configs: Vec<Arc<LatestConfig>> = lock(&CONFIGS).values().filter_map(Weak::upgrade).collect();
        for latest in configs {
            let Versioned { generation, config, metrics } = lock(&latest.value).clone();
            if generation > seen {
                each(config, metrics);
            }
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    /// The hosts of the configurations that are newer than a generation.
    fn hosts_after(seen: u64) -> Vec<String> {
        let mut hosts = Vec::new();
        newer(seen, |config, _| hosts.push(config.host.to_string()));
        hosts
    }

    #[test]
    fn the_latest_configuration_of_a_name_is_handed_over_once() {
        let _end = standin::begin();
        let before = newer(0, |_, _| {});
        standin::listener("newer-a");
        standin::listener("newer-a");
        standin::listener("newer-b");
        assert_eq!(hosts_after(before), ["newer-a:6379", "newer-b:6379"]);
        let seen = newer(before, |_, _| {});
        assert!(hosts_after(seen).is_empty());
        standin::listener("newer-a");
        assert_eq!(hosts_after(seen), ["newer-a:6379"]);
    }

    #[test]
    fn a_filter_is_refused_by_its_name_or_its_configuration() {
        let _end = standin::begin();
        assert!(standin::configure("router", "").is_null());
        assert!(standin::log().iter().any(|line| line.contains("has no filter \"router\"")));
        assert!(standin::configure("proxy", "{}").is_null());
        assert!(standin::log().iter().any(|line| line.contains("configuration refused")));
        // The suffix of the first filter is that of all.
        assert!(!standin::configure("anchor", "").is_null());
        assert!(standin::configure("anchor-2", "").is_null());
        assert!(standin::log().iter().any(|line| line.contains("must have the suffix \"\"")));
        assert_eq!(cluster("redis_anchor"), "redis_anchor");
    }
}
