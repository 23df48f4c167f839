//! The state of a stand-in, of which each thread has its own.

use super::connection::StandinConnection;
use crate::abi::Buffer;
use crate::config::FilterKind;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// A callout that the next turn of the event loop sends.
pub struct Callout {
    pub by: Rc<StandinConnection>,
    pub id: u64,
    pub cluster: String,
    pub path: String,
}

thread_local! {
    pub static CALLOUTS: RefCell<VecDeque<Callout>> = const { RefCell::new(VecDeque::new()) };
    /// Connections whose reading was enabled; the next turn of the event loop reads them.
    pub static RESUMED: RefCell<Vec<Rc<StandinConnection>>> = const { RefCell::new(Vec::new()) };
    /// Connections whose write buffer has crossed its watermark; the next turn of the event loop
    /// gives them again what their write hook has left.
    pub static CROSSED: RefCell<Vec<Rc<StandinConnection>>> = const { RefCell::new(Vec::new()) };
    /// Clusters to which callouts fail at once.
    pub static MISSING: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    pub static CONFIGS: RefCell<Vec<*const FilterKind>> = const { RefCell::new(Vec::new()) };
    pub static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// The address and port of the host that `tcp_proxy` has chosen for every connection.
    pub static CHOSEN: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
    /// A cluster's name, and its healthy hosts by priority.
    pub static HOSTS: RefCell<(String, Vec<Vec<String>>)> = const { RefCell::new((String::new(), Vec::new())) };
}

/// The text that a buffer holds.
pub fn text(buffer: Buffer) -> String {
    // SAFETY: the crate passes slices that are valid for the call.
    String::from_utf8_lossy(unsafe { crate::envoy::bytes(buffer) }).into_owned()
}
