//! The setup of a run: the configuration, the servers that it leads to, and the kinds of trouble.

use super::cluster::View;
use super::servers::{Node, Servers, Shard, Site};
use redis_mesh_core::cluster::slot::slot;
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::random::Random;
use redis_mesh_core::wire;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// The password of clients, if they need one.
pub const PASSWORD: &str = "sesame";
const SALT: [u8; 16] = [7; 16];

/// The indexes of the sites.
pub const ONE: usize = 0;
pub const TWO: usize = 1;
pub const CLUSTER: usize = 2;
pub const COPY: usize = 3;

/// The site of a key, and in the Redis Cluster the key's slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyTarget {
    pub site: usize,
    pub slot: Option<u16>,
}

/// The configuration of a run, and the kinds of trouble.
pub struct Setup {
    pub host: wire::Host,
    /// The routes: a prefix of keys, the site of these keys, and whether the prefix is removed.
    pub routes: Vec<(&'static str, usize, bool)>,
    /// The site of keys without a prefix, which gets commands without a key, too. It is absent if
    /// all routes have a prefix.
    pub keyless_site: Option<usize>,
    /// True if no connection and no server fails.
    pub is_trouble_free: bool,
    /// True if slots move.
    pub moves_slots: bool,
    /// True if replicas may serve reads.
    pub reads_replicas: bool,
}

/// Returns the upstream of a site. The site `one` asks for a password.
fn upstream(site: usize) -> Option<wire::Upstream> {
    let login = (site == ONE).then(|| wire::UpstreamLogin { username: None, password: "secret".into() });
    Some(wire::Upstream {
        cluster: SITES[site].to_owned(),
        login,
        nodes: (site == CLUSTER).then(|| "nodes".into()),
        key_hash: None,
    })
}

/// The names of the sites, as destinations and as clusters in Envoy.
const SITES: [&str; 4] = ["one", "two", "cluster", "copy"];

fn one_in(random: &mut Random, n: u32) -> bool {
    random.below(n) == 0
}

fn random_routes(random: &mut Random) -> Vec<(&'static str, usize, bool)> {
    match random.below(7) {
        0 => vec![("", TWO, false)],
        1 => vec![("a:", ONE, false), ("", TWO, false)],
        2 => vec![("", CLUSTER, false)],
        3 => vec![("a:", ONE, false), ("c:", CLUSTER, false), ("", TWO, false)],
        4 => vec![("p:", ONE, true), ("", CLUSTER, false)],
        5 => vec![("a:", TWO, false), ("p:", TWO, true), ("", TWO, false)],
        _ => vec![("a:", ONE, false), ("c:", CLUSTER, false)],
    }
}

fn random_policy(random: &mut Random) -> wire::ReadPolicy {
    match random.below(8) {
        0 => wire::ReadPolicy::PreferReplica,
        1 => wire::ReadPolicy::Any,
        2 => wire::ReadPolicy::Replica,
        3 => wire::ReadPolicy::PreferMaster,
        _ => wire::ReadPolicy::Master,
    }
}

fn random_faults(random: &mut Random) -> Vec<wire::Fault> {
    let fault = |kind, delay_ms| wire::Fault {
        kind,
        per_million: 100_000,
        delay_ms,
        commands: vec!["incrby".into(), "getrange".into(), "MGET".into(), "exec".into()],
    };
    match random.below(6) {
        0 => vec![fault(wire::FaultKind::Error, 0)],
        1 => vec![fault(wire::FaultKind::Delay, 7)],
        2 => vec![fault(wire::FaultKind::Delay, 40), fault(wire::FaultKind::Error, 3)],
        _ => Vec::new(),
    }
}

fn client_auth() -> wire::ClientAuth {
    let hash = Sha256::new().chain_update(SALT).chain_update(PASSWORD).finalize();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    wire::ClientAuth { username: None, salt: hex(&SALT), password_sha256: vec![hex(&hash)] }
}

impl Setup {
    /// Returns a random setup.
    pub fn new(random: &mut Random) -> Setup {
        let routes = random_routes(random);
        let is_mirrored = one_in(random, 4);
        let policy = random_policy(random);
        let mirror = wire::Mirror {
            destination: "copy:6379".into(),
            per_million: if one_in(random, 2) { 1_000_000 } else { 500_000 },
            exclude_read_commands: one_in(random, 2),
            include_admin: false,
            cluster: false,
            upstream: upstream(COPY),
        };
        let target = |site: usize| wire::Target {
            destination: SITES[site].to_owned(),
            cluster: site == CLUSTER,
            mirrors: if is_mirrored { vec![mirror.clone()] } else { Vec::new() },
            tags: Vec::new(),
            upstream: upstream(site),
        };
        let route = |(index, (prefix, _, remove_prefix)): (usize, &(&str, usize, bool))| wire::Route {
            key: if prefix.is_empty() { wire::KeyMatch::Any } else { wire::KeyMatch::Prefix((*prefix).to_owned()) },
            remove_prefix: *remove_prefix,
            target: index as u32,
            read_policy: None,
            faults: Vec::new(),
        };
        let faults = random_faults(random);
        let client_auth = client_auth();
        let host = wire::Host {
            host: "h:6379".into(),
            selector: wire::Selector::default(),
            path: wire::DataPath::Native,
            client_auth: one_in(random, 3).then_some(client_auth),
            upstream_login: None,
            login_for: None,
            handshake: None,
            guard_credentials: false,
            allow_admin_commands: false,
            refuse_scripts: false,
            several_endpoints: false,
            case_insensitive: false,
            read_policy: policy,
            command_stats: one_in(random, 2),
            op_timeout_ms: Some(if one_in(random, 4) { 400 } else { 0 }),
            targets: routes.iter().map(|(_, site, _)| target(*site)).collect(),
            routes: routes.iter().enumerate().map(route).collect(),
            faults,
        };
        let keyless_site = routes.iter().find(|(prefix, ..)| prefix.is_empty()).map(|(_, site, _)| *site);
        Setup {
            host,
            routes,
            keyless_site,
            is_trouble_free: one_in(random, 2),
            moves_slots: one_in(random, 2),
            reads_replicas: policy != wire::ReadPolicy::Master,
        }
    }

