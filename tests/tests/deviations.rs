//! Where Envoy's redis_proxy alone gives wrong results or breaks Redis's protocol, and what a client gets through us: the right
//! answer, or a refusal that says why.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::cluster::Cluster;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{Config, RedisProxy, Rendered, host, object, pinned, service};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use serde_json::json;

/// Two Redis servers, an Envoy with redis_proxy alone before them, and one with what our manifests render to.
struct Scene {
    subnet: Subnet,
    x: Redis,
    y: Redis,
    _alone: Envoy,
    _ours: Envoy,
}

/// Last numbers of the addresses: servers, redis_proxy alone, ours.
const X: u8 = 1;
const Y: u8 = 2;
const ALONE_SINGLE: u8 = 11;
const ALONE_PREFIX: u8 = 12;
const ALONE_STRIP: u8 = 13;
const ALONE_READS: u8 = 14;
const ALONE_MIRROR: u8 = 15;
const ALONE_RESP3: u8 = 16;
const ALONE_STRIP_ONLY: u8 = 17;
const SINGLE: u8 = 21;
const DIRECT: u8 = 22;
const PREFIX: u8 = 23;
const STRIP: u8 = 24;
const STRIP_DIRECT: u8 = 25;
const MIRROR: u8 = 26;

impl Scene {
    fn new() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let (x, y) = (Redis::start_at(subnet.redis(X))?, Redis::start_at(subnet.redis(Y))?);
        let alone = |host: u8| format!("alone-{host}");
        let proxy = |host: u8| RedisProxy::new(&alone(host));
        let mut config = Config::new().cluster("x", &[x.addr()]).cluster("y", &[y.addr()]);
        let write_mirror = json!({"cluster": "y", "exclude_read_commands": true});
        for (host, proxy) in [
            (ALONE_SINGLE, proxy(ALONE_SINGLE).catch_all("x")),
            (ALONE_PREFIX, proxy(ALONE_PREFIX).catch_all("x").route("a:", "x", false).route("b:", "y", false)),
            (ALONE_STRIP, proxy(ALONE_STRIP).catch_all("x").route("r:", "x", true)),
            (ALONE_STRIP_ONLY, proxy(ALONE_STRIP_ONLY).route("r:", "x", true)),
            (
                ALONE_READS,
                proxy(ALONE_READS).catch_all_with(json!({"cluster": "x", "read_command_policy": {"cluster": "y"}})),
            ),
            (
                ALONE_MIRROR,
                proxy(ALONE_MIRROR).catch_all_with(json!({"cluster": "x", "request_mirror_policy": [write_mirror]})),
            ),
            (ALONE_RESP3, proxy(ALONE_RESP3).catch_all("x").field("protocol_version", json!("RESP3"))),
        ] {
            config = config.listener(&alone(host), subnet.redis(host), vec![proxy.filter()]);
        }
        let all = format!("  redis: [{{route: {{host: {}}}}}]\n", host("one"));
        let mut manifests = String::new();
        // The addresses of the destinations' Services don't matter: nobody connects to them.
        manifests += &service("one", subnet.redis(31), x.addr());
        manifests += &service("two", subnet.redis(32), y.addr());
        for (name, at, path, spec) in [
            ("single", SINGLE, "proxy", all.clone()),
            ("single-direct", DIRECT, "direct", all.clone()),
            (
                "prefix",
                PREFIX,
                "auto",
                format!(
                    "  redis:\n  - {{match: {{key: {{prefix: 'a:'}}}}, route: {{host: {x}}}}}\n  - {{match: {{key: {{prefix: 'b:'}}}}, route: {{host: {y}}}}}\n  - {{route: {{host: {x}}}}}\n",
                    x = host("one"),
                    y = host("two")
                ),
            ),
            ("strip", STRIP, "proxy", strip()),
            ("strip-direct", STRIP_DIRECT, "direct", strip()),
            (
                "mirror",
                MIRROR,
                "auto",
                format!(
                    "  redis:\n  - route: {{host: {}}}\n    mirror: [{{route: {{host: {}}}, percentage: {{value: 100}}, excludeReadCommands: true}}]\n",
                    host("one"),
                    host("two")
                ),
            ),
        ] {
            manifests += &service(name, subnet.redis(at), x.addr());
            manifests += &pinned("RedisService", name, path, &spec);
        }
        let rendered = Rendered::new(&manifests, &[])?;
        let scene = Scene { _alone: config.start()?, _ours: rendered.start()?, subnet, x, y };
        Ok(scene)
    }

    fn client(&self, at: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(at))
    }

    fn addr(&self, at: u8) -> SocketAddr {
        self.subnet.redis(at)
    }
}

