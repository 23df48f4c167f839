//! The functions of the ABI that the module calls.

use super::connection::{connection, is_ending};
use super::state::{CALLOUTS, CHOSEN, CROSSED, Callout, HOSTS, LOG, MISSING, RESUMED, text};
use crate::abi::{self, Buffer, Header, Opaque};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buffers are given out in chunks of this many bytes.
const CHUNK: usize = 5;

/// Envoy's side of a waker.
struct Scheduler {
    filter: Opaque,
    wake_ups: Arc<AtomicU64>,
}

fn chunks(buffer: &RefCell<Vec<u8>>) -> Vec<Buffer> {
    buffer.borrow().chunks(CHUNK).map(|chunk| Buffer { data: chunk.as_ptr(), len: chunk.len() }).collect()
}

fn drain(buffer: &RefCell<Vec<u8>>, len: usize) -> bool {
    let mut buffer = buffer.borrow_mut();
    let len = len.min(buffer.len());
    buffer.drain(..len);
    true
}

/// # Safety
/// `out` has room for as many as there are.
unsafe fn give(chunks: &[Buffer], out: *mut Buffer) -> bool {
    // SAFETY: the caller vouches for it.
    unsafe { std::ptr::copy_nonoverlapping(chunks.as_ptr(), out, chunks.len()) };
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_log(_level: u32, message: Buffer) {
    LOG.with_borrow_mut(|log| log.push(text(message)));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size(filter: Opaque) -> usize {
    chunks(&connection(filter).read).len()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks(
    filter: Opaque,
    out: *mut Buffer,
) -> bool {
    // SAFETY: the crate passes room for as many chunks as it has asked for.
    unsafe { give(&chunks(&connection(filter).read), out) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_drain_read_buffer(filter: Opaque, len: usize) -> bool {
    drain(&connection(filter).read, len)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_append_read_buffer(filter: Opaque, data: Buffer) -> bool {
    connection(filter).read.borrow_mut().extend_from_slice(text(data).as_bytes());
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size(filter: Opaque) -> usize {
    chunks(&connection(filter).write).len()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks(
    filter: Opaque,
    out: *mut Buffer,
) -> bool {
    // SAFETY: the crate passes room for as many chunks as it has asked for.
    unsafe { give(&chunks(&connection(filter).write), out) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_drain_write_buffer(filter: Opaque, len: usize) -> bool {
    drain(&connection(filter).write, len)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_inject_write_data(filter: Opaque, data: Buffer, _end: bool) {
    let connection = connection(filter);
    if connection.limit.get() == 1 {
        CROSSED.with_borrow_mut(|crossed| crossed.push(connection.clone()));
    }
    connection.written.borrow_mut().extend_from_slice(text(data).as_bytes());
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_get_buffer_limit(filter: Opaque) -> u32 {
    connection(filter).limit.get()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_set_buffer_limits(filter: Opaque, limit: u32) {
    connection(filter).limit.set(limit);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_inject_read_data(filter: Opaque, data: Buffer, _end: bool) {
    connection(filter).passed.borrow_mut().extend_from_slice(text(data).as_bytes());
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_close(filter: Opaque, _how: u32) {
    connection(filter).close(abi::LOCAL_CLOSE);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_enable_half_close(filter: Opaque, enabled: bool) {
    connection(filter).half_close.set(enabled);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_read_disable(filter: Opaque, disable: bool) -> u32 {
    let connection = connection(filter);
    connection.disabled.set(connection.disabled.get() + if disable { 1 } else { -1 });
    assert!((0..=1).contains(&connection.disabled.get()), "reading is stopped twice, or resumed twice");
    if !disable {
        RESUMED.with_borrow_mut(|resumed| resumed.push(connection));
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_read_enabled(filter: Opaque) -> bool {
    !connection(filter).blocked.get()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_set_filter_state_typed(
    filter: Opaque,
    key: Buffer,
    value: Buffer,
) -> bool {
    connection(filter).state.borrow_mut().push((text(key), text(value)));
    true
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_lb_get_cluster_name(_lb: Opaque, out: *mut Buffer) {
    HOSTS.with_borrow(|(name, _)| {
        // SAFETY: the crate passes a place for the result.
        unsafe { *out = Buffer { data: name.as_ptr(), len: name.len() } };
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_get_cluster_host_count(
    _filter: Opaque,
    cluster: Buffer,
    _priority: u32,
    _total: *mut usize,
    _healthy: *mut usize,
    _degraded: *mut usize,
) -> bool {
    let is_known = HOSTS.with_borrow(|(name, _)| *name == text(cluster));
    if is_known {
        // As Envoy does for a cluster that wasn't used before.
        super::new_policy();
    }
    is_known
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_lb_get_healthy_host_weight(
    _lb: Opaque,
    _priority: u32,
    _index: usize,
) -> u32 {
    1
}

/// # Safety
/// The places can be written to, and `ip` is valid for as long as they are read.
unsafe fn tell_address((address, port): (*mut Buffer, *mut u32), ip: &str, number: u32) -> bool {
    // SAFETY: the caller vouches for it.
    unsafe { (*address, *port) = (Buffer { data: ip.as_ptr(), len: ip.len() }, number) };
    true
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_get_upstream_host_address(
    _filter: Opaque,
    address: *mut Buffer,
    port: *mut u32,
) -> bool {
    CHOSEN.with_borrow(|chosen| match chosen {
        Some((ip, number)) => {
            // SAFETY: the crate passes places for the results.
            unsafe { tell_address((address, port), ip, *number) }
        }
        None => false,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_get_remote_address(
    _filter: Opaque,
    address: *mut Buffer,
    port: *mut u32,
) -> bool {
    // SAFETY: the crate passes places for the results.
    unsafe { tell_address((address, port), "10.0.0.1", 5000) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_get_local_address(
    _filter: Opaque,
    address: *mut Buffer,
    port: *mut u32,
) -> bool {
    // SAFETY: the crate passes places for the results.
    unsafe { tell_address((address, port), "10.0.0.2", 6379) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_lb_get_priority_set_size(_lb: Opaque) -> usize {
    HOSTS.with_borrow(|(_, hosts)| hosts.len())
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_lb_get_healthy_hosts_count(_lb: Opaque, priority: u32) -> usize {
    HOSTS.with_borrow(|(_, hosts)| hosts[priority as usize].len())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_lb_get_healthy_host_address(
    _lb: Opaque,
    priority: u32,
    index: usize,
    out: *mut Buffer,
) -> bool {
    HOSTS.with_borrow(|(_, hosts)| match hosts[priority as usize].get(index) {
        Some(host) => {
            // SAFETY: the crate passes a place for the result.
            unsafe { *out = Buffer { data: host.as_ptr(), len: host.len() } };
            true
        }
        None => false,
    })
}

/// The seven parameters are those of the ABI.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_http_callout(
    filter: Opaque,
    id: *mut u64,
    cluster: Buffer,
    headers: *mut Header,
    headers_len: usize,
    _body: Buffer,
    timeout: u64,
) -> u32 {
    assert_eq!(timeout, 0, "a callout with a timeout would end its connection");
    assert!(!is_ending(), "a callout while Envoy tells of an end, which may be the worker's");
    let (by, cluster) = (connection(filter), text(cluster));
    let number = by.callouts.get() + 1;
    by.callouts.set(number);
    if MISSING.with_borrow(|missing| missing.contains(&cluster)) {
        // As in Envoy, the hook is called before the caller knows the number.
        by.done(number, abi::CALLOUT_ANSWERED, &[]);
        return 4;
    }
    // SAFETY: the crate passes as many headers as it says.
    let path = unsafe { std::slice::from_raw_parts(headers, headers_len) }
        .iter()
        .find(|header| text(Buffer { data: header.key, len: header.key_len }) == ":path")
        .map(|header| text(Buffer { data: header.value, len: header.value_len }));
    let callout = Callout { by, id: number, cluster, path: path.expect("no path") };
    CALLOUTS.with_borrow_mut(|callouts| callouts.push_back(callout));
    // SAFETY: the crate passes a valid pointer.
    unsafe { *id = number };
    abi::CALLOUT_STARTED
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_scheduler_new(filter: Opaque) -> Opaque {
    let connection = connection(filter);
    connection.wakers.set(connection.wakers.get() + 1);
    Box::into_raw(Box::new(Scheduler { filter, wake_ups: connection.wake_ups.clone() })).cast()
}

/// Counts alone: this comes from the timer's thread, and each thread has a stand-in of its own.
/// Tests call the hook themselves.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_scheduler_commit(scheduler: Opaque, _event: u64) {
    // SAFETY: the crate passes a scheduler that it hasn't deleted; this touches nothing but an
    // atomic number.
    unsafe { (*scheduler.cast::<Scheduler>()).wake_ups.fetch_add(1, Ordering::SeqCst) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_network_filter_scheduler_delete(scheduler: Opaque) {
    // SAFETY: the crate deletes a scheduler once.
    let scheduler = unsafe { Box::from_raw(scheduler.cast::<Scheduler>()) };
    let connection = connection(scheduler.filter);
    connection.wakers.set(connection.wakers.get() - 1);
}
