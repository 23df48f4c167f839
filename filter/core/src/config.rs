//! The compiled configuration of [`crate::rewriter::Rewriter`]: what [`crate::wire::FilterConfig`] says, in a form that can't
//! be wrong.

use crate::downstream::auth::ClientAuth;
use crate::fault::Faults;
use crate::route::Router;
use crate::wire::{self, DataPath, Limits};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// A filter's whole configuration, compiled.
#[derive(Debug)]
pub struct ProxyConfig {
    /// See [`wire::FilterConfig::name`].
    pub name: String,
    /// See [`wire::FilterConfig::revision`].
    pub revision: u64,
    /// See [`wire::FilterConfig::limits`].
    pub limits: Limits,
    /// The managed hosts.
    pub hosts: Vec<Host>,
    listeners: BTreeMap<String, u32>,
    clusters: BTreeMap<String, u32>,
    addresses: BTreeMap<String, u32>,
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

/// A managed host, compiled.
#[derive(Debug)]
pub struct Host {
    /// `FQDN:port`.
    pub name: String,
    /// What stands behind the filter.
    pub path: Path,
    /// What clients must present.
    pub client_auth: Option<ClientAuth>,
    /// The login at Redis on `direct`, as the command to send.
    pub login: Option<Box<[u8]>>,
    /// The handshake with redis_proxy on `proxy`, as the command to send.
    pub handshake: Option<Box<[u8]>>,
    /// Identifies the credentials in `login` or `handshake`, so that a connection knows when they have changed; never 0.
    pub login_identity: u64,
    /// Commands that reveal or change credentials are refused.
    pub guarded: bool,
    /// Destinations with their mirrors.
    pub targets: Vec<Target>,
    /// Faults of the routes that have some, in the order of the routes; they come before those of the host.
    pub route_faults: Vec<(u32, Faults)>,
    /// Matches keys.
    pub router: Router,
    /// Faults of the whole host.
    pub faults: Faults,
    /// No key and no fault decides anything about a command.
    pub plain: bool,
    /// Some fault delays.
    pub delays: bool,
    /// All routes lead to one destination, so that commands without a key and transactions have a place to go.
    pub single_destination: bool,
    /// Some route removes its prefix.
    pub rewrites_keys: bool,
    /// No key decides anything: one route without match, no mirror, no tag.
    pub keys_decide: bool,
}

/// A destination with its mirrors.
#[derive(Debug)]
pub struct Target {
    /// `FQDN:port`.
    pub destination: String,
    /// A Redis Cluster.
    pub cluster: bool,
    /// Mirrors.
    pub mirrors: Vec<wire::Mirror>,
    /// Tag for each subset of mirrors; empty means untagged.
    pub tags: Vec<Box<[u8]>>,
}

/// Why a configuration is refused: the field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl ProxyConfig {
    /// Parses and compiles the JSON document.
    pub fn from_json(json: &[u8]) -> Result<ProxyConfig, ConfigError> {
        let config: wire::FilterConfig = serde_json::from_slice(json).map_err(|e| ConfigError(e.to_string()))?;
        ProxyConfig::try_from(config)
    }

    /// The host of a connection, by what Envoy tells about it; each is `None` where Envoy says nothing.
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

/// The JSON document in what Envoy hands over: a `StringValue`, a `BytesValue` or a `Struct` comes as its content; a
/// `GenericSecret`, which Envoy shows to nobody, comes as the message, `0a len 1a len JSON`: field 1, a DataSource, of which
/// field 3, the `inline_string`.
pub fn json_of(bytes: &[u8]) -> &[u8] {
    fn field(bytes: &[u8], tag: u8) -> Option<&[u8]> {
        let mut rest = bytes.strip_prefix(&[tag])?;
        let (mut len, mut shift) = (0usize, 0);
        loop {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            len |= usize::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
        rest.get(..len)
    }
    field(bytes, 0x0a).and_then(|source| field(source, 0x1a)).unwrap_or(bytes)
}

impl TryFrom<wire::FilterConfig> for ProxyConfig {
    type Error = ConfigError;

    fn try_from(config: wire::FilterConfig) -> Result<Self, ConfigError> {
        let mut out = ProxyConfig {
            name: config.name,
            revision: config.revision,
            limits: config.limits,
            hosts: Vec::with_capacity(config.hosts.len()),
            listeners: BTreeMap::new(),
            clusters: BTreeMap::new(),
            addresses: BTreeMap::new(),
            every: None,
        };
        check_limits(&out.limits)?;
        for (i, host) in config.hosts.iter().enumerate() {
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
            out.hosts.push(Host::new(host).map_err(at)?);
        }
        Ok(out)
    }
}

/// What may be held or read at once has to be more than Envoy hands over in one piece of its smallest buffers, and has to fit a
/// VM of 32 bits several times.
const MIN_BUFFER: u32 = 64 * 1024;
const MAX_BUFFER: u32 = 512 * 1024 * 1024;

/// What is wrong with limits.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    if limits.max_arguments == 0 || limits.max_inline_bytes == 0 || limits.max_bulk_bytes == 0 {
        return Err(ConfigError("limits: a limit of 0 would refuse every command".into()));
    }
    for (name, bytes) in [("maxHeldBytes", limits.max_held_bytes), ("maxShapedBytes", limits.max_shaped_bytes)] {
        if !(MIN_BUFFER..=MAX_BUFFER).contains(&bytes) {
            return Err(ConfigError(format!("limits.{name}: {bytes} is not between {MIN_BUFFER} and {MAX_BUFFER}")));
        }
    }
    Ok(())
}