fn strip() -> String {
    format!(
        "  redis:\n  - {{match: {{key: {{prefix: 'r:', removePrefix: true}}}}, route: {{host: {x}}}}}\n  - {{route: {{host: {x}}}}}\n",
        x = host("one")
    )
}

/// One set of servers for all; each test finds them empty and has them for itself.
fn scene() -> Result<MutexGuard<'static, Scene>> {
    static SCENE: OnceLock<Result<Mutex<Scene>, String>> = OnceLock::new();
    let scene = SCENE.get_or_init(|| Scene::new().map(Mutex::new).map_err(|error| format!("{error:#}")));
    let scene = scene.as_ref().map_err(|error| anyhow!("{error}"))?;
    let scene = scene.lock().unwrap_or_else(PoisonError::into_inner);
    scene.x.forget()?;
    scene.y.forget()?;
    Ok(scene)
}

/// The replies to lines as one types them into redis-cli, sent in one write.
fn lines(client: &mut Client, lines: &[&str]) -> Result<Vec<String>> {
    let commands = lines.iter().map(|line| redis_mesh_tests::line::words(line)).collect::<Result<Vec<_>>>()?;
    Ok(client.pipeline(&commands)?.iter().map(Reply::tty).collect())
}

/// Writes that redis_proxy takes for reads, each with what has to be there before.
const TAKEN_FOR_READS: &[(&str, &[&str])] = &[
    ("xadd", &["xadd s 5-5 f v"]),
    ("getset", &["set g old", "getset g new"]),
    ("getex", &["set g v", "getex g ex 1000"]),
    ("xdel", &["xadd s 5-5 f v", "xdel s 5-5"]),
    ("xtrim", &["xadd s 5-5 f v", "xtrim s maxlen 0"]),
];

/// What tells whether a server has executed the last of the commands above.
fn state(redis: &Redis) -> Result<String> {
    let mut client = redis.client()?;
    let length = client.cmd(&["XLEN", "s"])?.tty();
    let value = client.cmd(&["GET", "g"])?.tty();
    let expires = client.cmd(&["TTL", "g"])?.integer().unwrap_or(-3) > 0;
    Ok(format!("stream {length}, value {value}, expires {expires}"))
}

#[test]
fn e1_writes_taken_for_reads_go_to_the_read_cluster() -> Result<()> {
    let scene = scene()?;
    let mut alone = scene.client(ALONE_READS)?;
    assert_eq!(alone.line("set k v")?, Reply::ok());
    assert_eq!(scene.x.cmd(&["GET", "k"])?, Reply::bulk("v"));
    // A write, and it is where no write should be.
    alone.ok(&["XADD", "s", "*", "f", "v"])?;
    alone.ok(&["FLUSHALL"])?;
    alone.ok(&["XADD", "s", "*", "f", "v"])?;
    assert_eq!((scene.x.cmd(&["XLEN", "s"])?, scene.y.cmd(&["XLEN", "s"])?), (Reply::Integer(0), Reply::Integer(1)));
    assert_eq!(scene.x.cmd(&["GET", "k"])?, Reply::bulk("v"), "FLUSHALL went elsewhere");

    // Through us every one of them is executed where the route leads, and nowhere else.
    scene.x.forget()?;
    scene.y.forget()?;
    for (_, commands) in TAKEN_FOR_READS {
        for at in [SINGLE, PREFIX] {
            let mut ours = scene.client(at)?;
            for line in *commands {
                assert!(!ours.line(line)?.is_error(), "{line}");
            }
            ours.ok(&["DEL", "s", "g"])?;
        }
    }
    let mut group = scene.client(SINGLE)?;
    scene.x.cmd(&["XGROUP", "CREATE", "q", "group", "$", "MKSTREAM"])?;
    let id = group.ok(&["XADD", "q", "*", "f", "v"])?.text();
    scene.x.cmd(&["XREADGROUP", "GROUP", "group", "one", "STREAMS", "q", ">"])?;
    assert_eq!(group.ok(&["XCLAIM", "q", "group", "two", "0", &id])?.items().len(), 1);
    assert_eq!(group.ok(&["XAUTOCLAIM", "q", "group", "three", "0", "0"])?.items().len(), 3);
    assert_eq!(group.ok(&["XACK", "q", "group", &id])?, Reply::Integer(1));
    let sha = group.ok(&["SCRIPT", "LOAD", "return 5"])?.text();
    assert_eq!(group.ok(&["EVALSHA", &sha, "1", "k"])?, Reply::Integer(5));
    group.ok(&["FLUSHALL"])?;
    assert_eq!(scene.x.cmd(&["DBSIZE"])?, Reply::Integer(0));
    for command in ["xadd", "getset", "getex", "xdel", "xtrim", "xclaim", "xautoclaim", "xack", "evalsha"] {
        assert_eq!(scene.y.calls(command)?, 0, "{command}");
    }
    Ok(())
}

