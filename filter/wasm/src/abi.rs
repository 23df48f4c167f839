//! Calls into Envoy. The SDK's wrappers panic on a status that isn't OK, and a panic in a VM
//! closes every connection of its worker, so these functions don't use them.
//!
//! The source is proxy-wasm ABI 0.2.1
//! (<https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>). This is the only file
//! with `unsafe`.

use proxy_wasm::types::BufferType;

mod host {
    use super::BufferType;

    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub fn proxy_get_buffer_bytes(
            buffer_type: BufferType,
            start: usize,
            max_size: usize,
            return_data: *mut *mut u8,
            return_size: *mut usize,
        ) -> u32;
        pub fn proxy_set_buffer_bytes(
            buffer_type: BufferType,
            start: usize,
            size: usize,
            data: *const u8,
            data_size: usize,
        ) -> u32;
        pub fn proxy_set_effective_context(context_id: u32) -> u32;
        pub fn proxy_continue_stream(stream_type: u32) -> u32;
        pub fn proxy_close_stream(stream_type: u32) -> u32;
        pub fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            return_data: *mut *mut u8,
            return_size: *mut usize,
        ) -> u32;
        pub fn proxy_register_shared_queue(name: *const u8, name_size: usize, return_id: *mut u32) -> u32;
        pub fn proxy_enqueue_shared_queue(id: u32, data: *const u8, size: usize) -> u32;
        pub fn proxy_dequeue_shared_queue(id: u32, return_data: *mut *mut u8, return_size: *mut usize) -> u32;
        pub fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, return_id: *mut u32) -> u32;
        pub fn proxy_increment_metric(id: u32, offset: i64) -> u32;
        pub fn proxy_record_metric(id: u32, value: u64) -> u32;
        pub fn proxy_get_current_time_nanoseconds(return_time: *mut u64) -> u32;
    }
}

/// `WasmResult::Ok`.
const OK: u32 = 0;
/// `WasmStreamType::Downstream`.
const DOWNSTREAM: u32 = 2;
/// `MetricType::Counter`.
const COUNTER: u32 = 0;
/// `MetricType::Gauge`.
const GAUGE: u32 = 1;

/// Takes the ownership of a buffer that Envoy has filled.
///
/// # Safety
/// `data` and `size` come from a call that has succeeded, and are taken over once: `data` is null,
/// or this module's `proxy_on_memory_allocate`, which makes a boxed slice of bytes, has allocated
/// it with exactly that size.
unsafe fn owned(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller vouches for a boxed slice of `size` bytes, which has that capacity, and
    // Envoy has written all of it.
    unsafe { Vec::from_raw_parts(data, size, size) }
}

/// The bytes of a buffer from `start`, at most `max`. Empty if Envoy has no such buffer.
pub fn buffer(kind: BufferType, start: usize, max: usize) -> Vec<u8> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: both out-pointers are valid for the call; the result is taken over only on success.
    unsafe {
        match host::proxy_get_buffer_bytes(kind, start, max, &mut data, &mut size) {
            OK => owned(data, size),
            _ => Vec::new(),
        }
    }
}

/// Replaces the first `size` bytes of a buffer. False: Envoy has refused, and nothing has changed.
#[must_use]
pub fn replace(kind: BufferType, size: usize, with: &[u8]) -> bool {
    // SAFETY: the slice outlives the call, which copies it.
    unsafe { host::proxy_set_buffer_bytes(kind, 0, size, with.as_ptr(), with.len()) == OK }
}

/// Replaces all `size` bytes of a buffer by emptying it and appending. [`replace`] prepends, for
/// which Envoy allocates 4 KiB however few the bytes are, and keeps them while a client doesn't
/// read. False: Envoy has refused.
#[must_use]
pub fn replace_all(kind: BufferType, size: usize, with: &[u8]) -> bool {
    let append = || {
        // SAFETY: the slice outlives the call, which copies it. A start beyond the end of the
        // buffer means to append.
        unsafe { host::proxy_set_buffer_bytes(kind, 1, 0, with.as_ptr(), with.len()) == OK }
    };
    replace(kind, size, &[]) && (with.is_empty() || append())
}

