//! What the plugins and connections of one VM (one worker) share.

use crate::abi;
use crate::plugin::Plugin;
use crate::stream::Connection;
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
    static WAITING: RefCell<BTreeMap<u32, Rc<RefCell<Connection>>>> = const { RefCell::new(BTreeMap::new()) };
    static TIMERS: RefCell<BTreeSet<(Duration, u32)>> = const { RefCell::new(BTreeSet::new()) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The tick that is set, in milliseconds; 0: none.
    static TICK: Cell<u32> = const { Cell::new(0) };
    static ROOTS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static QUEUE_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How long counters may lag behind.
const STATS_EVERY: Duration = Duration::from_secs(1);

/// Takes a configuration for the plugin that it names. On an error nothing has changed.
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
    // Nobody else can register a queue of that name, so items come back to this VM alone.
    let queue =
        QUEUE_NAME.with_borrow_mut(|queue| queue.get_or_insert_with(|| random(|r| to_hex(&r.secret()))).clone());
    if !plugin.register_queue(&format!("{queue}/{name}")) {
        return Err(ConfigError("Envoy registers no queue to wake connections by".into()));
    }
    Ok(plugin)
}

/// Lends the VM's randomness.
pub fn random<T>(use_it: impl FnOnce(&mut Random) -> T) -> T {
    RANDOM.with_borrow_mut(|random| {
        use_it(random.get_or_insert_with(|| {
            let mut seed = [0u8; 32];
            // Envoy's random_get doesn't fail. If it ever did, the clock and an address would be a poor seed, but no panic.
            if getrandom::fill(&mut seed).is_err() {
                seed[..8].copy_from_slice(&abi::unix_nanoseconds().to_le_bytes());
            }
            Random::new(seed)
        }))
    })
}

/// Time since the VM's start.
pub fn now() -> Duration {
    let start = START.get().unwrap_or_else(|| {
        let start = Instant::now();
        START.set(Some(start));
        start
    });
    start.elapsed()
}

/// Keeps a connection whose gate is closed, so that it can be woken.
pub fn wait(context: u32, connection: &Rc<RefCell<Connection>>) {
    WAITING.with_borrow_mut(|waiting| waiting.insert(context, connection.clone()));
}

/// The connection, if it waits.
pub fn waiting(context: u32) -> Option<Rc<RefCell<Connection>>> {
    WAITING.with_borrow(|waiting| waiting.get(&context).cloned())
}

/// The connection no longer waits.
pub fn done(context: u32) {
    WAITING.with_borrow_mut(|waiting| waiting.remove(&context));
}

/// Wakes a waiting connection at a time. The root context of the selected connection ticks for it.
pub fn wake_at(time: Duration, context: u32) {
    TIMERS.with_borrow_mut(|timers| timers.insert((time, context)));
    arm(time.saturating_sub(now()));
}

/// A root context begins.
pub fn root_began(root: u32) {
    ROOTS.with_borrow_mut(|roots| roots.push(root));
}

/// A root context is gone, and with it its ticks, on which others may have counted: another one takes over.
pub fn root_ended(root: u32) {
    let heir = ROOTS.with_borrow_mut(|roots| {
        roots.retain(|one| *one != root);
        roots.last().copied()
    });
    if TICK.replace(0) != 0
        && let Some(heir) = heir
        && abi::select(heir)
    {
        let next = TIMERS.with_borrow(|timers| timers.first().map(|(at, _)| at.saturating_sub(now())));
        arm(next.unwrap_or(STATS_EVERY).min(STATS_EVERY));
    }
}

/// Has counters flushed before long.
pub fn count() {
    if TICK.get() == 0 {
        arm(STATS_EVERY);
    }
}

fn arm(within: Duration) {
    let milliseconds = (within.as_micros().div_ceil(1000) as u32).max(1);
    let set = TICK.get();
    if set == 0 || milliseconds < set {
        TICK.set(milliseconds);
        abi::tick_every(milliseconds);
    }
}

/// The tick of a root context: wakes who is due, flushes counters, and sets the next tick.
pub fn tick(root: u32) {
    let time = now();
    while let Some((_, context)) = TIMERS.with_borrow_mut(|timers| {
        let due = timers.first().copied().filter(|(at, _)| *at <= time)?;
        timers.remove(&due);
        Some(due)
    }) {
        if let Some(connection) = waiting(context) {
            connection.borrow_mut().wake(time, context, &connection);
        }
    }
    PLUGINS.with_borrow(|plugins| plugins.values().for_each(|plugin| plugin.flush_stats()));
    // This root context's own timer goes; whoever needs one next sets it.
    let _ = abi::select(root);
    TICK.set(0);
    abi::tick_every(0);
    let next = TIMERS.with_borrow(|timers| timers.first().map(|(at, _)| at.saturating_sub(time)));
    if let Some(next) = next {
        arm(next);
    }
}
