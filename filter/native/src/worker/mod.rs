//! What the connections of one worker share: the multiplexer, the dialer and the upstream
//! connections. Workers share nothing with each other but what they ask about their clients (`mail.rs`).
//!
//! **Drain rule:** after every input the multiplexer's outputs are performed until there are none,
//! with no borrow held while an output is performed: Envoy may call back into this module before a
//! call to it returns. Such a call gives its input and leaves the outputs to the loop that is
//! already running, so that they keep their order.
//!
//! **Rule of ends:** when Envoy tells of the end of a connection, nothing is opened before it has
//! returned to its event loop. Envoy may be about to end the worker, and destroys what it opens
//! connections with before it has closed all of them: opening one then doesn't return.

mod alarm;
mod dialer;
mod flow;
mod mail;
mod opening;
mod report;
mod stalls;
#[cfg(test)]
mod tests;

use crate::config;
use crate::envoy::FilterHandle;
use crate::filter::dialer::DialerFilter;
use crate::filter::downstream::DownstreamFilter;
use crate::filter::upstream::UpstreamFilter;
use crate::filter::verdict::CalloutResult;
use crate::metrics::FilterMetrics;
use alarm::WorkerAlarm;
use dialer::Dialer;
use flow::FlowControl;
use mail::Mail;
use opening::OpeningQueue;
use redis_mesh_core::multiplexer::{Address, ClientId, ConnectionId, Multiplexer, Output};
use report::Reporter;
use rustc_hash::FxHashMap;
use stalls::StalledClients;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// The time after which a full upstream connection is looked at again, if no reply comes over it
/// meanwhile.
const FULL_RETRY: Duration = Duration::from_millis(5);

/// The time to which all times of this module are relative.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static WORKER: Worker = Worker::new();
}

struct Worker {
    multiplexer: RefCell<Multiplexer>,
    downstreams: RefCell<FxHashMap<ClientId, Rc<DownstreamFilter>>>,
    dialer: Dialer,
    /// Upstream connections that have bytes to send and whose upstream is above its high
    /// watermark.
    full: RefCell<Vec<Rc<UpstreamFilter>>>,
    opening: OpeningQueue,
    flow: FlowControl,
    stalled: StalledClients,
    reporter: Reporter,
    /// The generation up to which configurations have been taken over.
    generation: Cell<u64>,
    /// True while the outputs are being performed.
    performing: Cell<bool>,
    alarm: WorkerAlarm,
    mail: Mail,
}

/// Sets the flag to false when dropped, also while a panic unwinds: otherwise no output would ever
/// be performed again.
struct PerformingGuard<'a>(&'a Cell<bool>);

impl Drop for PerformingGuard<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn now() -> Duration {
    START.elapsed()
}

/// Calls with the worker of this thread. `None`: the thread is ending, and its worker is gone.
fn with<T>(call: impl FnOnce(&Worker) -> T) -> Option<T> {
    WORKER.try_with(call).ok()
}

/// Gives the multiplexer an input and performs its outputs.
pub fn input(give: impl FnOnce(&RefCell<Multiplexer>, Duration)) {
    with(|worker| {
        worker.follow_config();
        give(&worker.multiplexer, now());
        worker.perform();
    });
}

/// A client has connected. Returns the multiplexer's number of it.
pub fn downstream_opened(downstream: &Rc<DownstreamFilter>) -> Option<ClientId> {
    with(|worker| {
        worker.follow_config();
        let (config, metrics) = downstream.config();
        worker.reporter.register(metrics);
        let id = worker.multiplexer.borrow_mut().open(config);
        let (remote, local) = downstream.handle.addresses();
        worker.multiplexer.borrow_mut().desk(now()).arrived(id, remote, local);
        worker.downstreams.borrow_mut().insert(id, downstream.clone());
        worker.mail.open();
        // Connections may wait that had no client to ask for a dialer.
        worker.ask_for_dialer();
        worker.perform();
        id
    })
}

