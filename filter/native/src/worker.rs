//! What the connections of one worker share: the proxy, the anchor, the carriers. Workers share nothing with each other.
//!
//! **Drain rule:** after every input the proxy's outputs are performed until there are none, with no borrow held while one
//! is: Envoy may call back into this module in the same stack. Such a call gives its input and leaves the outputs to the loop
//! that is running already, so that they keep their order.

use crate::anchor::{self, Anchor, Standing};
use crate::carrier::{self, Carrier};
use crate::client::Client;
use crate::envoy::Filter;
use crate::metrics::Metrics;
use crate::timer::Alarm;
use crate::{Answer, config};
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{Address, ClientId, ConnectionId, HostStats, Multiplexer, Output};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How soon a full upstream is looked at again, if it says nothing meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What times are counted from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static WORKER: Worker = Worker::new();
}

struct Worker {
    proxy: RefCell<Multiplexer>,
    clients: RefCell<FxHashMap<ClientId, Rc<Client>>>,
    carriers: RefCell<FxHashMap<ConnectionId, Link>>,
    /// The callouts of the anchor, one for each carrier that was asked for.
    callouts: RefCell<FxHashMap<u64, ConnectionId>>,
    /// Carriers whose upstream takes nothing more, and that have something to send.
    blocked: RefCell<Vec<Rc<Carrier>>>,
    anchor: RefCell<Standing>,
    /// Numbers the requests for an anchor.
    asked: Cell<u64>,
    /// Who counts for clients with certain rules, by the address of these, which is their own while they are kept.
    metrics: RefCell<FxHashMap<usize, Arc<Metrics>>>,
    /// Used again and again.
    tally: RefCell<HostStats>,
    /// When Envoy was told what was counted; none: it is to be told at once.
    told: Cell<Option<Duration>>,
    /// Up to where configurations have been taken over.
    seen: Cell<u64>,
    performing: Cell<bool>,
    alarm: Alarm,
    /// Whose waker the alarm has.
    employed: Cell<Option<*const Filter>>,
    /// What the alarm is set to.
    armed: Cell<Option<Duration>>,
}

/// An upstream connection that the proxy wants.
struct Link {
    address: Address,
    stage: Stage,
}

enum Stage {
    /// There is no anchor to ask for it.
    Waiting,
    /// It has been asked for.
    Requested,
    /// There it is.
    Arrived(Rc<Carrier>),
}

/// True again when dropped, also by a panic.
struct Performing<'a>(&'a Cell<bool>);

impl Drop for Performing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn now() -> Duration {
    START.elapsed()
}

/// Calls with the worker of this thread. Not while the thread ends: then there is nothing left to do.
fn with<T>(call: impl FnOnce(&Worker) -> T) -> Option<T> {
    WORKER.try_with(call).ok()
}

/// An input to the proxy; then the outputs are performed.
pub fn input(give: impl FnOnce(&RefCell<Multiplexer>, Duration)) {
    with(|worker| {
        worker.follow();
        give(&worker.proxy, now());
        worker.perform();
    });
}

/// A client's connection is there.
pub fn client_opened(client: &Rc<Client>, config: Arc<HostConfig>, metrics: Arc<Metrics>) -> Option<ClientId> {
    with(|worker| {
        worker.follow();
        worker.count_with(metrics);
        let id = worker.proxy.borrow_mut().open(config);
        worker.clients.borrow_mut().insert(id, client.clone());
        // Carriers may have been left without anybody to ask for them.
        worker.raise_anchor();
        worker.perform();
        id
    })
}

/// A client's connection has ended.
pub fn client_closed(client: &Rc<Client>, id: ClientId) {
    with(|worker| {
        worker.clients.borrow_mut().remove(&id);
        worker.proxy.borrow_mut().closed(id);
        if worker.asking(client) {
            worker.anchor.take();
            worker.raise_anchor();
        }
        // Nobody may be left whose hook an alarm could call: what was counted is told now.
        worker.told.take();
        worker.perform();
    });
}