#[test]
fn e1_read_policy_replica_leaves_writes_with_the_masters() -> Result<()> {
    let cluster = Cluster::start()?;
    let subnet = Subnet::claim()?;
    let mut manifests = service("many", subnet.redis(1), cluster.nodes[0].addr());
    manifests += &object(
        "RedisService",
        "many",
        &format!("  settings: {{readPolicy: REPLICA}}\n  redis: [{{route: {{host: {}}}}}]\n", host("many")),
    );
    manifests += &object("RedisDestination", "many", "  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER}}}\n");
    let envoy = Rendered::new(&manifests, &[])?.start()?;
    envoy.wait_discovered(Duration::from_secs(10))?;
    let mut ours = Client::connect(subnet.redis(1))?;
    // Envoy learns of the replicas a moment after the masters.
    redis_mesh_tests::process::wait_until("replicas that serve reads", Duration::from_secs(10), || {
        ours.cmd(&["GET", "none"]).is_ok_and(|reply| !reply.is_error())
    })?;
    for i in 0..20 {
        let (s, g) = (format!("s{i}"), format!("g{i}"));
        ours.ok(&["XADD", &s, "5-5", "f", "v"])?;
        ours.ok(&["SET", &g, "old"])?;
        assert_eq!(ours.ok(&["GETSET", &g, "new"])?, Reply::bulk("old"));
        assert_eq!(ours.ok(&["GETEX", &g, "EX", "1000"])?, Reply::bulk("new"));
        assert_eq!(ours.ok(&["XDEL", &s, "5-5"])?, Reply::Integer(1));
        assert_eq!(ours.ok(&["XTRIM", &s, "MAXLEN", "0"])?, Reply::Integer(0));
    }
    Ok(())
}

#[test]
fn e2_a_mirror_of_writes_takes_every_write() -> Result<()> {
    let scene = scene()?;
    for (command, commands) in TAKEN_FOR_READS {
        for (at, mirrored) in [(ALONE_MIRROR, false), (MIRROR, true)] {
            scene.x.forget()?;
            scene.y.forget()?;
            let mut client = scene.client(at)?;
            for line in *commands {
                assert!(!client.line(line)?.is_error(), "{line}");
            }
            let expected = state(&scene.x)?;
            if mirrored {
                wait_for(&format!("{command} at the mirror"), || Ok(state(&scene.y)? == expected))?;
            } else {
                // The mirror has had everything before the last command, and that not.
                assert_eq!(scene.y.calls(command)?, 0, "{command}: redis_proxy alone now does better");
            }
            let reads = scene.y.calls("get")?;
            assert_eq!(client.line("get none")?, Reply::NullBulk);
            assert_eq!(client.line("set marker 1")?, Reply::ok());
            wait_for("the next write at the mirror", || Ok(scene.y.cmd(&["EXISTS", "marker"])? == Reply::Integer(1)))?;
            assert_eq!(scene.y.calls("get")?, reads, "a read was mirrored");
        }
    }
    Ok(())
}

fn wait_for(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    redis_mesh_tests::process::wait_until(what, Duration::from_secs(5), || ready().unwrap_or(false))
}

