//! A client's connection.

use crate::abi;
use crate::plugin::{HostStats, Plugin};
use crate::vm;
use log::warn;
use proxy_wasm::traits::{Context, StreamContext};
use proxy_wasm::types::{Action, BufferType, PeerType};
use redis_mesh_core::rewriter::config::{Path, RewriterConfig, RewriterHost};
use redis_mesh_core::rewriter::{Env, Gate, HEAD, ReplyNeed, Rewriter, StreamEdit};
use redis_mesh_core::stats::Stat;
use redis_mesh_core::wire::mesh_service;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The stream context of a connection.
pub struct Stream {
    id: u32,
    connection: Rc<RefCell<Connection>>,
}

/// A connection's state, which its own callbacks reach and, while it waits, [`pump`] and
/// [`wake_due`].
struct Connection {
    plugin: Rc<Plugin>,
    rewriter: Rewriter,
    host: HostBinding,
    /// The generation of the configuration to which `host` refers.
    generation: u32,
    stats: Option<Rc<HostStats>>,
    /// True if the connection leads where the host's login may be sent.
    may_log_in: bool,
    /// True once the client has sent its last byte.
    ended: bool,
    /// True once the next filter knows that.
    has_told_end: bool,
    /// The number of bytes at the beginning of Envoy's read buffer that the rewriter has made and
    /// that wait to be handed on.
    unsent: usize,
    /// True while an item of the plugin's queue will have the connection pumped.
    scheduled: bool,
}

/// The host to which a connection belongs.
#[derive(Clone, Copy, PartialEq)]
enum HostBinding {
    /// The host hasn't been looked for yet.
    Unknown,
    /// The connection belongs to the host of this index in the configuration.
    Managed(u32),
    /// The connection belongs to no host of the plugin, or isn't served in this proxy, and passes
    /// through untouched.
    Unmanaged,
    /// The connection's host is gone, or Envoy has refused an edit. The rewriter's edits so far
    /// can't be undone, so the connection is closed.
    Orphaned,
}

/// Whether the result of a call of the rewriter may depend on the time.
#[derive(Clone, Copy)]
enum TimeUse {
    Needed,
    Unneeded,
}

