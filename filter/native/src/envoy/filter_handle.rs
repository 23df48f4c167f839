//! Envoy's side of a network filter.

use super::buffer::{EMPTY, bytes, lend};
use crate::abi::{self, Buffer, Header, Opaque};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, Multiplexer};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Envoy's side of one filter instance. It is bound to the thread of its worker. No method has an
/// effect once the connection [is gone](FilterHandle::is_gone).
pub struct FilterHandle {
    /// Null once the connection is gone.
    raw: Cell<Opaque>,
}

/// The result of [`FilterHandle::read`].
pub struct ReadOutcome {
    /// True if some bytes were not taken. They are still in Envoy's buffer.
    pub is_rest_left: bool,
    /// The number of bytes that were taken.
    pub taken: usize,
}

thread_local! {
    /// The list of a buffer's chunks. It is kept so that a hook needs no allocation for it.
    static CHUNKS: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

impl FilterHandle {
    /// The handle of a filter that Envoy has just created.
    ///
    /// # Safety
    /// `raw` is the pointer that Envoy passed when it created the filter, and
    /// [`FilterHandle::forget`] will be called in the filter's destroy hook at the latest.
    pub unsafe fn new(raw: Opaque) -> FilterHandle {
        FilterHandle { raw: Cell::new(raw) }
    }

    /// Makes this a handle of a connection that is gone.
    pub fn forget(&self) {
        self.raw.set(std::ptr::null_mut());
    }

    /// True if the connection has ended.
    pub fn is_gone(&self) -> bool {
        self.raw.get().is_null()
    }

    /// Calls Envoy with the filter, unless the connection is gone. The closure may rely on the
    /// filter being alive and on being on its thread: by the contract of `new`, `forget` is called
    /// before Envoy deletes the filter, and the handle isn't `Send`.
    fn call<T>(&self, call: impl FnOnce(Opaque) -> T) -> Option<T> {
        let raw = self.raw.get();
        (!raw.is_null()).then(|| call(raw))
    }

    /// Hands the chunks of a buffer to `take`, which returns how many bytes of a chunk it takes,
    /// until a chunk isn't taken whole. Returns the number of bytes taken, and whether some are
    /// left.
    ///
    /// # Safety
    /// `raw` is a filter that is alive; `size` and `chunks` are the two functions of the ABI for
    /// one and the same of its buffers, which is valid in the hook that is running; `take` doesn't
    /// call Envoy.
    unsafe fn chunks(
        raw: Opaque,
        size: unsafe extern "C" fn(Opaque) -> usize,
        chunks: unsafe extern "C" fn(Opaque, *mut Buffer) -> bool,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> (usize, bool) {
        let mut list = CHUNKS.take();
        list.clear();
        // SAFETY: the caller vouches for the filter and its buffer. Envoy writes exactly `size`
        // entries, for nothing changes the buffer between the two calls, and the list has room for
        // that many.
        let filled = unsafe {
            list.resize(size(raw), EMPTY);
            chunks(raw, list.as_mut_ptr())
        };
        let (mut taken, mut left) = (0, false);
        if filled {
            for chunk in &list {
                // SAFETY: Envoy has just given the chunk out, and the caller vouches that `take`
                // doesn't call Envoy.
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

    /// Feeds a client's bytes to the multiplexer and drops those that it takes. Call it only
    /// within the read hook.
    pub fn read(&self, multiplexer: &RefCell<Multiplexer>, client: ClientId, now: Duration) -> ReadOutcome {
        let mut multiplexer = multiplexer.borrow_mut();
        let outcome = self.call(|raw| {
            // SAFETY: within the read hook the read buffer is valid, and the multiplexer has no
            // way to call Envoy.
            unsafe {
                let (taken, is_rest_left) = FilterHandle::chunks(
                    raw,
                    abi::envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size,
                    abi::envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks,
                    |chunk| multiplexer.read(client, chunk, now),
                );
                abi::envoy_dynamic_module_callback_network_filter_drain_read_buffer(raw, taken);
                ReadOutcome { is_rest_left, taken }
            }
        });
        outcome.unwrap_or(ReadOutcome { is_rest_left: false, taken: 0 })
    }

    /// Feeds the bytes that an upstream has sent to the multiplexer and drops them, so that no
    /// filter behind this one gets them. Call it only within the write hook: Envoy keeps the
    /// address of the buffer, which may lie on its stack, beyond the hook.
    pub fn reply(&self, multiplexer: &RefCell<Multiplexer>, connection: ConnectionId, now: Duration) {
        let mut multiplexer = multiplexer.borrow_mut();
        self.call(|raw| {
            // SAFETY: within the write hook the write buffer is valid, and the multiplexer has no
            // way to call Envoy.
            unsafe {
                let (taken, _) = FilterHandle::chunks(
                    raw,
                    abi::envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size,
                    abi::envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks,
                    |chunk| {
                        multiplexer.reply(connection, chunk, now);
                        chunk.len()
                    },
                );
                abi::envoy_dynamic_module_callback_network_filter_drain_write_buffer(raw, taken);
            }
        });
    }

    /// A copy of the read buffer. Call it only within the read hook.
    pub fn peek_read(&self) -> Vec<u8> {
        let mut all = Vec::new();
        self.call(|raw| {
            // SAFETY: within the read hook the read buffer is valid, and copying doesn't call
            // Envoy.
            unsafe {
                FilterHandle::chunks(
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

    /// Drops up to `len` bytes from the beginning of the read buffer. Call it only within the read
    /// hook.
    pub fn drain_read(&self, len: usize) {
        // SAFETY: `call` has a filter that is alive; Envoy drops no more than there is.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_drain_read_buffer(raw, len) });
    }

    /// Drops the write buffer. Call it only within the write hook.
    pub fn drain_write(&self) {
        // SAFETY: `call` has a filter that is alive; Envoy drops no more than there is.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_drain_write_buffer(raw, usize::MAX);
        });
    }

    /// Appends to the read buffer, which the next filter gets if the read hook returns `Continue`.
    /// Call it only within the read hook.
    pub fn append_read(&self, data: &[u8]) {
        // SAFETY: `call` has a filter that is alive, and within the read hook its read buffer is
        // valid; Envoy copies the bytes.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_append_read_buffer(raw, lend(data));
        });
    }

    /// Writes to the peer of this connection, through the filters between it and this one. Envoy
    /// may call this filter's watermark hooks before this returns.
    pub fn write(&self, data: &[u8]) {
        // SAFETY: `call` has a filter that is alive; Envoy copies the bytes.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_inject_write_data(raw, lend(data), false);
        });
    }

    /// Gives bytes to the next filter as if they had been read. Envoy applies no limit here.
    pub fn inject_read(&self, data: &[u8]) {
        // SAFETY: `call` has a filter that is alive; Envoy copies the bytes.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_filter_inject_read_data(raw, lend(data), false);
        });
    }

    /// Closes the connection once all written bytes are sent. Envoy calls the event hook, perhaps
    /// before this returns.
    pub fn close(&self) {
        // SAFETY: `call` has a filter that is alive, and it stays alive: Envoy deletes it in a
        // later turn of the event loop.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_close(raw, abi::FLUSH_WRITE) });
    }

    /// Closes the connection at once, dropping bytes that are not sent yet. Envoy calls the event
    /// hook, perhaps before this returns.
    pub fn abort(&self) {
        // SAFETY: as for `close`.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_close(raw, abi::NO_FLUSH) });
    }

    /// Keeps the connection when the peer half-closes it, and tells the read hook of that; else
    /// the connection ends then, even while reading is disabled if it was disabled after this call.
    pub fn enable_half_close(&self, enabled: bool) {
        // SAFETY: `call` has a filter that is alive.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_enable_half_close(raw, enabled) });
    }

    /// Disables reading from the connection, or enables it: then Envoy calls the read hook with
    /// all that the buffer holds, in a later turn of the event loop. Envoy counts the calls, so
    /// reading goes on after as many of the one kind as of the other.
    pub fn read_disable(&self, disable: bool) {
        // SAFETY: `call` has a filter that is alive.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_read_disable(raw, disable) });
    }

    /// False while reading from this connection is disabled, for example by a filter whose
    /// upstream is above its high watermark.
    pub fn read_enabled(&self) -> bool {
        // SAFETY: `call` has a filter that is alive.
        self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_read_enabled(raw) }).unwrap_or(false)
    }

    /// Has the connection's write buffer pass its high watermark by writing these bytes, and come
    /// below its low one at once. The filter that stopped for the watermark goes on, and gives what
    /// the write hook has left to that hook again in a later turn of the event loop.
    pub fn cross_watermark(&self, data: &[u8]) {
        self.call(|raw| {
            // SAFETY: `call` has a filter that is alive; Envoy copies the bytes.
            unsafe {
                let limit = abi::envoy_dynamic_module_callback_network_filter_get_buffer_limit(raw);
                abi::envoy_dynamic_module_callback_network_filter_set_buffer_limits(raw, 1);
                abi::envoy_dynamic_module_callback_network_filter_inject_write_data(raw, lend(data), false);
                abi::envoy_dynamic_module_callback_network_filter_set_buffer_limits(raw, limit);
            }
        });
    }

    /// Sets a filter state object, which Envoy makes of the text. False: Envoy has no object of
    /// that name, or it is already set.
    #[must_use]
    pub fn set_filter_state(&self, key: &str, value: &str) -> bool {
        // SAFETY: `call` has a filter that is alive; Envoy copies both texts.
        self.call(|raw| unsafe {
            abi::envoy_dynamic_module_callback_network_set_filter_state_typed(
                raw,
                lend(key.as_bytes()),
                lend(value.as_bytes()),
            )
        })
        .unwrap_or(false)
    }

    /// Has Envoy bring about this worker's part of a cluster, with its load-balancing policy, if
    /// there is such a cluster. Otherwise Envoy may leave that to the first connection.
    pub fn use_cluster(&self, cluster: &str) {
        let (mut total, mut healthy, mut degraded) = (0, 0, 0);
        self.call(|raw| {
            // SAFETY: `call` has a filter that is alive. Envoy only reads the name, and writes the
            // numbers before it returns.
            unsafe {
                abi::envoy_dynamic_module_callback_network_filter_get_cluster_host_count(
                    raw,
                    lend(cluster.as_bytes()),
                    0,
                    &mut total,
                    &mut healthy,
                    &mut degraded,
                )
            }
        });
    }

    /// The addresses from which and to which the connection's peer has connected, as far as they are
    /// of the Internet.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (
            address(self, abi::envoy_dynamic_module_callback_network_filter_get_remote_address),
            address(self, abi::envoy_dynamic_module_callback_network_filter_get_local_address),
        )
    }

    /// The host that `tcp_proxy` has chosen for this connection, as far as Envoy tells it.
    pub fn upstream_host(&self) -> Option<SocketAddr> {
        address(self, abi::envoy_dynamic_module_callback_network_filter_get_upstream_host_address)
    }

    /// Sends `POST path` to a cluster, without a timeout, and returns the callout's number, with
    /// which Envoy calls the callout hook unless this connection ends before. `None`: the request
    /// isn't sent; Envoy may have called the hook before this returns.
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
            // SAFETY: `call` has a filter that is alive. Envoy copies the texts and headers, which
            // outlive the call, and writes `id` before it returns.
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

    /// A way to have this filter's scheduled hook called from any thread. It has to be dropped in
    /// the destroy hook at the latest, since Envoy's event loop may end soon after. `None`: the
    /// connection is gone.
    pub fn waker(&self) -> Option<Waker> {
        // SAFETY: `call` has a filter that is alive, and this is its thread.
        let raw = self.call(|raw| unsafe { abi::envoy_dynamic_module_callback_network_filter_scheduler_new(raw) })?;
        (!raw.is_null()).then_some(Waker { raw })
    }
}