/// The request for an anchor has been answered, or has failed.
pub fn asked(client: &Rc<Client>, answer: Answer) {
    with(|worker| {
        if !worker.asking(client) {
            return;
        }
        match (answer, worker.anchor.take()) {
            (Answer::Ok, Standing::Asked { candidate: Some(anchor), .. }) if !anchor.filter.gone() => {
                worker.anchor.replace(Standing::Up(anchor));
                worker.request_waiting();
            }
            _ => worker.lose(|stage| matches!(stage, Stage::Waiting)),
        }
        worker.perform();
    });
}

/// A request for an anchor has arrived at one.
pub fn anchor_arrived(anchor: &Rc<Anchor>, arrived: u64) {
    with(|worker| {
        if let Standing::Asked { number, candidate, .. } = &mut *worker.anchor.borrow_mut()
            && *number == arrived
        {
            *candidate = Some(anchor.clone());
        }
    });
}

/// A connection on the listener of anchors has ended. The carriers of an anchor end too and tell so themselves; those that
/// were only asked for never come.
pub fn anchor_lost(anchor: &Rc<Anchor>) {
    with(|worker| {
        let up = matches!(&*worker.anchor.borrow(), Standing::Up(up) if Rc::ptr_eq(up, anchor));
        if up {
            worker.anchor.take();
            worker.callouts.take();
            worker.lose(|stage| matches!(stage, Stage::Requested));
        }
        worker.perform();
    });
}

/// The callout of a carrier has ended, and with it the carrier.
pub fn callout_ended(callout: u64) {
    with(|worker| {
        let id = worker.callouts.borrow_mut().remove(&callout);
        if let Some(id) = id {
            worker.lose_one(id);
        }
        worker.perform();
    });
}

/// A carrier's request has arrived: where it is to lead. `None`: nobody wants it any more.
pub fn carrier_arrived(carrier: &Rc<Carrier>, number: u64) -> Option<(ConnectionId, Address)> {
    with(|worker| {
        let id = ConnectionId::of_number(number);
        let mut carriers = worker.carriers.borrow_mut();
        let link = carriers.get_mut(&id).filter(|link| matches!(link.stage, Stage::Requested))?;
        link.stage = Stage::Arrived(carrier.clone());
        Some((id, link.address.clone()))
    })
    .flatten()
}

/// A carrier can be used: what the proxy had to send before, it doesn't tell again.
pub fn carrier_opened(carrier: &Carrier, id: ConnectionId) {
    with(|worker| {
        worker.send_by(carrier, id);
        worker.perform();
    });
}

/// A carrier's connection has ended.
pub fn carrier_closed(carrier: &Rc<Carrier>, id: ConnectionId) {
    with(|worker| {
        let known = matches!(
            worker.carriers.borrow().get(&id),
            Some(Link { stage: Stage::Arrived(arrived), .. }) if Rc::ptr_eq(arrived, carrier)
        );
        if known {
            worker.lose_one(id);
        }
        worker.perform();
    });
}

/// Redis has sent something.
pub fn carrier_replied(carrier: &Carrier, id: ConnectionId) {
    with(|worker| {
        worker.follow();
        carrier.filter.reply(&worker.proxy, id, now());
        worker.unblock();
        worker.perform();
    });
}

/// The alarm has gone off.
pub fn tick() {
    with(|worker| {
        worker.armed.set(None);
        worker.follow();
        let now = now();
        let is_due = worker.proxy.borrow().next_tick().is_some_and(|due| due <= now);
        if is_due {
            worker.proxy.borrow_mut().tick(now);
        }
        worker.unblock();
        worker.told.take();
        worker.perform();
    });
}

/// A filter is going; if the alarm has its waker, that goes first.
pub fn retire_waker(filter: &Filter) {
    with(|worker| {
        if worker.employed.get().is_some_and(|employed| std::ptr::eq(employed, filter)) {
            worker.alarm.retire();
            worker.employed.set(None);
            worker.armed.set(None);
        }
    });
}

