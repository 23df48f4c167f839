//! The compiled configuration of [`crate::rewriter::Rewriter`].

use crate::config::{self, ConfigError, auth_command};
use crate::downstream::auth::PasswordCheck;
use crate::fault::HostFaults;
use crate::request::guard::Guard;
use crate::route::Router;
use crate::wire::{self, DataPath, Limits};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What [`wire::FilterConfig`] says on the data paths `direct` and `proxy`, in a form that can't
/// be wrong.
#[derive(Debug)]
pub struct RewriterConfig {
    /// See [`wire::FilterConfig::name`].
    pub name: String,
    /// See [`wire::FilterConfig::revision`].
    pub revision: u64,
    /// See [`wire::FilterConfig::limits`].
    pub limits: Limits,
    /// The managed hosts.
    pub hosts: Vec<RewriterHost>,
    /// Index of the host of each entry of [`wire::Selector::listeners`].
    listeners: BTreeMap<String, u32>,
    /// Index of the host of each entry of [`wire::Selector::clusters`].
    clusters: BTreeMap<String, u32>,
    /// Index of the host of each entry of [`wire::Selector::addresses`].
    addresses: BTreeMap<String, u32>,
    /// Index of the host without a selector, which takes every other connection.
    every: Option<u32>,
}

/// The data paths on which a filter edits what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// See [`DataPath::Direct`].
    Direct,
    /// See [`DataPath::Proxy`].
    Proxy,
}

impl TryFrom<DataPath> for Path {
    type Error = String;

    fn try_from(path: DataPath) -> Result<Path, String> {
        match path {
            DataPath::Direct => Ok(Path::Direct),
            DataPath::Proxy => Ok(Path::Proxy),
            DataPath::Native => Err("path: native needs the dynamic module".into()),
        }
    }
}

/// A managed host.
#[derive(Debug)]
pub struct RewriterHost {
    /// `FQDN:port`.
    pub name: String,
    /// The kind of filter that follows this one.
    pub path: Path,
    /// What clients must present; `None`: nothing.
    pub client_auth: Option<PasswordCheck>,
    /// The AUTH that is sent before anything else: the login at Redis on `direct`, the handshake
    /// with redis_proxy, which is always there, on `proxy`.
    pub login: Option<LoginCommand>,
    /// The commands that are refused.
    pub guard: Guard,
    /// Destinations with their mirrors.
    pub targets: Vec<RewriterTarget>,
    /// The routes.
    pub router: Router,
    /// Faults of the host and of its routes.
    pub faults: HostFaults,
    /// Neither a key nor a fault decides anything about a command.
    pub plain: bool,
    /// All routes lead to one destination, so that commands without a key and transactions have a
    /// place to go.
    pub single_destination: bool,
    /// That destination has several endpoints, and nothing says that any of them may answer.
    pub several_endpoints: bool,
    /// Keys decide something about a command: its destination, its mirrors, its faults, or what
    /// the key is called there. False with one route without match, one destination, no mirror and
    /// no removed prefix; commands then pass without a look at their keys.
    pub keys_decide: bool,
}

/// An AUTH of the filter's own.
#[derive(Debug)]
pub struct LoginCommand {
    /// The command as it is sent.
    pub bytes: Box<[u8]>,
    /// The user whom the command names, or whom it means.
    pub user: Box<[u8]>,
    /// Identifies the credentials, so that a connection knows when they have changed; never 0.
    pub identity: u64,
}

impl LoginCommand {
    fn new(username: Option<&str>, password: &str) -> LoginCommand {
        let bytes = auth_command(username, password);
        let mut identity = [0u8; 8];
        identity.copy_from_slice(&Sha256::digest(&bytes)[..8]);
        let user = username.unwrap_or("default").as_bytes().into();
        LoginCommand { bytes, user, identity: u64::from_le_bytes(identity).max(1) }
    }
}