thread_local! {
    /// The connections that wait to be pumped or woken, by their contexts.
    static WAITING: RefCell<BTreeMap<u32, Rc<RefCell<Connection>>>> = const { RefCell::new(BTreeMap::new()) };
    /// Reused, so that a callback needs no allocation of its own.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer that has grown beyond this capacity, in bytes, is not kept.
const KEPT_SCRATCH: usize = 256 * 1024;

fn with_scratch<T>(use_it: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = use_it(&mut scratch);
    if scratch.capacity() <= KEPT_SCRATCH {
        SCRATCH.set(scratch);
    }
    result
}

/// Keeps a connection, so that it can be pumped or woken.
fn wait(id: u32, connection: &Rc<RefCell<Connection>>) {
    WAITING.with_borrow_mut(|waiting| waiting.insert(id, connection.clone()));
}

/// The connection of a context, if it waits.
fn waiting(id: u32) -> Option<Rc<RefCell<Connection>>> {
    WAITING.with_borrow(|waiting| waiting.get(&id).cloned())
}

/// The connection of a context no longer waits.
fn done(id: u32) {
    WAITING.with_borrow_mut(|waiting| waiting.remove(&id));
}

/// Opens the gates of the connections that wait for a time which has come.
pub fn wake_due(now: Duration) {
    while let Some(id) = vm::take_due(now) {
        if let Some(connection) = waiting(id) {
            let mut c = connection.borrow_mut();
            c.rewriter.wake(now);
            c.schedule(id, &connection);
        }
    }
}

/// The most services of a cluster that are looked at.
const MAX_SERVICES: usize = 8;

/// The services of the cluster to which the selected connection leads, as Istio writes them into the
/// cluster's metadata.
fn services() -> Vec<String> {
    let field = |index: &str, name: &str| {
        abi::property(&["xds", "cluster_metadata", "filter_metadata", "istio", "services", index, name])
    };
    let service = |index: usize| {
        let index = index.to_string();
        let host = field(&index, "host")?;
        Some(mesh_service(&field(&index, "namespace").unwrap_or_default(), &host))
    };
    (0..MAX_SERVICES).map_while(service).collect()
}

impl Connection {
    /// Finds the host to which the selected connection belongs, again after a new configuration.
    fn resolve(&mut self, config: &RewriterConfig) {
        if self.host != HostBinding::Unknown && self.generation == self.plugin.generation() {
            return;
        }
        self.generation = self.plugin.generation();
        let found = if config.selects() {
            let listener = abi::property(&["xds", "listener_metadata", "filter_metadata", "redis-mesh", "host"]);
            let cluster = abi::property(&["xds", "cluster_name"]);
            let address = abi::property(&["destination", "address"]);
            config.select(listener.as_deref(), cluster.as_deref(), address.as_deref())
        } else {
            config.select(None, None, None)
        };
        self.host = match (found, self.host) {
            (_, HostBinding::Orphaned) => HostBinding::Orphaned,
            // Bytes of an unmanaged connection have passed that the rewriter hasn't parsed, so it
            // can't begin in the middle.
            (_, HostBinding::Unmanaged) => HostBinding::Unmanaged,
            (Some(i), _) => HostBinding::Managed(i as u32),
            (None, HostBinding::Unknown) => HostBinding::Unmanaged,
            (None, HostBinding::Managed(_)) => HostBinding::Orphaned,
        };
        self.stats = self.managed(config).map(|host| self.plugin.stats(&host.name));
        self.permit_login(config);
    }

    /// Decides whether the host's login may be sent to where the connection leads.
    fn permit_login(&mut self, config: &RewriterConfig) {
        self.may_log_in = true;
        let Some(host) = self.managed(config) else { return };
        let Some(login) = host.login.as_ref().filter(|login| login.service.is_some()) else { return };
        let services = services();
        if login.is_for(&services) {
            return;
        }
        if let Some(stats) = &self.stats {
            stats.increments.borrow_mut().count(Stat::LoginsWithheld);
            if stats.withheld.replace(Some(self.generation)) != Some(self.generation) {
                warn!("{}", login.withheld(&host.name, &services));
            }
        }
        self.may_log_in = false;
    }

    fn managed<'c>(&self, config: &'c RewriterConfig) -> Option<&'c RewriterHost> {
        match self.host {
            HostBinding::Managed(i) => config.hosts.get(i as usize),
            HostBinding::Unknown | HostBinding::Unmanaged | HostBinding::Orphaned => None,
        }
    }

    /// Calls the rewriter with its environment. `None`: the connection belongs to no host.
    fn with_env<T>(
        &mut self,
        config: &RewriterConfig,
        time: TimeUse,
        call: impl FnOnce(&mut Rewriter, &mut Env<'_>) -> T,
    ) -> Option<T> {
        let host = self.managed(config)?;
        let stats = self.stats.clone()?;
        // Reading a clock is a call into Envoy. Delays alone need the one clock, and TIME alone
        // needs the other.
        let delay_clock = || if host.faults.delays() { vm::now() } else { Duration::ZERO };
        let (now, unix) = match (time, host.path) {
            (TimeUse::Unneeded, _) => (Duration::ZERO, Duration::ZERO),
            (TimeUse::Needed, Path::Direct) => (delay_clock(), Duration::ZERO),
            (TimeUse::Needed, Path::Proxy) => (delay_clock(), Duration::from_nanos(abi::unix_nanoseconds())),
        };
        let (ending, may_log_in) = (self.ended, self.may_log_in);
        let result = vm::random(|random| {
            let (increments, review) = (&mut stats.increments.borrow_mut(), &mut stats.review.borrow_mut());
            let mut env = Env { config, host, now, unix, ending, random, stats: increments, review, may_log_in };
            call(&mut self.rewriter, &mut env)
        });
        vm::flush_soon();
        Some(result)
    }

    /// Has the rewriter edit the `data` in the read buffer. Returns the number of bytes that may
    /// go on, 0 if the connection can't.
    fn edit_request(&mut self, config: &RewriterConfig, data: &[u8], out: &mut Vec<u8>) -> usize {
        match self.with_env(config, TimeUse::Needed, |rewriter, env| rewriter.request(env, data, out)) {
            Some(StreamEdit::Unchanged) => data.len(),
            Some(StreamEdit::Replaced) if abi::replace(BufferType::DownstreamData, data.len(), out) => out.len(),
            Some(StreamEdit::Replaced) | None => {
                self.host = HostBinding::Orphaned;
                0
            }
        }
    }

    /// Has the rewriter edit `size` bytes from upstream in Envoy's buffer. False: Envoy has
    /// refused, or the connection belongs to no host.
    fn edit_reply(&mut self, config: &RewriterConfig, size: usize, out: &mut Vec<u8>) -> bool {
        match self.rewriter.reply_need(config, size) {
            ReplyNeed::Nothing => return true,
            ReplyNeed::All => {}
            ReplyNeed::Head => {
                let head = abi::buffer(BufferType::UpstreamData, 0, HEAD);
                match self.rewriter.reply_head(config, &head, size, out) {
                    Some(0) => return true,
                    Some(replaced) => return abi::replace(BufferType::UpstreamData, replaced, out),
                    None => {}
                }
            }
        }
        let data = abi::buffer(BufferType::UpstreamData, 0, size);
        match self.with_env(config, TimeUse::Unneeded, |rewriter, env| rewriter.reply(env, &data, out)) {
            Some(StreamEdit::Unchanged) => true,
            Some(StreamEdit::Replaced) => *out == data || abi::replace_all(BufferType::UpstreamData, size, out),
            None => false,
        }
    }

    /// Has the connection woken when its gate opens, if that is at a certain time.
    fn set_timer(&self, id: u32) {
        if let Gate::Until(time) = self.rewriter.gate() {
            vm::wake_at(time, id);
        }
    }

    /// Takes bytes out of the read buffer that the client has sent since the rewriter filled it,
    /// so that only the rewriter's bytes are handed on.
    fn hold_later_bytes(&mut self) {
        let all = abi::buffer(BufferType::DownstreamData, 0, usize::MAX);
        let (unsent, later) = all.split_at(self.unsent.min(all.len()));
        if !later.is_empty() {
            self.rewriter.hold(later);
            if !abi::replace(BufferType::DownstreamData, all.len(), unsent) {
                self.host = HostBinding::Orphaned;
            }
        }
    }

    /// Hands the read buffer on. Bytes that are still held, or that come meanwhile, are looked at
    /// in a later turn.
    fn flush(&mut self, id: u32, connection: &Rc<RefCell<Connection>>) {
        self.unsent = 0;
        self.has_told_end |= self.ended;
        abi::resume();
        self.schedule_or_finish(id, connection);
    }

    /// Nothing is left to be handed on, unless it is that the client has sent its last byte while its
    /// bytes were held.
    fn finish(&mut self, id: u32) {
        done(id);
        if self.ended && !self.has_told_end && self.host != HostBinding::Orphaned {
            self.has_told_end = true;
            abi::resume();
        }
    }

    /// Has the connection pumped again if there is something to do; otherwise it waits only for a
    /// gate.
    fn schedule_or_finish(&mut self, id: u32, connection: &Rc<RefCell<Connection>>) {
        if self.has_work() {
            self.schedule(id, connection);
        } else if self.rewriter.gate() == Gate::Open {
            self.finish(id);
        }
    }

    /// True if there is something to do of which no event will tell.
    fn has_work(&self) -> bool {
        let has_bytes = matches!(self.rewriter.gate(), Gate::Open) && self.rewriter.waits();
        has_bytes || self.must_close()
    }

    fn must_close(&self) -> bool {
        self.rewriter.closing() || self.host == HostBinding::Orphaned
    }

    /// Has the connection pumped in a later turn of the event loop.
    fn schedule(&mut self, id: u32, connection: &Rc<RefCell<Connection>>) {
        wait(id, connection);
        if !self.scheduled {
            self.scheduled = true;
            self.plugin.schedule(id);
        }
    }
}

