//! Whether a client has sent something later for the slot of a command that a node hasn't executed:
//! that can't be called back, so the command would come after it.
//!
//! The answer must not cost more than what it is about, however many commands are under way: a client
//! can have thousands that are answered TRYAGAIN.

use super::connection::UpstreamConnection;
use super::endpoint::UpstreamEndpoint;
use super::pending::{InFlight, Owner};
use crate::cluster::slot::slot;
use crate::command::each_of_slot;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::ids::ClientId;
use std::collections::{BTreeMap, HashMap};

/// How many commands may be sent at least, beside as many as are under way, until what was looked up
/// is forgotten.
const MIN_ROOM: usize = 4096;

/// Commands that wait to be sent again, by their clients and slots.
#[derive(Debug, Default)]
pub struct WaitingCommands {
    /// How many there are. The parts of a command have one number.
    places: BTreeMap<(ClientId, Option<u16>, Sequence), u32>,
}

impl WaitingCommands {
    /// A command begins to wait.
    pub fn add(&mut self, in_flight: InFlight, bytes: &[u8]) {
        if let Some(owner) = in_flight.what.owner() {
            *self.places.entry((owner.client, slot_of(bytes), owner.sequence)).or_default() += 1;
        }
    }

    /// A command doesn't wait any more.
    pub fn remove(&mut self, in_flight: InFlight, bytes: &[u8]) {
        let Some(owner) = in_flight.what.owner() else { return };
        let place = (owner.client, slot_of(bytes), owner.sequence);
        match self.places.get_mut(&place) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.places.remove(&place)),
        }
    }

    /// True if a later command of the same client for the same slot waits.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        let of_client = |sequence| (owner.client, slot, sequence);
        let later = of_client(owner.sequence.saturating_add(1))..=of_client(Sequence::MAX);
        self.places.range(later).next().is_some()
    }

    /// True if an earlier command of the same client for the same slot waits.
    pub fn has_earlier(&self, owner: Owner, slot: Option<u16>) -> bool {
        let of_client = |sequence| (owner.client, slot, sequence);
        self.places.range(of_client(0)..of_client(owner.sequence)).next().is_some()
    }
}

/// The last commands that clients have sent to nodes, by slots. They are looked up when somebody asks,
/// and kept up to date for a while from then on, since whoever asks asks often.
#[derive(Debug, Default)]
pub struct SentCommands(Option<LastSent>);

#[derive(Debug)]
struct LastSent {
    last: HashMap<UpstreamEndpoint, HashMap<(ClientId, Option<u16>), Sequence>>,
    /// How many more commands may be noted.
    room: usize,
}

impl SentCommands {
    /// Notes the command that was sent last over a connection.
    #[inline]
    pub fn note(&mut self, connection: &UpstreamConnection) {
        let Some(known) = &mut self.0 else { return };
        let Some(in_flight) = connection.pending.back() else { return };
        known.note(connection, *in_flight, connection.replay.newest(in_flight.replay as usize));
        known.room = known.room.saturating_sub(1);
        if known.room == 0 {
            // Most of it is answered by now.
            self.0 = None;
        }
    }

    /// Forgets what was looked up.
    pub fn forget(&mut self) {
        self.0 = None;
    }

    /// True if a client has sent another command for a slot later than this one, as far as that isn't
    /// answered. `all` are the connections.
    pub fn has_later<'a>(
        &mut self,
        (owner, slot): (Owner, Option<u16>),
        endpoint: &UpstreamEndpoint,
        all: impl Iterator<Item = &'a UpstreamConnection>,
    ) -> bool {
        let known = self.0.get_or_insert_with(|| LastSent::of(all));
        let last = known.last.get(endpoint).and_then(|sent| sent.get(&(owner.client, slot)));
        last.is_some_and(|last| *last > owner.sequence)
    }
}

impl LastSent {
    fn of<'a>(all: impl Iterator<Item = &'a UpstreamConnection>) -> LastSent {
        let mut known = LastSent { last: HashMap::new(), room: MIN_ROOM };
        for connection in all {
            for (in_flight, bytes) in under_way(connection) {
                known.note(connection, in_flight, bytes);
            }
            known.room += connection.pending.len();
        }
        known
    }

    fn note(&mut self, connection: &UpstreamConnection, in_flight: InFlight, bytes: &[u8]) {
        let Some(owner) = in_flight.what.owner().filter(|_| connection.key.node.is_some()) else { return };
        let endpoint = &connection.key.endpoint;
        if !self.last.contains_key(endpoint) {
            self.last.insert(endpoint.clone(), HashMap::new());
        }
        if let Some(sent) = self.last.get_mut(endpoint) {
            let last = sent.entry((owner.client, slot_of(bytes))).or_insert(owner.sequence);
            *last = owner.sequence.max(*last);
        }
    }
}

/// True if a client has sent another command for a slot later than this one over a connection, as far as
/// that isn't answered.
pub fn has_later_over(connection: &UpstreamConnection, owner: Owner, slot: Option<u16>) -> bool {
    let is_later = |other: Owner| other.client == owner.client && other.sequence > owner.sequence;
    let mut under_way = under_way(connection);
    under_way.any(|(in_flight, bytes)| in_flight.what.command().is_some_and(is_later) && slot_of(bytes) == slot)
}

/// What goes over a connection and isn't answered, with the bytes that are kept of it.
fn under_way(connection: &UpstreamConnection) -> impl Iterator<Item = (InFlight, &[u8])> {
    let mut at = 0;
    connection.pending.iter().map(move |in_flight| {
        let (begin, length) = (at, in_flight.replay as usize);
        at += length;
        (*in_flight, connection.replay.behind(begin, length))
    })
}

/// The slot of the first key, or shard channel, of a command, or of a transaction, in RESP.
pub fn slot_of(bytes: &[u8]) -> Option<u16> {
    let mut found = None;
    each_of_slot(bytes, |key| found = found.or_else(|| Some(slot(key))));
    found
}
