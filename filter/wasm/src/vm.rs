//! What the plugins and connections of one VM share: a VM belongs to one worker.

use crate::abi;
use crate::plugin::Plugin;
use redis_mesh_core::config::{ConfigError, json_of};
use redis_mesh_core::hex::to_hex;
use redis_mesh_core::random::Random;
use redis_mesh_core::rewriter::config::RewriterConfig;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

thread_local! {
    static PLUGINS: RefCell<BTreeMap<String, Rc<Plugin>>> = const { RefCell::new(BTreeMap::new()) };
    static RANDOM: RefCell<Option<Random>> = const { RefCell::new(None) };
    /// The times at which connections are to be woken, with their contexts.
    static TIMERS: RefCell<BTreeSet<(Duration, u32)>> = const { RefCell::new(BTreeSet::new()) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The tick interval that is set, in milliseconds; 0: none.
    static TICK: Cell<u32> = const { Cell::new(0) };
    static ROOTS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static QUEUE_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How long an increment may wait until it is added to Envoy's counter.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Takes a configuration over for the plugin that it names. On an error nothing has changed.
pub fn configure(bytes: &[u8]) -> Result<Rc<Plugin>, ConfigError> {
    let config = RewriterConfig::from_json(json_of(bytes))?;
    let name = config.name.clone();
    let plugin = PLUGINS.with_borrow_mut(|plugins| match plugins.get(&name) {
        Some(plugin) => {
            plugin.update(config);
            plugin.clone()
        }
        None => {
            let plugin = Rc::new(Plugin::new(config));
            plugins.insert(name.clone(), plugin.clone());
            plugin
        }
    });
    // The name can't be guessed, so no other VM registers the same queue, and items come back to
    // this VM alone.
    let queue =
        QUEUE_NAME.with_borrow_mut(|queue| queue.get_or_insert_with(|| random(|r| to_hex(&r.secret()))).clone());
    if !plugin.register_queue(&format!("{queue}/{name}")) {
        return Err(ConfigError("Envoy registers no queue to wake connections by".into()));
    }
    Ok(plugin)
}

/// Calls with the VM's randomness.
pub fn random<T>(use_it: impl FnOnce(&mut Random) -> T) -> T {
    RANDOM.with_borrow_mut(|random| {
        use_it(random.get_or_insert_with(|| {
            let mut seed = [0u8; 32];
            // Envoy's random_get doesn't fail. If it did, the clock would be a poor seed, but no
            // reason to panic.
            if getrandom::fill(&mut seed).is_err() {
                seed[..8].copy_from_slice(&abi::unix_nanoseconds().to_le_bytes());
            }
            Random::new(seed)
        }))
    })
}

/// The time since the VM first asked for it.
pub fn now() -> Duration {
    let start = START.get().unwrap_or_else(|| {
        let start = Instant::now();
        START.set(Some(start));
        start
    });
    start.elapsed()
}

/// Has the connection of this context woken at a time, by a tick of the selected connection's root
/// context.
pub fn wake_at(time: Duration, context: u32) {
    TIMERS.with_borrow_mut(|timers| timers.insert((time, context)));
    set_tick(time.saturating_sub(now()));
}

/// Takes a context that is to be woken by now.
pub fn take_due(now: Duration) -> Option<u32> {
    TIMERS.with_borrow_mut(|timers| {
        let due = timers.first().copied().filter(|(at, _)| *at <= now)?;
        timers.remove(&due);
        Some(due.1)
    })
}

/// A root context begins.
pub fn add_root(root: u32) {
    ROOTS.with_borrow_mut(|roots| roots.push(root));
}

/// A root context ends, and with it its ticks, which others may need: another root context ticks
/// in its place.
pub fn remove_root(root: u32) {
    let heir = ROOTS.with_borrow_mut(|roots| {
        roots.retain(|one| *one != root);
        roots.last().copied()
    });
    if TICK.replace(0) != 0
        && let Some(heir) = heir
        && abi::select(heir)
    {
        let next = TIMERS.with_borrow(|timers| timers.first().map(|(at, _)| at.saturating_sub(now())));
        set_tick(next.unwrap_or(FLUSH_INTERVAL).min(FLUSH_INTERVAL));
    }
}

/// Has increments added to Envoy's counters before long.
pub fn flush_soon() {
    if TICK.get() == 0 {
        set_tick(FLUSH_INTERVAL);
    }
}

/// Has a root context tick after this time at the latest.
fn set_tick(within: Duration) {
    let milliseconds = (within.as_micros().div_ceil(1000) as u32).max(1);
    let set = TICK.get();
    if set == 0 || milliseconds < set {
        TICK.set(milliseconds);
        abi::tick_every(milliseconds);
    }
}

/// Adds all increments to Envoy's counters.
pub fn flush_stats(now: Duration) {
    PLUGINS.with_borrow(|plugins| plugins.values().for_each(|plugin| plugin.flush_stats(now)));
}

/// Ends the ticks of a root context, except for the next one that a connection needs.
pub fn end_tick(root: u32, now: Duration) {
    // Waking connections has selected others. A root context that ticks is there, so this doesn't
    // fail.
    let _ = abi::select(root);
    TICK.set(0);
    abi::tick_every(0);
    let next = TIMERS.with_borrow(|timers| timers.first().map(|(at, _)| at.saturating_sub(now)));
    if let Some(next) = next {
        set_tick(next);
    }
}
