//! A service that can be served: the result of validation.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis_mesh_core::wire;

use crate::crd::service::{ReadPolicySpec, ScriptsSpec};
use crate::diagnostic::Subject;
use crate::inventory::{NamespacedName, ServicePort};

use super::auth::RedisCredentials;
use super::destination::ValidatedDestination;
use super::host_port::HostPort;
use super::scope::ServiceClients;
use super::settings::ValidatedSettings;

/// One port of one host for some clients, ready to be rendered. It is a plain record of what
/// validation has found, which rendering only reads.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedService {
    /// The object from which the service follows.
    pub owner: Subject,
    /// The host and port to which clients connect.
    pub address: HostPort,
    /// The Service of that name and its port; none where the host lies outside of the cluster.
    pub service: Option<(NamespacedName, ServicePort)>,
    /// The addresses of the host.
    pub addresses: HostAddresses,
    /// The clients.
    pub clients: ServiceClients,
    /// The data path.
    pub path: wire::DataPath,
    /// Why that data path was chosen, and whether another one is possible.
    pub choice: PathChoice,
    /// The login that clients must present.
    pub client_auth: Option<RedisCredentials>,
    /// The settings.
    pub settings: ValidatedSettings,
    /// The destinations with their mirrors.
    pub targets: Vec<ValidatedTarget>,
    /// The routes to these targets.
    pub routes: Vec<ValidatedRoute>,
    /// The faults for all commands.
    pub faults: Vec<wire::Fault>,
}

/// The addresses of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// The addresses of the Service or the ServiceEntry; empty where it is headless.
    pub cluster_ips: Vec<String>,
    /// The addresses of the endpoints, by which a mesh names the listeners of a headless Service.
    pub pods: Vec<String>,
    /// The name that an ExternalName Service stands for, to whose addresses clients connect.
    pub alias_of: Option<String>,
}

impl HostAddresses {
    /// The addresses by which a mesh names the listeners of the host.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let own = if self.cluster_ips.is_empty() { &self.pods } else { &self.cluster_ips };
        own.iter().map(String::as_str)
    }
}

/// The choice of a data path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PathChoice {
    /// Why the data path was chosen.
    pub reason: String,
    /// True if sidecars with the dynamic module may serve the host natively.
    pub native: bool,
}

impl ValidatedService {
    /// True if commands that run or load scripts are refused. On `proxy`, redis_proxy follows what
    /// looks like a redirection by itself.
    pub fn refuses_scripts(&self) -> bool {
        match self.settings.scripts {
            Some(scripts) => scripts == ScriptsSpec::Refuse,
            None => self.path == wire::DataPath::Proxy && self.destinations().iter().any(|known| known.is_cluster()),
        }
    }

    /// True if commands that run or load scripts pass in some sidecars at least.
    pub fn takes_scripts(&self) -> bool {
        let natively = self.choice.native && self.settings.scripts != Some(ScriptsSpec::Refuse);
        natively || !self.refuses_scripts()
    }

    /// Every destination and mirror, each once.
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

    /// The service for the clients in a namespace: without the logins at destinations that are another
    /// Redis there. None if it is the same as for all.
    pub fn for_clients_in(&self, namespace: &str) -> Option<ValidatedService> {
        let is_another = |destination: &ValidatedDestination| {
            destination.policy.login.is_some() && destination.is_another_in(namespace)
        };
        if !self.destinations().iter().any(|destination| is_another(destination)) {
            return None;
        }
        let mut service = self.clone();
        let all = service.targets.iter_mut().flat_map(|target| {
            std::iter::once(&mut target.destination)
                .chain(target.mirrors.iter_mut().map(|mirror| &mut mirror.destination))
        });
        for destination in all.filter(|destination| is_another(destination)) {
            Arc::make_mut(destination).policy.login = None;
        }
        Some(service)
    }

    /// The namespaces of clients for whom a destination with a login is another Redis.
    pub fn overriding_namespaces(&self) -> BTreeSet<&str> {
        let destinations = self.destinations();
        let with_login = destinations.into_iter().filter(|destination| destination.policy.login.is_some());
        let namespaces =
            with_login.flat_map(|destination| &destination.policy.overriding).map(|entry| entry.namespace.as_str());
        namespaces.filter(|namespace| self.clients.includes(namespace)).collect()
    }

    /// The only destination, mirrors aside; none if there are several.
    pub fn single_destination(&self) -> Option<&Arc<ValidatedDestination>> {
        let first = &self.targets.first()?.destination;
        self.targets.iter().all(|target| target.destination.address == first.address).then_some(first)
    }
}

/// A destination with its mirrors.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedTarget {
    /// The destination of commands.
    pub destination: Arc<ValidatedDestination>,
    /// The destinations of copies.
    pub mirrors: Vec<ValidatedMirror>,
}

/// A destination of copies.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedMirror {
    /// The destinations of copies.
    pub destination: Arc<ValidatedDestination>,
    /// The share of the commands that are copied, in parts per million.
    pub per_million: u32,
    /// True if commands that only read aren't copied.
    pub exclude_read_commands: bool,
    /// True if commands that administer a server are copied on the data path `native`.
    pub include_admin: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedRoute {
    /// The keys that the route takes.
    pub key: wire::KeyMatch,
    /// True if the prefix is removed from keys.
    pub remove_prefix: bool,
    /// The index of the target.
    pub target: usize,
    /// The nodes of a Redis Cluster that serve its reads; none for the policy of the settings.
    pub read_policy: Option<ReadPolicySpec>,
    /// The faults for commands of this route.
    pub faults: Vec<wire::Fault>,
    /// The position of the route in the object; none where the object has no routes.
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