impl Worker {
    fn new() -> Worker {
        let mut seed = [0; 32];
        if getrandom::fill(&mut seed).is_err() {
            // The kernel's generator doesn't fail. If it ever did, this would be a poor seed, but no panic.
            let at = std::ptr::from_ref(&seed) as usize as u64;
            seed[..8].copy_from_slice(&at.to_le_bytes());
            seed[8..16].copy_from_slice(&(now().as_nanos() as u64).to_le_bytes());
        }
        Worker {
            proxy: RefCell::new(Multiplexer::new(seed)),
            clients: RefCell::default(),
            carriers: RefCell::default(),
            callouts: RefCell::default(),
            blocked: RefCell::default(),
            anchor: RefCell::default(),
            metrics: RefCell::default(),
            tally: RefCell::default(),
            told: Cell::new(None),
            asked: Cell::new(0),
            seen: Cell::new(0),
            performing: Cell::new(false),
            alarm: Alarm::default(),
            employed: Cell::new(None),
            armed: Cell::new(None),
        }
    }

    /// Takes new configurations over.
    fn follow(&self) {
        let seen = config::newer(self.seen.get(), |config, metrics| {
            self.count_with(metrics);
            self.proxy.borrow_mut().update(&config);
        });
        self.seen.set(seen);
    }

    /// See the drain rule.
    fn perform(&self) {
        if self.performing.replace(true) {
            return;
        }
        let _performing = Performing(&self.performing);
        loop {
            let output = self.proxy.borrow_mut().poll();
            match output {
                Some(Output::Write(id)) => self.write(id),
                Some(Output::Resume(id)) => {
                    if let Some(client) = self.client(id) {
                        client.resume();
                    }
                }
                Some(Output::CloseDownstream(id)) => {
                    if let Some(client) = self.client(id) {
                        client.filter.close();
                    }
                }
                Some(Output::AbortDownstream(id)) => {
                    if let Some(client) = self.client(id) {
                        client.filter.abort();
                    }
                }
                Some(Output::Open(id, address)) => self.open(id, address),
                Some(Output::Send(id)) => self.send(id),
                Some(Output::CloseUpstream(id)) => {
                    let link = self.carriers.borrow_mut().remove(&id);
                    // One that was only asked for is turned away when it arrives.
                    if let Some(Link { stage: Stage::Arrived(carrier), .. }) = link {
                        carrier.filter.abort();
                    }
                }
                None => break,
            }
        }
        self.report();
        self.arm();
    }

    fn client(&self, id: ClientId) -> Option<Rc<Client>> {
        self.clients.borrow().get(&id).cloned()
    }

    fn write(&self, id: ClientId) {
        let data = self.proxy.borrow_mut().take_downstream(id);
        if let Some(client) = self.client(id) {
            client.filter.write(&data);
        }
        self.proxy.borrow_mut().recycle(data);
    }

    fn send(&self, id: ConnectionId) {
        let carrier = match self.carriers.borrow().get(&id) {
            Some(Link { stage: Stage::Arrived(carrier), .. }) => carrier.clone(),
            _ => return,
        };
        if carrier.can_send() {
            self.send_by(&carrier, id);
        } else {
            self.blocked.borrow_mut().push(carrier);
            self.proxy.borrow_mut().upstream_full(id, true);
        }
    }

    fn send_by(&self, carrier: &Carrier, id: ConnectionId) {
        let data = self.proxy.borrow_mut().take_upstream(id);
        if !data.is_empty() {
            carrier.send(&data);
        }
        self.proxy.borrow_mut().recycle(data);
    }

    /// Looks whether upstreams that were full take something again. Nothing tells of that; a reply makes it likely, and the
    /// alarm looks after those that have none to give, such as in the middle of a command.
    fn unblock(&self) {
        if self.blocked.borrow().is_empty() {
            return;
        }
        for carrier in self.blocked.take() {
            let Some(id) = carrier.id() else { continue };
            if carrier.can_send() {
                self.proxy.borrow_mut().upstream_full(id, false);
                // What the proxy had to send then, it doesn't tell again.
                self.send_by(&carrier, id);
            } else {
                self.blocked.borrow_mut().push(carrier);
            }
        }
    }

    fn open(&self, id: ConnectionId, address: Address) {
        self.carriers.borrow_mut().insert(id, Link { address, stage: Stage::Waiting });
        match self.up() {
            Some(anchor) => self.request(&anchor, id),
            None => self.raise_anchor(),
        }
    }

