//! The stand-in's counters, gauges and histograms, by their names, whichever configuration has
//! defined them.

use super::state::{CONFIGS, text};
use crate::abi::{self, Buffer, Opaque};
use crate::config::FilterKind;
use crate::hooks;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What configurations have defined. All threads share it, as in Envoy.
struct Metrics {
    /// Names, in the order of their numbers, with values; that of a histogram is the number of
    /// recorded values.
    values: Vec<(String, u64)>,
    /// The number of the newest configuration.
    made: usize,
    /// The numbers of destroyed configurations.
    gone: Vec<usize>,
    /// The numbers of metrics, each with the configuration that has defined it.
    of: Vec<(usize, usize)>,
}

static METRICS: Mutex<Metrics> = Mutex::new(Metrics { values: Vec::new(), made: 0, gone: Vec::new(), of: Vec::new() });

fn metrics() -> MutexGuard<'static, Metrics> {
    METRICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the metrics of tests before.
pub fn reset() {
    let mut metrics = metrics();
    (metrics.values, metrics.of, metrics.gone) = (Vec::new(), Vec::new(), Vec::new());
}

/// Envoy's side of a new configuration.
pub fn configuration() -> Opaque {
    let mut metrics = metrics();
    metrics.made += 1;
    std::ptr::without_provenance_mut(metrics.made)
}

/// The value of the metrics of a name.
pub fn metric(name: &str) -> u64 {
    let name = format!("redis_mesh.{name}");
    metrics().values.iter().filter(|(of, _)| *of == name).map(|(_, value)| value).sum()
}

/// The number of the newest configuration.
pub fn newest() -> usize {
    metrics().made
}

/// Destroys the configuration of this number.
pub fn forget(config: *const FilterKind, number: usize) {
    metrics().gone.push(number);
    CONFIGS.with_borrow_mut(|all| all.retain(|other| *other != config));
    // SAFETY: a test gives each configuration back once.
    unsafe { hooks::envoy_dynamic_module_on_network_filter_config_destroy(config.cast_mut()) };
}

/// # Safety
/// `id` can be written to.
unsafe fn define(config: Opaque, name: Buffer, id: *mut usize) -> u32 {
    let mut metrics = metrics();
    metrics.values.push((text(name), 0));
    let number = metrics.values.len();
    metrics.of.push((number, config.addr()));
    // SAFETY: the caller vouches for it.
    unsafe { *id = number };
    abi::METRICS_SUCCESS
}

fn change(config: Opaque, id: usize, change: impl FnOnce(u64) -> u64) -> u32 {
    let mut metrics = metrics();
    assert!(!metrics.gone.contains(&config.addr()), "a configuration that was destroyed is used");
    assert!(metrics.of.contains(&(id, config.addr())), "the number of another configuration's metric");
    let value = &mut metrics.values[id - 1].1;
    *value = change(*value);
    abi::METRICS_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_config_define_counter(
    config: Opaque,
    name: Buffer,
    id: *mut usize,
) -> u32 {
    // SAFETY: the crate passes a place for the result.
    unsafe { define(config, name, id) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_config_define_gauge(
    config: Opaque,
    name: Buffer,
    id: *mut usize,
) -> u32 {
    // SAFETY: the crate passes a place for the result.
    unsafe { define(config, name, id) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_config_define_histogram(
    config: Opaque,
    name: Buffer,
    id: *mut usize,
) -> u32 {
    // SAFETY: the crate passes a place for the result.
    unsafe { define(config, name, id) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_config_increment_counter(
    config: Opaque,
    id: usize,
    by: u64,
) -> u32 {
    change(config, id, |value| value + by)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_config_increment_gauge(
    config: Opaque,
    id: usize,
    by: u64,
) -> u32 {
    change(config, id, |value| value + by)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_config_decrement_gauge(
    config: Opaque,
    id: usize,
    by: u64,
) -> u32 {
    change(config, id, |value| value.checked_sub(by).expect("a gauge below zero"))
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_config_set_gauge(
    config: Opaque,
    id: usize,
    value: u64,
) -> u32 {
    change(config, id, |_| value)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_config_record_histogram_value(
    config: Opaque,
    id: usize,
    _value: u64,
) -> u32 {
    change(config, id, |count| count + 1)
}
