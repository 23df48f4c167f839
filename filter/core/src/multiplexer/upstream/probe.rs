//! Probes: commands that may run code are preceded by EXISTS of their keys at nodes of Redis
//! Clusters, so that an error of the node can be told from the words of the code.

use crate::command::each_key;
use crate::resp::encode;

/// EXISTS of the keys of a command in RESP, which a node refuses exactly if it refuses the command;
/// `None` if the command has no keys.
pub fn of(command: &[u8]) -> Option<Vec<u8>> {
    let (mut keys, mut count) = (Vec::new(), 0);
    each_key(command, |key| {
        encode::bulk(&mut keys, key);
        count += 1;
    });
    if count == 0 {
        return None;
    }
    let mut probe = Vec::with_capacity(keys.len() + 32);
    encode::array(&mut probe, 1 + count);
    encode::bulk(&mut probe, b"EXISTS");
    probe.extend_from_slice(&keys);
    Some(probe)
}