    /// Returns the compiled configuration.
    pub fn compiled(&self) -> Arc<HostConfig> {
        Arc::new(HostConfig::new(&self.host, &wire::Limits::default()).unwrap())
    }

    /// Returns the target of a key, and the server's name of the key.
    pub fn target<'a>(&self, key: &'a [u8]) -> (KeyTarget, &'a [u8]) {
        self.target_if_any(key).unwrap()
    }

    fn target_if_any<'a>(&self, key: &'a [u8]) -> Option<(KeyTarget, &'a [u8])> {
        let (prefix, site, is_removed) = self.routes.iter().find(|(prefix, ..)| key.starts_with(prefix.as_bytes()))?;
        let name = if *is_removed { &key[prefix.len()..] } else { key };
        Some((KeyTarget { site: *site, slot: (*site == CLUSTER).then(|| slot(name)) }, name))
    }

    /// Returns the client's names of a server's key.
    pub fn names(&self, site: usize, name: &[u8]) -> Vec<Vec<u8>> {
        let named = |(prefix, of, is_removed): &(&str, usize, bool)| {
            let key = if *is_removed { [prefix.as_bytes(), name].concat() } else { name.to_vec() };
            let (target, back) = self.target_if_any(&key)?;
            let leads_here = *of == site && target.site == site && back == name && key.starts_with(prefix.as_bytes());
            leads_here.then_some(key)
        };
        let names: BTreeSet<Vec<u8>> = self.routes.iter().filter_map(named).collect();
        names.into_iter().collect()
    }

    /// Returns the sites that the routes lead to.
    pub fn sites(&self) -> BTreeSet<usize> {
        self.routes.iter().map(|(_, site, _)| *site).collect()
    }
}

/// Returns all servers, whether the routes of a run lead to them or not.
pub fn servers(random: Random) -> Servers {
    let mut servers = Servers::new(random);
    for (number, name) in SITES.into_iter().enumerate() {
        let mut site = Site {
            name,
            password: (number == ONE).then_some("secret"),
            is_mirror: number == COPY,
            truth: None,
            shards: Vec::new(),
        };
        let (shards, members) = if number == CLUSTER { (3, 2) } else { (1, 1) };
        let mut view = View {
            epoch: 1,
            is_ok: true,
            shards: Vec::new(),
            moved: BTreeMap::new(),
            masters: BTreeMap::new(),
            members: BTreeMap::new(),
            failed: BTreeSet::new(),
        };
        for _ in 0..shards {
            let shard = servers.shards.len();
            servers.shards.push(Shard::default());
            site.shards.push(shard);
            view.shards.push(shard);
            view.masters.insert(shard, servers.nodes.len());
            for _ in 0..members {
                let index = servers.nodes.len();
                view.members.entry(shard).or_default().push(index);
                let address = SocketAddr::from(([10, 9, 0, index as u8], 7000));
                servers.nodes.push(Node {
                    site: number,
                    shard,
                    address: (number == CLUSTER).then_some(address),
                    is_alive: true,
                    view: None,
                });
            }
        }
        if number == CLUSTER {
            servers
                .nodes
                .iter_mut()
                .filter(|node| node.site == CLUSTER)
                .for_each(|node| node.view = Some(view.clone()));
            site.truth = Some(view);
        }
        servers.sites.push(site);
    }
    servers
}
