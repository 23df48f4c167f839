//! One client connection.

use crate::abi;
use crate::plugin::{HostStats, Plugin};
use crate::vm;
use proxy_wasm::traits::{Context, StreamContext};
use proxy_wasm::types::{Action, BufferType, PeerType};
use redis_mesh_core::rewriter::config::{Path, RewriterConfig, RewriterHost};
use redis_mesh_core::rewriter::{Env, Gate, HEAD, ReplyNeed, Rewriter, StreamEdit};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The proxy-wasm side of a connection.
pub struct Stream {
    id: u32,
    connection: Rc<RefCell<Connection>>,
}

/// A connection's state, reached from its own callbacks and, while it waits, from [`pump`].
pub struct Connection {
    plugin: Rc<Plugin>,
    rewriter: Rewriter,
    host: HostIndex,
    /// Generation of the configuration that `host` refers to.
    generation: u32,
    stats: Option<Rc<HostStats>>,
    /// The client has sent its last byte.
    ended: bool,
    /// Bytes at the beginning of Envoy's read buffer that are ours and wait to be handed on.
    unflushed: usize,
    posted: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum HostIndex {
    /// Not looked up yet.
    Unknown,
    /// Managed: an index into the configuration's hosts.
    Managed(u32),
    /// Not ours: it passes through untouched.
    Unmanaged,
    /// It was ours, and what was done for it can't be undone.
    Orphaned,
}

/// Whether a call of the rewriter may depend on the time.
#[derive(Clone, Copy)]
enum Time {
    Needed,
    Unneeded,
}

fn now_if(needed: bool) -> Duration {
    if needed { vm::now() } else { Duration::ZERO }
}

thread_local! {
    /// Reused, so that a callback costs no allocation of its own. Given back when it has grown.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
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

impl Connection {
    /// Opens a gate whose time has come.
    pub fn wake(&mut self, now: Duration, id: u32, connection: &Rc<RefCell<Connection>>) {
        self.rewriter.wake(now);
        self.post(id, connection);
    }

    /// Finds the host that the selected connection belongs to, again after a new configuration.
    fn resolve(&mut self, config: &RewriterConfig) {
        if self.host != HostIndex::Unknown && self.generation == self.plugin.generation() {
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
            (_, HostIndex::Orphaned) => HostIndex::Orphaned,
            // A connection that began untouched has had bytes that nobody parsed.
            (_, HostIndex::Unmanaged) => HostIndex::Unmanaged,
            (Some(i), _) => HostIndex::Managed(i as u32),
            (None, HostIndex::Unknown) => HostIndex::Unmanaged,
            (None, HostIndex::Managed(_)) => HostIndex::Orphaned,
        };
        self.stats = self.managed(config).map(|host| self.plugin.stats(&host.name));
    }

    fn managed<'c>(&self, config: &'c RewriterConfig) -> Option<&'c RewriterHost> {
        match self.host {
            HostIndex::Managed(i) => config.hosts.get(i as usize),
            HostIndex::Unknown | HostIndex::Unmanaged | HostIndex::Orphaned => None,
        }
    }

    /// Edits `size` bytes from upstream in Envoy's buffer. False: it can't be done.
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
        match self.lend(config, Time::Unneeded, |rewriter, env| rewriter.reply(env, &data, out)) {
            Some(StreamEdit::Unchanged) => true,
            Some(StreamEdit::Replaced) => *out == data || abi::replace_all(BufferType::UpstreamData, size, out),
            None => false,
        }
    }

    /// Calls the rewriter with everything that it is lent.
    fn lend<T>(
        &mut self,
        config: &RewriterConfig,
        time: Time,
        call: impl FnOnce(&mut Rewriter, &mut Env<'_>) -> T,
    ) -> Option<T> {
        let host = self.managed(config)?;
        let stats = self.stats.clone()?;
        // Every look at a clock is a call into Envoy: only delays need the one, only TIME the other.
        let (now, unix) = match (time, host.path) {
            (Time::Unneeded, _) => (Duration::ZERO, Duration::ZERO),
            (Time::Needed, Path::Direct) => (now_if(host.faults.delays()), Duration::ZERO),
            (Time::Needed, Path::Proxy) => {
                (now_if(host.faults.delays()), Duration::from_nanos(abi::unix_nanoseconds()))
            }
        };
        let ending = self.ended;
        let result = vm::random(|random| {
            let stats = &mut stats.increments.borrow_mut();
            call(&mut self.rewriter, &mut Env { config, host, now, unix, ending, random, stats })
        });
        vm::count();
        Some(result)
    }

    /// Bytes that the client has sent since the read buffer was filled with ours wait with us: only ours go on.
    fn keep_what_came_behind(&mut self) {
        let all = abi::buffer(BufferType::DownstreamData, 0, usize::MAX);
        let (ours, behind) = all.split_at(self.unflushed.min(all.len()));
        if !behind.is_empty() {
            self.rewriter.hold(behind);
            if !abi::replace(BufferType::DownstreamData, all.len(), ours) {
                self.host = HostIndex::Orphaned;
            }
        }
    }

    /// Hands the read buffer on. What is still held, and what has come meanwhile, is looked at in a later turn.
    fn flush(&mut self, id: u32, connection: &Rc<RefCell<Connection>>) {
        self.unflushed = 0;
        abi::resume();
        if self.must_go_on() {
            self.post(id, connection);
        } else if self.rewriter.gate() == Gate::Open {
            vm::done(id);
        }
    }

    /// True if there is something to do that no event will tell of.
    fn must_go_on(&self) -> bool {
        let waits = matches!(self.rewriter.gate(), Gate::Open) && self.rewriter.waits();
        waits || self.rewriter.closing() || self.host == HostIndex::Orphaned
    }

    /// Has the connection pumped soon, if there is something to do for it.
    fn post(&mut self, id: u32, connection: &Rc<RefCell<Connection>>) {
        vm::wait(id, connection);
        if !self.posted {
            self.posted = true;
            self.plugin.post(id);
        }
    }
}

