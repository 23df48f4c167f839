//! The decision about a command, and what it is made of.

use super::edits::ArgEdit;
use crate::command::{Args, Known};

/// The decision about a command.
#[derive(Debug)]
pub(super) enum RewriterDecision {
    /// The command goes on with the edits of its plan.
    Forward,
    /// These bytes go on in the command's place; their one reply is the client's.
    Send(Vec<u8>),
    /// These bytes, a read, go on in the place of PING, which is answered with `pong` unless the
    /// read's reply says that Redis isn't there.
    Ping { read: Vec<u8>, pong: Vec<u8> },
    /// The command is answered here with these bytes, which are no error.
    Answer(Vec<u8>),
    /// The command is refused with this error, which counts as a refusal.
    Refuse(String),
    /// The command is refused with this error because the client isn't logged in or failed to log
    /// in, which has a counter of its own.
    Deny(String),
    /// The command has been dealt with.
    Done,
    /// The command waits until the gate, which has been closed, opens.
    Wait,
}

/// What was found out about a command on the way to its decision.
#[derive(Debug, Default)]
pub(super) struct CommandPlan {
    /// Changes of arguments, in the order of the arguments.
    pub(super) edits: Vec<ArgEdit>,
    /// The route of the first key.
    pub(super) route: Option<u32>,
    /// The command goes to at least one mirror as well.
    pub(super) mirrored: bool,
    /// redis_proxy sends the command to the wrong node of a Redis Cluster, which redirects it, so
    /// that commands behind it would overtake it.
    pub(super) strays: bool,
}

impl CommandPlan {
    /// Forgets everything but the memory of the list.
    pub(super) fn clear(&mut self) {
        self.edits.clear();
        (self.route, self.mirrored, self.strays) = (None, false, false);
    }
}

/// A command with its plan.
pub(super) struct PlannedCommand<'a> {
    /// The rows of the command table; `None`: the table doesn't have the command.
    pub(super) known: Option<Known>,
    pub(super) args: &'a Args<'a>,
    pub(super) plan: CommandPlan,
}

impl PlannedCommand<'_> {
    /// The command's name in lower case, without that of a subcommand; empty if the table doesn't
    /// have the command.
    pub(super) fn name(&self) -> &'static str {
        self.known.map(|known| known.container.name).unwrap_or_default()
    }
}

/// What has been done with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandStep {
    /// The command goes on as it is.
    Verbatim,
    /// The command went on, edited.
    Edited,
    /// The command goes nowhere, or something else went in its place.
    Answered,
    /// Nothing was done yet; the gate was closed.
    Later,
}

/// The error of what redis_proxy can't do.
pub(super) fn needs(what: &str) -> String {
    format!("ERR redis-mesh: {what} needs the direct or native data path")
}
