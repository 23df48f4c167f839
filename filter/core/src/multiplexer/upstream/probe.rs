//! Probes: commands that may run code are preceded by EXISTS of their keys at nodes of Redis
//! Clusters, so that an error of the node can be told from the words of the code.

use crate::command::{Known, each_command};
use crate::resp::encode;

/// EXISTS of the keys of a command in RESP, which a node refuses exactly if it refuses the command;
/// `None` if the command has no keys.
pub fn of(command: &[u8]) -> Option<Vec<u8>> {
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