/// An address, by one of the functions of the ABI that tell an address of a filter's connection.
fn address(
    handle: &FilterHandle,
    tell: unsafe extern "C" fn(Opaque, *mut Buffer, *mut u32) -> bool,
) -> Option<SocketAddr> {
    let (mut address, mut port) = (EMPTY, 0);
    // SAFETY: `call` has a filter that is alive. The address is valid until Envoy is called
    // again, which doesn't happen before it is parsed.
    handle.call(|raw| unsafe {
        let is_known = tell(raw, &mut address, &mut port);
        let text = std::str::from_utf8(bytes(address)).ok().filter(|_| is_known)?;
        let ip: Option<IpAddr> = text.parse().ok();
        ip.zip(u16::try_from(port).ok()).map(SocketAddr::from).or_else(|| text.parse().ok())
    })?
}

/// Wakes a filter's worker from any thread; see [`FilterHandle::waker`].
pub struct Waker {
    raw: Opaque,
}

// SAFETY: Envoy's scheduler is made for use by other threads: it holds a weak pointer to the
// filter and posts to the event loop, which any thread may do. The waker isn't `Sync`, so one
// thread uses it at a time.
unsafe impl Send for Waker {}

impl Waker {
    /// Has Envoy call the hook in a later turn of the filter's event loop, unless the filter is
    /// gone by then.
    pub fn wake(&self) {
        // SAFETY: the scheduler lives until the waker is dropped, and by the contract of
        // `FilterHandle::waker` the event loop does too.
        unsafe { abi::envoy_dynamic_module_callback_network_filter_scheduler_commit(self.raw, 0) }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: the scheduler was made by `scheduler_new`, is deleted once, and nothing uses it
        // after this.
        unsafe { abi::envoy_dynamic_module_callback_network_filter_scheduler_delete(self.raw) }
    }
}
