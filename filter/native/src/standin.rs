//! A stand-in for Envoy within the process, so that what this crate does with it can be tested, and checked for undefined
//! behaviour, without one: connections with buffers, callouts that open connections, and nothing else. One for each thread.
//!
//! As in Envoy, nothing that is asked for happens before the event loop's next turn ([`turn`]), except for what Envoy does at
//! once: a close is told, a failed callout has ended.

use crate::abi::{self, Buffer, Header, Opaque};
use crate::hooks;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

mod metrics;

pub use metrics::{forget, metric, newest};

/// A connection with one of the module's filters.
#[derive(Default)]
pub struct Connection {
    module: Cell<Opaque2>,
    /// What the next filter would see if this one let it.
    pub read: RefCell<Vec<u8>>,
    write: RefCell<Vec<u8>>,
    /// What the peer has got.
    pub written: RefCell<Vec<u8>>,
    /// What the next filter has got: appended to the read buffer and let go, or injected.
    pub passed: RefCell<Vec<u8>>,
    /// Filter state.
    pub state: RefCell<Vec<(String, String)>>,
    /// How often reading was stopped.
    pub disabled: Cell<i32>,
    /// Whether the next filter's upstream is full.
    pub blocked: Cell<bool>,
    /// Closed, by whichever side.
    pub closed: Cell<bool>,
    callouts: Cell<u64>,
    /// Who has opened it, by which callout.
    opener: RefCell<Option<(Rc<Connection>, u64)>>,
    wakers: Cell<i32>,
}

#[derive(Clone, Copy)]
struct Opaque2(Opaque);

impl Default for Opaque2 {
    fn default() -> Opaque2 {
        Opaque2(std::ptr::null_mut())
    }
}

struct Callout {
    by: Rc<Connection>,
    id: u64,
    cluster: String,
    path: String,
}

thread_local! {
    static CALLOUTS: RefCell<VecDeque<Callout>> = const { RefCell::new(VecDeque::new()) };
    static CONNECTIONS: RefCell<Vec<(String, Rc<Connection>)>> = const { RefCell::new(Vec::new()) };
    static RESUMED: RefCell<Vec<Rc<Connection>>> = const { RefCell::new(Vec::new()) };
    static MISSING: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static CONFIGS: RefCell<Vec<*const crate::config::Config>> = const { RefCell::new(Vec::new()) };
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// A cluster's name, and its healthy hosts by priority.
    static HOSTS: RefCell<(String, Vec<Vec<String>>)> = const { RefCell::new((String::new(), Vec::new())) };
}

/// Buffers come in chunks of this many bytes.
const CHUNK: usize = 5;

fn text(buffer: Buffer) -> String {
    // SAFETY: the crate passes slices that are valid for the call.
    String::from_utf8_lossy(unsafe { crate::envoy::bytes(buffer) }).into_owned()
}

fn connection(filter: Opaque) -> Rc<Connection> {
    let all = CONNECTIONS.with_borrow(|all| {
        all.iter().map(|(_, connection)| connection).find(|c| Rc::as_ptr(c).cast_mut().cast() == filter).cloned()
    });
    all.expect("a filter that was destroyed is used")
}

/// A configured filter.
pub fn configure(name: &str, config: &str) -> *const crate::config::Config {
    let buffer = |text: &str| Buffer { data: text.as_ptr(), len: text.len() };
    // SAFETY: both are valid for the call.
    let config = unsafe {
        hooks::envoy_dynamic_module_on_network_filter_config_new(metrics::configuration(), buffer(name), buffer(config))
    };
    CONFIGS.with_borrow_mut(|all| all.extend((!config.is_null()).then_some(config)));
    config
}

/// What has been logged.
pub fn log() -> Vec<String> {
    LOG.take()
}

/// Callouts to this cluster fail at once.
pub fn remove_cluster(name: &str) {
    MISSING.with_borrow_mut(|missing| missing.push(name.into()));
}

/// Puts back what was removed.
pub fn restore_clusters() {
    MISSING.take();
}

/// The cluster that [`hosts`] shows.
pub fn set_hosts(cluster: &str, hosts: &[&[&str]]) {
    let owned = hosts.iter().map(|hosts| hosts.iter().map(|host| host.to_string()).collect()).collect();
    HOSTS.replace((cluster.to_owned(), owned));
}

