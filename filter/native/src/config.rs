//! What a filter is configured to be, and the newest configuration of every name, which open connections follow.

use crate::envoy::{self, Level};
use redis_mesh_core::config::json_of;
use redis_mesh_core::proxy::config::{Config as Rules, Document};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One of the module's filters.
pub enum Config {
    /// `proxy`: for clients.
    Proxy(Arc<Slot>),
    /// `anchor`: what carriers hang on.
    Anchor,
    /// `carrier`: a connection to Redis.
    Carrier,
}

/// The newest configuration of one name. It lives as long as a listener or a connection refers to it.
pub struct Slot {
    newest: Mutex<(u64, Arc<Rules>)>,
}

static SLOTS: Mutex<BTreeMap<String, Weak<Slot>>> = Mutex::new(BTreeMap::new());
/// Counts configurations, so that a worker sees without a lock that there is a new one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A value is replaced as a whole under each of these locks, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Config {
    /// The filter of this name. The error is for Envoy's log.
    pub fn new(name: &[u8], config: &[u8]) -> Result<Config, String> {
        match name {
            b"proxy" => configure(config).map(Config::Proxy),
            b"anchor" => Ok(Config::Anchor),
            b"carrier" => Ok(Config::Carrier),
            _ => Err(format!(
                "the module has no filter {:?}, only \"proxy\", \"anchor\" and \"carrier\"",
                String::from_utf8_lossy(name)
            )),
        }
    }
}

impl Slot {
    /// The newest configuration.
    pub fn newest(&self) -> Arc<Rules> {
        lock(&self.newest).1.clone()
    }
}

fn configure(bytes: &[u8]) -> Result<Arc<Slot>, String> {
    let Document { name, revision, host: config } =
        Document::from_json(json_of(bytes)).map_err(|error| error.to_string())?;
    let mut slots = lock(&SLOTS);
    slots.retain(|_, slot| slot.strong_count() > 0);
    let generation = GENERATION.load(Ordering::Relaxed) + 1;
    let slot = match slots.get(&name).and_then(Weak::upgrade) {
        Some(slot) => {
            *lock(&slot.newest) = (generation, config);
            slot
        }
        None => {
            let slot = Arc::new(Slot { newest: Mutex::new((generation, config)) });
            slots.insert(name.clone(), Arc::downgrade(&slot));
            slot
        }
    };
    GENERATION.store(generation, Ordering::Release);
    envoy::log(Level::Info, &format!("redis-mesh: {name} revision {revision}"));
    Ok(slot)
}

/// Hands over the configurations that are newer than `seen`, and returns up to what has been seen now.
pub fn newer(seen: u64, mut each: impl FnMut(Arc<Rules>)) -> u64 {
    // A configuration that comes after this has a higher number and is found by the next call, perhaps by this one too.
    let now = GENERATION.load(Ordering::Acquire);
    if now != seen {
        let slots: Vec<Arc<Slot>> = lock(&SLOTS).values().filter_map(Weak::upgrade).collect();
        for slot in slots {
            let (generation, config) = lock(&slot.newest).clone();
            if generation > seen {
                each(config);
            }
        }
    }
    now
}
