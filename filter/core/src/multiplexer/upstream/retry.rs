//! Commands whose keys are on their way from node to node: they are tried again until all of them have arrived.

use crate::cluster::slot::slot;
use crate::command::each_command;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::upstream::connection::{InFlight, PendingReply, PoolKey, UpstreamConnection};
use crate::multiplexer::{ClientId, Multiplexer, Timer};
use crate::request::known::Known;
use std::time::Duration;

/// RequestPolicy often a command of which only some keys have moved is tried again, and how soon.
pub(in crate::multiplexer) const AGAIN: (u8, Duration) = (100, Duration::from_millis(20));

/// A command that is to be tried again.
pub(in crate::multiplexer) struct Retry {
    pub(in crate::multiplexer) awaited: InFlight,
    pub(in crate::multiplexer) bytes: Vec<u8>,
    pub(in crate::multiplexer) line: PoolKey,
    pub(in crate::multiplexer) patience: Option<Duration>,
}

impl Multiplexer {
    /// True if its client has sent something else for the same slot since. That can't be called back, so a command that is tried
    /// again would come after it.
    pub(in crate::multiplexer) fn is_followed(
        &self,
        carrier: &UpstreamConnection,
        what: PendingReply,
        bytes: &[u8],
    ) -> bool {
        let Some(owner) = what.owner() else { return false };
        let slot = slot_of(bytes);
        let others = self.carriers.ids().filter_map(|id| self.carriers.get(id));
        let others = others.filter(|other| other.line.upstream == carrier.line.upstream);
        let mut waiting = self.retries.values();
        std::iter::once(carrier).chain(others).any(|carrier| carrier.has_later(owner, slot))
            || waiting.any(|retry| retry.awaited.what.is_later(owner) && slot_of(&retry.bytes) == slot)
    }

    /// Sends a command again, a little later.
    pub(in crate::multiplexer) fn try_again(&mut self, retry: Retry, now: Duration) {
        self.retried += 1;
        self.retries.insert((now + AGAIN.1, self.retried), retry);
        self.alarms.insert((now + AGAIN.1, Timer::Retry));
    }

    /// Commands that have waited are sent again.
    pub(in crate::multiplexer) fn retry(&mut self, now: Duration) {
        while let Some(entry) = self.retries.first_entry().filter(|entry| entry.key().0 <= now) {
            let retry = entry.remove();
            self.send_on(retry, false, now);
        }
    }
}

impl PendingReply {
    /// Whose command it is, and which of them.
    fn owner(self) -> Option<(ClientId, Sequence)> {
        match self {
            PendingReply::Client(client, sequence)
            | PendingReply::Exec(client, sequence)
            | PendingReply::SubCommand(client, sequence, _) => Some((client, sequence)),
            _ => None,
        }
    }

    fn is_later(self, (client, sequence): (ClientId, Sequence)) -> bool {
        self.owner().is_some_and(|(other, later)| other == client && later > sequence)
    }
}

impl UpstreamConnection {
    /// True if a client has sent something for a slot over this connection after that command.
    fn has_later(&self, owner: (ClientId, Sequence), slot: Option<u16>) -> bool {
        let mut at = 0;
        self.expected.iter().any(|next| {
            let from = at;
            at += next.kept as usize;
            next.what.is_later(owner) && slot_of(self.kept.behind(from, next.kept as usize)) == slot
        })
    }
}

/// The slot of a command, or of a transaction.
fn slot_of(bytes: &[u8]) -> Option<u16> {
    let mut found = None;
    each_command(bytes, |args| {
        let first = Known::of(args).and_then(|known| known.command.keys(args).ok()?.first());
        found = found.or(first.map(|first| slot(args.get(first.index))));
    });
    found
}