/// A destination with its mirrors.
#[derive(Debug)]
pub struct RewriterTarget {
    /// `FQDN:port`.
    pub destination: String,
    /// The destination is a Redis Cluster.
    pub cluster: bool,
    /// The mirrors.
    pub mirrors: Vec<wire::Mirror>,
    /// The tag of each subset of the mirrors, by the bit mask of the subset; empty: untagged.
    pub tags: Vec<Box<[u8]>>,
}

impl RewriterConfig {
    /// Parses and compiles the JSON document.
    pub fn from_json(json: &[u8]) -> Result<RewriterConfig, ConfigError> {
        let document: wire::FilterConfig = serde_json::from_slice(json).map_err(|e| ConfigError(e.to_string()))?;
        RewriterConfig::try_from(document)
    }

    /// The host of a connection, by what Envoy tells about it; each is `None` where Envoy says
    /// nothing.
    pub fn select(&self, listener: Option<&str>, cluster: Option<&str>, address: Option<&str>) -> Option<usize> {
        if listener == Some(wire::CONFIGURED_BY_ITSELF) {
            return None;
        }
        let found = listener
            .and_then(|l| self.listeners.get(l))
            .or_else(|| cluster.and_then(|c| self.clusters.get(c)))
            .or_else(|| address.and_then(|a| self.addresses.get(a)));
        found.copied().or(self.every).map(|i| i as usize)
    }

    /// True if connections have to be asked where they go (some host has a selector).
    pub fn selects(&self) -> bool {
        !(self.listeners.is_empty() && self.clusters.is_empty() && self.addresses.is_empty())
    }
}

impl TryFrom<wire::FilterConfig> for RewriterConfig {
    type Error = ConfigError;

    fn try_from(document: wire::FilterConfig) -> Result<Self, ConfigError> {
        let mut out = RewriterConfig {
            name: document.name,
            revision: document.revision,
            limits: document.limits,
            hosts: Vec::with_capacity(document.hosts.len()),
            listeners: BTreeMap::new(),
            clusters: BTreeMap::new(),
            addresses: BTreeMap::new(),
            every: None,
        };
        config::check_limits(&out.limits)?;
        for (i, host) in document.hosts.iter().enumerate() {
            let at = |problem: String| ConfigError(format!("hosts[{i}] ({}): {problem}", host.host));
            if host.selector.is_empty() && out.every.replace(i as u32).is_some() {
                return Err(at("a second host without selector".into()));
            }
            let lists = [
                (&host.selector.listeners, &mut out.listeners),
                (&host.selector.clusters, &mut out.clusters),
                (&host.selector.addresses, &mut out.addresses),
            ];
            for (names, map) in lists {
                for name in names {
                    if map.insert(name.clone(), i as u32).is_some() {
                        return Err(at(format!("selector: {name} belongs to two hosts")));
                    }
                }
            }
            out.hosts.push(RewriterHost::new(host).map_err(at)?);
        }
        Ok(out)
    }
}

/// True if it says what only the dynamic module can do.
fn has_native_fields(host: &wire::Host) -> bool {
    let mut mirrors = host.targets.iter().flat_map(|target| &target.mirrors);
    host.op_timeout_ms.is_some()
        || host.read_policy != wire::ReadPolicy::default()
        || host.command_stats
        || host.routes.iter().any(|route| route.read_policy.is_some())
        || host.targets.iter().any(|target| target.upstream.is_some())
        || mirrors.any(|mirror| mirror.cluster || mirror.include_admin || mirror.upstream.is_some())
}