/// What a load balancer sees.
pub fn hosts() -> crate::envoy::Hosts {
    // SAFETY: the functions above don't look at the pointer.
    unsafe { crate::envoy::Hosts::new(std::ptr::null_mut()) }
}

/// The living connections of a cluster or listener, the oldest first.
pub fn connections(name: &str) -> Vec<Rc<Connection>> {
    CONNECTIONS
        .with_borrow(|all| all.iter().filter(|(of, c)| of == name && !c.closed.get()).map(|(_, c)| c.clone()).collect())
}

/// A new connection.
pub fn connect(name: &str, config: *const crate::config::Config) -> Rc<Connection> {
    let connection = Rc::new(Connection::default());
    CONNECTIONS.with_borrow_mut(|all| all.push((name.into(), connection.clone())));
    let raw = Rc::as_ptr(&connection).cast_mut().cast();
    // SAFETY: the configuration is never destroyed; the filter is until `Connection::destroy`.
    let module = unsafe { hooks::envoy_dynamic_module_on_network_filter_new(config, raw) };
    connection.module.set(Opaque2(module.cast_mut().cast()));
    // SAFETY: the module's object was just made.
    unsafe { hooks::envoy_dynamic_module_on_network_filter_new_connection(raw, connection.module()) };
    connection
}

/// A turn of the event loop: callouts open connections, resumed connections are read. Returns false if nothing was to do.
pub fn turn() -> bool {
    let (callouts, resumed) = (CALLOUTS.take(), RESUMED.take());
    let idle = callouts.is_empty() && resumed.is_empty();
    for connection in resumed {
        if !connection.closed.get() && connection.disabled.get() == 0 {
            connection.received(b"");
        }
    }
    for callout in callouts {
        if callout.by.closed.get() {
            continue;
        }
        let kind = callout.cluster.strip_prefix("redis_").unwrap_or_default();
        let opened = connect(&callout.cluster, configure(kind, ""));
        *opened.opener.borrow_mut() = Some((callout.by, callout.id));
        let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", callout.path);
        opened.received(head.as_bytes());
        if opened.written.borrow().starts_with(b"HTTP/1.1 200 OK\r\n") {
            opened.answer("200");
        }
    }
    !idle
}

/// Turns until nothing is left to do.
pub fn settle() {
    while turn() {}
}

impl Connection {
    /// What the module made for it.
    pub fn module(&self) -> Opaque {
        self.module.get().0
    }

    fn raw(self: &Rc<Self>) -> Opaque {
        Rc::as_ptr(self).cast_mut().cast()
    }

    /// The peer has sent something.
    pub fn received(self: &Rc<Self>, data: &[u8]) {
        self.read.borrow_mut().extend_from_slice(data);
        if self.disabled.get() > 0 {
            return;
        }
        let len = self.read.borrow().len();
        // SAFETY: the connection isn't destroyed.
        let status =
            unsafe { hooks::envoy_dynamic_module_on_network_filter_read(self.raw(), self.module(), len, false) };
        if status == abi::CONTINUE {
            let data = self.read.take();
            self.passed.borrow_mut().extend_from_slice(&data);
        }
    }

    /// The next filter writes to the peer.
    pub fn replied(self: &Rc<Self>, data: &[u8]) {
        *self.write.borrow_mut() = data.to_vec();
        // SAFETY: the connection isn't destroyed.
        unsafe { hooks::envoy_dynamic_module_on_network_filter_write(self.raw(), self.module(), data.len(), false) };
        let rest = self.write.take();
        self.written.borrow_mut().extend_from_slice(&rest);
    }

    /// The write buffer is above its high watermark, or below its low one.
    pub fn full(self: &Rc<Self>, full: bool) {
        // SAFETY: the connection isn't destroyed.
        unsafe {
            match full {
                true => hooks::envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(
                    self.raw(),
                    self.module(),
                ),
                false => hooks::envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(
                    self.raw(),
                    self.module(),
                ),
            }
        }
    }

    /// Answers the callout that opened this connection.
    pub fn answer(self: &Rc<Self>, status: &str) {
        let Some((by, id)) = self.opener.take() else { return };
        if by.closed.get() {
            return;
        }
        let name = ":status";
        let header =
            Header { key: name.as_ptr(), key_len: name.len(), value: status.as_ptr(), value_len: status.len() };
        by.done(id, abi::CALLOUT_ANSWERED, &[header]);
    }