#[test]
fn e2_commands_without_a_key_are_mirrored_by_the_argument_that_they_are_routed_by() -> Result<()> {
    let scene = scene()?;
    let mut ours = scene.client(MIRROR)?;
    assert_eq!(ours.line("publish channel text")?, Reply::Integer(0));
    wait_for("PUBLISH at the mirror", || Ok(scene.y.calls("publish")? == 1))?;
    assert_eq!(ours.line("eval \"return redis.call('set', 'e', ARGV[1])\" 0 value")?, Reply::ok());
    wait_for("EVAL at the mirror", || Ok(scene.y.cmd(&["GET", "e"])? == Reply::bulk("value")))?;
    assert_eq!(scene.x.cmd(&["GET", "e"])?, Reply::bulk("value"));
    Ok(())
}

#[test]
fn e3_select_does_not_leak_to_others() -> Result<()> {
    let scene = scene()?;
    let in_db = |db: &str, key: &str| -> Result<Reply> {
        let mut client = scene.x.client()?;
        client.ok(&["SELECT", db])?;
        client.cmd(&["GET", key])
    };
    let (mut a, mut b) = (scene.client(ALONE_SINGLE)?, scene.client(ALONE_SINGLE)?);
    assert_eq!(b.line("get warm")?, Reply::NullBulk);
    assert_eq!(a.line("select 1")?, Reply::ok());
    assert_eq!(b.line("set leak 1")?, Reply::ok());
    assert_eq!(in_db("1", "leak")?, Reply::bulk("1"), "redis_proxy alone no longer leaks");
    assert_eq!(a.line("select 0")?, Reply::ok());

    for at in [SINGLE, PREFIX, MIRROR] {
        let (mut a, mut b) = (scene.client(at)?, scene.client(at)?);
        assert_eq!(
            a.line("select 1")?.text(),
            "ERR redis-mesh: SELECT other than 0 needs the direct or native data path"
        );
        assert_eq!(a.line("select 0")?, Reply::ok());
        assert_eq!(b.line("set own 1")?, Reply::ok());
        assert_eq!(in_db("0", "own")?, Reply::bulk("1"));
        scene.x.forget()?;
    }
    let (mut a, mut b) = (scene.client(DIRECT)?, scene.client(DIRECT)?);
    assert_eq!(a.line("select 1")?, Reply::ok());
    assert_eq!(b.line("set own b")?, Reply::ok());
    assert_eq!(a.line("set own a")?, Reply::ok());
    assert_eq!((in_db("0", "own")?, in_db("1", "own")?), (Reply::bulk("b"), Reply::bulk("a")));
    Ok(())
}

#[test]
fn e4_watch_is_enforced_or_refused() -> Result<()> {
    let scene = scene()?;
    let conflict = |at: u8| -> Result<Vec<String>> {
        let mut client = scene.client(at)?;
        client.ok(&["SET", "w", "0"])?;
        let watched = client.cmd(&["WATCH", "w"])?;
        scene.x.cmd(&["SET", "w", "conflict"])?;
        let mut replies = vec![watched.tty()];
        for line in ["multi", "set w lost-update", "exec", "get w"] {
            replies.push(client.line(line)?.tty());
        }
        Ok(replies)
    };
    assert_eq!(conflict(ALONE_SINGLE)?[4], "\"lost-update\"", "redis_proxy alone now enforces WATCH");
    assert_eq!(conflict(DIRECT)?, ["OK", "OK", "QUEUED", "(nil)", "\"conflict\""]);
    let refusal = "(error) ERR redis-mesh: WATCH needs the direct or native data path";
    for at in [SINGLE, PREFIX, MIRROR] {
        let replies = conflict(at)?;
        assert_eq!(replies[0], refusal);
        assert!(replies[3].starts_with("(error) EXECABORT"), "{replies:?}");
        assert_eq!(replies[4], "\"conflict\"");
    }
    // A client that doesn't look at the answer to WATCH must not be served as if it had been enforced.
    let mut client = scene.client(SINGLE)?;
    let replies =
        lines(&mut client, &["watch w", "multi", "set w lost", "exec", "unwatch", "multi", "set w 1", "exec"])?;
    assert_eq!(replies[0], refusal);
    assert!(replies[3].starts_with("(error) EXECABORT"), "{replies:?}");
    assert_eq!(replies[5..], ["OK", "QUEUED", "1) OK"]);
    assert_eq!(scene.x.cmd(&["GET", "w"])?, Reply::bulk("1"));
    Ok(())
}

