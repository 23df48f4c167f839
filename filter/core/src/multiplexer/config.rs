//! What a listener's clients get, compiled for the machine that opens connections itself.

use crate::config::{ConfigError, check_limits, check_mirrors, router};
use crate::downstream::auth::PasswordCheck;
use crate::fault::Faults;
pub use crate::multiplexer::upstream::endpoint::{Login, Upstream};
use crate::route::{Matched, Router};
use crate::wire::{self, DataPath, ReadPolicy};
use std::sync::Arc;
use std::time::Duration;

/// What [`wire::FilterConfig`] says on `native`, compiled.
#[derive(Debug)]
pub struct Document {
    /// See [`wire::FilterConfig::name`].
    pub name: String,
    /// See [`wire::FilterConfig::revision`].
    pub revision: u64,
    /// Its host.
    pub host: Arc<Config>,
}

/// A managed host with its routes and the connections that these need.
#[derive(Debug)]
pub struct Config {
    /// `FQDN:port`, for messages and stats.
    pub host: String,
    /// Bounds on what clients may send.
    pub limits: wire::Limits,
    /// What clients must present.
    pub client_auth: Option<PasswordCheck>,
    /// A client's own login goes to the servers: none is asked for or brought here.
    pub passes_auth: bool,
    /// Commands that reveal or change credentials are refused.
    pub guarded: bool,
    /// RequestPolicy long Redis may take for a reply.
    pub op_timeout: Option<Duration>,
    /// Which nodes answer a command without a key that only reads.
    pub read_policy: ReadPolicy,
    /// RequestPolicy long each command takes is counted too.
    pub command_stats: bool,
    /// Destinations with their mirrors.
    pub targets: Vec<Target>,
    /// What each route does; indexes are the router's.
    pub routes: Vec<Route>,
    /// Matches keys.
    pub router: Router,
    /// Faults of the whole host.
    pub faults: Faults,
    /// It, or a route, has faults.
    pub has_faults: bool,
    /// All routes lead to one destination, so that commands without a key have a place to go.
    pub single: bool,
}

/// A destination with its mirrors.
#[derive(Debug)]
pub struct Target {
    /// `FQDN:port`, for messages.
    pub destination: String,
    /// It is a Redis Cluster.
    pub is_cluster: bool,
    /// RequestPolicy it is reached.
    pub upstream: Upstream,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
}

/// A mirror of a target.
#[derive(Debug)]
pub struct Mirror {
    /// It is a Redis Cluster.
    pub is_cluster: bool,
    /// RequestPolicy it is reached.
    pub upstream: Upstream,
    /// Share of the commands that are mirrored, in parts per million.
    pub per_million: u32,
    /// Leave out commands that only read.
    pub exclude_read_commands: bool,
}

/// What a route does with its keys.
#[derive(Debug)]
pub struct Route {
    /// What it matches, as stats call it: `key`, `prefix*`, `~regex` or `*`.
    pub name: String,
    /// Index into [`Config::targets`].
    pub target: usize,
    /// Remove the matched prefix.
    pub remove_prefix: bool,
    /// That prefix.
    pub removed_prefix: Option<Box<[u8]>>,
    /// Which nodes answer commands that only read.
    pub read_policy: ReadPolicy,
    /// Its own faults, before those of the host.
    pub faults: Faults,
}

impl Document {
    /// Parses and compiles the JSON document.
    pub fn from_json(json: &[u8]) -> Result<Document, ConfigError> {
        let config: wire::FilterConfig = serde_json::from_slice(json).map_err(|e| ConfigError(e.to_string()))?;
        Document::try_from(config)
    }
}

impl TryFrom<wire::FilterConfig> for Document {
    type Error = ConfigError;

    fn try_from(config: wire::FilterConfig) -> Result<Document, ConfigError> {
        check_limits(&config.limits)?;
        let [host] = config.hosts.as_slice() else {
            let count = config.hosts.len();
            return Err(ConfigError(format!("hosts: a listener has one on path native, and these are {count}")));
        };
        let compiled = Config::new(host, &config.limits);
        let host = compiled.map_err(|problem| ConfigError(format!("hosts[0] ({}): {problem}", host.host)))?;
        Ok(Document { name: config.name, revision: config.revision, host: Arc::new(host) })
    }
}

