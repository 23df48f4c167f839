//! What a listener's clients get, compiled for the machine that opens connections itself.

use crate::config::auth_command;
use crate::downstream::auth::ClientAuth;
use crate::fault::Faults;
use crate::route::{Matched, Router};
use crate::wire;
use std::fmt;
use std::sync::Arc;

/// A managed host with its routes and the connections that these need.
#[derive(Debug)]
pub struct Config {
    /// `FQDN:port`, for messages and stats.
    pub host: String,
    /// Bounds on what clients may send.
    pub limits: wire::Limits,
    /// What clients must present.
    pub client_auth: Option<ClientAuth>,
    /// Commands that reveal or change credentials are refused.
    pub guarded: bool,
    /// Destinations with their mirrors.
    pub targets: Vec<Target>,
    /// What each route does; indexes are the router's.
    pub routes: Vec<Route>,
    /// Matches keys.
    pub router: Router,
    /// Faults of the whole host.
    pub faults: Faults,
    /// All routes lead to one destination, so that commands without a key have a place to go.
    pub single: bool,
}

/// A destination with its mirrors.
#[derive(Debug)]
pub struct Target {
    /// `FQDN:port`, for messages.
    pub destination: String,
    /// How it is reached.
    pub upstream: Upstream,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
}

/// A mirror of a target.
#[derive(Debug)]
pub struct Mirror {
    /// How it is reached.
    pub upstream: Upstream,
    /// Share of the commands that are mirrored, in parts per million.
    pub per_million: u32,
    /// Leave out commands that only read.
    pub exclude_read_commands: bool,
}

/// What a route does with its keys.
#[derive(Debug)]
pub struct Route {
    /// Index into [`Config::targets`].
    pub target: usize,
    /// Remove the matched prefix.
    pub remove_prefix: bool,
    /// Its own faults, before those of the host.
    pub faults: Faults,
}

/// How a Redis is reached.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The name of its cluster in Envoy.
    pub cluster: Arc<str>,
    /// The login there, as the command to send.
    pub login: Option<Arc<[u8]>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|_| "[redacted]");
        f.debug_struct("Upstream").field("cluster", &self.cluster).field("login", &login).finish()
    }
}

impl Upstream {
    /// Of a cluster's name and the login there.
    pub fn new(cluster: &str, login: Option<&wire::UpstreamLogin>) -> Upstream {
        let command = login.map(|login| auth_command(login.username.as_deref(), &login.password).into());
        Upstream { cluster: cluster.into(), login: command }
    }
}

impl Config {
    /// Compiles a host; `reach` tells how a destination, named as in the document, is reached. The error names the field.
    pub fn new(
        host: &wire::Host,
        limits: &wire::Limits,
        reach: impl Fn(&str) -> Option<Upstream>,
    ) -> Result<Config, String> {
        let router = Router::new(host.routes.iter().map(|route| &route.key), host.case_insensitive)
            .map_err(|error| format!("routes[{}]: {}", error.route, error.problem))?;
        let found = |destination: &str| reach(destination).ok_or_else(|| format!("{destination}: there is no cluster"));
        let mut targets = Vec::with_capacity(host.targets.len());
        for target in &host.targets {
            let mirrors = target.mirrors.iter().map(|mirror| {
                let (per_million, exclude_read_commands) = (mirror.per_million, mirror.exclude_read_commands);
                Ok(Mirror { upstream: found(&mirror.destination)?, per_million, exclude_read_commands })
            });
            targets.push(Target {
                destination: target.destination.clone(),
                upstream: found(&target.destination)?,
                mirrors: mirrors.collect::<Result<_, String>>()?,
            });
        }
        let Some(first) = targets.first() else { return Err("targets: at least one is needed".into()) };
        let single = targets.iter().all(|target| target.upstream == first.upstream);
        let mut routes = Vec::with_capacity(host.routes.len());
        for (index, route) in host.routes.iter().enumerate() {
            let target = route.target as usize;
            if target >= targets.len() {
                return Err(format!("routes[{index}].target: there is no target {target}"));
            }
            let faults = Faults::new(&route.faults).map_err(|error| format!("routes[{index}].{error}"))?;
            routes.push(Route { target, remove_prefix: route.remove_prefix, faults });
        }
        Ok(Config {
            host: host.host.clone(),
            limits: limits.clone(),
            client_auth: host.client_auth.as_ref().map(ClientAuth::new).transpose()?,
            guarded: host.guard_credentials && !host.allow_admin_commands,
            targets,
            routes,
            router,
            faults: Faults::new(&host.faults)?,
            single,
        })
    }

    /// The route of a key with what it does; `None`: no route takes the key.
    pub fn route(&self, key: &[u8]) -> Option<(Matched, &Route)> {
        let matched = self.router.route(key)?;
        Some((matched, self.routes.get(matched.route as usize)?))
    }

    /// The target of commands without a key, where there is one for all.
    pub fn keyless(&self) -> Option<usize> {
        let of_any = || self.routes.get(self.router.any()? as usize).map(|route| route.target);
        self.single.then(|| of_any().unwrap_or_default())
    }
}
