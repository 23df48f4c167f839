//! MULTI … EXEC without a connection of its own: commands are kept until EXEC, and then sent in one piece, so that nothing of
//! another client comes between them.

use crate::resp::encode;

/// What a client has said since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The commands.
    commands: Vec<u8>,
    count: usize,
    /// Where they go.
    target: Option<usize>,
    /// A command was refused, so that EXEC will be, too.
    pub is_doomed: bool,
}

impl Transaction {
    /// Keeps a command for a target; none: wherever the others go. False if the others go elsewhere.
    pub fn queue(&mut self, target: Option<usize>, command: &[u8]) -> bool {
        if let (Some(known), Some(target)) = (self.target, target)
            && known != target
        {
            self.is_doomed = true;
            return false;
        }
        self.target = self.target.or(target);
        self.commands.extend_from_slice(command);
        self.count += 1;
        true
    }

    /// Where it goes.
    pub fn target(&self) -> Option<usize> {
        self.target
    }

    /// How many commands it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.commands.len()
    }

    /// The whole of it.
    pub fn write(&self, out: &mut Vec<u8>) {
        encode::command(out, &[b"MULTI"]);
        out.extend_from_slice(&self.commands);
        encode::command(out, &[b"EXEC"]);
    }
}