/// A client's connection has ended.
pub fn downstream_closed(downstream: &Rc<DownstreamFilter>, id: ClientId) {
    with(|worker| {
        worker.downstreams.borrow_mut().remove(&id);
        worker.multiplexer.borrow_mut().closed(id);
        if worker.downstreams.borrow().is_empty() {
            worker.mail.close(&worker.multiplexer, now());
        }
        worker.dialer.requester_lost(downstream);
        // There may be no filter left whose hook an alarm could call, so the tally is reported
        // now.
        worker.reporter.hurry();
        worker.perform_at_an_end();
    });
}

/// Reading of a client's connection is disabled.
pub fn stalled(downstream: &Rc<DownstreamFilter>) {
    with(|worker| {
        worker.stalled.add(downstream, now());
        worker.set_alarm();
    });
}

/// A client's request for a dialer has ended.
pub fn dialer_answered(downstream: &Rc<DownstreamFilter>, result: CalloutResult) {
    with(|worker| {
        worker.lost(worker.dialer.answered(downstream, result));
        match result {
            CalloutResult::Ok => worker.perform(),
            CalloutResult::Failed => worker.perform_at_an_end(),
        }
    });
}

/// The request of this number for a dialer has reached a filter.
pub fn dialer_arrived(dialer: &Rc<DialerFilter>, request: u64) {
    with(|worker| worker.dialer.arrived(dialer, request));
}

/// A connection on the listener of dialers has ended.
pub fn dialer_lost(dialer: &Rc<DialerFilter>) {
    with(|worker| {
        worker.lost(worker.dialer.lost(dialer));
        worker.perform_at_an_end();
    });
}

/// A callout of the dialer has ended, and with it the upstream connection.
pub fn callout_ended(callout: u64) {
    with(|worker| {
        worker.lost(worker.dialer.callout_ended(callout));
        worker.perform_at_an_end();
    });
}

/// The request for an upstream connection has reached its filter. Returns the connection's number
/// and address, or `None` if the multiplexer doesn't want it any more.
pub fn upstream_arrived(upstream: &Rc<UpstreamFilter>, request: u64) -> Option<(ConnectionId, Address)> {
    with(|worker| worker.dialer.upstream_arrived(upstream, request)).flatten()
}

/// An upstream connection takes bytes from now on.
pub fn upstream_opened(upstream: &UpstreamFilter, id: ConnectionId) {
    with(|worker| {
        // The multiplexer says only once that there are bytes to send, and it may have said so
        // before.
        worker.send_over(upstream, id);
        worker.perform();
    });
}

/// An upstream connection has ended.
pub fn upstream_closed(upstream: &Rc<UpstreamFilter>, id: ConnectionId) {
    with(|worker| {
        worker.lost(worker.dialer.upstream_closed(upstream, id));
        worker.perform_at_an_end();
    });
}

/// The write buffer of an upstream connection holds bytes from Redis.
pub fn upstream_replied(upstream: &UpstreamFilter, id: ConnectionId) {
    with(|worker| {
        worker.follow_config();
        upstream.handle.reply(&worker.multiplexer, id, now());
        worker.retry_full();
        worker.perform();
    });
}

/// The alarm has gone off.
pub fn tick() {
    with(|worker| {
        worker.alarm.went_off();
        worker.follow_config();
        let now = now();
        worker.mail.read(&worker.multiplexer, now);
        let is_due = worker.multiplexer.borrow().next_tick().is_some_and(|due| due <= now);
        if is_due {
            worker.multiplexer.borrow_mut().tick(now);
        }
        worker.retry_full();
        worker.lost(worker.flow.check(&worker.multiplexer, now));
        worker.stalled.look(&worker.multiplexer, now);
        worker.reporter.hurry();
        // The client whose request for a dialer there was may have gone.
        worker.ask_for_dialer();
        worker.perform();
    });
}