#[test]
fn e5_nothing_is_written_where_no_reader_looks() -> Result<()> {
    let scene = scene()?;
    let mut alone = scene.client(ALONE_PREFIX)?;
    lines(&mut alone, &["multi", "set a:2 1", "set b:2 1", "exec"])?;
    lines(&mut alone, &["set a:1 1", "rename a:1 b:ren"])?;
    alone.line("eval \"redis.call('set', KEYS[2], '1')\" 2 a:3 b:3")?;
    for key in ["b:2", "b:ren", "b:3"] {
        assert_eq!(scene.x.cmd(&["EXISTS", key])?, Reply::Integer(1), "{key}: redis_proxy alone now does better");
        assert_eq!(alone.line(&format!("exists {key}"))?, Reply::Integer(0));
    }

    scene.x.forget()?;
    let mut ours = scene.client(PREFIX)?;
    let crossslot = "(error) CROSSSLOT redis-mesh: keys route to different destinations";
    let replies = lines(&mut ours, &["multi", "set a:2 1", "set b:2 1", "exec", "exists a:2 b:2"])?;
    assert!(
        replies[1..3].iter().all(|reply| reply.contains("redis-mesh: a transaction needs the native data path")),
        "{replies:?}"
    );
    assert!(replies[3].starts_with("(error) EXECABORT"), "{replies:?}");
    assert_eq!(replies[4], "(integer) 0");
    for line in [
        "rename a:1 b:ren",
        "eval \"redis.call('set', KEYS[2], '1')\" 2 a:3 b:3",
        "sinterstore a:d b:s",
        "bitop and b:d a:1 a:2",
        "lmove a:l b:l left left",
        "copy a:1 b:1",
        "zunionstore a:z 2 a:y b:y",
        "georadius a:g 0 0 1 m store b:g",
        "sort a:l store b:l",
        "msetnx a:m 1 b:m 2",
        "pfmerge a:p b:p",
        "smove a:s b:s m",
        "zrangestore b:z a:z 0 -1",
    ] {
        lines(&mut ours, &["set a:1 1", "rpush a:l 1"])?;
        assert_eq!(ours.line(line)?.tty(), crossslot, "{line}");
    }
    // Those that can be split are, and the parts put together again.
    assert_eq!(
        lines(
            &mut ours,
            &["mset a:k 1 b:k 2", "mget b:k a:k none b:k", "exists a:k b:k", "touch b:k a:k", "del a:k b:k"]
        )?,
        ["OK", "1) \"2\"\n2) \"1\"\n3) (nil)\n4) \"2\"", "(integer) 2", "(integer) 2", "(integer) 2",]
    );
    assert_eq!(scene.y.cmd(&["DBSIZE"])?, Reply::Integer(0));
    // One destination for all keys: everything goes.
    assert_eq!(lines(&mut ours, &["set b:1 1", "rename b:1 b:2", "get b:2"])?, ["OK", "OK", "\"1\""]);
    assert_eq!(scene.y.cmd(&["GET", "b:2"])?, Reply::bulk("1"));
    assert_eq!(ours.line("eval \"return redis.call('get', KEYS[1])\" 1 b:2")?, Reply::bulk("1"));
    Ok(())
}

#[test]
fn e6_a_prefix_is_removed_from_every_key() -> Result<()> {
    let scene = scene()?;
    let script = ["sadd r:s1 x y", "sadd r:s2 x", "sinter r:s1 r:s2", "sunionstore r:d r:s1 r:s2", "rename r:s2 r:s3"];
    let mut alone = scene.client(ALONE_STRIP)?;
    let replies = lines(&mut alone, &script)?;
    assert_eq!(replies[2..4], ["(empty array)", "(integer) 0"], "redis_proxy alone now does better");
    assert_eq!(scene.x.cmd(&["EXISTS", "r:s3"])?, Reply::Integer(1));
    // Without a catch-all it can't begin a transaction.
    let mut alone = scene.client(ALONE_STRIP_ONLY)?;
    let replies = lines(&mut alone, &["multi", "set r:t 1", "exec"])?;
    assert!(replies.iter().any(|reply| reply.contains("no upstream host")), "{replies:?}");

    for at in [STRIP, STRIP_DIRECT] {
        scene.x.forget()?;
        let mut ours = scene.client(at)?;
        assert_eq!(lines(&mut ours, &script)?, ["(integer) 2", "(integer) 1", "1) \"x\"", "(integer) 2", "OK"]);
        assert_eq!(
            lines(&mut ours, &["multi", "set r:t 1", "mset r:u 2 v 3", "get r:t", "exec", "get r:t"])?,
            ["OK", "QUEUED", "QUEUED", "QUEUED", "1) OK\n2) OK\n3) \"1\"", "\"1\""]
        );
        ours.ok(&["EVAL", "return redis.call('set', KEYS[2], ARGV[1])", "2", "r:e", "r:f", "r:value"])?;
        let Reply::Array(mut keys) = scene.x.cmd(&["KEYS", "*"])? else { return Err(anyhow!("KEYS gave no array")) };
        keys.sort_by_key(Reply::text);
        assert_eq!(keys, ["d", "f", "s1", "s3", "t", "u", "v"].map(Reply::bulk));
        assert_eq!(scene.x.cmd(&["GET", "f"])?, Reply::bulk("r:value"), "an argument that is no key stays");
        // Names of keys in replies would need the prefix again.
        for line in ["keys *", "randomkey", "scan 0"] {
            assert!(ours.line(line)?.text().contains("which removePrefix changes"), "{line}");
        }
    }
    Ok(())
}

