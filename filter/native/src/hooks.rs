//! What Envoy calls. Each hook: a guard against panics, a look at the pointer, one call.
//!
//! A panic must not unwind into Envoy. It closes the connection whose hook it was, is counted ([`PANICS`]) and logged, and
//! Envoy lives.

use crate::abi::{self, Buffer, Header, Opaque};
use crate::config::Config;
use crate::envoy::{self, Filter, Level};
use crate::node::Policy;
use crate::{Action, Answer, Instance};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many hooks have panicked.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn guarded<T>(hook: impl FnOnce() -> T) -> Option<T> {
    // Whatever a panic leaves behind is used again only through cells that were released by the unwinding.
    let result = catch_unwind(AssertUnwindSafe(hook));
    if result.is_err() {
        let count = PANICS.fetch_add(1, Ordering::Relaxed) + 1;
        envoy::log(
            Level::Error,
            &format!("redis-mesh: a hook has panicked (the {count}. time): its connection is closed"),
        );
    }
    result.ok()
}

/// Runs a hook of a connection. On a panic the connection is closed and `otherwise` returned.
///
/// # Safety
/// `module` is what `on_network_filter_new` returned, and `on_network_filter_destroy` hasn't been called with it.
unsafe fn on<T>(module: Opaque, otherwise: T, hook: impl FnOnce(&Instance) -> T) -> T {
    let module: *const Instance = module.cast();
    // SAFETY: by the above it is null or points to a living instance. The clone keeps what it holds alive until the hook is
    // over, even if Envoy should destroy the instance meanwhile.
    let Some(instance) = (unsafe { module.as_ref() }).cloned() else {
        return otherwise;
    };
    guarded(|| hook(&instance)).unwrap_or_else(|| {
        guarded(|| instance.metrics().panicked());
        guarded(|| instance.filter().abort());
        otherwise
    })
}

fn status(action: Action) -> u32 {
    match action {
        Action::Continue => abi::CONTINUE,
        Action::Stop => abi::STOP,
    }
}

/// The first call. The answer is the ABI's version, which Envoy compares with its own and refuses with both named.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const std::ffi::c_char {
    abi::VERSION.as_ptr()
}

/// A filter is configured. Null: it is refused; the reason is in the log.
///
/// # Safety
/// `name` and `config` are valid for the call; `envoy` is Envoy's configuration, until `on_network_filter_config_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    envoy: Opaque,
    name: Buffer,
    config: Buffer,
) -> *const Config {
    // SAFETY: the hook that destroys it has it forgotten; where it is refused, nobody keeps it.
    let meter = unsafe { envoy::Meter::new(envoy) };
    // SAFETY: both are valid for the call, and what `Config::new` calls in Envoy changes neither.
    let (name, config) = unsafe { (envoy::bytes(name), envoy::bytes(config)) };
    let config = guarded(|| match Config::new(meter, name, config) {
        Ok(config) => Some(config),
        Err(reason) => {
            envoy::log(Level::Error, &format!("redis-mesh: configuration refused: {reason}"));
            None
        }
    });
    config.flatten().map_or(std::ptr::null(), |config| Box::into_raw(Box::new(config)))
}

/// A configuration is no longer needed.
///
/// # Safety
/// `config` comes from `on_network_filter_config_new` and isn't used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_destroy(config: *mut Config) {
    if !config.is_null() {
        // SAFETY: it was made by `Box::into_raw` and is given back once.
        let config = unsafe { Box::from_raw(config) };
        // Whatever happens then: nobody may reach Envoy's configuration from here on.
        config.forget();
        guarded(|| drop(config));
    }
}

/// A connection begins. Null: Envoy closes it.
///
/// # Safety
/// `config` comes from `on_network_filter_config_new`; `filter` is Envoy's filter, on its own thread, until
/// `on_network_filter_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new(
    config: *const Config,
    filter: Opaque,
) -> *const Instance {
    // SAFETY: a configuration outlives its filters.
    let Some(config) = (unsafe { config.as_ref() }) else {
        return std::ptr::null();
    };
    // SAFETY: `on_network_filter_destroy` has the handle forget the filter.
    let filter = unsafe { Filter::new(filter) };
    guarded(|| Instance::new(config, filter)).map_or(std::ptr::null(), |instance| Box::into_raw(Box::new(instance)))
}