/// A filter goes. If the alarm has its waker, the alarm drops it.
pub fn release_waker(filter: &FilterHandle) {
    with(|worker| worker.alarm.release(filter));
}

/// A seed for the multiplexer's randomness.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    if getrandom::fill(&mut seed).is_err() {
        // The kernel's generator doesn't fail. If it did, an address and a time would be a poor
        // seed, but no reason to panic.
        let address = std::ptr::from_ref(&seed).addr() as u64;
        seed[..8].copy_from_slice(&address.to_le_bytes());
        seed[8..16].copy_from_slice(&(now().as_nanos() as u64).to_le_bytes());
    }
    seed
}

impl Worker {
    fn new() -> Worker {
        let alarm = WorkerAlarm::new(*START);
        Worker {
            multiplexer: RefCell::new(Multiplexer::new(seed())),
            downstreams: RefCell::default(),
            dialer: Dialer::default(),
            full: RefCell::default(),
            opening: OpeningQueue::default(),
            flow: FlowControl::default(),
            stalled: StalledClients::default(),
            reporter: Reporter::default(),
            generation: Cell::new(0),
            performing: Cell::new(false),
            mail: Mail::new(alarm.key()),
            alarm,
        }
    }

    /// Takes new configurations over.
    fn follow_config(&self) {
        let generation = config::newer(self.generation.get(), |config, metrics| {
            self.reporter.register(metrics);
            self.multiplexer.borrow_mut().update(&config);
        });
        self.generation.set(generation);
    }

    /// Performs the multiplexer's outputs, and opens connections; see the drain rule.
    fn perform(&self) {
        self.drain(|| self.opening.next(now()));
    }

    /// Performs the multiplexer's outputs, and leaves connections that are to be opened to the alarm;
    /// see the rule of ends.
    fn perform_at_an_end(&self) {
        self.drain(|| None);
    }

    fn drain(&self, next_to_open: impl Fn() -> Option<(ConnectionId, Address)>) {
        if self.performing.replace(true) {
            return;
        }
        let _guard = PerformingGuard(&self.performing);
        loop {
            let output = self.multiplexer.borrow_mut().poll();
            match output {
                Some(Output::Write(id)) => self.write(id),
                Some(Output::Resume(id)) => {
                    if let Some(downstream) = self.downstream(id) {
                        downstream.resume(&self.multiplexer, now());
                    }
                }
                Some(Output::CloseDownstream(id)) => {
                    if let Some(downstream) = self.downstream(id) {
                        downstream.handle.close();
                    }
                }
                Some(Output::AbortDownstream(id)) => {
                    if let Some(downstream) = self.downstream(id) {
                        downstream.handle.abort();
                    }
                }
                Some(Output::Open(id, address)) => self.opening.add(id, address),
                Some(Output::FindMembers(cluster)) => {
                    if let Some(downstream) = self.any_downstream() {
                        downstream.handle.use_cluster(&cluster);
                    }
                }
                Some(Output::Ask(id, inquiry)) => self.mail.ask(id, &inquiry, &self.multiplexer, now()),
                Some(Output::Tell(origin, answer)) => mail::tell(origin, answer),
                Some(Output::Send(id)) => self.send(id),
                Some(Output::PauseUpstream(id)) => {
                    if let Some(upstream) = self.dialer.upstream(id) {
                        self.flow.pause(&upstream);
                    }
                }
                Some(Output::ResumeUpstream(id)) => {
                    if let Some(upstream) = self.dialer.upstream(id) {
                        self.flow.resume(&upstream, now());
                    }
                }
                Some(Output::CloseUpstream(id)) => {
                    self.opening.forget(id);
                    self.dialer.close(id);
                }
                None => match next_to_open() {
                    Some((id, address)) => self.lost(self.dialer.open(id, address, || self.any_downstream())),
                    None => break,
                },
            }
        }
        self.reporter.report(&self.multiplexer, |config| {
            let is_of_host =
                |metrics: &&Arc<FilterMetrics>| metrics.config().is_some_and(|its| its.host == config.host);
            self.downstreams.borrow().values().map(|downstream| &downstream.metrics).find(is_of_host).cloned()
        });
        self.set_alarm();
    }

