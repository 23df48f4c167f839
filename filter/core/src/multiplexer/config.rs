//! The configuration of the multiplexer, compiled from [`wire::FilterConfig`].

pub use super::limits::ClientLimits;
use super::members::{Placement, ServerTargets};
use super::upstream::patience::Patience;
use crate::config::{ConfigError, check_limits, check_mirrors, router};
use crate::downstream::auth::PasswordCheck;
use crate::fault::Faults;
pub use crate::multiplexer::upstream::endpoint::{UpstreamAuth, UpstreamEndpoint};
use crate::request::guard::Guard;
use crate::route::{Matched, Router};
use crate::wire::{self, DataPath, KeyHash, ReadPolicy};
use std::sync::Arc;
use std::time::Duration;

/// A [`wire::FilterConfig`] of data path `native`, compiled. It belongs to one listener of Envoy.
#[derive(Debug)]
pub struct ListenerConfig {
    /// See [`wire::FilterConfig::name`].
    pub name: String,
    /// See [`wire::FilterConfig::revision`].
    pub revision: u64,
    /// The host whose clients connect to the listener.
    pub host: Arc<HostConfig>,
}

/// How long a server may be silent where the configuration doesn't say.
const DEFAULT_OP_TIMEOUT: Duration = Duration::from_secs(5);

/// A managed host: its routes, the upstreams that they need, and what holds for its clients.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// `FQDN:port`, for messages and stats.
    pub host: String,
    /// The limits of what clients may send.
    pub limits: Arc<ClientLimits>,
    /// Who may do what.
    pub auth: Arc<AuthRules>,
    /// How long a server may be silent before a client is told.
    pub patience: Patience,
    /// The nodes that serve commands without a key that only read.
    pub read_policy: ReadPolicy,
    /// True if the latency of each command is counted.
    pub command_stats: bool,
    /// The destinations with their mirrors.
    pub targets: Vec<TargetConfig>,
    /// The routes, by the indexes that the router gives.
    pub routes: Arc<[RouteConfig]>,
    /// The router, which finds the route of a key.
    pub router: Arc<Router>,
    /// The faults of the whole host.
    pub faults: Arc<Faults>,
    /// True if the host or one of its routes has faults.
    pub has_faults: bool,
    /// True if all targets have the same upstream, so that commands without a key have a target.
    pub single: bool,
}

/// The logins of a host, and what clients may do without one of their own.
#[derive(Debug)]
pub struct AuthRules {
    /// The credentials that clients must present; absent if none are required.
    pub client_auth: Option<PasswordCheck>,
    /// True if a client's login is passed to the servers, since neither clients nor upstreams
    /// have a configured one.
    pub passes_auth: bool,
    /// The commands that are refused.
    pub guard: Guard,
}

/// A destination with its mirrors.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// `FQDN:port`, for messages.
    pub destination: String,
    /// True if the destination is a Redis Cluster.
    pub is_cluster: bool,
    /// The upstream through which the destination is reached.
    pub upstream: UpstreamEndpoint,
    /// The destinations of copies.
    pub mirrors: Vec<MirrorConfig>,
    /// See [`wire::Upstream::key_hash`].
    pub key_hash: Option<KeyHash>,
    /// The targets that are the servers of the destination, if there are several.
    pub servers: Option<ServerTargets>,
    /// True if the destination has several servers, or has had them.
    pub has_had_servers: bool,
    /// The target whose keys it has some of, if that is another one.
    pub origin: Option<usize>,
}

/// A mirror of a target.
#[derive(Clone, Debug)]
pub struct MirrorConfig {
    /// True if the mirror is a Redis Cluster.
    pub is_cluster: bool,
    /// The upstream through which the mirror is reached.
    pub upstream: UpstreamEndpoint,
    /// The share of the commands that are mirrored, in parts per million.
    pub per_million: u32,
    /// True if commands that only read are left out.
    pub exclude_read_commands: bool,
    /// True if commands that administer a server, or change all that it holds, are mirrored, too.
    pub includes_admin: bool,
    /// See [`wire::Upstream::key_hash`].
    pub key_hash: Option<KeyHash>,
    /// How keys are placed on its servers, as far as these are known.
    pub placement: Option<Placement>,
}

