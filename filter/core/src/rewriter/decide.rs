//! What becomes of a command.

use super::*;
use crate::request::errors;

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Decision {
    /// It goes on, with the edits that were collected.
    Forward,
    /// These bytes go on in its place; their one reply is the client's.
    Send(Vec<u8>),
    /// It is answered here with these bytes, which are no error.
    Answer(Vec<u8>),
    /// It is refused with this text.
    Refuse(String),
    /// It is refused because the client isn't logged in, or failed to: counted elsewhere.
    Deny(String),
    /// It has been dealt with.
    Done,
    /// It waits until the gate, which was closed, opens.
    Wait,
}

/// What was found out of a command on its way to a decision.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<ArgEdit>,
    /// The route of the first key.
    pub(super) route: Option<u32>,
    pub(super) mirrored: bool,
    /// It goes by a detour, on which what is sent behind it would overtake it.
    pub(super) strays: bool,
}

impl Rewriter {
    /// True where commands that reveal or change credentials are refused: also on a connection that is still logged in by
    /// us though its host no longer asks for it.
    pub(super) fn guarded(&self, env: &Env<'_>) -> bool {
        let still_ours = env.host.login.is_none() && matches!(self.login, Login::Done(1..));
        env.host.guarded || env.host.path == Path::Direct && still_ours
    }

    /// False while the client has to log in first.
    pub(super) fn may_command(&self, env: &Env<'_>) -> bool {
        self.authenticated || env.host.client_auth.is_none()
    }

    /// Decides a command and does what was decided.
    pub(super) fn command(&mut self, env: &mut Env<'_>, args: &Args<'_>, sink: &mut Sink<'_>) -> Step {
        if !std::mem::take(&mut self.waited) {
            env.stats.count(Stat::Commands);
        }
        let known = Known::of(args);
        let waited = self.drawn.take();
        if let Some(known) = known
            && waited.is_none()
            && self.plain(env, known, args)
        {
            self.expect_reply(Some(known), args);
            self.unsettled = true;
            return Step::Verbatim;
        }
        let mut plan = std::mem::take(&mut self.plan);
        plan.edits.clear();
        plan.route = None;
        plan.mirrored = false;
        plan.strays = false;
        let mut decision = self.decide(env, known, args, &mut plan, sink);
        if let Decision::Forward | Decision::Send(_) = decision {
            let fault = waited.or_else(|| draw(env, args, plan.route));
            if let Some(fault) = fault {
                if !fault.delay.is_zero() {
                    env.stats.count(Stat::FaultDelays);
                    self.gate = Gate::Until(env.now + fault.delay);
                    self.drawn = Some(Injected { delay: Duration::ZERO, ..fault });
                    self.plan = plan;
                    self.waited = true;
                    return Step::Later;
                }
                if fault.error {
                    env.stats.count(Stat::FaultErrors);
                    decision = Decision::Deny("Fault Injected: Error".into());
                }
            }
        }
        let step = self.perform(env, known, args, &plan, decision, sink);
        if plan.edits.capacity() <= 64 {
            self.plan = plan;
        }
        step
    }

    /// The common case, told quickly: a command on one key, of a client that may send it, where no key decides anything.
    pub(super) fn plain(&self, env: &Env<'_>, known: Known, args: &Args<'_>) -> bool {
        let host = env.host;
        host.plain
            && known.container.proxy == Proxy::Simple
            && self.may_command(env)
            && !self.transaction.open
            && self.reply_mode == ReplyMode::On
            && known.command.accepts(args.count)
            && !known.command.strays()
            // Not taken for a tag.
            && args.get(1).first() != Some(&1)
    }

    pub(super) fn decide(
        &mut self,
        env: &mut Env<'_>,
        known: Option<Known>,
        args: &Args<'_>,
        plan: &mut Plan,
        sink: &mut Sink<'_>,
    ) -> Decision {
        let name = known.map(|k| k.container.name).unwrap_or_default();
        if !self.may_command(env) && !matches!(name, "auth" | "hello" | "reset" | "quit") {
            env.stats.count(Stat::Unauthenticated);
            return Decision::Deny(errors::NOAUTH.into());
        }
        let Some(Known { container, command }) = known else {
            return match env.host.path {
                Path::Direct => self.direct_unknown(env, args),
                Path::Proxy => unknown(args),
            };
        };
        match name {
            "auth" => return self.auth(env, args),
            "hello" => return self.hello(env, args, sink),
            "reset" => return self.reset(env, args, sink),
            "client" if env.host.path == Path::Direct => {
                if let Some(refusal) = self.client_reply_out_of_place(args) {
                    return refusal;
                }
            }
            _ => {}
        }
        if self.guarded(env)
            && let Some(reason) = guard::refusal(container, command, args)
        {
            return Decision::Refuse(format!(
                "NOPERM redis-mesh: {} {reason}; allowAdminCommands of the RedisService would permit it",
                command.name.to_ascii_uppercase().replace('|', " ")
            ));
        }
        match env.host.path {
            Path::Direct => self.direct(env, command, args, plan),
            Path::Proxy => self.proxy(env, container, command, args, plan, sink),
        }
    }
}

/// Draws the fault of a command: its route's, else the host's.
fn draw(env: &mut Env<'_>, args: &Args<'_>, route: Option<u32>) -> Option<Injected> {
    let host = env.host;
    let of_route = route.and_then(|r| host.faults_of(r)).and_then(|f| f.draw(args.get(0), env.random));
    if of_route.is_some() || host.faults.is_empty() {
        return of_route;
    }
    host.faults.draw(args.get(0), env.random)
}

/// Redis's answer to a command that it doesn't know.
pub(super) fn unknown(args: &Args<'_>) -> Decision {
    Decision::Refuse(errors::unknown_command(args))
}
