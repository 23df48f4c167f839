//! Safe handles of what Envoy lends: a connection's filter, and a way back to it from another thread.

mod meter;

pub use meter::{Counter, Gauge, Histogram, Meter, Reading};

use crate::abi::{self, Buffer, Header, Opaque};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, Multiplexer};
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Envoy's side of one filter instance. It is bound to its thread, and every method is without effect once the connection
/// is [`Filter::gone`].
pub struct Filter {
    /// Null: gone.
    raw: Cell<Opaque>,
}

/// What [`Filter::read`] has done.
pub struct Read {
    /// Some bytes weren't taken; they are still in Envoy's buffer.
    pub left: bool,
    /// How many were.
    pub taken: usize,
}

/// The level of a line in Envoy's log.
pub enum Level {
    /// Something an operator may want to know.
    Info,
    /// Something that is wrong.
    Error,
}

fn lend(bytes: &[u8]) -> Buffer {
    Buffer { data: bytes.as_ptr(), len: bytes.len() }
}

/// Writes a line to Envoy's log.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Info => abi::INFO,
        Level::Error => abi::ERROR,
    };
    // SAFETY: the message outlives the call, which copies it. Any thread may log.
    unsafe { abi::envoy_dynamic_module_callback_log(level, lend(message.as_bytes())) }
}

/// The bytes of a buffer that came from Envoy.
///
/// # Safety
/// Envoy must have given out the buffer, and must not be called while the result is in use: a call may change what is there.
pub unsafe fn bytes<'a>(buffer: Buffer) -> &'a [u8] {
    if buffer.data.is_null() || buffer.len == 0 {
        return &[];
    }
    // SAFETY: by the above, `len` bytes stand there and nothing changes them.
    unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) }
}

/// The hosts of a cluster, as its load balancer on this worker sees them during one call.
pub struct Hosts {
    raw: Opaque,
}

impl Hosts {
    /// # Safety
    /// `raw` is Envoy's load balancer of the hook that is being called, on its thread; the result isn't kept beyond that hook.
    pub unsafe fn new(raw: Opaque) -> Hosts {
        Hosts { raw }
    }

    /// True if this is the name of their cluster.
    pub fn are_of(&self, cluster: &str) -> bool {
        let mut name = NO_CHUNK;
        // SAFETY: the load balancer is alive. What it gives out is valid until it is called again, which isn't before it is
        // compared.
        unsafe {
            abi::envoy_dynamic_module_callback_lb_get_cluster_name(self.raw, &mut name);
            bytes(name) == cluster.as_bytes()
        }
    }

    /// How many priorities there are.
    pub fn priorities(&self) -> u32 {
        // SAFETY: the load balancer is alive.
        unsafe { abi::envoy_dynamic_module_callback_lb_get_priority_set_size(self.raw) as u32 }
    }

    /// How many healthy hosts a priority has.
    pub fn healthy(&self, priority: u32) -> usize {
        // SAFETY: the load balancer is alive.
        unsafe { abi::envoy_dynamic_module_callback_lb_get_healthy_hosts_count(self.raw, priority) }
    }

    /// True if this is the address of a priority's healthy host.
    pub fn is_at(&self, priority: u32, index: usize, address: &str) -> bool {
        let mut found = NO_CHUNK;
        // SAFETY: the load balancer is alive, and answers false for a host that isn't there. What it gives out is valid until
        // it is called again, which isn't before it is compared.
        unsafe {
            abi::envoy_dynamic_module_callback_lb_get_healthy_host_address(self.raw, priority, index, &mut found)
                && bytes(found) == address.as_bytes()
        }
    }
}

