//! A connection of the stand-in.

use crate::abi::{self, Header, Opaque};
use crate::config::FilterKind;
use crate::filter::FilterInstance;
use crate::hooks;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A connection with one of the module's filters.
#[derive(Default)]
pub struct StandinConnection {
    module: Cell<ModulePointer>,
    /// The read buffer: bytes that the next filter gets if this one lets it.
    pub read: RefCell<Vec<u8>>,
    pub(super) write: RefCell<Vec<u8>>,
    /// The bytes that the peer has got.
    pub written: RefCell<Vec<u8>>,
    /// The bytes that the next filter has got: read and let go, or injected.
    pub passed: RefCell<Vec<u8>>,
    /// Filter state.
    pub state: RefCell<Vec<(String, String)>>,
    /// True if the connection stays when the peer half-closes it.
    pub half_close: Cell<bool>,
    /// How often reading is disabled.
    pub disabled: Cell<i32>,
    /// The limit of the write buffer, in bytes.
    pub limit: Cell<u32>,
    /// True if the upstream of the next filter is above its high watermark.
    pub blocked: Cell<bool>,
    /// True once one of the sides has closed the connection.
    pub closed: Cell<bool>,
    pub(super) callouts: Cell<u64>,
    /// The connection that has opened this one, and the number of its callout.
    pub(super) opener: RefCell<Option<(Rc<StandinConnection>, u64)>>,
    /// The number of wakers that aren't dropped.
    pub(super) wakers: Cell<i32>,
    pub(super) wake_ups: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
struct ModulePointer(Opaque);

impl Default for ModulePointer {
    fn default() -> ModulePointer {
        ModulePointer(std::ptr::null_mut())
    }
}

thread_local! {
    /// The connections that aren't destroyed, with the names of their clusters or listeners.
    static CONNECTIONS: RefCell<Vec<(String, Rc<StandinConnection>)>> = const { RefCell::new(Vec::new()) };
    /// True while the module is told of the end of a connection.
    static IS_ENDING: Cell<bool> = const { Cell::new(false) };
}

/// True while the module is told of the end of a connection.
pub fn is_ending() -> bool {
    IS_ENDING.get()
}

/// The connection that the module knows by this pointer.
pub fn connection(filter: Opaque) -> Rc<StandinConnection> {
    let all = CONNECTIONS.with_borrow(|all| {
        all.iter().map(|(_, connection)| connection).find(|c| Rc::as_ptr(c).cast_mut().cast() == filter).cloned()
    });
    all.expect("a filter that was destroyed is used")
}

/// The living connections of a cluster or listener, the oldest first.
pub fn connections(name: &str) -> Vec<Rc<StandinConnection>> {
    CONNECTIONS
        .with_borrow(|all| all.iter().filter(|(of, c)| of == name && !c.closed.get()).map(|(_, c)| c.clone()).collect())
}

/// A new connection.
pub fn connect(name: &str, config: *const FilterKind) -> Rc<StandinConnection> {
    let connection = Rc::new(StandinConnection { limit: Cell::new(1024 * 1024), ..StandinConnection::default() });
    CONNECTIONS.with_borrow_mut(|all| all.push((name.into(), connection.clone())));
    let raw = connection.raw();
    // SAFETY: the configuration outlives its connections; the filter lives until
    // `StandinConnection::destroy`.
    let module = unsafe { hooks::envoy_dynamic_module_on_network_filter_new(config, raw) };
    connection.module.set(ModulePointer(module.cast_mut().cast()));
    // SAFETY: the module has just made its object.
    unsafe { hooks::envoy_dynamic_module_on_network_filter_new_connection(raw, connection.module()) };
    connection
}

/// Destroys closed connections, as Envoy does at the end of a turn.
pub fn bury() {
    let closed: Vec<_> =
        CONNECTIONS.with_borrow(|all| all.iter().filter(|(_, c)| c.closed.get()).map(|(_, c)| c.clone()).collect());
    for connection in closed {
        // The one before may have taken it along.
        if !connection.module().is_null() {
            connection.destroy();
        }
    }
}

/// Destroys all connections.
pub fn destroy_all() {
    while let Some(connection) = CONNECTIONS.with_borrow(|all| all.first().map(|(_, connection)| connection.clone())) {
        connection.destroy();
    }
}

/// The number of connections that aren't destroyed.
pub fn living() -> usize {
    CONNECTIONS.with_borrow(Vec::len)
}

impl StandinConnection {
    /// The module's object for this connection.
    pub fn module(&self) -> Opaque {
        self.module.get().0
    }

