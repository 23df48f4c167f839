//! Commands for which Envoy's redis_proxy alone gives wrong results: through the module, the
//! answers are Redis's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::{Host, KeyMatch, Mirror, Route, Upstream};
use redis_mesh_tests::client::{Client, info_field};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, RedisProxy, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use serde_json::json;

/// Two servers behind Envoy, and one that is only asked directly. The listeners at `number +
/// ALONE` have redis_proxy alone.
struct Scene {
    subnet: Subnet,
    x: Redis,
    y: Redis,
    peer: Redis,
    _envoy: Envoy,
}

const ALONE: u8 = 10;
/// All keys at `x`.
const ONE: u8 = 11;
/// Keys with `b:` at `y`, all others at `x`.
const ROUTES: u8 = 12;
/// All keys at `x`, with the prefix `r:` removed.
const STRIP: u8 = 13;
/// All keys at `x`, and copies of writes at `y`.
const MIRROR: u8 = 14;
/// Somebody else holds the server's password.
const GUARDED: u8 = 15;

impl Scene {
    fn start() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let server = |number| Redis::start_at(subnet.redis(number));
        let (x, y, peer) = (server(1)?, server(2)?, server(3)?);
        let mut config = Config::new().cluster("x.test:6379", &[x.addr()]).cluster("y.test:6379", &[y.addr()]);
        let alone = |number: u8| RedisProxy::new(&format!("alone-{number}")).catch_all("x.test:6379");
        let write_mirror = json!({"cluster": "y.test:6379", "exclude_read_commands": true});
        let mirrored = json!({"cluster": "x.test:6379", "request_mirror_policy": [write_mirror]});
        for (number, host, alone) in [
            (ONE, one(), alone(ONE)),
            (ROUTES, routes(), alone(ROUTES).route("b:", "y.test:6379", false)),
            (STRIP, strip(), alone(STRIP).route("r:", "x.test:6379", true)),
            (MIRROR, mirror(), RedisProxy::new("alone-mirror").catch_all_with(mirrored)),
            (GUARDED, Host { guard_credentials: true, ..one() }, alone(GUARDED)),
        ] {
            let name = format!("at-{number}");
            let document = listener::config(&name, 1, host);
            config = config.listener(&name, subnet.redis(number), vec![native::proxy(&document)?]);
            config = config.listener(&format!("alone-{number}"), subnet.redis(number + ALONE), vec![alone.filter()]);
        }
        let envoy = native::start(&config, 1)?;
        Ok(Scene { subnet, x, y, peer, _envoy: envoy })
    }

    fn forget(&self) -> Result<()> {
        [&self.x, &self.y, &self.peer].into_iter().try_for_each(Redis::forget)
    }

    fn at(&self, number: u8) -> SocketAddr {
        self.subnet.redis(number)
    }

    /// What is said at a listener is answered as by the peer, and redis_proxy alone answers
    /// something else. The first word of a line says which client speaks.
    fn check(&self, number: u8, lines: &[&str]) -> Result<()> {
        let expected = self.told(self.peer.addr(), lines)?;
        let ours = self.told(self.at(number), lines)?;
        for ((line, expected), ours) in lines.iter().zip(&expected).zip(&ours) {
            ensure!(ours == expected, "{line}: {ours:?}, by the server {expected:?}");
        }
        let alone = self.told(self.at(number + ALONE), lines)?;
        ensure!(alone != expected, "{lines:?}: redis_proxy alone is right, too");
        Ok(())
    }

    fn told(&self, addr: SocketAddr, lines: &[&str]) -> Result<Vec<Reply>> {
        self.forget()?;
        let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
        let mut replies = Vec::new();
        for line in lines {
            let (name, line) = line.split_once(' ').context("a line without a client")?;
            if !clients.contains_key(name) {
                clients.insert(name, Client::connect(addr)?);
            }
            let client = clients.get_mut(name).context("no client")?;
            replies.push(client.line(line).with_context(|| line.to_owned())?);
        }
        Ok(replies)
    }
}

fn one() -> Host {
    native::host(&["x"], vec![route(KeyMatch::Any, 0)])
}

fn routes() -> Host {
    native::host(&["x", "y"], vec![route(KeyMatch::Prefix("b:".into()), 1), route(KeyMatch::Any, 0)])
}

fn strip() -> Host {
    let stripped = Route { remove_prefix: true, ..route(KeyMatch::Prefix("r:".into()), 0) };
    native::host(&["x"], vec![stripped, route(KeyMatch::Any, 0)])
}

fn mirror() -> Host {
    let mut host = one();
    host.targets[0].mirrors = vec![Mirror {
        destination: "y.test:6379".into(),
        per_million: 1_000_000,
        exclude_read_commands: true,
        include_admin: true,
        cluster: false,
        upstream: Some(Upstream { cluster: "y.test:6379".into(), login: None, nodes: None, key_hash: None }),
    }];
    host
}

