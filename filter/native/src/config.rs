//! What a filter is configured to be, and the newest configuration of every name, which open connections follow.

use crate::envoy::{self, Level, Meter};
use crate::metrics::Metrics;
use redis_mesh_core::config::json_of;
use redis_mesh_core::multiplexer::config::{HostConfig as Rules, ListenerConfig};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// One of the module's filters.
pub enum Config {
    /// `proxy`: for clients.
    Multiplexer(Arc<Slot>, Arc<Metrics>),
    /// `anchor`: what carriers hang on.
    Anchor(Arc<Metrics>),
    /// `carrier`: a connection to Redis.
    Carrier(Arc<Metrics>),
}

/// The newest configuration of one name. It lives as long as a listener or a connection refers to it.
pub struct Slot {
    newest: Mutex<(u64, Arc<Rules>, Arc<Metrics>)>,
}

static SLOTS: Mutex<BTreeMap<String, Weak<Slot>>> = Mutex::new(BTreeMap::new());
/// Counts configurations, so that a worker sees without a lock that there is a new one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A value is replaced as a whole under each of these locks, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the names of this module's filters and internal clusters end in: nothing, or `-` and what tells it from another
/// version of it in the same Envoy, whose anchors and carriers are not its own.
static SUFFIX: OnceLock<String> = OnceLock::new();

/// The internal cluster of this name.
pub fn cluster(name: &str) -> String {
    format!("{name}{}", SUFFIX.get().map(String::as_str).unwrap_or_default())
}

impl Config {
    /// The filter of this name. The error is for Envoy's log.
    pub fn new(meter: Meter, name: &[u8], config: &[u8]) -> Result<Config, String> {
        let name = String::from_utf8_lossy(name);
        let (base, suffix) = name.split_at(name.find('-').unwrap_or(name.len()));
        let made = match base {
            "proxy" => configure(meter, config),
            "anchor" => Ok(Config::Anchor(Arc::new(Metrics::new(meter, false)))),
            "carrier" => Ok(Config::Carrier(Arc::new(Metrics::new(meter, true)))),
            _ => Err(format!("the module has no filter {name:?}, only \"proxy\", \"anchor\" and \"carrier\"")),
        }?;
        let known = SUFFIX.get_or_init(|| suffix.to_owned());
        if known != suffix {
            return Err(format!("the names of the module's filters end in {known:?} already; {name:?} doesn't"));
        }
        Ok(made)
    }

    /// Envoy's side of it goes; what holds this one's metrics finds nobody to tell.
    pub fn forget(&self) {
        let (Config::Multiplexer(_, metrics) | Config::Anchor(metrics) | Config::Carrier(metrics)) = self;
        metrics.forget();
    }
}

impl Slot {
    /// The newest configuration, and who counts for it.
    pub fn newest(&self) -> (Arc<Rules>, Arc<Metrics>) {
        let newest = lock(&self.newest);
        (newest.1.clone(), newest.2.clone())
    }
}

fn configure(meter: Meter, bytes: &[u8]) -> Result<Config, String> {
    let ListenerConfig { name, revision, host: config } =
        ListenerConfig::from_json(json_of(bytes)).map_err(|error| error.to_string())?;
    let metrics = Arc::new(Metrics::of_clients(meter, config.clone()));
    let mut slots = lock(&SLOTS);
    slots.retain(|_, slot| slot.strong_count() > 0);
    let generation = GENERATION.load(Ordering::Relaxed) + 1;
    let slot = match slots.get(&name).and_then(Weak::upgrade) {
        Some(slot) => {
            *lock(&slot.newest) = (generation, config, metrics.clone());
            slot
        }
        None => {
            let slot = Arc::new(Slot { newest: Mutex::new((generation, config, metrics.clone())) });
            slots.insert(name.clone(), Arc::downgrade(&slot));
            slot
        }
    };
    GENERATION.store(generation, Ordering::Release);
    envoy::log(Level::Info, &format!("redis-mesh: {name} revision {revision}"));
    Ok(Config::Multiplexer(slot, metrics))
}

/// Hands over the configurations that are newer than `seen`, and returns up to what has been seen now.
pub fn newer(seen: u64, mut each: impl FnMut(Arc<Rules>, Arc<Metrics>)) -> u64 {
    // A configuration that comes after this has a higher number and is found by the next call, perhaps by this one too.
    let now = GENERATION.load(Ordering::Acquire);
    if now != seen {
        let slots: Vec<Arc<Slot>> = lock(&SLOTS).values().filter_map(Weak::upgrade).collect();
        for slot in slots {
            let (generation, config, metrics) = lock(&slot.newest).clone();
            if generation > seen {
                each(config, metrics);
            }
        }
    }
    now
}