thread_local! {
    /// Reused for the list of a buffer's chunks.
    static CHUNKS: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

const NO_CHUNK: Buffer = Buffer { data: std::ptr::null(), len: 0 };

impl Filter {
    /// # Safety
    /// `raw` is the pointer that Envoy passed when it created the filter, and [`Filter::forget`] will be called in its destroy
    /// hook at the latest.
    pub unsafe fn new(raw: Opaque) -> Filter {
        Filter { raw: Cell::new(raw) }
    }

    /// No method reaches Envoy any more.
    pub fn forget(&self) {
        self.raw.set(std::ptr::null_mut());
    }

    /// True if the connection is over.
    pub fn gone(&self) -> bool {
        self.raw.get().is_null()
    }

    /// Calls Envoy, if the filter is still there.
    fn call<T>(&self, call: impl FnOnce(Opaque) -> T) -> Option<T> {
        let raw = self.raw.get();
        (!raw.is_null()).then(|| call(raw))
    }

    /// Hands each chunk of a buffer to `take` until one isn't taken whole. Returns how many bytes were taken, and whether
    /// some are left.
    ///
    /// # Safety
    /// `size` and `chunks` are the two functions for one buffer of `raw`, that buffer is valid, and `take` doesn't call Envoy.
    unsafe fn chunks(
        raw: Opaque,
        size: unsafe extern "C" fn(Opaque) -> usize,
        chunks: unsafe extern "C" fn(Opaque, *mut Buffer) -> bool,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> (usize, bool) {
        let mut list = CHUNKS.take();
        list.clear();
        // SAFETY: the filter is alive, as the caller says. Envoy writes exactly `size` entries; nothing changes the buffer
        // between the two calls.
        let filled = unsafe {
            list.resize(size(raw), NO_CHUNK);
            chunks(raw, list.as_mut_ptr())
        };
        let (mut taken, mut left) = (0, false);
        if filled {
            for chunk in &list {
                // SAFETY: Envoy has just given it out, and `take` doesn't call Envoy.
                let chunk = unsafe { bytes(*chunk) };
                let n = take(chunk).min(chunk.len());
                taken += n;
                if n < chunk.len() {
                    left = true;
                    break;
                }
            }
        }
        CHUNKS.set(list);
        (taken, left)
    }

    /// Feeds a client's bytes to the proxy and drops those that it takes. Only within the read hook.
    pub fn read(&self, proxy: &RefCell<Multiplexer>, client: ClientId, now: Duration) -> Read {
        let mut proxy = proxy.borrow_mut();
        let read = self.call(|raw| {
            // SAFETY: within the read hook the read buffer is valid; the proxy has no way to call Envoy.
            unsafe {
                let (taken, left) = Filter::chunks(
                    raw,
                    abi::envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size,
                    abi::envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks,
                    |chunk| proxy.read(client, chunk, now),
                );
                abi::envoy_dynamic_module_callback_network_filter_drain_read_buffer(raw, taken);
                Read { left, taken }
            }
        });
        read.unwrap_or(Read { left: false, taken: 0 })
    }

    /// Feeds what an upstream has sent to the proxy and drops it: nobody behind this filter gets it. Only within the write
    /// hook: Envoy keeps the address of a buffer that may be on its stack.
    pub fn reply(&self, proxy: &RefCell<Multiplexer>, carrier: ConnectionId, now: Duration) {
        let mut proxy = proxy.borrow_mut();
        self.call(|raw| {
            // SAFETY: within the write hook the write buffer is valid; the proxy has no way to call Envoy.
            unsafe {
                let (taken, _) = Filter::chunks(
                    raw,
                    abi::envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size,
                    abi::envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks,
                    |chunk| {
                        proxy.reply(carrier, chunk, now);
                        chunk.len()
                    },
                );
                abi::envoy_dynamic_module_callback_network_filter_drain_write_buffer(raw, taken);
            }
        });
    }

    /// Copies the read buffer. Only within the read hook.
    pub fn peek_read(&self) -> Vec<u8> {
        let mut all = Vec::new();
        self.call(|raw| {
            // SAFETY: within the read hook the read buffer is valid; a copy doesn't call Envoy.
            unsafe {
                Filter::chunks(
                    raw,
                    abi::envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size,
                    abi::envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks,
                    |chunk| {
                        all.extend_from_slice(chunk);
                        chunk.len()
                    },
                )
            }
        });
        all
    }

    /// Drops bytes from the beginning of the read buffer. Only within the read hook.
    pub fn drain_read(&self, len: usize) {
        // SAFETY: the filter is alive; Envoy drops no more than there is.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_drain_read_buffer(raw, len) });
    }

    /// Drops what is about to be written. Only within the write hook.
    pub fn drain_write(&self) {
        // SAFETY: the filter is alive; Envoy drops no more than there is.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_drain_write_buffer(raw, usize::MAX);
        });
    }

    /// Adds to the read buffer, so that the next filter reads it when this one lets it go on. Only within the read hook.
    pub fn append_read(&self, data: &[u8]) {
        // SAFETY: the filter is alive and its read buffer valid; Envoy copies the bytes.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_append_read_buffer(raw, lend(data));
        });
    }

    /// Writes to the peer of this connection, by way of the filters between it and this one. Envoy may call this filter's watermark
    /// hooks before it returns.
    pub fn write(&self, data: &[u8]) {
        // SAFETY: the filter is alive; Envoy copies the bytes.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_inject_write_data(raw, lend(data), false);
        });
    }

    /// Gives bytes to the next filter as if they had been read. Envoy heeds no limit here.
    pub fn inject_read(&self, data: &[u8]) {
        // SAFETY: the filter is alive; Envoy copies the bytes.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_inject_read_data(raw, lend(data), false);
        });
    }

    /// Closes the connection once what was written is out. Envoy calls the event hook, perhaps before it returns.
    pub fn close(&self) {
        // SAFETY: the filter is alive, and stays so: Envoy deletes it in a later turn of the event loop.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_close(raw, abi::FLUSH_WRITE) });
    }

    /// Closes the connection at once.
    pub fn abort(&self) {
        // SAFETY: as for `close`.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_close(raw, abi::NO_FLUSH) });
    }

    /// When the peer says nothing more, the read hook says so, and the connection stays.
    pub fn enable_half_close(&self) {
        // SAFETY: the filter is alive.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_enable_half_close(raw, true) });
    }

    /// Stops reading from the connection, or goes on: then the read hook is called again with all that the buffer holds, in a
    /// later turn of the event loop. Envoy counts the calls.
    pub fn read_disable(&self, disable: bool) {
        // SAFETY: the filter is alive.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_read_disable(raw, disable) });
    }

    /// False while somebody has stopped reading from this connection, such as a filter whose upstream is full.
    pub fn read_enabled(&self) -> bool {
        // SAFETY: the filter is alive.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_read_enabled(raw) }).unwrap_or(false)
    }

    /// Sets a filter state object that Envoy makes of the text. False: Envoy knows no such object, or it is set already.
    #[must_use]
    pub fn set_filter_state(&self, key: &str, value: &str) -> bool {
        // SAFETY: the filter is alive; Envoy copies both.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_set_filter_state_typed(
                raw,
                lend(key.as_bytes()),
                lend(value.as_bytes()),
            )
        })
        .unwrap_or(false)
    }

    /// Sends `POST path` to a cluster, without a timeout. The answer comes to the hook of callouts with this number, unless
    /// the connection ends first. `None`: it isn't sent; Envoy may have called the hook before this returns.
    #[must_use]
    pub fn post(&self, cluster: &str, path: &str) -> Option<u64> {
        let header = |key: &'static str, value: &str| Header {
            key: key.as_ptr(),
            key_len: key.len(),
            value: value.as_ptr(),
            value_len: value.len(),
        };
        let mut headers = [header(":method", "POST"), header(":path", path), header("host", cluster)];
        let mut id = 0;
        let result = self.call(|raw| {
            // SAFETY: the filter is alive; Envoy copies everything but `id`, which it writes before it returns.
            unsafe {
                abi::envoy_dynamic_module_callback_network_filter_http_callout(
                    raw,
                    &mut id,
                    lend(cluster.as_bytes()),
                    headers.as_mut_ptr(),
                    headers.len(),
                    lend(&[]),
                    0,
                )
            }
        });
        (result == Some(abi::CALLOUT_STARTED)).then_some(id)
    }

    /// A way to have this filter's scheduled hook called from any thread. It has to be dropped in the destroy hook at the
    /// latest, since Envoy's event loop may end soon after.
    pub fn waker(&self) -> Option<Waker> {
        // SAFETY: the filter is alive, and this is its thread.
        let raw = self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_scheduler_new(raw) })?;
        (!raw.is_null()).then_some(Waker { raw })
    }
}

/// See [`Filter::waker`].
pub struct Waker {
    raw: Opaque,
}

// SAFETY: Envoy's scheduler is made to be used by other threads: it holds a weak pointer to the filter and posts to the event
// loop, which is open to all. It isn't Sync; its owner keeps it under a lock.
unsafe impl Send for Waker {}

impl Waker {
    /// Has the hook called in a later turn of the filter's event loop, if the filter is still there then.
    pub fn wake(&self) {
        // SAFETY: the scheduler lives until the drop, and by `Filter::waker` the event loop does too.
        unsafe { abi::envoy_dynamic_module_callback_network_filter_scheduler_commit(self.raw, 0) }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: it was made by `scheduler_new`, and nothing uses it from here on.
        unsafe { abi::envoy_dynamic_module_callback_network_filter_scheduler_delete(self.raw) }
    }
}