    /// The module's filter on this connection.
    pub fn instance(&self) -> FilterInstance {
        let instance: *const FilterInstance = self.module().cast();
        // SAFETY: the module has made it, and it lives until the connection is destroyed.
        unsafe { instance.as_ref() }.expect("the connection was refused").clone()
    }

    /// The pointer by which the module knows the connection.
    pub fn raw(self: &Rc<Self>) -> Opaque {
        Rc::as_ptr(self).cast_mut().cast()
    }

    /// The number of times that a waker of this connection was used.
    pub fn wake_ups(&self) -> u64 {
        self.wake_ups.load(Ordering::SeqCst)
    }

    /// The peer sends bytes.
    pub fn received(self: &Rc<Self>, data: &[u8]) {
        self.read_more(data, false);
    }

    /// The peer sends its last bytes and half-closes the connection.
    pub fn ended(self: &Rc<Self>, data: &[u8]) {
        self.read_more(data, true);
    }

    fn read_more(self: &Rc<Self>, data: &[u8], is_end: bool) {
        self.read.borrow_mut().extend_from_slice(data);
        if self.disabled.get() > 0 {
            return;
        }
        let len = self.read.borrow().len();
        // SAFETY: the connection isn't destroyed.
        let status =
            unsafe { hooks::envoy_dynamic_module_on_network_filter_read(self.raw(), self.module(), len, is_end) };
        if status == abi::CONTINUE {
            let data = self.read.take();
            self.passed.borrow_mut().extend_from_slice(&data);
        }
    }

    /// The next filter writes to the peer.
    pub fn replied(self: &Rc<Self>, data: &[u8]) {
        self.write(data, false);
    }

    /// The next filter writes its last bytes to the peer.
    pub fn replied_last(self: &Rc<Self>, data: &[u8]) {
        self.write(data, true);
    }

    fn write(self: &Rc<Self>, data: &[u8], is_end: bool) {
        self.write.borrow_mut().extend_from_slice(data);
        let len = self.write.borrow().len();
        // SAFETY: the connection isn't destroyed.
        let status =
            unsafe { hooks::envoy_dynamic_module_on_network_filter_write(self.raw(), self.module(), len, is_end) };
        if status == abi::CONTINUE {
            let rest = self.write.take();
            self.written.borrow_mut().extend_from_slice(&rest);
        }
    }

    /// The write buffer passes its high watermark, or comes below its low one.
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

    /// Tells the module that a callout has ended.
    pub fn done(self: &Rc<Self>, id: u64, result: u32, headers: &[Header]) {
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

    /// The connection ends, and with it the callout that has opened it.
    pub fn close(self: &Rc<Self>, event: u32) {
        if self.closed.replace(true) {
            return;
        }
        let is_nested = IS_ENDING.replace(true);
        // SAFETY: the connection isn't destroyed.
        unsafe { hooks::envoy_dynamic_module_on_network_filter_event(self.raw(), self.module(), event) };
        IS_ENDING.set(is_nested);
        if let Some((by, id)) = self.opener.take()
            && !by.closed.get()
        {
            by.done(id, 1, &[]);
        }
    }

    /// Envoy deletes the connection's filters, and with them the connections of their callouts.
    pub fn destroy(self: &Rc<Self>) {
        self.close(abi::REMOTE_CLOSE);
        let module = self.module.replace(ModulePointer::default()).0;
        // SAFETY: the module's object is given back once.
        unsafe { hooks::envoy_dynamic_module_on_network_filter_destroy(module.cast()) };
        assert_eq!(self.wakers.get(), 0, "a waker outlives its filter");
        CONNECTIONS.with_borrow_mut(|all| all.retain(|(_, connection)| !Rc::ptr_eq(connection, self)));
        let opened: Vec<_> = CONNECTIONS.with_borrow(|all| {
            let mine =
                |c: &Rc<StandinConnection>| c.opener.borrow().as_ref().is_some_and(|(by, _)| Rc::ptr_eq(by, self));
            all.iter().filter(|(_, c)| mine(c)).map(|(_, c)| c.clone()).collect()
        });
        for connection in opened {
            connection.opener.take();
            connection.destroy();
        }
    }
}
