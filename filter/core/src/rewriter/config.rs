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
    /// Index of the host of each entry of [`wire::FilterConfig::refused`].
    refused: BTreeMap<String, u32>,
    /// Index of the same host for the name of its own cluster.
    refused_clusters: BTreeMap<String, u32>,
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
    /// Destinations with their mirrors; none where every connection is refused.
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
    /// See [`wire::Host::login_for`].
    pub service: Option<String>,
}

impl LoginCommand {
    fn new(username: Option<&str>, password: &str, service: Option<&str>) -> LoginCommand {
        let bytes = auth_command(username, password);
        let mut identity = [0u8; 8];
        identity.copy_from_slice(&Sha256::digest(&bytes)[..8]);
        let user = username.unwrap_or("default").as_bytes().into();
        LoginCommand { bytes, user, identity: u64::from_le_bytes(identity).max(1), service: service.map(str::to_owned) }
    }

    /// True if a connection may be logged in that leads to a cluster of these services, which are those
    /// in the cluster's metadata.
    pub fn is_for(&self, services: &[String]) -> bool {
        let Some(own) = &self.service else { return true };
        !services.is_empty() && services.iter().all(|service| service == own)
    }

    /// Says why a connection of a host isn't logged in that leads to a cluster of these services.
    pub fn withheld(&self, host: &str, services: &[String]) -> String {
        let own = self.service.as_deref().unwrap_or_default();
        let found = match services {
            [] => "a cluster whose metadata names no service (has istiod PILOT_ENABLE_TELEMETRY_LABEL=false?)".into(),
            services => services.join(", "),
        };
        format!("redis-mesh: {host}: no login: it is for {own}, and connections lead to {found}")
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
            .or_else(|| self.refuse(listener, cluster))
            .or_else(|| cluster.and_then(|c| of_cluster(&self.clusters, c)))
            .or_else(|| address.and_then(|a| self.addresses.get(a)));
        found.copied().or(self.every).map(|i| i as usize)
    }

    /// The host of a connection that is refused. Where a listener has a token, other rules have led it
    /// where it leads.
    fn refuse(&self, listener: Option<&str>, cluster: Option<&str>) -> Option<&u32> {
        match listener {
            Some(token) => self.refused.get(wire::name_in(token)?),
            None => of_cluster(&self.refused_clusters, cluster?),
        }
    }

    /// True if connections have to be asked where they go (some host has a selector).
    pub fn selects(&self) -> bool {
        !(self.listeners.is_empty() && self.clusters.is_empty() && self.addresses.is_empty() && self.refused.is_empty())
    }

    /// Adds a host of which connections are refused.
    fn add_refused(&mut self, name: &str) {
        let index = self.hosts.len() as u32;
        let address = wire::address_in(name);
        if let Some((host, port)) = address.rsplit_once(':') {
            self.refused_clusters.insert(wire::istio_cluster(host, port), index);
        }
        self.refused.insert(name.to_owned(), index);
        self.hosts.push(RewriterHost::refused(address));
    }
}

/// Finds a host by Istio's cluster. That of a subset (`outbound|PORT|SUBSET|HOST`) belongs to the same
/// host.
fn of_cluster<'c>(hosts: &'c BTreeMap<String, u32>, cluster: &str) -> Option<&'c u32> {
    hosts.get(cluster).or_else(|| {
        let (port, rest) = cluster.strip_prefix("outbound|")?.split_once('|')?;
        let (_, host) = rest.split_once('|')?;
        hosts.get(&wire::istio_cluster(host, port))
    })
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
            refused: BTreeMap::new(),
            refused_clusters: BTreeMap::new(),
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
        document.refused.iter().for_each(|name| out.add_refused(name));
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
    /// A host of which every connection is refused.
    fn refused(name: &str) -> RewriterHost {
        RewriterHost {
            name: name.to_owned(),
            path: Path::Direct,
            client_auth: None,
            login: None,
            guard: Guard::default(),
            targets: Vec::new(),
            router: Router::default(),
            faults: HostFaults::default(),
            plain: false,
            single_destination: true,
            several_endpoints: false,
            keys_decide: false,
        }
    }

    /// True if every connection is refused.
    pub fn is_refused(&self) -> bool {
        self.targets.is_empty()
    }

    /// The error of a command that comes while the parts of the configuration don't fit together.
    pub fn being_replaced(&self) -> String {
        format!("ERR redis-mesh: the configuration of {} is being replaced, try again", self.name)
    }

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
                (Some(login), _) => {
                    Some(LoginCommand::new(login.username.as_deref(), &login.password, host.login_for.as_deref()))
                }
                (None, Some(password)) => Some(LoginCommand::new(None, password, None)),
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
    if host.login_for.is_some() && host.upstream_login.is_none() {
        return Err("loginFor: there is no upstreamLogin".into());
    }
    Ok(())
}