#[test]
fn e9_protocol_deviations() -> Result<()> {
    let scene = scene()?;
    let mut alone = scene.client(ALONE_SINGLE)?;
    assert!(alone.line("eval \"return 1\" 0")?.text().contains("wrong number of arguments"));
    assert_eq!(alone.line("ping hi")?.tty(), "PONG");
    assert_eq!(
        lines(&mut alone, &["multi", "ping", "eval \"return 1\" 1 k", "script load \"return 1\"", "discard"])?,
        [
            "OK",
            "PONG",
            "(error) 'eval' command is not supported within transaction",
            "(error) 'script' command is not supported within transaction",
            "OK"
        ]
    );

    let mut ours = scene.client(DIRECT)?;
    assert_eq!(ours.line("eval \"return 1\" 0")?, Reply::Integer(1));
    assert_eq!(ours.line("ping hi")?, Reply::bulk("hi"));
    assert_eq!(
        lines(&mut ours, &["multi", "ping", "ping hi", "eval \"return 1\" 1 k", "exec"])?,
        ["OK", "QUEUED", "QUEUED", "QUEUED", "1) PONG\n2) \"hi\"\n3) (integer) 1"]
    );

    let mut ours = scene.client(SINGLE)?;
    assert_eq!(ours.line("ping hi")?, Reply::bulk("hi"));
    assert_eq!(ours.line("ping")?.tty(), "PONG");
    assert_eq!(
        ours.line("eval \"return 1\" 0")?.text(),
        "ERR redis-mesh: EVAL without a key or an argument needs the direct or native data path"
    );
    assert_eq!(ours.line("eval \"return ARGV[1]\" 0 a")?, Reply::bulk("a"));
    for line in ["ping", "eval \"return 1\" 1 k", "script load \"return 1\"", "echo x"] {
        let replies = lines(&mut ours, &["multi", "set n 1", line, "exec", "exists n"])?;
        assert!(
            replies[2].contains("inside a transaction needs the direct or native data path"),
            "{line}: {replies:?}"
        );
        assert!(replies[3].starts_with("(error) EXECABORT"), "{line}: {replies:?}");
        assert_eq!(replies[4], "(integer) 0", "{line}");
    }
    Ok(())
}

#[test]
fn e10_both_protocols_on_one_port() -> Result<()> {
    let scene = scene()?;
    scene.x.cmd(&["HSET", "h", "f", "v"])?;
    assert!(scene.client(ALONE_SINGLE)?.line("hello 3")?.text().starts_with("NOPROTO"));
    let mut alone = scene.client(ALONE_RESP3)?;
    assert!(alone.line("get k")?.text().starts_with("NOPROTO"));
    assert!(alone.line("hello 2")?.text().starts_with("NOPROTO"));

    let (map, array) = (
        Reply::Map(vec![(Reply::bulk("f"), Reply::bulk("v"))]),
        Reply::Array(vec![Reply::bulk("f"), Reply::bulk("v")]),
    );
    for at in [SINGLE, DIRECT, PREFIX, MIRROR] {
        let (mut two, mut three) = (scene.client(at)?, scene.client(at)?);
        assert!(matches!(three.ok(&["HELLO", "3"])?, Reply::Map(_)));
        assert_eq!((two.line("get none")?, three.line("get none")?), (Reply::NullBulk, Reply::Null));
        assert_eq!((two.line("hgetall h")?, three.line("hgetall h")?), (array.clone(), map.clone()));
        assert!(matches!(three.ok(&["HELLO", "2"])?, Reply::Array(_)));
        assert_eq!(three.line("hgetall h")?, array);
        assert!(two.line("hello 4")?.text().starts_with("NOPROTO"));
    }
    Ok(())
}