impl Stream {
    /// A new connection of a plugin.
    pub fn new(id: u32, plugin: Rc<Plugin>) -> Stream {
        let connection = Connection {
            generation: plugin.generation(),
            plugin,
            rewriter: Rewriter::new(u64::from(id)),
            host: HostIndex::Unknown,
            stats: None,
            ended: false,
            unflushed: 0,
            posted: false,
        };
        Stream { id, connection: Rc::new(RefCell::new(connection)) }
    }

    fn downstream(&mut self, size: usize, end: bool) -> Action {
        let mut c = self.connection.borrow_mut();
        let c = &mut *c;
        if c.host == HostIndex::Unmanaged {
            return Action::Continue;
        }
        c.ended |= end;
        let config = c.plugin.config();
        c.resolve(&config);
        match c.host {
            HostIndex::Unmanaged => return Action::Continue,
            HostIndex::Orphaned => {
                c.post(self.id, &self.connection);
                return Action::Pause;
            }
            HostIndex::Managed(_) | HostIndex::Unknown => {}
        }
        if c.unflushed > 0 || c.rewriter.gate() != Gate::Open {
            // The bytes stay with Envoy, which stops reading when it has enough of them.
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
        with_scratch(|out| {
            let left = match c.lend(&config, Time::Needed, |rewriter, env| rewriter.request(env, &data, out)) {
                Some(StreamEdit::Unchanged) => size,
                Some(StreamEdit::Replaced) if abi::replace(BufferType::DownstreamData, size, out) => out.len(),
                Some(StreamEdit::Replaced) | None => {
                    c.host = HostIndex::Orphaned;
                    0
                }
            };
            match c.rewriter.gate() {
                Gate::Open if c.host != HostIndex::Orphaned => {
                    if left > 0 || end {
                        Action::Continue
                    } else {
                        Action::Pause
                    }
                }
                gate => {
                    c.unflushed = left;
                    if let Gate::Until(time) = gate {
                        vm::wake_at(time, self.id);
                    }
                    c.post(self.id, &self.connection);
                    Action::Pause
                }
            }
        })
    }

    fn upstream(&mut self, size: usize) -> Action {
        let mut c = self.connection.borrow_mut();
        let c = &mut *c;
        if !c.rewriter.reads_replies() || size == 0 {
            return Action::Continue;
        }
        let config = c.plugin.config();
        c.resolve(&config);
        let ok = with_scratch(|out| c.edit_reply(&config, size, out));
        if !ok {
            c.host = HostIndex::Orphaned;
        }
        let waits = vm::waiting(self.id).is_some();
        let wanted = matches!(c.rewriter.gate(), Gate::Open) && waits;
        if wanted || c.rewriter.closing() || c.host == HostIndex::Orphaned {
            c.post(self.id, &self.connection);
        }
        Action::Continue
    }
}

/// Goes on with a connection that waits: hands on what is ready, else takes what the client has sent meanwhile, else closes it
/// if that is due.
///
/// [`abi::resume`] takes effect when the call from Envoy is over, so it is the last thing that happens here; replies that the
/// next filter gives at once come after it.
pub fn pump(id: u32) {
    let Some(connection) = vm::waiting(id) else {
        return;
    };
    if !abi::select(id) {
        vm::done(id);
        return;
    }
    let mut c = connection.borrow_mut();
    let c = &mut *c;
    c.posted = false;
    if c.unflushed > 0 {
        c.keep_what_came_behind();
        c.flush(id, &connection);
        return;
    }
    if c.rewriter.closing() || c.host == HostIndex::Orphaned {
        vm::done(id);
        abi::close();
        return;
    }
    if c.rewriter.gate() != Gate::Open {
        return;
    }
    let data = abi::buffer(BufferType::DownstreamData, 0, usize::MAX);
    if data.is_empty() && !c.rewriter.waits() {
        vm::done(id);
        return;
    }
    let config = c.plugin.config();
    c.resolve(&config);
    with_scratch(|out| match c.lend(&config, Time::Needed, |rewriter, env| rewriter.request(env, &data, out)) {
        Some(StreamEdit::Unchanged) => c.unflushed = data.len(),
        Some(StreamEdit::Replaced) if abi::replace(BufferType::DownstreamData, data.len(), out) => {
            c.unflushed = out.len();
        }
        Some(StreamEdit::Replaced) | None => c.host = HostIndex::Orphaned,
    });
    if let Gate::Until(time) = c.rewriter.gate() {
        vm::wake_at(time, id);
    }
    if c.unflushed > 0 {
        c.flush(id, &connection);
    } else if c.must_go_on() {
        c.post(id, &connection);
    } else if c.rewriter.gate() == Gate::Open {
        vm::done(id);
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
        vm::done(self.id);
    }
}
