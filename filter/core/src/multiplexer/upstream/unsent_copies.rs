//! Copies for mirrors that aren't sent yet.

use super::endpoint::UpstreamEndpoint;
use super::patience::Patience;
use super::pending::Owner;
use super::pool_key::PoolKey;
use crate::command::script::ScriptDigest;
use crate::command::sharing::Shareable;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::ids::{ClientId, ClusterId};
use crate::multiplexer::stats::StatsKey;
use std::collections::HashMap;

/// Bytes of copies of a worker that may wait until the nodes of their mirrors are known.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// How many copies of a worker may wait for that.
const MAX_WAITING: usize = 4096;
/// How often a copy waits for that.
const MAX_WAITS: u8 = 3;

/// Where a copy goes.
#[derive(Clone, Debug)]
pub enum CopyRoute {
    /// To a Redis that is no Redis Cluster.
    Plain(PoolKey),
    /// To all servers of a mirror that is no Redis Cluster.
    AllMembers(Vec<PoolKey>),
    /// To the master of this slot in a Redis Cluster; without a slot to any master.
    Slot(UpstreamEndpoint, Option<u16>),
    /// To all masters of a Redis Cluster.
    AllShards(UpstreamEndpoint),
    /// Nowhere: it concerns several servers or slots, and can't be split.
    Apart,
}

/// What is known of a copy beside its bytes.
#[derive(Debug)]
pub struct CopyHeader {
    /// Where it goes.
    pub route: CopyRoute,
    /// The number of commands between MULTI and EXEC, if it is a transaction.
    pub queued: Option<usize>,
    /// The scripts that it names by their digests.
    pub scripts: Vec<ScriptDigest>,
    /// How long the mirror may be silent.
    pub patience: Patience,
    /// Where it is counted.
    pub host: StatsKey,
    /// It may travel over a shared connection.
    pub shareable: Shareable,
}

/// A copy that isn't sent yet.
#[derive(Debug)]
pub struct MirrorCopy {
    /// What is known of it.
    pub header: CopyHeader,
    /// The command, or the transaction from MULTI to EXEC.
    pub bytes: Vec<u8>,
}

/// A copy that waits until the nodes of its mirror are known.
pub struct WaitingCopy {
    /// The mirror.
    pub cluster: ClusterId,
    /// How often it has waited.
    pub waits: u8,
    /// The copy.
    pub copy: MirrorCopy,
}

/// The copies of a worker that aren't sent yet.
#[derive(Default)]
pub struct UnsentCopies {
    /// Those whose mirror's nodes aren't known.
    waiting: Vec<WaitingCopy>,
    waiting_bytes: usize,
    /// Those of transactions whose EXEC isn't answered. A client has one such transaction at most.
    of_transactions: HashMap<ClientId, (Sequence, Vec<MirrorCopy>)>,
}

impl UnsentCopies {
    /// Keeps the copies of a transaction until EXEC is answered.
    pub fn await_exec(&mut self, owner: Owner, copies: Vec<MirrorCopy>) {
        self.of_transactions.insert(owner.client, (owner.sequence, copies));
    }

    /// How many copies there are, and the bytes that they have.
    pub fn held(&self) -> (usize, usize) {
        let waiting = self.waiting.iter().map(|waiting| &waiting.copy);
        let all = waiting.chain(self.of_transactions.values().flat_map(|(_, copies)| copies));
        all.fold((0, 0), |(count, bytes), copy| (count + 1, bytes + copy.bytes.len()))
    }

    /// Takes the copies of a transaction.
    pub fn of_exec(&mut self, owner: Owner) -> Option<Vec<MirrorCopy>> {
        let is_its = |(sequence, _): &(Sequence, _)| *sequence == owner.sequence;
        self.of_transactions.get(&owner.client).filter(|known| is_its(known))?;
        self.of_transactions.remove(&owner.client).map(|(_, copies)| copies)
    }

    /// Lets a copy wait. Returns it if there is no room, or if it has waited too often.
    pub fn wait(&mut self, waiting: WaitingCopy) -> Option<WaitingCopy> {
        let bytes = self.waiting_bytes + waiting.copy.bytes.len();
        if waiting.waits >= MAX_WAITS || bytes > MAX_WAITING_BYTES || self.waiting.len() >= MAX_WAITING {
            return Some(waiting);
        }
        self.waiting_bytes = bytes;
        self.waiting.push(waiting);
        None
    }

    /// Takes the copies that have waited for the nodes of a cluster.
    pub fn take_waiting(&mut self, cluster: ClusterId) -> Vec<WaitingCopy> {
        let (taken, left) = std::mem::take(&mut self.waiting).into_iter().partition(|copy| copy.cluster == cluster);
        (self.waiting, self.waiting_bytes) = (left, 0);
        self.waiting_bytes = self.waiting.iter().map(|waiting| waiting.copy.bytes.len()).sum();
        taken
    }
}