/// Commands that redis_proxy treats as reads.
const MISTAKEN: &[&str] = &[
    "XADD stream 9-9 f v",
    "GETSET string 1",
    "GETEX string PERSIST",
    "XDEL stream 1-1",
    "XTRIM stream MAXLEN 5",
    "XACK stream group 2-2",
    "XCLAIM stream group consumer 0 2-2",
    "XAUTOCLAIM stream group consumer 0 0",
    "PUBLISH channel hello",
    "FLUSHALL",
];

#[test]
fn e2_a_mirror_of_writes_takes_every_write() -> Result<()> {
    let scene = Scene::start()?;
    for (number, is_mirrored) in [(MIRROR, true), (MIRROR + ALONE, false)] {
        for line in MISTAKEN {
            let command = line.split(' ').next().context("a command")?.to_ascii_lowercase();
            scene.forget()?;
            let mut client = Client::connect(scene.at(number))?;
            let reply = client.line(line)?;
            ensure!(!reply.is_error() || line.starts_with('X'), "{line}: {reply:?}");
            client.ok(&["SET", "marker", "1"])?;
            wait_until("the write behind it at the mirror", Duration::from_secs(10), || {
                scene.y.cmd(&["EXISTS", "marker"]).is_ok_and(|reply| reply == Reply::Integer(1))
            })?;
            // `forget` says FLUSHALL, and forgets that it did.
            ensure!((scene.y.calls(&command)? == 1) == is_mirrored, "{line} at {number}");
        }
    }
    Ok(())
}

#[test]
fn e3_a_database_is_one_clients_own() -> Result<()> {
    let scene = Scene::start()?;
    for (number, leaks) in [(ONE, false), (ONE + ALONE, true)] {
        scene.forget()?;
        let (mut a, mut b) = (Client::connect(scene.at(number))?, Client::connect(scene.at(number))?);
        a.line("SELECT 1")?;
        b.ok(&["SET", "key", "value"])?;
        let found = scene.x.cmd(&["GET", "key"])? == Reply::bulk("value");
        ensure!(found != leaks, "{number}: {found}");
    }
    Ok(())
}

#[test]
fn e5_nothing_is_written_where_nobody_looks_for_it() -> Result<()> {
    let scene = Scene::start()?;
    let script = "EVAL \"return redis.call('MSET', KEYS[1], 1, KEYS[2], 1)\" 2 a b:new";
    for lines in [&["MULTI", "SET a 2", "SET b:new 2", "EXEC"][..], &["SET a 2", "RENAME a b:new"], &[script]] {
        for (number, is_wrong) in [(ROUTES, false), (ROUTES + ALONE, true)] {
            scene.forget()?;
            let mut client = Client::connect(scene.at(number))?;
            let replies = lines.iter().map(|line| client.line(line)).collect::<Result<Vec<_>>>()?;
            let is_at_x = scene.x.cmd(&["EXISTS", "b:new"])? == Reply::Integer(1);
            ensure!(is_at_x == is_wrong, "{lines:?} at {number}: {replies:?}");
            let is_refused = replies.iter().any(|reply| reply.text().starts_with("CROSSSLOT"));
            ensure!(is_refused != is_wrong, "{lines:?} at {number}: {replies:?}");
        }
    }
    Ok(())
}

#[test]
fn e6_a_prefix_is_removed_from_every_key() -> Result<()> {
    let scene = Scene::start()?;
    let add = ["1 SADD r:1 x y", "1 SADD r:2 x z"];
    let check = |lines: &[&str]| scene.check(STRIP, &[&add, lines].concat());
    check(&["1 SINTER r:1 r:2"])?;
    check(&["1 SUNIONSTORE r:3 r:1 r:2", "1 SCARD r:3"])?;
    check(&["1 RENAME r:2 r:4", "1 SCARD r:4"])?;
    check(&["1 EVAL \"return redis.call('SINTER', unpack(KEYS))\" 2 r:1 r:2"])?;
    check(&["1 MULTI", "1 SINTER r:1 r:2", "1 SCARD r:1", "1 EXEC"])
}

#[test]
fn e7_transactions_cost_no_connections() -> Result<()> {
    let scene = Scene::start()?;
    let connections = |number: u8| -> Result<u64> {
        let received = || -> Result<u64> {
            let info = scene.x.info("stats")?;
            Ok(info_field(&info, "total_connections_received").context("no such field")?.parse()?)
        };
        let (before, mut client) = (received()?, Client::connect(scene.at(number))?);
        for _ in 0..100 {
            client.ok(&["MULTI"])?;
            client.ok(&["INCR", "n"])?;
            client.ok(&["EXEC"])?;
        }
        Ok(received()? - before)
    };
    let (ours, alone) = (connections(ONE)?, connections(ONE + ALONE)?);
    // Asking is a connection, too.
    ensure!(ours <= 2 && alone >= 100, "{ours} and {alone} connections");
    Ok(())
}