impl Config {
    /// Compiles a host. The error names the field.
    pub fn new(host: &wire::Host, limits: &wire::Limits) -> Result<Config, String> {
        match host.path {
            DataPath::Native => {}
            DataPath::Direct | DataPath::Proxy => return Err("path: the dynamic module serves only native".into()),
        }
        if !host.selector.is_empty() {
            return Err("selector: on path native the listener is the host's".into());
        }
        if host.upstream_login.is_some() {
            return Err("upstreamLogin: on path native each upstream has its own".into());
        }
        if host.handshake.is_some() {
            return Err("handshake: only on path proxy".into());
        }
        let router = router(host)?;
        let mut targets = Vec::with_capacity(host.targets.len());
        for (index, target) in host.targets.iter().enumerate() {
            targets.push(Target::new(target).map_err(|problem| format!("targets[{index}]: {problem}"))?);
        }
        let has_login = |target: &Target| {
            let mut mirrors = target.mirrors.iter().map(|mirror| &mirror.upstream);
            target.upstream.login.is_some() || mirrors.any(|upstream| upstream.login.is_some())
        };
        let passes_auth = host.client_auth.is_none() && !targets.iter().any(has_login);
        if passes_auth {
            // Not to mirrors, which nobody asks whether they let a client in.
            targets.iter_mut().for_each(|target| target.upstream.login = Some(Login::none_yet()));
        }
        let Some(first) = targets.first() else { return Err("targets: at least one is needed".into()) };
        let single = targets.iter().all(|target| target.upstream == first.upstream);
        let mut routes = Vec::with_capacity(host.routes.len());
        for (index, route) in host.routes.iter().enumerate() {
            routes.push(Route {
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
                read_policy: route.read_policy.unwrap_or(host.read_policy),
                faults: Faults::new(&route.faults).map_err(|error| format!("routes[{index}].{error}"))?,
            });
        }
        let faults = Faults::new(&host.faults)?;
        Ok(Config {
            host: host.host.clone(),
            limits: limits.clone(),
            client_auth: host.client_auth.as_ref().map(PasswordCheck::new).transpose()?,
            passes_auth,
            guarded: host.guard_credentials && !host.allow_admin_commands,
            op_timeout: (host.op_timeout_ms > 0).then(|| Duration::from_millis(host.op_timeout_ms)),
            read_policy: host.read_policy,
            command_stats: host.command_stats,
            has_faults: !faults.is_empty() || routes.iter().any(|route| !route.faults.is_empty()),
            targets,
            routes,
            router,
            faults,
            single,
        })
    }

    /// The route of a key with what it does; `None`: no route takes the key.
    #[inline]
    pub fn route(&self, key: &[u8]) -> Option<(Matched, &Route)> {
        let matched = self.router.route(key)?;
        Some((matched, self.routes.get(matched.route as usize)?))
    }

    /// True if a target is a Redis Cluster.
    pub fn is_cluster(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|target| target.is_cluster)
    }

    /// The target of all keys there can be, where they are those of a server.
    pub fn plain(&self) -> Option<usize> {
        let target = self.keyless().filter(|target| !self.is_cluster(*target))?;
        let takes_all = self.router.any().is_some() && self.routes.iter().all(|route| !route.remove_prefix);
        takes_all.then_some(target)
    }

    /// The target of commands without a key, where there is one for all.
    pub fn keyless(&self) -> Option<usize> {
        let of_any = || self.routes.get(self.router.any()? as usize).map(|route| route.target);
        self.single.then(|| of_any().unwrap_or_default())
    }
}

impl Target {
    fn new(target: &wire::Target) -> Result<Target, String> {
        check_mirrors(&target.mirrors)?;
        if !target.tags.is_empty() {
            return Err("tags: only on path proxy".into());
        }
        let mut mirrors = Vec::with_capacity(target.mirrors.len());
        for (index, mirror) in target.mirrors.iter().enumerate() {
            let upstream = Upstream::new(mirror.upstream.as_ref(), mirror.cluster);
            mirrors.push(Mirror {
                is_cluster: mirror.cluster,
                upstream: upstream.map_err(|problem| format!("mirrors[{index}].{problem}"))?,
                per_million: mirror.per_million,
                exclude_read_commands: mirror.exclude_read_commands,
            });
        }
        Ok(Target {
            destination: target.destination.clone(),
            is_cluster: target.cluster,
            upstream: Upstream::new(target.upstream.as_ref(), target.cluster)?,
            mirrors,
        })
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

    fn compile(document: &serde_json::Value) -> Result<Document, String> {
        Document::from_json(document.to_string().as_bytes()).map_err(|error| error.0)
    }

    #[test]
    fn a_document_is_compiled() {
        let host = compile(&document()).unwrap().host;
        let policies: Vec<ReadPolicy> = host.routes.iter().map(|route| route.read_policy).collect();
        assert_eq!(policies, [ReadPolicy::PreferMaster, ReadPolicy::Replica]);
        assert_eq!(host.op_timeout, Some(Duration::from_millis(250)));
        assert_eq!(host.targets.iter().map(|target| target.is_cluster).collect::<Vec<_>>(), [false, true]);
        assert_eq!(host.targets[0].upstream.login_command(), Some(&b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n"[..]));
        assert_eq!(host.targets[1].upstream.nodes.as_deref(), Some("b nodes"));
        assert!(!host.single);
    }

    #[test]
    fn clients_log_in_themselves_where_nobody_else_does() {
        let passes = |document: &serde_json::Value| compile(document).unwrap().host;
        let mut document = document();
        assert!(!passes(&document).passes_auth && passes(&document).targets[1].upstream.login.is_none());
        document["hosts"][0]["targets"][0]["upstream"].as_object_mut().unwrap().remove("login");
        let host = passes(&document);
        assert!(host.passes_auth && host.targets.iter().all(|target| target.upstream.is_clients()));
        document["hosts"][0]["clientAuth"] =
            serde_json::json!({"salt": "00".repeat(16), "passwordSha256": ["00".repeat(32)]});
        assert!(!passes(&document).passes_auth);
    }

    #[test]
    fn what_is_wrong_is_named() {
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
        let mut two = document();
        let hosts = two["hosts"].as_array_mut().unwrap();
        hosts.push(hosts[0].clone());
        assert_eq!(compile(&two).unwrap_err(), "hosts: a listener has one on path native, and these are 2");
    }

    #[test]
    fn the_other_machine_refuses_it() {
        let compiled = crate::rewriter::config::RewriterConfig::from_json(document().to_string().as_bytes());
        assert_eq!(compiled.unwrap_err().0, "hosts[0] (h:6379): path: native needs the dynamic module");
    }
}