/// The connection's filters are being deleted.
///
/// # Safety
/// `module` comes from `on_network_filter_new` and isn't used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(module: *mut Instance) {
    if module.is_null() {
        return;
    }
    // SAFETY: it was made by `Box::into_raw` and is given back once.
    let instance = unsafe { Box::from_raw(module) };
    guarded(|| instance.closed());
    // Whatever happened above: nobody may reach Envoy's filter from here on.
    instance.filter().forget();
}

/// The connection is there.
///
/// # Safety
/// See [`on`]. The same holds for all hooks below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new_connection(_envoy: Opaque, module: Opaque) -> u32 {
    // SAFETY: passed on to the caller.
    unsafe { on(module, abi::STOP, |instance| status(instance.new_connection())) }
}

/// Bytes from the peer are in the read buffer.
///
/// # Safety
/// See above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_read(
    _envoy: Opaque,
    module: Opaque,
    len: usize,
    end_stream: bool,
) -> u32 {
    // SAFETY: passed on to the caller.
    unsafe { on(module, abi::STOP, |instance| status(instance.read(len, end_stream))) }
}

/// Bytes for the peer are in the write buffer.
///
/// # Safety
/// See above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_write(
    _envoy: Opaque,
    module: Opaque,
    _len: usize,
    _end_stream: bool,
) -> u32 {
    // SAFETY: passed on to the caller.
    unsafe { on(module, abi::STOP, |instance| status(instance.write())) }
}

/// The connection has changed its state.
///
/// # Safety
/// See above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_event(_envoy: Opaque, module: Opaque, event: u32) {
    if matches!(event, abi::REMOTE_CLOSE | abi::LOCAL_CLOSE) {
        // SAFETY: passed on to the caller.
        unsafe { on(module, (), Instance::closed) }
    }
}

/// A callout of this filter has ended.
///
/// # Safety
/// See above; `headers` points to `headers_len` valid headers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_http_callout_done(
    _envoy: Opaque,
    module: Opaque,
    id: u64,
    result: u32,
    headers: *const Header,
    headers_len: usize,
    _body: *const Buffer,
    _body_len: usize,
) {
    let headers: &[Header] = if headers.is_null() {
        &[]
    } else {
        // SAFETY: passed on to the caller.
        unsafe { std::slice::from_raw_parts(headers, headers_len) }
    };
    let is_ok = |header: &Header| {
        // SAFETY: names and values are valid for the call, and nothing is called before they are compared.
        unsafe {
            envoy::bytes(Buffer { data: header.key, len: header.key_len }) == b":status"
                && envoy::bytes(Buffer { data: header.value, len: header.value_len }) == b"200"
        }
    };
    let answer = match result {
        abi::CALLOUT_ANSWERED if headers.iter().any(is_ok) => Answer::Ok,
        _ => Answer::Failed,
    };
    // SAFETY: passed on to the caller.
    unsafe { on(module, (), |instance| instance.callout_done(id, answer)) }
}

/// [`envoy::Waker::wake`] has been called.
///
/// # Safety
/// See above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_scheduled(_envoy: Opaque, module: Opaque, _event: u64) {
    // SAFETY: passed on to the caller.
    unsafe { on(module, (), |_| crate::worker::tick()) }
}

/// Events of a configuration; this module schedules none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_network_filter_config_scheduled(_config: Opaque, _event: u64) {}

/// What was written to the peer waits above the high watermark.
///
/// # Safety
/// See above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(
    _envoy: Opaque,
    module: Opaque,
) {
    // SAFETY: passed on to the caller.
    unsafe { on(module, (), |instance| instance.full(true)) }
}