fn check_proxy(host: &wire::Host, targets: &[RewriterTarget]) -> Result<(), String> {
    if host.upstream_login.is_some() || host.login_for.is_some() {
        return Err("upstreamLogin, loginFor: on path proxy the cluster logs in".into());
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

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn config() -> RewriterConfig {
        let host = |name: &str, selector: &str| {
            format!(
                r#"{{"host": "{name}:6379", "path": "direct", "selector": {selector},
                "targets": [{{"destination": "t:6379"}}], "routes": [{{"match": "any", "target": 0}}]}}"#
            )
        };
        let own = host("own", r#"{"clusters": ["outbound|6379||own"], "addresses": ["10.0.0.1:6379"]}"#);
        let led = host("led", r#"{"listeners": ["led:6379 to outbound|6379||t"]}"#);
        let json = format!(
            r#"{{"name": "n", "revision": 1, "hosts": [{own}, {led}], "refused": ["led:6379", "shop/of-shop:6379"]}}"#
        );
        RewriterConfig::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn connections_that_lead_where_no_rule_has_led_them_are_refused() {
        let config = config();
        let found = |listener: Option<&str>, cluster, address| {
            let host = config.select(listener, Some(cluster), Some(address)).map(|index| &config.hosts[index]);
            host.map_or("none".to_owned(), |host| {
                format!("{}{}", host.name, if host.is_refused() { " refused" } else { "" })
            })
        };
        let elsewhere = "10.0.0.9:6379";
        // A new address, and a subset of a user's DestinationRule.
        assert_eq!(found(None, "outbound|6379||own", elsewhere), "own:6379");
        assert_eq!(found(None, "outbound|6379|v1|own", elsewhere), "own:6379");
        assert_eq!(found(None, "outbound|6379||led", elsewhere), "led:6379 refused");
        assert_eq!(found(None, "outbound|6379|v1|led", elsewhere), "led:6379 refused");
        assert_eq!(found(None, "outbound|6379||of-shop", elsewhere), "of-shop:6379 refused");
        // The listener that the rules have changed, and one of another state of the rules.
        let tokened = |name, cluster| found(Some(&wire::token(name, cluster)), cluster, elsewhere);
        assert_eq!(tokened("led:6379", "outbound|6379||t"), "led:6379");
        assert_eq!(tokened("led:6379", "outbound|6379||u"), "led:6379 refused");
        // Other rules have led the connection to the host's own cluster, or elsewhere.
        assert_eq!(tokened("a:6379", "outbound|6379||led"), "none");
        assert_eq!(tokened("of-shop:6379", "outbound|6379||u"), "none");
        assert_eq!(found(Some(wire::CONFIGURED_BY_ITSELF), "outbound|6379||led", elsewhere), "none");
        for other in ["outbound|6379||other", "outbound|6380||led", "inbound|6379||led", "outbound|6379|led", "led", ""]
        {
            assert_eq!(found(None, other, elsewhere), "none", "{other}");
        }
        assert_eq!(found(None, "outbound|6379||other", "10.0.0.1:6379"), "own:6379");
    }

    #[test]
    fn a_login_is_for_one_service() {
        let service = |namespace: &str| wire::mesh_service(namespace, "redis.shop");
        let (own, other) = (service("shop"), service("tenant"));
        let login = LoginCommand::new(None, "secret", Some(&own));
        assert!(login.is_for(std::slice::from_ref(&own)) && login.is_for(&[own.clone(), own.clone()]));
        for services in [&[own.clone(), other.clone()][..], std::slice::from_ref(&other), &[]] {
            assert!(!login.is_for(services), "{services:?}");
        }
        let text = login.withheld("h:6379", &[other]);
        assert!(text.contains("shop/redis.shop") && text.contains("tenant/redis.shop"), "{text}");
        assert!(login.withheld("h:6379", &[]).contains("PILOT_ENABLE_TELEMETRY_LABEL"));
        assert!(LoginCommand::new(None, "secret", None).is_for(&[]));
    }
}
