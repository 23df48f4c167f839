//! A service as it can be served: the result of validation.

use std::sync::Arc;

use redis_mesh_core::wire;

use crate::crd::service::ReadPolicySpec;
use crate::diagnostic::Subject;
use crate::inventory::{NamespacedName, ServicePort};

use super::auth::Credentials;
use super::destination::ValidatedDestination;
use super::host_port::HostPort;
use super::scope::ClientScope;
use super::settings::ValidatedSettings;

/// One port of one host as some clients see it, ready to be built.
#[derive(Clone, Debug)]
pub struct ValidatedService {
    /// The object that this follows from.
    pub owner: Subject,
    /// What clients connect to.
    pub address: HostPort,
    /// The Service that has this name, with its port; none where the host is a DNS name.
    pub service: Option<(NamespacedName, ServicePort)>,
    /// The addresses of the Service, or of the ServiceEntry; empty where it is headless.
    pub cluster_ips: Vec<String>,
    /// The addresses of its endpoints, by which a mesh names the listeners of a headless Service.
    pub pods: Vec<String>,
    /// Whose clients.
    pub scope: ClientScope,
    /// How it is served.
    pub path: wire::DataPath,
    /// Why so.
    pub path_reason: String,
    /// Sidecars that have the dynamic module serve it natively.
    pub native: bool,
    /// What clients must present.
    pub client_auth: Option<Credentials>,
    /// Settings.
    pub settings: ValidatedSettings,
    /// Which nodes of a Redis Cluster serve reads.
    pub read_policy: ReadPolicySpec,
    /// Destinations with their mirrors.
    pub targets: Vec<ValidatedTarget>,
    /// Routes into them.
    pub routes: Vec<ValidatedRoute>,
    /// Faults of all commands.
    pub faults: Vec<wire::Fault>,
}

impl ValidatedService {
    /// Every destination that commands may reach, mirrors too, each once.
    pub fn destinations(&self) -> Vec<&Arc<ValidatedDestination>> {
        let mut found: Vec<&Arc<ValidatedDestination>> = Vec::new();
        let all = self.targets.iter().flat_map(|target| {
            std::iter::once(&target.destination).chain(target.mirrors.iter().map(|mirror| &mirror.destination))
        });
        for destination in all {
            if !found.iter().any(|known| known.address == destination.address) {
                found.push(destination);
            }
        }
        found
    }

    /// The destination, where there is only one besides mirrors.
    pub fn single_destination(&self) -> Option<&Arc<ValidatedDestination>> {
        let first = &self.targets.first()?.destination;
        self.targets.iter().all(|target| target.destination.address == first.address).then_some(first)
    }
}

/// A destination with its mirrors.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedTarget {
    /// Where commands go.
    pub destination: Arc<ValidatedDestination>,
    /// Where copies go.
    pub mirrors: Vec<ValidatedMirror>,
}

/// A mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedMirror {
    /// Where copies go.
    pub destination: Arc<ValidatedDestination>,
    /// Share of the commands.
    pub per_million: u32,
    /// Leave out commands that only read.
    pub exclude_read_commands: bool,
}

/// A route.
#[derive(Clone, Debug)]
pub struct ValidatedRoute {
    /// Which keys.
    pub key: wire::KeyMatch,
    /// Remove the prefix.
    pub remove_prefix: bool,
    /// Index into the targets.
    pub target: usize,
    /// Which nodes of a Redis Cluster serve its reads, where it says so itself.
    pub read_policy: Option<ReadPolicySpec>,
    /// Faults of this route.
    pub faults: Vec<wire::Fault>,
    /// The route's place in the object; none for the one that stands for no routes at all.
    pub index: Option<usize>,
}

impl ValidatedRoute {
    /// The route of an object without routes: every key goes to the first target, the host itself.
    pub fn to_the_host() -> ValidatedRoute {
        ValidatedRoute {
            key: wire::KeyMatch::Any,
            remove_prefix: false,
            target: 0,
            read_policy: None,
            faults: Vec::new(),
            index: None,
        }
    }
}
