//! What executing a command works with, and what comes of it.

use crate::command::Args;
use crate::command::Known;
use crate::command::script::{self, ScriptDigest};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::inquiry::table::InquiryTable;
use crate::multiplexer::reply::key_rewrite::KeyRewrite;
use crate::multiplexer::routing::target::{KeyEdit, write};
use crate::multiplexer::stats::StatsTable;
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{Owner, PendingReply};
use crate::multiplexer::upstream::{ConnectionRoute, Upstreams};

/// What a client's command works with beside its client.
pub struct Context<'a> {
    /// The Redis side.
    pub upstreams: &'a mut Upstreams,
    /// Time, randomness, outputs and timers.
    pub effects: &'a mut Effects,
    /// Counters.
    pub stats: &'a mut StatsTable,
    /// What workers ask each other.
    pub inquiries: &'a mut InquiryTable,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was dealt with.
    Taken,
    /// It waits, and is decided again when it needn't any more.
    Waits,
}

/// Why a command can't be executed now.
#[derive(Debug)]
pub enum Obstacle {
    /// It waits for this.
    Wait(Wait),
    /// The client is told this.
    Error(String),
    /// A node of a Redis Cluster can't be reached, and no other one has taken its place in time: the
    /// client is told this, or by the end of its connection if it would begin something there.
    NoNode(String),
    /// Redis can't be reached: the client is told this, or by the end of its connection.
    Unreachable(String),
}

impl From<Missing> for Obstacle {
    fn from(missing: Missing) -> Obstacle {
        match missing {
            Missing::Topology(cluster) => Obstacle::Wait(Wait::Topology(cluster)),
            Missing::Error(text) | Missing::Unserved(_, text) => Obstacle::Error(text),
            Missing::Unreached(_, text) => Obstacle::NoNode(text),
            Missing::Unreachable(text) => Obstacle::Unreachable(text),
        }
    }
}

/// A command as it came.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The rows of the command table that rule it.
    pub known: Option<Known>,
    /// Its arguments.
    pub args: &'a Args<'a>,
    /// Its bytes, if it came as an array.
    pub raw: Option<&'a [u8]>,
}

impl Request<'_> {
    /// True if it only reads.
    #[inline]
    pub fn is_read(&self) -> bool {
        self.known.is_none_or(|known| known.command.is_read())
    }

    /// The script that it names.
    #[inline]
    pub fn script(&self) -> Option<ScriptDigest> {
        let command = self.known?.command;
        if command.has_one_key { None } else { script::named(command, self.args) }
    }

    /// How keys in the reply get the names that the client knows, if these are removed from the
    /// command.
    pub fn key_rewrite(&self, edits: &[KeyEdit]) -> Option<KeyRewrite> {
        KeyRewrite::of(self.known?.command, self.args, edits)
    }

    /// Appends the command, with what is removed from its keys removed.
    pub fn write(&self, edits: &[KeyEdit], out: &mut Vec<u8>) {
        write(self.args, edits, self.raw, out);
    }
}

/// Makes room for the reply to a command that goes to one target.
#[inline]
pub fn expect(client: &mut Client, request: Request<'_>, edits: &[KeyEdit]) -> PendingReply {
    let is_mute = client.is_mute();
    let queue = &mut client.output.queue;
    let sequence = match request.key_rewrite(edits) {
        None => queue.expect(is_mute),
        Some(rewrite) => queue.expect_rewritten(rewrite, is_mute),
    };
    PendingReply::Command(Owner { client: client.id, sequence })
}

/// A connection that takes no more makes the command wait.
#[inline]
pub fn wait_for_room(context: &Context<'_>, connection: ConnectionRoute) -> Result<(), Obstacle> {
    match context.upstreams.pool.is_full(connection.id()) {
        true => Err(Obstacle::Wait(Wait::Connection(connection.id()))),
        false => Ok(()),
    }
}