impl Stream {
    /// A new connection of a plugin.
    pub fn new(id: u32, plugin: Rc<Plugin>) -> Stream {
        let connection = Connection {
            generation: plugin.generation(),
            rewriter: Rewriter::new(u64::from(id)),
            host: if plugin.is_served() { HostBinding::Unknown } else { HostBinding::Unmanaged },
            plugin,
            stats: None,
            may_log_in: true,
            ended: false,
            has_told_end: false,
            unsent: 0,
            scheduled: false,
        };
        Stream { id, connection: Rc::new(RefCell::new(connection)) }
    }

    fn downstream(&mut self, size: usize, end: bool) -> Action {
        let action = self.edit_downstream(size, end);
        if end && action == Action::Continue {
            self.connection.borrow_mut().has_told_end = true;
        }
        action
    }

    fn edit_downstream(&mut self, size: usize, end: bool) -> Action {
        let mut c = self.connection.borrow_mut();
        let c = &mut *c;
        if c.host == HostBinding::Unmanaged {
            return Action::Continue;
        }
        c.ended |= end;
        let config = c.plugin.config();
        c.resolve(&config);
        match c.host {
            HostBinding::Unmanaged => return Action::Continue,
            HostBinding::Orphaned => {
                c.schedule(self.id, &self.connection);
                return Action::Pause;
            }
            HostBinding::Managed(_) | HostBinding::Unknown => {}
        }
        if c.unsent > 0 || c.rewriter.gate() != Gate::Open {
            // The bytes stay in Envoy's buffer, and Envoy stops reading when that is full.
            return Action::Pause;
        }
        if size == 0 {
            return Action::Continue;
        }
        if size <= c.rewriter.passable() {
            c.rewriter.passed(size);
            return Action::Continue;
        }
        let data = abi::buffer(BufferType::DownstreamData, 0, size);
        let left = with_scratch(|out| c.edit_request(&config, &data, out));
        if c.rewriter.gate() == Gate::Open && c.host != HostBinding::Orphaned {
            return if left > 0 || end { Action::Continue } else { Action::Pause };
        }
        c.unsent = left;
        c.set_timer(self.id);
        c.schedule(self.id, &self.connection);
        Action::Pause
    }

