//! The functions that Envoy calls. Each has a guard against panics, a check for null pointers, and
//! one call.
//!
//! A panic must not unwind into Envoy. It closes the connection whose hook has panicked, and is
//! counted and logged; all other connections go on.

use crate::abi::{self, Buffer, Header, Opaque};
use crate::config::FilterKind;
use crate::envoy::{self, ClusterHosts, FilterHandle, LogLevel, Meter};
use crate::filter::FilterInstance;
use crate::filter::verdict::{Action, CalloutResult};
use crate::node::{self, NodePolicy};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of panics in hooks since the process started.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Calls `hook` and catches a panic, for which it returns `None`.
fn guarded<T>(hook: impl FnOnce() -> T) -> Option<T> {
    // Unwind safe: state that a panic leaves behind is reached only through cells and locks, which
    // unwinding releases.
    let result = catch_unwind(AssertUnwindSafe(hook));
    if result.is_err() {
        let count = PANICS.fetch_add(1, Ordering::Relaxed) + 1;
        let message = format!("redis-mesh: a hook has panicked, its connection is closed (panics so far: {count})");
        envoy::log(LogLevel::Error, &message);
    }
    result.ok()
}

/// Runs a hook of a connection. If it panics, or if `module` is null, `otherwise` is returned; a
/// panic closes the connection.
///
/// # Safety
/// `module` is null, or `on_network_filter_new` has returned it and `on_network_filter_destroy`
/// hasn't been called with it.
unsafe fn on<T>(module: Opaque, otherwise: T, hook: impl FnOnce(&FilterInstance) -> T) -> T {
    let module: *const FilterInstance = module.cast();
    // SAFETY: by the contract it is null or points to a living instance. The clone keeps the
    // filter alive until the hook returns, even if Envoy should destroy the instance meanwhile.
    let Some(instance) = (unsafe { module.as_ref() }).cloned() else {
        return otherwise;
    };
    guarded(|| hook(&instance)).unwrap_or_else(|| {
        guarded(|| instance.metrics().panicked());
        guarded(|| instance.handle().abort());
        otherwise
    })
}

fn status(action: Action) -> u32 {
    match action {
        Action::Continue => abi::CONTINUE,
        Action::Stop => abi::STOP,
    }
}

/// The first call. Returns the version of the ABI, which Envoy compares with its own; it refuses
/// the module if they differ.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const std::ffi::c_char {
    abi::VERSION.as_ptr()
}

/// A filter is configured. Null: the configuration is refused, for a reason that is in the log.
///
/// # Safety
/// `name` and `config` are valid for the call; `envoy` is Envoy's configuration and lives until
/// `on_network_filter_config_destroy`, or until this returns null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    envoy: Opaque,
    name: Buffer,
    config: Buffer,
) -> *const FilterKind {
    let configured = guarded(|| {
        // SAFETY: the hook that destroys the configuration has the meter forget it; a refused one
        // leaves no meter behind.
        let meter = unsafe { Meter::new(envoy) };
        // SAFETY: both are valid for the call, and defining metrics in Envoy changes neither.
        let (name, config) = unsafe { (envoy::bytes(name), envoy::bytes(config)) };
        match FilterKind::new(meter, name, config) {
            Ok(kind) => Box::into_raw(Box::new(kind)).cast_const(),
            Err(reason) => {
                envoy::log(LogLevel::Error, &format!("redis-mesh: configuration refused: {reason}"));
                std::ptr::null()
            }
        }
    });
    configured.unwrap_or(std::ptr::null())
}

/// A configuration is no longer needed.
///
/// # Safety
/// `config` is null, or comes from `on_network_filter_config_new` and isn't used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_destroy(config: *mut FilterKind) {
    guarded(|| {
        if config.is_null() {
            return;
        }
        // SAFETY: `Box::into_raw` has made it, and it is given back once.
        let kind = unsafe { Box::from_raw(config) };
        // Metrics may outlive the configuration; they must not reach Envoy's side of it any more.
        kind.forget();
    });
}

/// A connection begins. Null: Envoy closes it.
///
/// # Safety
/// `config` is null or comes from `on_network_filter_config_new`, and lives during this call;
/// `filter` is Envoy's filter, on its own thread, and lives until `on_network_filter_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new(
    config: *const FilterKind,
    filter: Opaque,
) -> *const FilterInstance {
    let instance = guarded(|| {
        // SAFETY: by the contract it is null or points to a living configuration.
        let kind = unsafe { config.as_ref() }?;
        // SAFETY: `on_network_filter_destroy` has the handle forget the filter.
        let handle = unsafe { FilterHandle::new(filter) };
        Some(Box::into_raw(Box::new(FilterInstance::new(kind, handle))).cast_const())
    });
    instance.flatten().unwrap_or(std::ptr::null())
}

