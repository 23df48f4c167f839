//! Doing what was decided: sending a command on, or answering it.

use super::*;
use crate::request::errors::{EXEC_WITH_ARGUMENTS, EXECABORT};

impl Rewriter {
    pub(super) fn perform(
        &mut self,
        env: &mut Env<'_>,
        known: Option<Known>,
        args: &Args<'_>,
        plan: &Plan,
        decision: Decision,
        sink: &mut Sink<'_>,
    ) -> Step {
        let error = |text: String| {
            let mut out = Vec::new();
            encode::error(&mut out, text.as_bytes());
            out
        };
        match decision {
            Decision::Forward => self.forward(env, known, args, plan, sink),
            Decision::Send(bytes) => {
                self.expect_reply(known, args);
                self.follow_session(known.map(|k| k.container.name).unwrap_or_default(), args);
                sink.write().extend_from_slice(&bytes);
                self.sent();
                Step::Edited
            }
            Decision::Answer(reply) => {
                self.answer(env, reply, sink);
                Step::Answered
            }
            Decision::Refuse(text) => {
                env.stats.count(Stat::Refused);
                self.transaction.dirty |= self.transaction.open;
                self.answer(env, error(text), sink);
                Step::Answered
            }
            Decision::Deny(text) => {
                self.transaction.dirty |= self.transaction.open;
                self.answer(env, error(text), sink);
                Step::Answered
            }
            Decision::Done => Step::Answered,
            Decision::Wait => {
                self.waited = true;
                Step::Later
            }
        }
    }

    /// Answers a command here, as Redis would have by the client's CLIENT REPLY.
    pub(super) fn answer(&mut self, env: &mut Env<'_>, reply: Vec<u8>, sink: &mut Sink<'_>) {
        match self.reply_mode {
            // Redis must know that a transaction fails.
            ReplyMode::Off if self.transaction.open => {
                self.replies.inject_unanswered(env, Form::Unknown, sink.write());
            }
            ReplyMode::Off => {
                sink.write();
            }
            ReplyMode::SkipNext | ReplyMode::Skipping => {
                // Redis is going to leave one reply out: that of the nonce.
                self.replies.inject_unanswered(env, Form::Echo, sink.write());
                self.reply_mode = ReplyMode::On;
            }
            ReplyMode::On => {
                // redis_proxy answers ECHO itself, in every state. A Redis does not: in MULTI, or to a user who may not.
                let form = if env.host.path == Path::Proxy { Form::Echo } else { Form::Unknown };
                self.inject(env, form, reply, Then::Nothing, sink.write());
            }
        }
    }

    /// A command has gone to Redis: what CLIENT REPLY SKIP was about is over.
    pub(super) fn sent(&mut self) {
        self.unsettled = true;
        self.reply_mode.begin();
        self.reply_mode.end();
    }

    pub(super) fn expect_reply(&mut self, known: Option<Known>, args: &Args<'_>) {
        if !self.following() {
            return;
        }
        let shape = known.map_or(Shape::Plain, |k| k.command.reply_shape(args));
        if self.transaction.open {
            // QUEUED now, the reply itself in EXEC's.
            self.transaction.shapes.push(shape);
            self.replies.expect(Expected::Reply(Shape::Plain));
        } else {
            self.replies.expect(Expected::Reply(shape));
        }
    }

    /// Sends a command on, and follows what it does to the connection's state.
    pub(super) fn forward(
        &mut self,
        env: &mut Env<'_>,
        known: Option<Known>,
        args: &Args<'_>,
        plan: &Plan,
        sink: &mut Sink<'_>,
    ) -> Step {
        if plan.mirrored {
            env.stats.count(Stat::Mirrored);
        }
        let name = known.map(|k| k.container.name).unwrap_or_default();
        let mut reply_mode = None;
        match name {
            "exec" | "discard" if self.transaction.open && env.host.path == Path::Proxy => {
                self.end_transaction(env, args, name == "exec", sink);
                return Step::Edited;
            }
            "info" if env.host.path == Path::Proxy => {
                self.inject(env, Form::Echo, Vec::new(), Then::CaptureInfo, sink.write());
                self.expect_reply(known, args);
                sink.write().extend_from_slice(args.frame);
                self.inject(env, Form::Echo, Vec::new(), Then::Info, sink.write());
                self.sent();
                return Step::Edited;
            }
            // With an argument they are errors that change nothing.
            "exec" | "discard" if args.count == 1 => self.transaction = Transaction::default(),
            "multi" if args.count == 1 && !self.transaction.open => {
                if self.following() {
                    self.replies.expect(Expected::Reply(Shape::Plain));
                }
                self.transaction = Transaction { open: true, ..Transaction::default() };
            }
            "subscribe" | "psubscribe" | "ssubscribe" => self.subscriber = true,
            // One of the three kinds of subscriptions may be left. Redis knows; ours is only the better error.
            "unsubscribe" | "punsubscribe" | "sunsubscribe" if args.count == 1 => self.subscriber = false,
            "client" if args.count == 3 && args.get(1).eq_ignore_ascii_case(b"reply") => {
                reply_mode = self.reply_mode.switched(args.get(2));
            }
            _ => {}
        }
        if name != "multi" {
            self.expect_reply(known, args);
        }
        self.follow_session(name, args);
        self.sent();
        if let Some(mode) = reply_mode {
            self.reply_mode = mode;
        }
        let unchanged = |edit: &ArgEdit| edit.strip == 0 && tag_of(env.host, edit.tag).is_empty();
        if plan.edits.iter().all(unchanged) && !plan.strays {
            return Step::Verbatim;
        }
        write_edited(args, &plan.edits, |tag| tag_of(env.host, tag), sink.write());
        if plan.strays {
            self.close_gate(env, sink);
        }
        Step::Edited
    }

    /// EXEC or DISCARD on `proxy`: what the client pipelines behind it waits until redis_proxy has left the transaction,
    /// since it would count as part of it.
    pub(super) fn end_transaction(&mut self, env: &mut Env<'_>, args: &Args<'_>, exec: bool, sink: &mut Sink<'_>) {
        let transaction = std::mem::take(&mut self.transaction);
        if exec && (transaction.dirty || args.count != 1) {
            let text = if args.count == 1 { EXECABORT } else { EXEC_WITH_ARGUMENTS };
            let mut aborted = Vec::new();
            encode::error(&mut aborted, text.as_bytes());
            self.inject(env, Form::Echo, aborted, Then::Capture, sink.write());
            encode::command(sink.write(), &[b"DISCARD"]);
            if self.following() {
                self.replies.expect(Expected::Reply(Shape::Plain));
            }
        } else {
            sink.write().extend_from_slice(args.frame);
            if self.following() {
                self.replies.expect(match exec {
                    true => Expected::Transaction(transaction.shapes),
                    false => Expected::Reply(Shape::Plain),
                });
            }
        }
        self.close_gate(env, sink);
    }
}

fn tag_of(host: &Host, tag: TagRef) -> &[u8] {
    match tag {
        TagRef::None => b"",
        TagRef::Of { target, tag } => {
            host.targets.get(target as usize).and_then(|t| t.tags.get(tag as usize)).map(|t| &**t).unwrap_or_default()
        }
    }
}