#[test]
fn e8_commands_that_redis_proxy_lacks() -> Result<()> {
    let scene = Scene::start()?;
    for lines in [
        &["1 XADD s 1-1 f v", "1 XREAD STREAMS s 0"][..],
        &["1 XADD s 1-1 f v", "1 XGROUP CREATE s g 0", "1 XREADGROUP GROUP g c STREAMS s >", "1 XINFO GROUPS s"],
        &["1 XADD s 1-1 f v", "1 XSETID s 9-9"],
        &["1 FUNCTION FLUSH", "1 FUNCTION LIST"],
        &["1 EVAL_RO 'return KEYS[1]' 1 k"],
        &["1 SET k v", "1 DBSIZE"],
        &["1 COMMAND GETKEYS GET k"],
        &["1 ACL WHOAMI"],
        &["1 MEMORY USAGE nothing"],
        &["1 LATENCY LATEST"],
        &["1 RESET"],
        &["1 SET k v EXAT 33177117420", "1 EXPIRETIME k"],
        &["1 SET k ab", "1 SET l cab", "1 LCS k l"],
        &["1 RPUSH l a b", "1 LMPOP 2 k l LEFT"],
        &["1 ZADD z 1 a", "1 ZMPOP 2 k z MIN", "1 ZINTERCARD 1 z"],
        &["1 SADD a x y", "1 SADD b y z", "1 SINTERCARD 2 a b"],
    ] {
        scene.check(ONE, lines)?;
    }
    Ok(())
}

#[test]
fn e9_scripts_and_ping_where_redis_takes_them() -> Result<()> {
    let scene = Scene::start()?;
    scene.check(ONE, &["1 EVAL 'return 1' 0"])?;
    scene.check(ONE, &["1 MULTI", "1 EVAL 'return KEYS[1]' 1 k", "1 EXEC"])?;
    scene.check(ONE, &["1 MULTI", "1 SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff", "1 EXEC"])?;
    scene.check(ONE, &["1 MULTI", "1 PING", "1 GET k", "1 EXEC"])?;
    scene.check(ONE, &["1 PING hi"])
}

#[test]
fn e10_one_port_for_both_protocols() -> Result<()> {
    let scene = Scene::start()?;
    let mut resp3 = Client::connect(scene.at(ONE))?;
    resp3.ok(&["HELLO", "3"])?;
    let mut resp2 = Client::connect(scene.at(ONE))?;
    resp2.ok(&["HSET", "h", "f", "v"])?;
    let (field, value) = (Reply::bulk("f"), Reply::bulk("v"));
    ensure!(resp3.line("HGETALL h")? == Reply::Map(vec![(field.clone(), value.clone())]));
    ensure!(resp2.line("HGETALL h")? == Reply::Array(vec![field, value]));
    ensure!(resp3.line("GET none")? == Reply::Null && resp2.line("GET none")? == Reply::NullBulk);
    ensure!(Client::connect(scene.at(ONE + ALONE))?.line("HELLO 3")?.is_error());
    Ok(())
}

#[test]
fn e11_who_does_not_hold_the_password_does_not_administer() -> Result<()> {
    let scene = Scene::start()?;
    let policy = |number: u8| -> Result<Reply> {
        scene.x.cmd(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
        Client::connect(scene.at(number))?.line("CONFIG SET maxmemory-policy allkeys-lru")?;
        Ok(scene.x.cmd(&["CONFIG", "GET", "maxmemory-policy"])?.items()[1].clone())
    };
    ensure!(policy(GUARDED)? == Reply::bulk("noeviction") && policy(GUARDED + ALONE)? == Reply::bulk("allkeys-lru"));
    Ok(())
}

#[test]
fn e12_clients_have_numbers_and_names() -> Result<()> {
    let scene = Scene::start()?;
    scene.check(ONE, &["1 CLIENT SETNAME me", "1 CLIENT GETNAME", "2 CLIENT GETNAME"])?;
    let id = |number: u8| Client::connect(scene.at(number))?.line("CLIENT ID");
    let (a, b) = (id(ONE)?, id(ONE)?);
    ensure!(a.integer().is_some() && b.integer().is_some() && a != b, "{a:?} and {b:?}");
    ensure!(id(ONE + ALONE)?.is_error());
    Ok(())
}

#[test]
fn e13_one_redis_says_that_it_is_one() -> Result<()> {
    let scene = Scene::start()?;
    for (number, cluster) in [(ONE, "0"), (ONE + ALONE, "1")] {
        let info = Client::connect(scene.at(number))?.line("INFO")?.text();
        ensure!(info_field(&info, "cluster_enabled") == Some(cluster), "{number}: {info}");
    }
    Ok(())
}
