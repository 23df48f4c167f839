//! A host for a [`Rewriter`] without an Envoy: it does what the wasm host does, with bytes in
//! memory and a clock of its own.

use redis_mesh_core::random::Random;
use redis_mesh_core::rewriter::config::RewriterConfig;
use redis_mesh_core::rewriter::{Env, Gate, HEAD, LoginReview, ReplyNeed, Rewriter, StreamEdit};
use redis_mesh_core::stats::Stats;
use std::time::Duration;

/// One connection, with the bytes that have come out on both sides.
pub struct Harness {
    pub config: RewriterConfig,
    pub rewriter: Rewriter,
    pub random: Random,
    pub stats: Stats,
    pub review: LoginReview,
    pub now: Duration,
    /// The services of the cluster to which the connection leads.
    pub services: Vec<String>,
    /// The client's next bytes are its last.
    pub ending: bool,
    /// Client bytes that wait because the gate is closed.
    waiting: Vec<u8>,
    /// The bytes that the next filter has got.
    pub next: Vec<u8>,
    /// The bytes that the client has got.
    pub client: Vec<u8>,
}

impl Harness {
    /// Returns a new connection to the only host of a configuration.
    pub fn new(config: RewriterConfig) -> Harness {
        Harness {
            config,
            rewriter: Rewriter::new(7),
            random: Random::new([5; 32]),
            stats: Stats::default(),
            review: LoginReview::default(),
            now: Duration::from_secs(1),
            services: Vec::new(),
            ending: false,
            waiting: Vec::new(),
            next: Vec::new(),
            client: Vec::new(),
        }
    }

    /// Another connection has asked already what the login may do.
    pub fn has_asked(mut self) -> Harness {
        let login = self.config.hosts.first().and_then(|host| host.login.as_ref());
        assert!(login.is_none_or(|login| self.review.begin(login.identity)));
        self
    }

    /// Returns a configuration that is given as JSON.
    pub fn config(json: &str) -> RewriterConfig {
        RewriterConfig::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{e}: {json}"))
    }

    fn lend<T>(&mut self, call: impl FnOnce(&mut Rewriter, &mut Env<'_>) -> T) -> T {
        let host = &self.config.hosts[0];
        let mut env = Env {
            config: &self.config,
            host,
            may_log_in: host.login.as_ref().is_none_or(|login| login.is_for(&self.services)),
            now: self.now,
            unix: Duration::new(1_700_000_000, 123_456_000),
            ending: self.ending,
            random: &mut self.random,
            stats: &mut self.stats,
            review: &mut self.review,
        };
        call(&mut self.rewriter, &mut env)
    }

    /// The client sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        self.go_on();
    }

    fn go_on(&mut self) {
        while self.rewriter.gate() == Gate::Open && (!self.waiting.is_empty() || self.rewriter.waits()) {
            let input = std::mem::take(&mut self.waiting);
            let passable = self.rewriter.passable();
            if !input.is_empty() && input.len() <= passable {
                self.rewriter.passed(input.len());
                self.next.extend_from_slice(&input);
                continue;
            }
            let mut out = Vec::new();
            match self.lend(|rewriter, env| rewriter.request(env, &input, &mut out)) {
                StreamEdit::Unchanged => self.next.extend_from_slice(&input),
                StreamEdit::Replaced => self.next.extend_from_slice(&out),
            }
        }
    }

    /// The next filter answers.
    pub fn answer(&mut self, bytes: &[u8]) {
        let mut need = self.rewriter.reply_need(&self.config, bytes.len());
        let mut out = Vec::new();
        if need == ReplyNeed::Head {
            let head = &bytes[..bytes.len().min(HEAD)];
            match self.rewriter.reply_head(&self.config, head, bytes.len(), &mut out) {
                Some(replaced) => {
                    self.client.extend_from_slice(&out);
                    self.client.extend_from_slice(&bytes[replaced..]);
                }
                None => need = ReplyNeed::All,
            }
        }
        match need {
            ReplyNeed::Nothing => self.client.extend_from_slice(bytes),
            ReplyNeed::All => match self.lend(|rewriter, env| rewriter.reply(env, bytes, &mut out)) {
                StreamEdit::Unchanged => self.client.extend_from_slice(bytes),
                StreamEdit::Replaced => self.client.extend_from_slice(&out),
            },
            ReplyNeed::Head => {}
        }
        self.go_on();
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.rewriter.wake(self.now);
        self.go_on();
    }
}
