//! The metrics of a filter's configuration in Envoy.

use super::buffer::lend;
use crate::abi::{self, Opaque};
use std::sync::{PoisonError, RwLock};

/// Envoy's side of a filter's configuration, shared by all threads. Envoy may destroy the
/// configuration while a thread holds this.
pub struct Meter {
    /// Null once the configuration is gone.
    raw: RwLock<RawConfig>,
}

struct RawConfig(Opaque);

// SAFETY: the functions that are called with the pointer read definitions that were complete
// before the configuration was, and change atomic numbers: any thread may call them while the
// configuration lives.
unsafe impl Send for RawConfig {}
// SAFETY: several threads may do so at once, since nothing but atomic numbers changes; definitions
// are made under the write lock.
unsafe impl Sync for RawConfig {}

/// The number of a counter in Envoy. The default is the number of no counter, which Envoy ignores.
#[derive(Clone, Copy, Default)]
pub struct Counter(usize);
/// The number of a gauge in Envoy. The default is the number of no gauge, which Envoy ignores.
#[derive(Clone, Copy, Default)]
pub struct Gauge(usize);
/// The number of a histogram in Envoy. The default is the number of no histogram, which Envoy
/// ignores.
#[derive(Clone, Copy, Default)]
pub struct Histogram(usize);

/// A configuration that Envoy doesn't destroy while this is held.
pub struct MeterGuard(Opaque);

/// A function of the ABI that defines a metric.
type DefineFunction = unsafe extern "C" fn(Opaque, abi::Buffer, *mut usize) -> u32;

impl Meter {
    /// The meter of a configuration that Envoy is making.
    ///
    /// # Safety
    /// `raw` is the configuration that Envoy passed to the hook that makes one, and
    /// [`Meter::forget`] will be called in the hook that destroys it at the latest.
    pub unsafe fn new(raw: Opaque) -> Meter {
        Meter { raw: RwLock::new(RawConfig(raw)) }
    }

    /// Makes this the meter of a configuration that is gone. Waits for every [`MeterGuard`].
    pub fn forget(&self) {
        self.raw.write().unwrap_or_else(PoisonError::into_inner).0 = std::ptr::null_mut();
    }

    fn define(&self, name: &str, define: DefineFunction) -> usize {
        let raw = self.raw.write().unwrap_or_else(PoisonError::into_inner);
        let mut id = 0;
        if !raw.0.is_null() {
            // SAFETY: a pointer that isn't null is a configuration that lives, and the write lock
            // keeps other threads away from it. Envoy copies the name, writes `id` before it
            // returns, and refuses definitions that come too late.
            let result = unsafe { define(raw.0, lend(name.as_bytes()), &mut id) };
            if result != abi::METRICS_SUCCESS {
                return 0;
            }
        }
        id
    }

    /// Defines the counter of a name. Call it only while the configuration is being made.
    pub fn counter(&self, name: &str) -> Counter {
        Counter(self.define(name, abi::envoy_dynamic_module_callback_network_filter_config_define_counter))
    }

    /// Defines the gauge of a name. Call it only while the configuration is being made.
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.define(name, abi::envoy_dynamic_module_callback_network_filter_config_define_gauge))
    }

    /// Defines the histogram of a name. Call it only while the configuration is being made.
    pub fn histogram(&self, name: &str) -> Histogram {
        Histogram(self.define(name, abi::envoy_dynamic_module_callback_network_filter_config_define_histogram))
    }

    /// Counts while the configuration is kept from being destroyed. `None`: it is gone, and
    /// `count` wasn't called.
    pub fn with<T>(&self, count: impl FnOnce(&MeterGuard) -> T) -> Option<T> {
        let raw = self.raw.read().unwrap_or_else(PoisonError::into_inner);
        (!raw.0.is_null()).then(|| count(&MeterGuard(raw.0)))
    }
}

impl MeterGuard {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        // SAFETY: the configuration lives while the guard is held. Envoy returns an error for the
        // number of no metric.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_increment_counter(self.0, counter.0, by);
        }
    }

    /// Adds one to a gauge.
    pub fn increment(&self, gauge: Gauge) {
        // SAFETY: the configuration lives while the guard is held. Envoy returns an error for the
        // number of no metric.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_increment_gauge(self.0, gauge.0, 1);
        }
    }

    /// Takes one from a gauge.
    pub fn decrement(&self, gauge: Gauge) {
        // SAFETY: the configuration lives while the guard is held. Envoy returns an error for the
        // number of no metric.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_decrement_gauge(self.0, gauge.0, 1);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, value: u64) {
        // SAFETY: the configuration lives while the guard is held. Envoy returns an error for the
        // number of no metric.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_set_gauge(self.0, gauge.0, value);
        }
    }

    /// Records a value in a histogram.
    pub fn record(&self, histogram: Histogram, value: u64) {
        // SAFETY: the configuration lives while the guard is held. Envoy returns an error for the
        // number of no metric.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_record_histogram_value(self.0, histogram.0, value);
        }
    }
}