    fn downstream(&self, id: ClientId) -> Option<Rc<DownstreamFilter>> {
        self.downstreams.borrow().get(&id).cloned()
    }

    fn any_downstream(&self) -> Option<Rc<DownstreamFilter>> {
        self.downstreams.borrow().values().next().cloned()
    }

    fn write(&self, id: ClientId) {
        let data = self.multiplexer.borrow_mut().take_downstream(id);
        if let Some(downstream) = self.downstream(id) {
            downstream.handle.write(&data);
        }
        self.multiplexer.borrow_mut().recycle(data);
    }

    fn send(&self, id: ConnectionId) {
        let Some(upstream) = self.dialer.upstream(id) else { return };
        if upstream.is_writable() {
            self.send_over(&upstream, id);
        } else {
            self.full.borrow_mut().push(upstream);
            self.multiplexer.borrow_mut().upstream_full(id, true);
        }
    }

    fn send_over(&self, upstream: &UpstreamFilter, id: ConnectionId) {
        let data = self.multiplexer.borrow_mut().take_upstream(id);
        if !data.is_empty() {
            upstream.send(&data);
        }
        self.multiplexer.borrow_mut().recycle(data);
    }

    /// Sends over the upstream connections that were full and no longer are. Envoy reports no
    /// change of that; a reply makes it likely, and the alarm covers connections that have no
    /// reply to give, as in the middle of a command.
    fn retry_full(&self) {
        if self.full.borrow().is_empty() {
            return;
        }
        for upstream in self.full.take() {
            let Some(id) = upstream.id() else { continue };
            if upstream.is_writable() {
                self.multiplexer.borrow_mut().upstream_full(id, false);
                // The multiplexer doesn't say a second time that there are bytes to send.
                self.send_over(&upstream, id);
            } else {
                self.full.borrow_mut().push(upstream);
            }
        }
    }

    /// Asks for a dialer, if connections wait for one.
    fn ask_for_dialer(&self) {
        self.lost(self.dialer.ask(|| self.any_downstream()));
    }

    /// Tells the multiplexer of upstream connections that have ended or will not come.
    fn lost(&self, ids: impl IntoIterator<Item = ConnectionId>) {
        for id in ids {
            self.multiplexer.borrow_mut().lost(id, now());
        }
    }

    /// Sees to it that the worker can be woken while it has clients.
    fn attach_alarm(&self) {
        if self.alarm.is_attached() {
            return;
        }
        // The dialer by preference: it stays when clients go.
        if let Some(dialer) = self.dialer.ready() {
            self.alarm.attach(&dialer.handle);
        } else if let Some(downstream) = self.any_downstream() {
            self.alarm.attach(&downstream.handle);
        }
        if self.mail.is_waiting() {
            // What came meanwhile has woken nobody.
            self.alarm.set(now());
        }
    }

    /// Sets the alarm to the earliest time at which something is to be done without an input.
    fn set_alarm(&self) {
        self.attach_alarm();
        let due = {
            let multiplexer = self.multiplexer.borrow();
            let full = (!self.full.borrow().is_empty()).then(|| now() + FULL_RETRY);
            [
                multiplexer.next_tick(),
                self.reporter.due(&multiplexer),
                full,
                self.flow.due(),
                self.stalled.due(),
                self.opening.due(),
                self.dialer.is_missing().then(now),
            ]
            .into_iter()
            .flatten()
            .min()
        };
        if let Some(due) = due.filter(|due| self.alarm.is_later_than(*due)) {
            self.alarm.set(due);
        }
    }
}
