//! Carrying out a decision: a command is sent on or answered.

use super::config::{Path, RewriterHost};
use super::decision::{CommandStep, PlannedCommand, RewriterDecision};
use super::edits::{ArgEdit, TagRef, write_edited};
use super::env::Env;
use super::markers::{ExpectedReply, MarkerForm, Then};
use super::session;
use super::sink::Sink;
use super::state::{ConnectionState, OpenTransaction};
use crate::downstream::client_reply::ReplyMode;
use crate::request::errors::{EXEC_WITH_ARGUMENTS, EXECABORT};
use crate::resp::encode;
use crate::resp::shape::Shape;
use crate::stats::Stat;

/// Carries out the decision about a command.
pub(super) fn execute(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    command: &PlannedCommand<'_>,
    decision: RewriterDecision,
    sink: &mut Sink<'_>,
) -> CommandStep {
    match decision {
        RewriterDecision::Forward => return forward(state, env, command, sink),
        RewriterDecision::Send(bytes) => {
            state.expect_reply(command.known, command.args);
            session::follow(state, command.name(), command.args);
            sink.write().extend_from_slice(&bytes);
            state.sent();
            return CommandStep::Edited;
        }
        RewriterDecision::Ping { read, pong } => {
            let expect = ConnectionState::expect_plain;
            return capture(state, env, (&read, expect), (pong, Then::Pong), sink);
        }
        RewriterDecision::Answer(reply) => state.answer(env, reply, sink),
        RewriterDecision::Refuse(text) => {
            env.stats.count(Stat::Refused);
            refuse(state, env, &text, sink);
        }
        RewriterDecision::Deny(text) => refuse(state, env, &text, sink),
        RewriterDecision::Done => {}
        RewriterDecision::Wait => return CommandStep::Later,
    }
    CommandStep::Answered
}

/// Answers an error, which also dooms a transaction.
fn refuse(state: &mut ConnectionState, env: &mut Env<'_>, text: &str, sink: &mut Sink<'_>) {
    let mut reply = Vec::new();
    encode::error(&mut reply, text.as_bytes());
    let transaction = &mut state.client.transaction;
    transaction.dirty |= transaction.open;
    state.answer(env, reply, sink);
}

/// Sends a command between two markers, so that its reply doesn't reach the client as it is. `end` is
/// what the second marker brings about.
fn capture(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    (sent, expect): (&[u8], impl FnOnce(&mut ConnectionState)),
    (reply, end): (Vec<u8>, Then),
    sink: &mut Sink<'_>,
) -> CommandStep {
    state.inject(env, MarkerForm::Echo, Vec::new(), Then::CaptureWhole, sink.write());
    expect(state);
    sink.write().extend_from_slice(sent);
    state.inject(env, MarkerForm::Echo, reply, end, sink.write());
    state.sent();
    CommandStep::Edited
}

/// Sends a command on, and follows what the command does to the connection's state.
fn forward(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    command: &PlannedCommand<'_>,
    sink: &mut Sink<'_>,
) -> CommandStep {
    if command.plan.mirrored {
        env.stats.count(Stat::Mirrored);
    }
    if command.known.is_some_and(|known| known.command.has_one_key) {
        // Most commands: they change nothing but data.
        state.expect_reply(command.known, command.args);
        state.sent();
        return write(state, env, command, sink);
    }
    let (name, on_proxy) = (command.name(), env.host.path == Path::Proxy);
    match name {
        "exec" | "discard" if state.client.transaction.open && on_proxy => {
            end_transaction(state, env, command, sink);
            return CommandStep::Edited;
        }
        "info" if on_proxy => {
            let expect = |state: &mut ConnectionState| state.expect_reply(command.known, command.args);
            return capture(state, env, (command.args.frame, expect), (Vec::new(), Then::Info), sink);
        }
        _ => {}
    }
    let reply_mode = follow(state, command);
    session::follow(state, name, command.args);
    state.sent();
    if let Some(mode) = reply_mode {
        state.client.reply_mode = mode;
    }
    write(state, env, command, sink)
}

/// Writes a command that goes on, if it has to be edited.
fn write(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    command: &PlannedCommand<'_>,
    sink: &mut Sink<'_>,
) -> CommandStep {
    let plan = &command.plan;
    let unchanged = |edit: &ArgEdit| edit.strip == 0 && tag_of(env.host, edit.tag).is_empty();
    if plan.edits.iter().all(unchanged) && !plan.strays {
        return CommandStep::Verbatim;
    }
    write_edited(command.args, &plan.edits, |tag| tag_of(env.host, tag), sink.write());
    if plan.strays {
        state.close_gate(env, sink);
    }
    CommandStep::Edited
}

/// Notes the reply to a command that goes on, and what the command does to transactions and
/// subscriptions. Returns the client's mode of replies after the command, if the command is about
/// it.
fn follow(state: &mut ConnectionState, command: &PlannedCommand<'_>) -> Option<ReplyMode> {
    let args = command.args;
    let mut reply_mode = None;
    match command.name() {
        // With an argument they are errors that change nothing.
        "exec" | "discard" if args.count == 1 => state.client.transaction = OpenTransaction::default(),
        "multi" => {
            if args.count == 1 && !state.client.transaction.open {
                state.expect_plain();
                state.client.transaction = OpenTransaction { open: true, ..OpenTransaction::default() };
            }
            return None;
        }
        "client" if args.count == 3 && args.get(1).eq_ignore_ascii_case(b"reply") => {
            reply_mode = state.client.reply_mode.switched(args.get(2));
        }
        _ => {}
    }
    let client = &mut state.client;
    client.subscriptions.follow(command.name(), args, client.transaction.open);
    state.expect_reply(command.known, command.args);
    reply_mode
}

/// EXEC or DISCARD on `proxy`: what the client pipelines behind it waits until redis_proxy has
/// left the transaction, since it would count as part of the transaction.
fn end_transaction(state: &mut ConnectionState, env: &mut Env<'_>, command: &PlannedCommand<'_>, sink: &mut Sink<'_>) {
    let (is_exec, args) = (command.name() == "exec", command.args);
    let transaction = std::mem::take(&mut state.client.transaction);
    if is_exec && (transaction.dirty || args.count != 1) {
        let text = if args.count == 1 { EXECABORT } else { EXEC_WITH_ARGUMENTS };
        let mut aborted = Vec::new();
        encode::error(&mut aborted, text.as_bytes());
        state.inject(env, MarkerForm::Echo, aborted, Then::Capture, sink.write());
        encode::command(sink.write(), &[b"DISCARD"]);
        state.expect_plain();
    } else {
        sink.write().extend_from_slice(args.frame);
        if state.is_following() {
            state.replies.expect(match is_exec {
                true => ExpectedReply::Transaction(transaction.shapes),
                false => ExpectedReply::Reply(Shape::Plain),
            });
        }
    }
    state.close_gate(env, sink);
}

fn tag_of(host: &RewriterHost, tag: TagRef) -> &[u8] {
    match tag {
        TagRef::None => b"",
        TagRef::Of { target, tag } => {
            host.targets.get(target as usize).and_then(|t| t.tags.get(tag as usize)).map(|t| &**t).unwrap_or_default()
        }
    }
}
