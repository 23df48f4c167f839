//! MULTI … EXEC without a connection of its own: commands are kept until EXEC, and then sent in one piece, so that nothing of
//! another client comes between them.

use crate::command::script::ScriptDigest;
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::key_rewrite::KeyRewrite;
use crate::multiplexer::routing::target::RouteTarget;
use crate::resp::encode;

/// What a client has said since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The commands.
    commands: Vec<u8>,
    count: usize,
    /// What the names of keys in their answers become.
    renames: Vec<(usize, KeyRewrite)>,
    /// The scripts that they name.
    pub scripts: Vec<ScriptDigest>,
    /// Where they go.
    place: Option<RouteTarget>,
    /// A command was refused, so that EXEC will be, too.
    pub is_doomed: bool,
}

/// The keys of a transaction don't live together.
#[derive(Debug, PartialEq, Eq)]
pub enum TransactionError {
    /// They route to different destinations.
    Destinations,
    /// They hash to different slots of a cluster.
    Slots,
}

impl Transaction {
    /// One that goes there, because keys are watched there.
    pub fn at(place: Option<RouteTarget>) -> Transaction {
        Transaction { place, ..Transaction::default() }
    }

    /// Keeps a command for a place; none: wherever the others go.
    ///
    /// # Errors
    /// The others go elsewhere.
    pub fn queue(
        &mut self,
        config: &HostConfig,
        place: Option<RouteTarget>,
        command: &[u8],
        renames: Option<KeyRewrite>,
    ) -> Result<(), TransactionError> {
        if let (Some(known), Some(place)) = (self.place, place)
            && !config.is_same(known, place)
        {
            self.is_doomed = true;
            return Err(if known.target == place.target {
                TransactionError::Slots
            } else {
                TransactionError::Destinations
            });
        }
        self.place = self.place.or(place);
        self.commands.extend_from_slice(command);
        self.renames.extend(renames.map(|renames| (self.count, renames)));
        self.count += 1;
        Ok(())
    }

    /// Where it goes.
    pub fn place(&self) -> Option<RouteTarget> {
        self.place
    }

    /// RequestPolicy many commands it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// What becomes of the names in the answer to EXEC; none: nothing. They are given out once.
    pub fn renames(&mut self) -> Option<KeyRewrite> {
        (!self.renames.is_empty()).then(|| KeyRewrite::Exec(std::mem::take(&mut self.renames)))
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