    fn done(self: &Rc<Self>, id: u64, result: u32, headers: &[Header]) {
        // SAFETY: the connection isn't destroyed; the headers are valid for the call.
        unsafe {
            hooks::envoy_dynamic_module_on_network_filter_http_callout_done(
                self.raw(),
                self.module(),
                id,
                result,
                headers.as_ptr(),
                headers.len(),
                std::ptr::null(),
                0,
            );
        }
    }

    /// It ends, and what it had opened with it.
    pub fn close(self: &Rc<Self>, event: u32) {
        if self.closed.replace(true) {
            return;
        }
        // SAFETY: the connection isn't destroyed.
        unsafe { hooks::envoy_dynamic_module_on_network_filter_event(self.raw(), self.module(), event) };
        if let Some((by, id)) = self.opener.take()
            && !by.closed.get()
        {
            by.done(id, 1, &[]);
        }
    }

    /// Envoy deletes it, and with it the connections of its callouts.
    pub fn destroy(self: &Rc<Self>) {
        self.close(abi::REMOTE_CLOSE);
        let module = self.module.replace(Opaque2::default()).0;
        // SAFETY: the module's object is given back once.
        unsafe { hooks::envoy_dynamic_module_on_network_filter_destroy(module.cast()) };
        assert_eq!(self.wakers.get(), 0, "a waker outlives its filter");
        CONNECTIONS.with_borrow_mut(|all| all.retain(|(_, connection)| !Rc::ptr_eq(connection, self)));
        let opened: Vec<_> = CONNECTIONS.with_borrow(|all| {
            let mine = |c: &Rc<Connection>| c.opener.borrow().as_ref().is_some_and(|(by, _)| Rc::ptr_eq(by, self));
            all.iter().filter(|(_, c)| mine(c)).map(|(_, c)| c.clone()).collect()
        });
        for connection in opened {
            connection.opener.take();
            connection.destroy();
        }
    }
}

/// Destroys what is closed, as Envoy does at the end of a turn.
pub fn bury() {
    let closed: Vec<_> =
        CONNECTIONS.with_borrow(|all| all.iter().filter(|(_, c)| c.closed.get()).map(|(_, c)| c.clone()).collect());
    for connection in closed {
        // It may have gone with the one before.
        if !connection.module().is_null() {
            connection.destroy();
        }
    }
}

/// Ends a test in order: all that stands is destroyed, and nothing runs any more.
pub struct End;

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        while let Some(connection) =
            CONNECTIONS.with_borrow(|all| all.first().map(|(_, connection)| connection.clone()))
        {
            connection.destroy();
        }
        for config in CONFIGS.take() {
            // SAFETY: it was made by `configure`, and nothing that stands has it any more.
            unsafe { hooks::envoy_dynamic_module_on_network_filter_config_destroy(config.cast_mut()) };
        }
        // Only there does it matter, and only there tests come one after the other, so that nobody is waited for who has failed.
        if cfg!(miri) {
            crate::timer::end();
        }
    }
}

/// How many connections aren't destroyed.
pub fn living() -> usize {
    CONNECTIONS.with_borrow(Vec::len)
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
    // SAFETY: see above.
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
    // SAFETY: passed on to the caller.
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
    // SAFETY: passed on to the caller.
    unsafe { give(&chunks(&connection(filter).write), out) }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_drain_write_buffer(filter: Opaque, len: usize) -> bool {
    drain(&connection(filter).write, len)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_inject_write_data(filter: Opaque, data: Buffer, _end: bool) {
    connection(filter).written.borrow_mut().extend_from_slice(text(data).as_bytes());
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
extern "C" fn envoy_dynamic_module_callback_network_filter_enable_half_close(_filter: Opaque, enabled: bool) {
    assert!(enabled);
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
    let (by, cluster) = (connection(filter), text(cluster));
    let number = by.callouts.get() + 1;
    by.callouts.set(number);
    if MISSING.with_borrow(|missing| missing.contains(&cluster)) {
        // The hook first, without the caller knowing the number.
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
    filter
}

/// A test wakes by itself: this comes from another thread, which has another stand-in.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_scheduler_commit(_waker: Opaque, _event: u64) {}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_network_filter_scheduler_delete(waker: Opaque) {
    let connection = connection(waker);
    connection.wakers.set(connection.wakers.get() - 1);
}