impl RewriterHost {
    fn new(host: &wire::Host) -> Result<RewriterHost, String> {
        let path = Path::try_from(host.path)?;
        if has_native_fields(host) {
            return Err(
                "readPolicy, opTimeoutMs, upstream, mirrors' cluster and includeAdmin: only on path native".into()
            );
        }
        let router = config::router(host)?;
        let faults = HostFaults::new(host)?;
        let mut targets = Vec::with_capacity(host.targets.len());
        for (i, target) in host.targets.iter().enumerate() {
            targets.push(RewriterTarget::new(target, path).map_err(|e| format!("targets[{i}]: {e}"))?);
        }
        let Some(first) = targets.first() else {
            return Err("targets: at least one is needed".into());
        };
        match path {
            Path::Direct => check_direct(host, &targets)?,
            Path::Proxy => check_proxy(host, &targets)?,
        }
        let single_destination = match path {
            Path::Direct => true,
            Path::Proxy => first.tags.first().is_some_and(|tag| tag.is_empty()),
        };
        let mirrors = targets.iter().any(|t| !t.mirrors.is_empty());
        let only_any = host.routes.len() == 1 && router.any().is_some();
        let keys_decide = !only_any || faults.has_routes() || mirrors || !single_destination || router.rewrites_keys();
        Ok(RewriterHost {
            plain: !keys_decide && faults.is_empty(),
            name: host.host.clone(),
            path,
            client_auth: host.client_auth.as_ref().map(PasswordCheck::new).transpose()?,
            login: match (&host.upstream_login, &host.handshake) {
                (Some(login), _) => Some(LoginCommand::new(login.username.as_deref(), &login.password)),
                (None, Some(password)) => Some(LoginCommand::new(None, password)),
                (None, None) => None,
            },
            guard: Guard::of(host),
            targets,
            router,
            faults,
            single_destination,
            several_endpoints: host.several_endpoints,
            keys_decide,
        })
    }
}

fn have_one_destination(targets: &[RewriterTarget]) -> bool {
    targets.windows(2).all(|pair| pair[0].destination == pair[1].destination)
}

fn check_direct(host: &wire::Host, targets: &[RewriterTarget]) -> Result<(), String> {
    if !have_one_destination(targets) {
        return Err("path: direct serves one destination".into());
    }
    if targets.iter().any(|t| t.cluster || !t.mirrors.is_empty()) {
        return Err("path: direct serves neither a cluster nor mirrors".into());
    }
    if host.handshake.is_some() {
        return Err("handshake: only on path proxy".into());
    }
    Ok(())
}

fn check_proxy(host: &wire::Host, targets: &[RewriterTarget]) -> Result<(), String> {
    if host.upstream_login.is_some() {
        return Err("upstreamLogin: on path proxy the cluster logs in".into());
    }
    if host.handshake.as_deref().unwrap_or_default().is_empty() {
        return Err("handshake: path proxy needs one".into());
    }
    let untagged = targets.iter().filter(|t| t.tags.first().is_some_and(|tag| tag.is_empty())).count();
    if untagged != 0 && untagged != targets.len() {
        return Err("targets: either all or none are reached without a tag".into());
    }
    if untagged != 0 && !have_one_destination(targets) {
        return Err("targets: several destinations need a tag each".into());
    }
    Ok(())
}

impl RewriterTarget {
    fn new(target: &wire::Target, path: Path) -> Result<RewriterTarget, String> {
        config::check_mirrors(&target.mirrors)?;
        let expected = match path {
            Path::Direct => 0,
            Path::Proxy => 1 << target.mirrors.len(),
        };
        if target.tags.len() != expected {
            return Err(format!("tags: {} instead of {expected}", target.tags.len()));
        }
        let mut tags = Vec::with_capacity(expected);
        for (i, tag) in target.tags.iter().enumerate() {
            let tag = tag.as_deref().unwrap_or_default();
            let name = tag.strip_prefix('\u{1}').and_then(|t| t.strip_suffix(':'));
            let well_formed =
                name.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            if !(well_formed || tag.is_empty() && i == 0) {
                return Err(format!("tags[{i}]: {tag:?} is no tag"));
            }
            tags.push(tag.as_bytes().into());
        }
        Ok(RewriterTarget {
            destination: target.destination.clone(),
            cluster: target.cluster,
            mirrors: target.mirrors.clone(),
            tags,
        })
    }
}
