//! Probes: commands that may run code are preceded by EXISTS of their keys at nodes of Redis
//! Clusters, so that an error of the node can be told from the words of the code.

use super::pending::{Control, InFlight, PendingReply};
use super::pool::Pool;
use crate::command::{Known, each_command};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use std::time::Duration;

/// Sends a command that may run code, at a node of a Redis Cluster with a probe before it. With
/// `asks`, ASKING goes before each.
pub fn send_code(
    pool: &mut Pool,
    (id, in_flight, asks): (ConnectionId, InFlight, bool),
    response_timeout: Option<Duration>,
    effects: &mut Effects,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let mut command = Vec::new();
    write(&mut command);
    let is_node = pool.get(id).is_some_and(|connection| connection.key.node.is_some());
    let probe = if is_node { probe_of(&command) } else { None };
    let probe = probe.map(|probe| (PendingReply::Control(Control::Probe).into(), probe));
    for (in_flight, bytes) in probe.into_iter().chain([(in_flight, command)]) {
        if asks {
            ask(pool, id, response_timeout, effects);
        }
        pool.send(id, in_flight, response_timeout, effects, |out| out.extend_from_slice(&bytes));
    }
}

/// Sends ASKING before the next command.
pub fn ask(pool: &mut Pool, id: ConnectionId, response_timeout: Option<Duration>, effects: &mut Effects) {
    let asking = PendingReply::Control(Control::Asking).into();
    pool.send(id, asking, response_timeout, effects, |out| encode::command(out, &[b"ASKING"]));
}

/// EXISTS of the keys of a command in RESP, which a node refuses exactly if it refuses the command;
/// `None` if the command has no keys.
fn probe_of(command: &[u8]) -> Option<Vec<u8>> {
    let mut probe = None;
    each_command(command, |args| {
        let Some(keys) = Known::of(args).and_then(|known| known.command.keys(args).ok()) else { return };
        let keys = keys.iter().map(|key| args.get(key.index));
        let words: Vec<&[u8]> = std::iter::once(&b"EXISTS"[..]).chain(keys).collect();
        if words.len() > 1 {
            encode::command(probe.insert(Vec::new()), &words);
        }
    });
    probe
}