/// A route: the target of its keys, and what is done with their commands.
#[derive(Debug)]
pub struct RouteConfig {
    /// The keys that match, as stats call them: `key`, `prefix*`, `~regex` or `*`.
    pub name: String,
    /// An index into [`HostConfig::targets`].
    pub target: usize,
    /// True if the matched prefix is removed from keys.
    pub remove_prefix: bool,
    /// The prefix that is removed; absent if none is.
    pub removed_prefix: Option<Box<[u8]>>,
    /// The nodes that serve commands that only read.
    pub read_policy: ReadPolicy,
    /// The faults of the route, which come before those of the host.
    pub faults: Faults,
}

impl ListenerConfig {
    /// Parses and compiles a JSON document.
    ///
    /// # Errors
    /// The document isn't a [`wire::FilterConfig`], or isn't one of data path `native`. The error
    /// names the field.
    pub fn from_json(json: &[u8]) -> Result<ListenerConfig, ConfigError> {
        let config: wire::FilterConfig = serde_json::from_slice(json).map_err(|e| ConfigError(e.to_string()))?;
        ListenerConfig::try_from(config)
    }
}

impl TryFrom<wire::FilterConfig> for ListenerConfig {
    type Error = ConfigError;

    fn try_from(config: wire::FilterConfig) -> Result<ListenerConfig, ConfigError> {
        check_limits(&config.limits)?;
        let [host] = config.hosts.as_slice() else {
            let count = config.hosts.len();
            return Err(ConfigError(format!("hosts: a listener has one on path native, and these are {count}")));
        };
        let compiled = HostConfig::new(host, &config.limits);
        let host = compiled.map_err(|problem| ConfigError(format!("hosts[0] ({}): {problem}", host.host)))?;
        Ok(ListenerConfig { name: config.name, revision: config.revision, host: Arc::new(host) })
    }
}

impl HostConfig {
    /// Compiles a host.
    ///
    /// # Errors
    /// A field has a value that data path `native` doesn't know. The error names the field.
    pub fn new(host: &wire::Host, limits: &wire::Limits) -> Result<HostConfig, String> {
        check_path(host)?;
        let router = router(host)?;
        let mut targets = targets(host)?;
        let passes_auth = host.client_auth.is_none() && !targets.iter().any(TargetConfig::has_login);
        if passes_auth {
            // Mirrors get no client's login: nobody waits for their replies, so none lets a
            // client in.
            targets.iter_mut().for_each(|target| target.upstream.login = Some(UpstreamAuth::none_yet()));
        }
        if targets.is_empty() {
            return Err("targets: at least one is needed".into());
        }
        let single = HostConfig::is_single(&targets);
        let routes = routes(host)?;
        let faults = Faults::new(&host.faults)?;
        Ok(HostConfig {
            host: host.host.clone(),
            limits: Arc::new(ClientLimits::new(limits)),
            auth: Arc::new(AuthRules {
                client_auth: host.client_auth.as_ref().map(PasswordCheck::new).transpose()?,
                passes_auth,
                guard: Guard::of(host),
            }),
            patience: Patience::of(host.op_timeout_ms.map_or(DEFAULT_OP_TIMEOUT, Duration::from_millis)),
            read_policy: host.read_policy,
            command_stats: host.command_stats,
            has_faults: !faults.is_empty() || routes.iter().any(|route| !route.faults.is_empty()),
            targets,
            routes: routes.into(),
            router: Arc::new(router),
            faults: Arc::new(faults),
            single,
        })
    }

    /// Returns true if all targets have the same upstream.
    pub fn is_single(targets: &[TargetConfig]) -> bool {
        targets.windows(2).all(|pair| matches!(pair, [a, b] if a.upstream == b.upstream))
    }

    /// Returns the route of a key, or `None` if no route matches it.
    #[inline]
    pub fn route(&self, key: &[u8]) -> Option<(Matched, &RouteConfig)> {
        let matched = self.router.route(key)?;
        Some((matched, self.routes.get(matched.route as usize)?))
    }

    /// Returns true if a target is a Redis Cluster.
    pub fn is_cluster(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|target| target.is_cluster)
    }

    /// Returns the target of all keys, if there is one for all, it is no Redis Cluster, and its
    /// keys have the names that clients know.
    pub fn plain(&self) -> Option<usize> {
        let target = self.keyless().filter(|target| !self.is_cluster(*target))?;
        let takes_all = self.router.any().is_some() && !self.router.rewrites_keys();
        takes_all.then_some(target)
    }

    /// Returns the target of commands without a key, if all routes lead to one upstream.
    pub fn keyless(&self) -> Option<usize> {
        let default = self.router.default_route().map(|route| route.target as usize);
        self.single.then(|| default.unwrap_or_default())
    }
}

