//! Which mirrors get a command: what the machine of the data path itself does, if every mirror takes
//! all that it may get.

use std::collections::BTreeSet;

use redis_mesh_core::wire::DataPath;

use crate::render::backend::Backends;
use crate::validate::host_port::HostPort;
use crate::validate::service::{ValidatedMirror, ValidatedService, ValidatedTarget};

use super::machine::{DecidingMachine, Explanation};

/// The copies of one command: the addresses of destinations with those of mirrors.
pub struct MirrorsOfCommand(BTreeSet<(HostPort, HostPort)>);

impl MirrorsOfCommand {
    /// Gives a command to the machine, as a client's first one.
    ///
    /// # Errors
    /// The configuration or the machine's output can't be read.
    pub fn of(
        service: &ValidatedService,
        backends: &Backends,
        arguments: &[&[u8]],
    ) -> Result<MirrorsOfCommand, String> {
        let is_native = service.path == DataPath::Native;
        let machine = DecidingMachine::with(service, backends, |mirror, (target, position)| {
            mirror.per_million = 1_000_000;
            if let Some(upstream) = &mut mirror.upstream {
                upstream.cluster = name(target, position);
            }
        });
        let machine = machine.map_err(|error| error.to_string())?;
        let mut copies = BTreeSet::new();
        match machine.decide(arguments)? {
            Explanation::SentTo(commands) if is_native => {
                for (index, target) in service.targets.iter().enumerate() {
                    for (position, mirror) in target.mirrors.iter().enumerate() {
                        let name = name(index, position);
                        if commands.iter().any(|(to, _)| *to == name) {
                            copies.insert(pair(target, mirror));
                        }
                    }
                }
            }
            Explanation::Sent(commands) => {
                let tags = commands.iter().flatten().filter_map(|argument| backends.tag_of(argument));
                for backend in tags.filter_map(|tag| backends.tagged.get(tag)) {
                    for mirror in &backend.mirrors {
                        copies.insert((backend.destination.address.clone(), mirror.address.clone()));
                    }
                }
            }
            Explanation::SentTo(_) | Explanation::Answered(_) | Explanation::Nothing => {}
        }
        Ok(MirrorsOfCommand(copies))
    }

    /// True if a mirror of a target gets the command, or a part of it.
    pub fn has(&self, target: &ValidatedTarget, mirror: &ValidatedMirror) -> bool {
        self.0.contains(&pair(target, mirror))
    }
}

fn pair(target: &ValidatedTarget, mirror: &ValidatedMirror) -> (HostPort, HostPort) {
    (target.destination.address.clone(), mirror.destination.address.clone())
}

/// The name of a mirror's cluster, which no destination has.
fn name(target: usize, position: usize) -> String {
    format!("mirror {position} of target {target}")
}