#[test]
fn e13_info_does_not_pretend_a_cluster() -> Result<()> {
    let scene = scene()?;
    let mode = |at: u8| -> Result<Option<String>> {
        let text = scene.client(at)?.ok(&["INFO"])?.text();
        // Valkey has another name for it.
        Ok(info_field(&text, "redis_mode").or(info_field(&text, "server_mode")).map(str::to_string))
    };
    assert_eq!(mode(ALONE_SINGLE)?.as_deref(), Some("cluster"), "redis_proxy alone now does better");
    assert_eq!(mode(DIRECT)?.as_deref(), Some("standalone"));
    assert_eq!(mode(PREFIX)?.as_deref(), Some("standalone"));
    Ok(())
}

#[test]
fn e14_what_follows_exec_is_outside_the_transaction() -> Result<()> {
    let scene = scene()?;
    let script = [
        "multi",
        "set k 1",
        "exec",
        "keys k",
        "eval \"return 5\" 1 k",
        "mget k k",
        "scan 0 count 100",
        "multi",
        "incr k",
        "discard",
        "keys k",
        "mget k {other}x",
    ];
    let scan = "1) \"0\"\n2) 1) \"k\"";
    let right = [
        "OK",
        "QUEUED",
        "1) OK",
        "1) \"k\"",
        "(integer) 5",
        "1) \"1\"\n2) \"1\"",
        scan,
        "OK",
        "QUEUED",
        "OK",
        "1) \"k\"",
        "1) \"1\"\n2) (nil)",
    ];
    let alone = lines(&mut scene.client(ALONE_SINGLE)?, &script)?;
    assert!(alone[3].contains("not supported within transaction"), "redis_proxy alone now does better: {alone:?}");
    assert!(alone[4].contains("not supported within transaction"), "{alone:?}");
    for at in [SINGLE, DIRECT, MIRROR] {
        scene.x.forget()?;
        assert_eq!(lines(&mut scene.client(at)?, &script)?, right, "{at}");
        // Byte by byte, and without waiting for anything.
        scene.x.forget()?;
        let mut client = scene.client(at)?;
        for line in script {
            for byte in encode(&redis_mesh_tests::line::words(line)?).chunks(1) {
                client.write(byte)?;
            }
        }
        for (line, right) in script.iter().zip(right) {
            assert_eq!(client.read()?.tty(), right, "{at}: {line}");
        }
    }
    Ok(())
}

#[test]
fn a_transaction_does_not_overtake_what_was_sent_before() -> Result<()> {
    let scene = scene()?;
    // redis_proxy runs a transaction on a connection of its own. What Redis is busy with on the shared one is overtaken.
    let slow = "local i = 0; while i < 3000000 do i = i + 1 end; redis.call('set', KEYS[1], 'before'); return 1";
    let overtaken = |at: u8, n: usize| -> Result<bool> {
        let mut client = scene.client(at)?;
        let key = format!("o{n}");
        let pad = vec![b'x'; 200_000];
        let mut commands: Vec<Vec<&[u8]>> = (0..5).map(|_| vec![&b"SET"[..], b"pad", &pad]).collect();
        commands.push(vec![b"EVAL", slow.as_bytes(), b"1", key.as_bytes()]);
        commands.push(vec![b"MULTI"]);
        commands.push(vec![b"SET", key.as_bytes(), b"after"]);
        commands.push(vec![b"EXEC"]);
        client.pipeline(&commands)?;
        Ok(scene.x.cmd(&["GET", &key])? != Reply::bulk("after"))
    };
    // It is a race: one of many is enough.
    let mut tries = (100..120).map(|n| overtaken(ALONE_SINGLE, n));
    assert!(tries.any(|result| result.unwrap_or(false)), "redis_proxy alone now keeps the order");
    for at in [SINGLE, DIRECT, MIRROR] {
        for n in 10..15 {
            assert!(!overtaken(at, n)?, "{}", scene.addr(at));
        }
    }
    Ok(())
}