/// Checks the fields that are for other data paths.
fn check_path(host: &wire::Host) -> Result<(), String> {
    match host.path {
        DataPath::Native => {}
        DataPath::Direct | DataPath::Proxy => return Err("path: the dynamic module serves only native".into()),
    }
    if !host.selector.is_empty() {
        return Err("selector: on path native the listener is the host's".into());
    }
    if host.upstream_login.is_some() || host.login_for.is_some() {
        return Err("upstreamLogin, loginFor: on path native each upstream has its own".into());
    }
    if host.handshake.is_some() {
        return Err("handshake: only on path proxy".into());
    }
    Ok(())
}

fn targets(host: &wire::Host) -> Result<Vec<TargetConfig>, String> {
    let targets = host.targets.iter().enumerate();
    let compile = |(index, target)| TargetConfig::new(target).map_err(|problem| format!("targets[{index}]: {problem}"));
    targets.map(compile).collect()
}

fn routes(host: &wire::Host) -> Result<Vec<RouteConfig>, String> {
    let compile = |(index, route)| {
        RouteConfig::new(route, host.read_policy).map_err(|problem| format!("routes[{index}].{problem}"))
    };
    host.routes.iter().enumerate().map(compile).collect()
}

impl RouteConfig {
    /// Compiles a route; `read_policy` is that of the host.
    fn new(route: &wire::Route, read_policy: ReadPolicy) -> Result<RouteConfig, String> {
        Ok(RouteConfig {
            name: match &route.key {
                wire::KeyMatch::Exact(key) => key.clone(),
                wire::KeyMatch::Prefix(prefix) => format!("{prefix}*"),
                wire::KeyMatch::Regex(regex) => format!("~{regex}"),
                wire::KeyMatch::Any => "*".into(),
            },
            target: route.target as usize,
            remove_prefix: route.remove_prefix,
            removed_prefix: match &route.key {
                wire::KeyMatch::Prefix(prefix) if route.remove_prefix => Some(prefix.as_bytes().into()),
                _ => None,
            },
            read_policy: route.read_policy.unwrap_or(read_policy),
            faults: Faults::new(&route.faults)?,
        })
    }
}

impl TargetConfig {
    fn new(target: &wire::Target) -> Result<TargetConfig, String> {
        check_mirrors(&target.mirrors)?;
        if !target.tags.is_empty() {
            return Err("tags: only on path proxy".into());
        }
        let mut mirrors = Vec::with_capacity(target.mirrors.len());
        for (index, mirror) in target.mirrors.iter().enumerate() {
            let upstream = UpstreamEndpoint::new(mirror.upstream.as_ref(), mirror.cluster);
            mirrors.push(MirrorConfig {
                is_cluster: mirror.cluster,
                upstream: upstream.map_err(|problem| format!("mirrors[{index}].{problem}"))?,
                per_million: mirror.per_million,
                exclude_read_commands: mirror.exclude_read_commands,
                includes_admin: mirror.include_admin,
                key_hash: mirror.upstream.as_ref().and_then(|upstream| upstream.key_hash),
                placement: None,
            });
        }
        Ok(TargetConfig {
            destination: target.destination.clone(),
            is_cluster: target.cluster,
            upstream: UpstreamEndpoint::new(target.upstream.as_ref(), target.cluster)?,
            mirrors,
            key_hash: target.upstream.as_ref().and_then(|upstream| upstream.key_hash),
            servers: None,
            has_had_servers: false,
            origin: None,
        })
    }