/// Makes the calls that follow concern this context, a connection or a root context. False: it is
/// gone.
#[must_use]
pub fn select(context: u32) -> bool {
    // SAFETY: the function takes a number.
    unsafe { host::proxy_set_effective_context(context) == OK }
}

/// Hands the read buffer of the selected connection to the next filter.
pub fn resume() {
    // SAFETY: the function takes a number. Envoy may call `proxy_on_upstream_data` before it
    // returns.
    unsafe { host::proxy_continue_stream(DOWNSTREAM) };
}

/// Closes the selected connection once all written bytes are sent.
pub fn close() {
    // SAFETY: the function takes a number.
    unsafe { host::proxy_close_stream(DOWNSTREAM) };
}

/// Has Envoy tick the root context at this interval; 0 ends the ticks.
pub fn tick_every(milliseconds: u32) {
    // SAFETY: the function takes a number.
    unsafe { host::proxy_set_tick_period_milliseconds(milliseconds) };
}

/// A property (an attribute of Envoy) of the selected connection. `None` if it is empty, absent or
/// not UTF-8.
pub fn property(path: &[&str]) -> Option<String> {
    let path = path.join("\0");
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the path outlives the call; both out-pointers are valid for the call; the result is
    // taken over only on success.
    let value = unsafe {
        match host::proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) {
            OK => owned(data, size),
            _ => return None,
        }
    };
    String::from_utf8(value).ok().filter(|v| !v.is_empty())
}

/// Registers a shared queue, whose items come back to this VM by `on_queue_ready` in a later turn
/// of the worker's event loop.
pub fn queue(name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: the name outlives the call, and the out-pointer is valid.
    let status = unsafe { host::proxy_register_shared_queue(name.as_ptr(), name.len(), &mut id) };
    (status == OK).then_some(id)
}

/// Puts an item into a queue. False: Envoy has refused.
#[must_use]
pub fn enqueue(queue: u32, item: u32) -> bool {
    let bytes = item.to_le_bytes();
    // SAFETY: the bytes outlive the call, which copies them.
    unsafe { host::proxy_enqueue_shared_queue(queue, bytes.as_ptr(), bytes.len()) == OK }
}

/// Takes an item from a queue. `None`: the queue is empty.
pub fn dequeue(queue: u32) -> Option<u32> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: both out-pointers are valid for the call; the result is taken over only on success.
    let bytes = unsafe {
        match host::proxy_dequeue_shared_queue(queue, &mut data, &mut size) {
            OK => owned(data, size),
            _ => return None,
        }
    };
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Defines a counter, or finds the one of that name. `None`: Envoy has refused.
pub fn counter(name: &str) -> Option<u32> {
    metric(COUNTER, name)
}

/// Defines a gauge, or finds the one of that name. `None`: Envoy has refused.
pub fn gauge(name: &str) -> Option<u32> {
    metric(GAUGE, name)
}

fn metric(kind: u32, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: the name outlives the call, and the out-pointer is valid.
    let status = unsafe { host::proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
    (status == OK).then_some(id)
}

/// Sets a gauge.
pub fn record(gauge: u32, value: u64) {
    // SAFETY: the function takes numbers.
    unsafe { host::proxy_record_metric(gauge, value) };
}

/// Adds to a counter.
pub fn increment(counter: u32, by: u64) {
    // SAFETY: the function takes numbers.
    unsafe { host::proxy_increment_metric(counter, by.min(i64::MAX as u64) as i64) };
}

/// Nanoseconds since 1970-01-01.
pub fn unix_nanoseconds() -> u64 {
    let mut time = 0;
    // SAFETY: the out-pointer is valid.
    unsafe { host::proxy_get_current_time_nanoseconds(&mut time) };
    time
}