/// What was written to the peer is below the low watermark again.
///
/// # Safety
/// See above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(
    _envoy: Opaque,
    module: Opaque,
) {
    // SAFETY: passed on to the caller.
    unsafe { on(module, (), |instance| instance.full(false)) }
}

/// A load-balancing policy is configured. Null: there is none of that name.
///
/// # Safety
/// `name` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_config_new(
    _envoy: Opaque,
    name: Buffer,
    _config: Buffer,
) -> *const std::ffi::c_void {
    // SAFETY: it is valid for the call, and Envoy isn't called before it is compared.
    if unsafe { envoy::bytes(name) } == crate::node::NAME {
        // It has no configuration; anything but null will do.
        return (&raw const PANICS).cast();
    }
    envoy::log(Level::Error, "redis-mesh: the module has one load-balancing policy, \"node\"");
    std::ptr::null()
}

/// A policy's configuration is no longer needed; it is nothing of its own.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_lb_config_destroy(_config: Opaque) {}

/// A worker gets its part of a policy.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_lb_new(_config: Opaque, _envoy: Opaque) -> *const Policy {
    Box::into_raw(Box::default())
}

/// A worker's part of a policy is no longer needed.
///
/// # Safety
/// `policy` comes from `on_lb_new` and isn't used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_destroy(policy: *mut Policy) {
    if !policy.is_null() {
        // SAFETY: it was made by `Box::into_raw` and is given back once.
        drop(unsafe { Box::from_raw(policy) });
    }
}

/// A connection needs a host. False: there is none for it, and the connection fails.
///
/// # Safety
/// `policy` comes from `on_lb_new`; `lb` is Envoy's load balancer on its thread; the results can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_choose_host(
    lb: Opaque,
    policy: *const Policy,
    _context: Opaque,
    priority: *mut u32,
    index: *mut u32,
) -> bool {
    // SAFETY: by the above it is null or points to a living policy, and the load balancer isn't used after this call.
    let (Some(policy), hosts) = (unsafe { (policy.as_ref(), envoy::Hosts::new(lb)) }) else {
        return false;
    };
    let Some(chosen) = guarded(|| policy.choose(&hosts)).flatten() else {
        return false;
    };
    // SAFETY: they are places for the result.
    unsafe { (*priority, *index) = chosen };
    true
}

/// Hosts have come or gone; the policy looks at them anew each time.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_lb_on_host_membership_update(
    _lb: Opaque,
    _policy: Opaque,
    _added: usize,
    _removed: usize,
) {
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    #[test]
    fn a_panic_closes_its_connection_and_no_other() {
        let _end = standin::End;
        let config = standin::configure("anchor", "");
        let (a, b) = (standin::connect("redis_anchor", config), standin::connect("redis_anchor", config));
        let before = PANICS.load(Ordering::Relaxed);
        // SAFETY: the connection isn't destroyed.
        assert_eq!(unsafe { on(a.module(), 7, |_| panic!("on purpose")) }, 7);
        assert_eq!((a.closed.get(), b.closed.get()), (true, false));
        assert_eq!(PANICS.load(Ordering::Relaxed), before + 1);
        assert!(standin::log().iter().any(|line| line.contains("a hook has panicked")));
        assert_eq!(standin::metric("module_panics_total"), 1);
        a.destroy();
        b.destroy();
        assert_eq!(standin::living(), 0);
    }

    #[test]
    fn nothing_is_no_connection() {
        // SAFETY: null is what these make of a refusal.
        unsafe {
            assert_eq!(on(std::ptr::null_mut(), 7, |_| 8), 7);
            assert!(envoy_dynamic_module_on_network_filter_new(std::ptr::null(), std::ptr::null_mut()).is_null());
            envoy_dynamic_module_on_network_filter_destroy(std::ptr::null_mut());
            envoy_dynamic_module_on_network_filter_config_destroy(std::ptr::null_mut());
        }
        assert!(standin::configure("nothing", "").is_null());
    }
}