/// What matches a host's keys, of routes that lead to targets which there are, and remove what can be removed.
pub(crate) fn router(host: &wire::Host) -> Result<Router, String> {
    for (i, route) in host.routes.iter().enumerate() {
        if route.target as usize >= host.targets.len() {
            return Err(format!("routes[{i}].target: there is no target {}", route.target));
        }
        if route.remove_prefix && !matches!(route.key, wire::KeyMatch::Prefix(_)) {
            return Err(format!("routes[{i}].removePrefix: only a prefix can be removed"));
        }
    }
    Router::new(&host.routes, host.case_insensitive).map_err(|e| format!("routes[{}]: {}", e.route, e.problem))
}

/// True if it says what only the dynamic module can do.
fn has_native_fields(host: &wire::Host) -> bool {
    let mut mirrors = host.targets.iter().flat_map(|target| &target.mirrors);
    host.op_timeout_ms != 0
        || host.read_policy != wire::ReadPolicy::default()
        || host.command_stats
        || host.routes.iter().any(|route| route.read_policy.is_some())
        || host.targets.iter().any(|target| target.upstream.is_some())
        || mirrors.any(|mirror| mirror.cluster || mirror.upstream.is_some())
}

/// What is wrong with the mirrors of a target.
pub(crate) fn check_mirrors(mirrors: &[wire::Mirror]) -> Result<(), String> {
    if mirrors.len() > 4 {
        return Err("mirrors: at most four".into());
    }
    for (i, mirror) in mirrors.iter().enumerate() {
        if mirror.per_million > 1_000_000 {
            return Err(format!("mirrors[{i}].perMillion: {} is more than 1000000", mirror.per_million));
        }
    }
    Ok(())
}

/// The AUTH of a login.
pub(crate) fn auth_command(username: Option<&str>, password: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    match username {
        Some(user) => crate::resp::encode::command(&mut out, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
        None => crate::resp::encode::command(&mut out, &[b"AUTH", password.as_bytes()]),
    }
    out.into()
}

impl Host {
    fn new(host: &wire::Host) -> Result<Host, String> {
        let path = Path::try_from(host.path)?;
        if has_native_fields(host) {
            return Err("readPolicy, opTimeoutMs, upstream, mirrors' cluster: only on path native".into());
        }
        let router = router(host)?;
        let mut route_faults = Vec::new();
        for (i, route) in host.routes.iter().enumerate() {
            if !route.faults.is_empty() {
                let faults = Faults::new(&route.faults).map_err(|e| format!("routes[{i}].{e}"))?;
                route_faults.push((i as u32, faults));
            }
        }
        let mut targets = Vec::with_capacity(host.targets.len());
        for (i, target) in host.targets.iter().enumerate() {
            targets.push(Target::new(target, path).map_err(|e| format!("targets[{i}]: {e}"))?);
        }
        let Some(first) = targets.first() else {
            return Err("targets: at least one is needed".into());
        };
        let one_destination = targets.iter().all(|t| t.destination == first.destination);
        match path {
            Path::Direct => {
                if !one_destination {
                    return Err("path: direct serves one destination".into());
                }
                if targets.iter().any(|t| t.cluster || !t.mirrors.is_empty()) {
                    return Err("path: direct serves neither a cluster nor mirrors".into());
                }
                if host.handshake.is_some() {
                    return Err("handshake: only on path proxy".into());
                }
            }
            Path::Proxy => {
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
                if untagged != 0 && !one_destination {
                    return Err("targets: several destinations need a tag each".into());
                }
            }
        }
        let single_destination = match path {
            Path::Direct => true,
            Path::Proxy => first.tags.first().is_some_and(|tag| tag.is_empty()),
        };
        let rewrites_keys = router.rewrites_keys();
        let delays = host.faults.iter().chain(host.routes.iter().flat_map(|r| &r.faults)).any(|f| f.delay_ms > 0);
        let mirrors = targets.iter().any(|t| !t.mirrors.is_empty());
        let only_any = host.routes.len() == 1 && router.any().is_some();
        let login = host.upstream_login.as_ref().map(|l| auth_command(l.username.as_deref(), &l.password));
        let handshake = host.handshake.as_deref().map(|password| auth_command(None, password));
        let credentials = login.as_deref().or(handshake.as_deref()).unwrap_or_default();
        let mut identity = [0u8; 8];
        identity.copy_from_slice(&Sha256::digest(credentials)[..8]);
        let keys_decide = !only_any || !route_faults.is_empty() || mirrors || !single_destination;
        Ok(Host {
            plain: !keys_decide && !rewrites_keys && host.faults.is_empty(),
            name: host.host.clone(),
            path,
            client_auth: host.client_auth.as_ref().map(ClientAuth::new).transpose()?,
            login,
            handshake,
            login_identity: u64::from_le_bytes(identity).max(1),
            guarded: host.guard_credentials && !host.allow_admin_commands,
            targets,
            route_faults,
            router,
            faults: Faults::new(&host.faults)?,
            delays,
            single_destination,
            rewrites_keys,
            keys_decide,
        })
    }

    /// The faults of a route, if it has some.
    pub fn faults_of(&self, route: u32) -> Option<&Faults> {
        let at = self.route_faults.binary_search_by_key(&route, |(route, _)| *route).ok()?;
        self.route_faults.get(at).map(|(_, faults)| faults)
    }
}

impl Target {
    fn new(target: &wire::Target, path: Path) -> Result<Target, String> {
        check_mirrors(&target.mirrors)?;
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
        Ok(Target {
            destination: target.destination.clone(),
            cluster: target.cluster,
            mirrors: target.mirrors.clone(),
            tags,
        })
    }
}