    fn up(&self) -> Option<Rc<Anchor>> {
        match &*self.anchor.borrow() {
            Standing::Up(anchor) => Some(anchor.clone()),
            Standing::Absent | Standing::Asked { .. } => None,
        }
    }

    /// Has some client ask for an anchor, if carriers wait for one.
    fn raise_anchor(&self) {
        let wanted = self.carriers.borrow().values().any(|link| matches!(link.stage, Stage::Waiting));
        if !wanted || !matches!(&*self.anchor.borrow(), Standing::Absent) {
            return;
        }
        // Nobody there: the next client will be asked.
        let Some(client) = self.clients.borrow().values().next().cloned() else { return };
        let number = self.asked.get() + 1;
        self.asked.set(number);
        self.anchor.replace(Standing::Asked { number, client: client.clone(), candidate: None });
        if client.filter.post(&config::cluster(anchor::CLUSTER), &format!("/{number}")).is_none() {
            // Unless the hook was called with the failure before.
            asked(&client, Answer::Failed);
        }
    }

    /// True if the answer to this client's request for an anchor is awaited.
    fn asking(&self, client: &Rc<Client>) -> bool {
        matches!(&*self.anchor.borrow(), Standing::Asked { client: asking, .. } if Rc::ptr_eq(asking, client))
    }

    fn request_waiting(&self) {
        let Some(anchor) = self.up() else { return };
        for id in self.ids(|stage| matches!(stage, Stage::Waiting)) {
            self.request(&anchor, id);
        }
    }

    fn request(&self, anchor: &Anchor, id: ConnectionId) {
        match self.carriers.borrow_mut().get_mut(&id) {
            Some(link) => link.stage = Stage::Requested,
            None => return,
        }
        match anchor.filter.post(&config::cluster(carrier::CLUSTER), &format!("/{}", id.number())) {
            Some(callout) => {
                self.callouts.borrow_mut().insert(callout, id);
            }
            None => self.lose_one(id),
        }
    }

    fn ids(&self, which: impl Fn(&Stage) -> bool) -> Vec<ConnectionId> {
        let carriers = self.carriers.borrow();
        carriers.iter().filter(|(_, link)| which(&link.stage)).map(|(id, _)| *id).collect()
    }

    fn lose(&self, which: impl Fn(&Stage) -> bool) {
        for id in self.ids(which) {
            self.lose_one(id);
        }
    }

    /// A carrier has ended, or will not come.
    fn lose_one(&self, id: ConnectionId) {
        let Some(link) = self.carriers.borrow_mut().remove(&id) else { return };
        if let Stage::Arrived(carrier) = link.stage {
            carrier.filter.abort();
        }
        self.proxy.borrow_mut().lost(id, now());
    }

    /// Sets the alarm to when the proxy next wants to be ticked. An alarm that goes off early does no harm, so it is set anew
    /// only for an earlier time.
    fn arm(&self) {
        let blocked = !self.blocked.borrow().is_empty();
        let alarm = self.proxy.borrow().next_tick();
        let next = [alarm, self.report_due(), blocked.then(|| now() + LOOK_AGAIN)].into_iter().flatten().min();
        let Some(next) = next.filter(|next| self.armed.get().is_none_or(|armed| *next < armed)) else { return };
        if self.employed.get().is_none() {
            self.employ();
        }
        if self.employed.get().is_some() {
            self.alarm.set(*START + next);
            self.armed.set(Some(next));
        }
    }

    /// Finds a filter whose hook the alarm calls: the anchor, since it stays, or some client.
    fn employ(&self) {
        let anchor = self.up();
        let client = self.clients.borrow().values().next().cloned();
        let filter = match (&anchor, &client) {
            (Some(anchor), _) => &anchor.filter,
            (None, Some(client)) => &client.filter,
            (None, None) => return,
        };
        if let Some(waker) = filter.waker()
            && self.alarm.employ(waker)
        {
            self.employed.set(Some(std::ptr::from_ref(filter)));
        }
    }
}

mod report;
#[cfg(test)]
mod tests;
