//! Clients of whose connections nothing is read, since what they have sent waits.

use crate::filter::downstream::DownstreamFilter;
use redis_mesh_core::multiplexer::Multiplexer;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// How often it is looked whether such a client is still there.
const INTERVAL: Duration = Duration::from_secs(1);

/// The clients of whose connections nothing is read.
#[derive(Default)]
pub struct StalledClients {
    clients: RefCell<Vec<Rc<DownstreamFilter>>>,
    due: Cell<Option<Duration>>,
}

impl StalledClients {
    /// Reading of a client's connection is disabled.
    pub fn add(&self, downstream: &Rc<DownstreamFilter>, now: Duration) {
        if !downstream.watch(true) {
            self.clients.borrow_mut().push(downstream.clone());
        }
        if self.due.get().is_none() {
            self.due.set(Some(now + INTERVAL));
        }
    }

    /// When [`StalledClients::look`] is to be called.
    pub fn due(&self) -> Option<Duration> {
        self.due.get()
    }

    /// Looks whether clients are still there that wait for what may never come.
    pub fn look(&self, multiplexer: &RefCell<Multiplexer>, now: Duration) {
        if self.due.get().is_none_or(|due| due > now) {
            return;
        }
        let mut clients = self.clients.take();
        clients.retain(|client| client.is_disabled() || !client.watch(false));
        self.due.set((!clients.is_empty()).then_some(now + INTERVAL));
        let waiting = if clients.is_empty() { Default::default() } else { multiplexer.borrow().waiting(now) };
        let waits = |client: &&Rc<DownstreamFilter>| client.id().is_some_and(|id| waiting.contains(&id));
        clients.iter().filter(waits).for_each(|client| client.look());
        self.clients.borrow_mut().append(&mut clients);
    }
}
