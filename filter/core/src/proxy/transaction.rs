//! MULTI … EXEC without a connection of its own: commands are kept until EXEC, and then sent in one piece, so that nothing of
//! another client comes between them.

use super::config::Config;
use super::place::Place;
use super::renames::Renames;
use super::scripts::Digest;
use crate::resp::encode;
use crate::resp::request::{Parser, Progress};
use crate::rewrite::args::Args;
use crate::wire::Limits;

/// What a client has said since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The commands.
    commands: Vec<u8>,
    count: usize,
    /// What the names of keys in their answers become.
    renames: Vec<(usize, Renames)>,
    /// The scripts that they name.
    pub scripts: Vec<Digest>,
    /// Where they go.
    place: Option<Place>,
    /// A command was refused, so that EXEC will be, too.
    pub is_doomed: bool,
}

/// The keys of a transaction don't live together.
#[derive(Debug, PartialEq, Eq)]
pub enum Apart {
    /// They route to different destinations.
    Destinations,
    /// They hash to different slots of a cluster.
    Slots,
}

impl Transaction {
    /// One that goes there, because keys are watched there.
    pub fn at(place: Option<Place>) -> Transaction {
        Transaction { place, ..Transaction::default() }
    }

    /// Keeps a command for a place; none: wherever the others go.
    ///
    /// # Errors
    /// The others go elsewhere.
    pub fn queue(
        &mut self,
        config: &Config,
        place: Option<Place>,
        command: &[u8],
        renames: Option<Renames>,
    ) -> Result<(), Apart> {
        if let (Some(known), Some(place)) = (self.place, place)
            && !config.is_same(known, place)
        {
            self.is_doomed = true;
            return Err(if known.target == place.target { Apart::Slots } else { Apart::Destinations });
        }
        self.place = self.place.or(place);
        self.commands.extend_from_slice(command);
        self.renames.extend(renames.map(|renames| (self.count, renames)));
        self.count += 1;
        Ok(())
    }

    /// Where it goes.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// How many commands it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// What becomes of the names in the answer to EXEC; none: nothing. They are given out once.
    pub fn renames(&mut self) -> Option<Renames> {
        (!self.renames.is_empty()).then(|| Renames::Exec(std::mem::take(&mut self.renames)))
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

/// Goes through commands as they were written here.
pub fn each_command(bytes: &[u8], mut each: impl FnMut(&Args<'_>)) {
    let mut at = 0;
    let limits =
        Limits { max_arguments: u32::MAX, max_bulk_bytes: u64::MAX, max_held_bytes: u32::MAX, ..Limits::default() };
    let mut parser = Parser::default();
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Ok(Progress::Complete(length)) = parser.parse(rest, &limits) else { return };
        each(&Args { frame: parser.frame(rest), spans: parser.args(), count: parser.args().len() });
        parser.reset();
        at += length;
    }
}