    fn upstream(&mut self, size: usize) -> Action {
        let mut c = self.connection.borrow_mut();
        let c = &mut *c;
        if !c.rewriter.reads_replies() || size == 0 {
            return Action::Continue;
        }
        let config = c.plugin.config();
        c.resolve(&config);
        if !with_scratch(|out| c.edit_reply(&config, size, out)) {
            c.host = HostBinding::Orphaned;
        }
        // The reply may have opened the gate.
        let may_go_on = matches!(c.rewriter.gate(), Gate::Open) && waiting(self.id).is_some();
        if may_go_on || c.must_close() {
            c.schedule(self.id, &self.connection);
        }
        Action::Continue
    }
}

/// Goes on with a connection that waits: hands on bytes that are ready, else has the rewriter edit
/// those that the client has sent meanwhile, else closes the connection if that is due.
///
/// [`abi::resume`] takes effect when the call from Envoy is over, so it is the last thing that
/// happens here; replies that the next filter gives at once come after it.
pub fn pump(id: u32) {
    let Some(connection) = waiting(id) else {
        return;
    };
    if !abi::select(id) {
        done(id);
        return;
    }
    let mut c = connection.borrow_mut();
    let c = &mut *c;
    c.scheduled = false;
    if c.unsent > 0 {
        c.hold_later_bytes();
        c.flush(id, &connection);
        return;
    }
    if c.must_close() {
        done(id);
        abi::close();
        return;
    }
    if c.rewriter.gate() != Gate::Open {
        return;
    }
    let data = abi::buffer(BufferType::DownstreamData, 0, usize::MAX);
    if data.is_empty() && !c.rewriter.waits() {
        c.finish(id);
        return;
    }
    let config = c.plugin.config();
    c.resolve(&config);
    c.unsent = with_scratch(|out| c.edit_request(&config, &data, out));
    c.set_timer(id);
    if c.unsent > 0 {
        c.flush(id, &connection);
    } else {
        c.schedule_or_finish(id, &connection);
    }
}

impl Context for Stream {}

impl StreamContext for Stream {
    fn on_downstream_data(&mut self, size: usize, end: bool) -> Action {
        self.downstream(size, end)
    }

    fn on_upstream_data(&mut self, size: usize, _end: bool) -> Action {
        self.upstream(size)
    }

    fn on_downstream_close(&mut self, _peer: PeerType) {
        done(self.id);
    }
}