/// The connection's filters are being deleted.
///
/// # Safety
/// `module` is null, or comes from `on_network_filter_new` and isn't used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(module: *mut FilterInstance) {
    if module.is_null() {
        return;
    }
    // SAFETY: `Box::into_raw` has made it, and it is given back once.
    let instance = unsafe { Box::from_raw(module) };
    guarded(|| instance.closed());
    // Also after a panic: clones of the instance must not reach Envoy's filter any more.
    instance.handle().forget();
}

/// The connection is established.
///
/// # Safety
/// See [`on`]. The same holds for all hooks of connections below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new_connection(_envoy: Opaque, module: Opaque) -> u32 {
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, abi::STOP, |instance| status(instance.new_connection())) }
}

/// The read buffer holds `len` bytes from the peer; `end_stream`: they are its last.
///
/// # Safety
/// See [`on`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_read(
    _envoy: Opaque,
    module: Opaque,
    len: usize,
    end_stream: bool,
) -> u32 {
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, abi::STOP, |instance| status(instance.read(len, end_stream))) }
}

/// The write buffer holds bytes for the peer; `end_stream`: they are the last ones.
///
/// # Safety
/// See [`on`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_write(
    _envoy: Opaque,
    module: Opaque,
    _len: usize,
    end_stream: bool,
) -> u32 {
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, abi::STOP, |instance| status(instance.write(end_stream))) }
}

/// The connection has changed its state.
///
/// # Safety
/// See [`on`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_event(_envoy: Opaque, module: Opaque, event: u32) {
    if matches!(event, abi::REMOTE_CLOSE | abi::LOCAL_CLOSE) {
        // SAFETY: this hook has the contract of `on`.
        unsafe { on(module, (), FilterInstance::closed) }
    }
}

/// A callout of this filter has ended. (The eight parameters are those of the ABI.)
///
/// # Safety
/// See [`on`]; `headers` is null or points to `headers_len` headers that are valid for the call.
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
    // SAFETY: by the contract the headers are valid for the call.
    let has_succeeded = || result == abi::CALLOUT_ANSWERED && unsafe { envoy::has_status_200(headers, headers_len) };
    let callout_result = || if has_succeeded() { CalloutResult::Ok } else { CalloutResult::Failed };
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, (), |instance| instance.callout_done(id, callout_result())) }
}

/// Some thread has called [`envoy::Waker::wake`].
///
/// # Safety
/// See [`on`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_scheduled(_envoy: Opaque, module: Opaque, _event: u64) {
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, (), |_| crate::worker::tick()) }
}

/// A scheduled event of a configuration has come. This module schedules none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_network_filter_config_scheduled(_config: Opaque, _event: u64) {}

/// The connection's write buffer has passed its high watermark.
///
/// # Safety
/// See [`on`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(
    _envoy: Opaque,
    module: Opaque,
) {
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, (), |instance| instance.write_buffer_full(true)) }
}

/// The connection's write buffer has come below its low watermark.
///
/// # Safety
/// See [`on`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(
    _envoy: Opaque,
    module: Opaque,
) {
    // SAFETY: this hook has the contract of `on`.
    unsafe { on(module, (), |instance| instance.write_buffer_full(false)) }
}

/// A load-balancing policy is configured. Null: the module has no policy of that name.
///
/// # Safety
/// `name` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_config_new(
    _envoy: Opaque,
    name: Buffer,
    _config: Buffer,
) -> *const std::ffi::c_void {
    let configured = guarded(|| {
        // SAFETY: the name is valid for the call, and Envoy isn't called before it is compared.
        if unsafe { envoy::bytes(name) } == node::NAME {
            // The policy has no configuration, and Envoy only wants a pointer that isn't null.
            return (&raw const PANICS).cast();
        }
        envoy::log(LogLevel::Error, "redis-mesh: the only load-balancing policy of the module is \"node\"");
        std::ptr::null()
    });
    configured.unwrap_or(std::ptr::null())
}

/// A policy's configuration is no longer needed. It owns nothing.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_lb_config_destroy(_config: Opaque) {}

