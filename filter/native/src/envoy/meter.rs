//! What a filter's configuration counts in Envoy.

use crate::abi::{self, Opaque};
use std::sync::{PoisonError, RwLock};

/// Envoy's side of a filter's configuration, shared by threads. It may go while others still hold this.
pub struct Meter {
    /// Null: gone.
    raw: RwLock<Raw>,
}

struct Raw(Opaque);

// SAFETY: the functions that are called with it only look at what was defined before the configuration was complete, and
// change numbers that are atomic: any thread may call them while the configuration lives.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

/// A counter. The default is none; counting it does nothing.
#[derive(Clone, Copy, Default)]
pub struct Counter(usize);
/// A gauge; the default is none.
#[derive(Clone, Copy, Default)]
pub struct Gauge(usize);
/// A histogram; the default is none.
#[derive(Clone, Copy, Default)]
pub struct Histogram(usize);

/// A configuration that stays for the moment.
pub struct Reading(Opaque);

/// A function that defines.
type Define = unsafe extern "C" fn(Opaque, abi::Buffer, *mut usize) -> u32;

impl Meter {
    /// # Safety
    /// `raw` is Envoy's configuration of the hook that makes one, and [`Meter::forget`] will be called when Envoy says that it
    /// is no longer needed, at the latest.
    pub unsafe fn new(raw: Opaque) -> Meter {
        Meter { raw: RwLock::new(Raw(raw)) }
    }

    /// Envoy's configuration goes. Waits for those who are using it.
    pub fn forget(&self) {
        self.raw.write().unwrap_or_else(PoisonError::into_inner).0 = std::ptr::null_mut();
    }

    fn define(&self, name: &str, define: Define) -> usize {
        let raw = self.raw.write().unwrap_or_else(PoisonError::into_inner);
        let mut id = 0;
        if !raw.0.is_null() {
            // SAFETY: the configuration lives, and nobody else uses it. Envoy copies the name and refuses what comes too late.
            let result = unsafe { define(raw.0, super::lend(name.as_bytes()), &mut id) };
            if result != abi::METRICS_SUCCESS {
                return 0;
            }
        }
        id
    }

    /// The counter of a name. Only while the configuration is being made.
    pub fn counter(&self, name: &str) -> Counter {
        Counter(self.define(name, abi::envoy_dynamic_module_callback_network_filter_config_define_counter))
    }

    /// The gauge of a name. Only while the configuration is being made.
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.define(name, abi::envoy_dynamic_module_callback_network_filter_config_define_gauge))
    }

    /// The histogram of a name. Only while the configuration is being made.
    pub fn histogram(&self, name: &str) -> Histogram {
        Histogram(self.define(name, abi::envoy_dynamic_module_callback_network_filter_config_define_histogram))
    }

    /// Counts, if the configuration is still there.
    pub fn read<T>(&self, count: impl FnOnce(&Reading) -> T) -> Option<T> {
        let raw = self.raw.read().unwrap_or_else(PoisonError::into_inner);
        (!raw.0.is_null()).then(|| count(&Reading(raw.0)))
    }
}

impl Reading {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        // SAFETY: the configuration lives while this is held. Envoy answers an error for a number that it doesn't know.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_increment_counter(self.0, counter.0, by);
        }
    }

    /// Adds one to a gauge, or takes one away.
    pub fn step(&self, gauge: Gauge, is_up: bool) {
        // SAFETY: as for `add`.
        unsafe {
            if is_up {
                abi::envoy_dynamic_module_callback_network_filter_config_increment_gauge(self.0, gauge.0, 1);
            } else {
                abi::envoy_dynamic_module_callback_network_filter_config_decrement_gauge(self.0, gauge.0, 1);
            }
        }
    }

    /// Puts a value into a histogram.
    pub fn record(&self, histogram: Histogram, value: u64) {
        // SAFETY: as for `add`.
        unsafe {
            abi::envoy_dynamic_module_callback_network_filter_config_record_histogram_value(self.0, histogram.0, value);
        }
    }
}