    /// Returns true if the upstream or that of a mirror has a configured login.
    fn has_login(&self) -> bool {
        let mut mirrors = self.mirrors.iter().map(|mirror| &mirror.upstream);
        self.upstream.login.is_some() || mirrors.any(|upstream| upstream.login.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> serde_json::Value {
        serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native", "readPolicy": "replica", "opTimeoutMs": 250,
            "targets": [
                {"destination": "a:6379", "upstream": {"cluster": "a", "login": {"password": "p"}}},
                {"destination": "b:6379", "cluster": true, "upstream": {"cluster": "b", "nodes": "b nodes"}},
            ],
            "routes": [
                {"match": {"prefix": "b:"}, "target": 1, "readPolicy": "preferMaster"},
                {"match": "any", "target": 0},
            ],
        }]})
    }

    fn compile(document: &serde_json::Value) -> Result<ListenerConfig, String> {
        ListenerConfig::from_json(document.to_string().as_bytes()).map_err(|error| error.0)
    }

    #[test]
    fn a_document_is_compiled() {
        let host = compile(&document()).unwrap().host;
        let policies: Vec<ReadPolicy> = host.routes.iter().map(|route| route.read_policy).collect();
        assert_eq!(policies, [ReadPolicy::PreferMaster, ReadPolicy::Replica]);
        assert_eq!(host.patience, Patience::of(Duration::from_millis(250)));
        assert_eq!(host.targets.iter().map(|target| target.is_cluster).collect::<Vec<_>>(), [false, true]);
        assert_eq!(host.targets[0].upstream.login_command(), Some(&b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n"[..]));
        assert_eq!(host.targets[1].upstream.nodes.as_deref(), Some("b nodes"));
        assert!(!host.single);
    }

    #[test]
    fn clients_log_in_at_the_servers_where_no_login_is_configured() {
        let passes = |document: &serde_json::Value| compile(document).unwrap().host;
        let mut document = document();
        assert!(!passes(&document).auth.passes_auth && passes(&document).targets[1].upstream.login.is_none());
        document["hosts"][0]["targets"][0]["upstream"].as_object_mut().unwrap().remove("login");
        let host = passes(&document);
        assert!(host.auth.passes_auth && host.targets.iter().all(|target| target.upstream.is_clients()));
        document["hosts"][0]["clientAuth"] =
            serde_json::json!({"salt": "00".repeat(16), "passwordSha256": ["00".repeat(32)]});
        assert!(!passes(&document).auth.passes_auth);
    }

    #[test]
    fn errors_name_the_field() {
        let mirror = serde_json::json!([{"destination": "m:6379", "perMillion": 1}]);
        let nodes = serde_json::json!({"cluster": "a", "nodes": "n"});
        for (pointer, value, expected) in [
            ("/path", "direct".into(), "hosts[0] (h:6379): path: the dynamic module serves only native"),
            ("/upstreamLogin", serde_json::json!({"password": "p"}), "each upstream has its own"),
            ("/handshake", "x".into(), "handshake: only on path proxy"),
            ("/selector", serde_json::json!({"clusters": ["c"]}), "selector: on path native"),
            ("/targets/0/upstream", serde_json::Value::Null, "targets[0]: upstream: path native needs one"),
            ("/targets/0/upstream", nodes, "targets[0]: upstream.nodes: only of a Redis Cluster"),
            ("/targets/0/tags", serde_json::json!([null]), "targets[0]: tags: only on path proxy"),
            ("/targets/0/mirrors", mirror, "targets[0]: mirrors[0].upstream: path native needs one"),
            ("/targets", serde_json::json!([]), "routes[0].target: there is no target 1"),
            ("/routes/1/removePrefix", true.into(), "routes[1].removePrefix: only a prefix can be removed"),
        ] {
            let mut document = document();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(&format!("/hosts/0{parent}")).unwrap()[field] = value;
            let error = compile(&document).unwrap_err();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
        for (pointer, expected) in [
            ("/faults", "hosts[0] (h:6379): faults[0].perMillion"),
            ("/routes/0/faults", "hosts[0] (h:6379): routes[0].faults[0].perMillion"),
        ] {
            let mut document = document();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            let fault = serde_json::json!([{"type": "error", "perMillion": 1_000_001}]);
            document.pointer_mut(&format!("/hosts/0{parent}")).unwrap()[field] = fault;
            let error = compile(&document).unwrap_err();
            assert!(error.starts_with(expected), "{pointer}: {error}");
        }
        let mut two = document();
        let hosts = two["hosts"].as_array_mut().unwrap();
        hosts.push(hosts[0].clone());
        assert_eq!(compile(&two).unwrap_err(), "hosts: a listener has one on path native, and these are 2");
    }

    #[test]
    fn routes_know_their_keys() {
        let mut document = document();
        document["hosts"][0]["routes"] = serde_json::json!([
            {"match": {"exact": "k"}, "target": 0},
            {"match": {"prefix": "b:"}, "target": 1, "removePrefix": true},
            {"match": {"regex": "^r[0-9]"}, "target": 0},
        ]);
        let host = compile(&document).unwrap().host;
        let names: Vec<&str> = host.routes.iter().map(|route| route.name.as_str()).collect();
        assert_eq!(names, ["k", "b:*", "~^r[0-9]"]);
        let route = |key: &[u8]| host.route(key).map(|(matched, route)| (matched.route, route.target));
        assert_eq!(
            [route(b"k"), route(b"b:k"), route(b"r1"), route(b"x")],
            [Some((0, 0)), Some((1, 1)), Some((2, 0)), None]
        );
        let prefixes: Vec<Option<&[u8]>> = host.routes.iter().map(|route| route.removed_prefix.as_deref()).collect();
        assert_eq!(prefixes, [None, Some(&b"b:"[..]), None]);
        assert_eq!([0, 1, 2].map(|target| host.is_cluster(target)), [false, true, false]);
    }

    #[test]
    fn commands_without_a_key_have_a_target_where_all_routes_lead_to_one_upstream() {
        let targets = |routes: serde_json::Value, is_cluster: bool| {
            let mut document = document();
            let target =
                serde_json::json!({"destination": "a:6379", "cluster": is_cluster, "upstream": {"cluster": "a"}});
            document["hosts"][0]["targets"] = serde_json::json!([target, target]);
            document["hosts"][0]["routes"] = routes;
            let host = compile(&document).unwrap().host;
            (host.single, host.keyless(), host.plain())
        };
        let any = || serde_json::json!([{"match": "any", "target": 1}]);
        assert_eq!(targets(any(), false), (true, Some(1), Some(1)));
        // A server's key may be in another slot, or have another name, or none.
        assert_eq!(targets(any(), true), (true, Some(1), None));
        let prefix =
            |removes: bool| serde_json::json!([{"match": {"prefix": "a:"}, "target": 1, "removePrefix": removes}]);
        assert_eq!(targets(prefix(false), false), (true, Some(0), None));
        let both = serde_json::json!([prefix(true)[0], any()[0]]);
        assert_eq!(targets(both, false), (true, Some(1), None));
        let host = compile(&document()).unwrap().host;
        assert_eq!((host.single, host.keyless(), host.plain()), (false, None, None));
    }

    #[test]
    fn switches_of_a_host() {
        let host = |field: &str, value: serde_json::Value| {
            let mut document = document();
            document["hosts"][0][field] = value;
            compile(&document).unwrap().host
        };
        let fault = || serde_json::json!([{"type": "error", "perMillion": 1}]);
        assert!(host("faults", fault()).has_faults && !host("faults", serde_json::json!([])).has_faults);
        let mut document = document();
        document["hosts"][0]["routes"][0]["faults"] = fault();
        assert!(compile(&document).unwrap().host.has_faults);
        assert!(
            host("guardCredentials", true.into()).auth.guard.credentials
                && !host("allowAdminCommands", true.into()).auth.guard.credentials
        );
        document["hosts"][0]["guardCredentials"] = true.into();
        document["hosts"][0]["allowAdminCommands"] = true.into();
        assert!(!compile(&document).unwrap().host.auth.guard.credentials);
        assert_eq!(host("opTimeoutMs", 0.into()).patience, Patience::UNLIMITED);
        assert!(host("commandStats", true.into()).command_stats);
    }

    #[test]
    fn mirrors_have_upstreams_too() {
        let mut document = document();
        let login = serde_json::json!({"password": "m"});
        let upstream = serde_json::json!({"cluster": "m", "login": login});
        let mirror =
            serde_json::json!({"destination": "m:6379", "cluster": true, "perMillion": 7, "upstream": upstream});
        document["hosts"][0]["targets"][0]["mirrors"] = serde_json::json!([mirror]);
        document["hosts"][0]["targets"][0]["upstream"].as_object_mut().unwrap().remove("login");
        let host = compile(&document).unwrap().host;
        let [mirror] = host.targets[0].mirrors.as_slice() else { panic!() };
        assert_eq!((mirror.is_cluster, mirror.per_million, mirror.exclude_read_commands), (true, 7, false));
        // A mirror's login is a configured one as well.
        assert!(!host.auth.passes_auth && mirror.upstream.login_command().is_some());
    }

    #[test]
    fn the_rewriter_refuses_the_document() {
        let compiled = crate::rewriter::config::RewriterConfig::from_json(document().to_string().as_bytes());
        assert_eq!(compiled.unwrap_err().0, "hosts[0] (h:6379): path: native needs the dynamic module");
    }
}