/// A worker gets its instance of a cluster's policy.
///
/// # Safety
/// `lb` is Envoy's load balancer on its own thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_new(_config: Opaque, lb: Opaque) -> *const NodePolicy {
    let policy = guarded(|| {
        // SAFETY: this hook has the contract of `tell_members`.
        unsafe { tell_members(lb) };
        Box::into_raw(Box::<NodePolicy>::default()).cast_const()
    });
    policy.unwrap_or(std::ptr::null())
}

/// Tells the worker the hosts that a load balancer has.
///
/// # Safety
/// `lb` is Envoy's load balancer of the hook that is running, on its own thread.
unsafe fn tell_members(lb: Opaque) {
    // SAFETY: by the contract; the hosts aren't used after this call.
    let hosts = unsafe { ClusterHosts::new(lb) };
    let (cluster, members) = (hosts.cluster(), hosts.members());
    crate::worker::input(|multiplexer, now| multiplexer.borrow_mut().set_members(&cluster, members, now));
}

/// A worker's instance of a policy is no longer needed.
///
/// # Safety
/// `policy` is null, or comes from `on_lb_new` and isn't used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_destroy(policy: *mut NodePolicy) {
    guarded(|| {
        if !policy.is_null() {
            // SAFETY: `Box::into_raw` has made it, and it is given back once.
            drop(unsafe { Box::from_raw(policy) });
        }
    });
}

/// A connection needs a host. False: there is no suitable host, and the connection fails.
///
/// # Safety
/// `policy` is null or comes from `on_lb_new` and is alive; `lb` is Envoy's load balancer on its
/// own thread; `priority` and `index` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_choose_host(
    lb: Opaque,
    policy: *const NodePolicy,
    _context: Opaque,
    priority: *mut u32,
    index: *mut u32,
) -> bool {
    let chosen = guarded(|| {
        // SAFETY: by the contract it is null or points to a living policy.
        let policy = unsafe { policy.as_ref() }?;
        // SAFETY: the load balancer is the one of this hook, on its own thread, and isn't used
        // after this call.
        let hosts = unsafe { ClusterHosts::new(lb) };
        let chosen = policy.choose(&hosts);
        if chosen.is_none() && hosts.priorities() > 0 {
            // The address of a host may have changed, of which Envoy tells nobody: a cluster of type
            // LOGICAL_DNS has one host whatever its address.
            // SAFETY: this hook has the contract of `tell_members`.
            unsafe { tell_members(lb) };
        }
        chosen
    });
    let Some(chosen) = chosen.flatten() else { return false };
    // SAFETY: by the contract both can be written to.
    unsafe { (*priority, *index) = chosen };
    true
}

/// Hosts have come or gone, or the health of some has changed. The policy asks for the hosts each
/// time it chooses one; the worker has to be told.
///
/// # Safety
/// `lb` is Envoy's load balancer on its own thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_lb_on_host_membership_update(
    lb: Opaque,
    _policy: Opaque,
    _added: usize,
    _removed: usize,
) {
    // SAFETY: this hook has the contract of `tell_members`.
    guarded(|| unsafe { tell_members(lb) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    #[test]
    fn a_panic_closes_its_connection_and_no_other() {
        let _end = standin::begin();
        let config = standin::configure("anchor", "");
        let (a, b) = (standin::connect("redis_anchor", config), standin::connect("redis_anchor", config));
        let before = PANICS.load(Ordering::Relaxed);
        // SAFETY: the connection isn't destroyed before the end of the test.
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
    fn null_pointers_are_no_objects() {
        // SAFETY: each of these functions allows a null pointer.
        unsafe {
            assert_eq!(on(std::ptr::null_mut(), 7, |_| 8), 7);
            assert!(envoy_dynamic_module_on_network_filter_new(std::ptr::null(), std::ptr::null_mut()).is_null());
            envoy_dynamic_module_on_network_filter_destroy(std::ptr::null_mut());
            envoy_dynamic_module_on_network_filter_config_destroy(std::ptr::null_mut());
            envoy_dynamic_module_on_lb_destroy(std::ptr::null_mut());
            let (mut priority, mut index) = (3, 3);
            let null = std::ptr::null_mut();
            assert!(!envoy_dynamic_module_on_lb_choose_host(null, null.cast(), null, &mut priority, &mut index));
            assert_eq!((priority, index), (3, 3));
        }
        assert!(standin::configure("nothing", "").is_null());
    }
}
