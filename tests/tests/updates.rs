//! Configuration that changes while clients are connected, and updates of which only one half has arrived.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_core::wire::{self, FaultKind, KeyMatch};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::envoy::{self, Envoy};
use redis_mesh_tests::listener::{
    Config, Discovered, RedisProxy, Rendered, config, direct, fault, host, listener_name, object, pinned, proxy, route,
    service, several, tcp_proxy, wasm,
};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::workspace;
use serde_json::Value;

const HANDSHAKE: &str = "they-know-each-other";
const TAG_X: &str = "\u{1}xxxx:";
const TAG_Y: &str = "\u{1}yyyy:";

/// Two servers, and one listener of each kind before them whose filter is discovered.
struct Scene {
    subnet: Subnet,
    x: Redis,
    y: Redis,
}

const DIRECT: u8 = 11;
const SINGLE: u8 = 12;
const SEVERAL: u8 = 13;

impl Scene {
    fn new() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        Ok(Scene { x: Redis::start_at(subnet.redis(1))?, y: Redis::start_at(subnet.redis(2))?, subnet })
    }

    fn config(&self) -> Config {
        Config::new().cluster("x", &[self.x.addr()]).cluster("y", &[self.y.addr()]).cluster("nowhere", &[])
    }

    fn client(&self, at: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(at))
    }
}

/// The redis_proxy that belongs to [`several_hosts`].
fn several_proxy() -> Value {
    RedisProxy::new("several").route(TAG_X, "x", true).route(TAG_Y, "y", true).password(HANDSHAKE).filter()
}

/// The redis_proxy of one destination.
fn single_proxy(cluster: &str) -> Value {
    single_proxy_with(cluster, HANDSHAKE)
}

/// `a:` to x, `b:` to y, and these.
fn several_hosts(more: Vec<wire::Route>) -> wire::Host {
    let mut routes = vec![route(KeyMatch::Prefix("a:".into()), 0), route(KeyMatch::Prefix("b:".into()), 1)];
    routes.extend(more);
    several(&[("x", TAG_X), ("y", TAG_Y)], HANDSHAKE, routes)
}

fn password(host: wire::Host, password: &str) -> wire::Host {
    let salt = "00112233445566778899aabbccddeeff";
    let bytes: Vec<u8> = (0..16).map(|i| i * 0x11).collect();
    let hash = sha256(&[&bytes, password.as_bytes()].concat());
    let client_auth = Some(wire::ClientAuth { username: None, salt: salt.into(), password_sha256: vec![hash] });
    wire::Host { client_auth, ..host }
}

/// In hex, by the tool of the system: the tests share no code with the filter.
fn sha256(bytes: &[u8]) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let run = || -> Result<String> {
        let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("no stdin")?.write_all(bytes)?;
        let output = child.wait_with_output()?;
        Ok(String::from_utf8(output.stdout)?.split(' ').next().unwrap_or_default().to_string())
    };
    run().unwrap_or_default()
}

#[test]
fn a_change_of_policy_reaches_open_connections() -> Result<()> {
    let scene = Scene::new()?;
    let mut direct_config = Discovered::new(&config("direct", 1, direct("x")))?;
    let mut single_config = Discovered::new(&config("single", 1, proxy("x", HANDSHAKE)))?;
    let mut several_config = Discovered::new(&config("several", 1, several_hosts(vec![])))?;
    let envoy = scene
        .config()
        .listener("direct", scene.subnet.redis(DIRECT), vec![direct_config.filter(), tcp_proxy("x")])
        .listener("single", scene.subnet.redis(SINGLE), vec![single_config.filter(), single_proxy("x")])
        .listener("several", scene.subnet.redis(SEVERAL), vec![several_config.filter(), several_proxy()])
        .start()?;
    let mut clients = BTreeMap::new();
    for at in [DIRECT, SINGLE, SEVERAL] {
        let mut client = scene.client(at)?;
        assert_eq!(client.line("set a:1 1")?, Reply::ok(), "{at}");
        clients.insert(at, client);
    }
    let error = |commands: &[&str]| vec![fault(FaultKind::Error, Duration::ZERO, commands)];
    let push =
        |revision: u64, change: &dyn Fn(wire::Host) -> wire::Host, all: &mut [&mut Discovered; 3]| -> Result<()> {
            all[0].push(&envoy, &config("direct", revision, change(direct("x"))))?;
            all[1].push(&envoy, &config("single", revision, change(proxy("x", HANDSHAKE))))?;
            all[2].push(&envoy, &config("several", revision, change(several_hosts(vec![]))))
        };
    let mut all = [&mut direct_config, &mut single_config, &mut several_config];

    // Faults come and go.
    push(2, &|host| wire::Host { faults: error(&["get"]), ..host }, &mut all)?;
    for (at, client) in &mut clients {
        assert_eq!(client.line("get a:1")?, Reply::error("Fault Injected: Error"), "{at}");
        assert_eq!(client.line("strlen a:1")?, Reply::Integer(1), "{at}");
    }
    push(3, &|host| host, &mut all)?;
    for (at, client) in &mut clients {
        assert_eq!(client.line("get a:1")?, Reply::bulk("1"), "{at}");
    }

    // A password: who is connected must present it too.
    push(4, &|host| password(host, "first"), &mut all)?;
    for (at, client) in &mut clients {
        assert_eq!(client.line("get a:1")?, Reply::error("NOAUTH Authentication required."), "{at}");
        assert_eq!(client.line("auth second")?, Reply::error("ERR invalid password"), "{at}");
        assert_eq!(client.line("auth first")?, Reply::ok(), "{at}");
        assert_eq!(client.line("get a:1")?, Reply::bulk("1"), "{at}");
    }
    // Another one: as in Redis, who is logged in stays so; who comes needs the new one.
    push(5, &|host| password(host, "second"), &mut all)?;
    for (at, client) in &mut clients {
        assert_eq!(client.line("get a:1")?, Reply::bulk("1"), "{at}");
        assert_eq!(client.line("auth first")?, Reply::error("ERR invalid password"), "{at}");
        let mut fresh = scene.client(*at)?;
        assert_eq!(fresh.line("auth first")?, Reply::error("ERR invalid password"), "{at}");
        assert_eq!(fresh.line("auth second")?, Reply::ok(), "{at}");
        assert_eq!(fresh.line("get a:1")?, Reply::bulk("1"), "{at}");
    }
    push(6, &|host| host, &mut all)?;
    for (at, client) in &mut clients {
        assert_eq!(client.line("get a:1")?, Reply::bulk("1"), "{at}");
    }

    // Routes among the same backends, on the connections that are open.
    let several_client = clients.get_mut(&SEVERAL).context("no client")?;
    assert!(several_client.line("set c:1 1")?.text().contains("no route of several.test:6379"));
    for (revision, target, redis) in [(7, 1, &scene.y), (8, 0, &scene.x), (9, 1, &scene.y)] {
        let more = vec![route(KeyMatch::Prefix("c:".into()), target)];
        all[2].push(&envoy, &config("several", revision, several_hosts(more)))?;
        let value = revision.to_string();
        assert_eq!(several_client.cmd(&["SET", "c:1", &value])?, Reply::ok());
        assert_eq!(redis.cmd(&["GET", "c:1"])?, Reply::bulk(&value));
    }
    Ok(())
}

#[test]
fn what_cannot_be_used_is_refused_and_the_last_good_stays() -> Result<()> {
    let scene = Scene::new()?;
    let good = config(
        "kept",
        1,
        wire::Host { faults: vec![fault(FaultKind::Error, Duration::ZERO, &["get"])], ..direct("x") },
    );
    let mut discovered = Discovered::new(&good)?;
    let envoy = scene
        .config()
        .listener("direct", scene.subnet.redis(DIRECT), vec![discovered.filter(), tcp_proxy("x")])
        .start()?;
    let mut old = scene.client(DIRECT)?;
    let mut check = |n: u64| -> Result<()> {
        for client in [&mut old, &mut scene.client(DIRECT)?] {
            assert_eq!(client.line("get k")?, Reply::error("Fault Injected: Error"), "{n}");
            assert_eq!(client.line("set k 1")?, Reply::ok(), "{n}");
        }
        Ok(())
    };
    check(0)?;
    let mut wrong = good.clone();
    wrong.hosts[0].routes[0].target = 7;
    let tagless = wire::Host {
        targets: vec![wire::Target { tags: vec![], ..proxy("x", "h").targets[0].clone() }],
        ..proxy("x", "h")
    };
    let cases: [(String, &str); 8] = [
        ("no JSON".into(), "expected"),
        (String::new(), "EOF while parsing"),
        ("{}".into(), "missing field `name`"),
        (r#"{"name":"kept","revision":2,"hosts":[],"more":1}"#.into(), "unknown field `more`"),
        (serde_json::to_string(&good)?.replacen("\"revision\":1", "\"revision\":-1", 1), "invalid value"),
        (serde_json::to_string(&wrong)?, "hosts[0] (x.test:6379): routes[0].target: there is no target 7"),
        (
            serde_json::to_string(&config("kept", 2, tagless))?,
            "hosts[0] (x.test:6379): targets[0]: tags: 0 instead of 1",
        ),
        (
            serde_json::to_string(&config("kept", 2, proxy("x", "")))?,
            "hosts[0] (x.test:6379): handshake: path proxy needs one",
        ),
    ];
    for (n, (document, reason)) in (1..).zip(&cases) {
        discovered.write_text(document)?;
        wait_until(&format!("refusal {n}"), Duration::from_secs(5), || {
            let log = envoy.log();
            let mut refusals = log.lines().filter_map(|line| line.split_once("redis-mesh: configuration refused: "));
            refusals.any(|(_, text)| text.contains(reason))
        })
        .with_context(|| format!("{document}\n{}", envoy.process().log_tail(20)))?;
        check(n)?;
    }
    // And then a good one is taken.
    discovered.push(&envoy, &config("kept", 9, direct("x")))?;
    assert_eq!(old.line("get k")?, Reply::bulk("1"));
    Ok(())
}

#[test]
fn a_rollback_ends_on_what_it_rolls_back_to() -> Result<()> {
    let scene = Scene::new()?;
    // Every configuration refuses another command, so that it can be told which one is in force.
    let names = ["a", "b"];
    let of = |name: &str, revision: u64| {
        let faulty = if name == "a" { "strlen" } else { "get" };
        config(
            "rolled",
            revision,
            wire::Host { faults: vec![fault(FaultKind::Error, Duration::ZERO, &[faulty])], ..direct("x") },
        )
    };
    let in_force = |client: &mut Client| -> Result<&str> {
        let (strlen, get) = (client.line("strlen k")?.is_error(), client.line("get k")?.is_error());
        ensure!(strlen != get, "neither or both: {strlen} {get}");
        Ok(if strlen { "a" } else { "b" })
    };
    let mut discovered = Discovered::new(&of("a", 1))?;
    let envoy = scene
        .config()
        .listener("direct", scene.subnet.redis(DIRECT), vec![discovered.filter(), tcp_proxy("x")])
        .start()?;
    // One connection from under every configuration is held open.
    let mut clients = vec![scene.client(DIRECT)?];
    assert_eq!(in_force(&mut clients[0])?, "a");
    for revision in 2..8 {
        let name = names[(revision as usize + 1) % 2];
        discovered.push(&envoy, &of(name, revision))?;
        clients.push(scene.client(DIRECT)?);
        for client in &mut clients {
            assert_eq!(in_force(client)?, name, "revision {revision}");
        }
    }
    Ok(())
}

#[test]
fn each_plugin_has_the_configuration_of_its_name() -> Result<()> {
    let scene = Scene::new()?;
    let of = |name: &str, faulty: &str, revision: u64| {
        let faults = vec![fault(FaultKind::Error, Duration::ZERO, &[faulty])];
        config(name, revision, wire::Host { faults, ..direct("x") })
    };
    let mut one = Discovered::new(&of("one", "get", 1))?;
    let mut two = Discovered::new(&of("two", "strlen", 1))?;
    let envoy = scene
        .config()
        .listener("one", scene.subnet.redis(DIRECT), vec![one.filter(), tcp_proxy("x")])
        .listener("two", scene.subnet.redis(SINGLE), vec![two.filter(), tcp_proxy("x")])
        .listener("three", scene.subnet.redis(SEVERAL), vec![wasm(&of("three", "exists", 1))?, tcp_proxy("x")])
        .start()?;
    let mut clients = [scene.client(DIRECT)?, scene.client(SINGLE)?, scene.client(SEVERAL)?];
    let faulty = |clients: &mut [Client; 3]| -> Result<Vec<&str>> {
        let mut out = Vec::new();
        for client in clients {
            for command in ["get", "strlen", "exists"] {
                if client.line(&format!("{command} k"))?.is_error() {
                    out.push(command);
                }
            }
        }
        Ok(out)
    };
    assert_eq!(faulty(&mut clients)?, ["get", "strlen", "exists"]);
    one.push(&envoy, &of("one", "exists", 2))?;
    assert_eq!(faulty(&mut clients)?, ["exists", "strlen", "exists"]);
    two.push(&envoy, &of("two", "get", 2))?;
    assert_eq!(faulty(&mut clients)?, ["exists", "get", "exists"]);
    one.push(&envoy, &of("one", "get", 3))?;
    assert_eq!(faulty(&mut clients)?, ["get", "get", "exists"]);
    Ok(())
}

/// The commands that a client sends to every combination, by the keys that they write; all of them pipelined.
fn burst(n: usize) -> (Vec<String>, Vec<u8>, usize) {
    let mut keys = Vec::new();
    let mut bytes = Vec::new();
    let mut commands = 1;
    let mut key = |name: String| {
        keys.push(name.clone());
        name
    };
    for prefix in ["a:", "b:", "r:", ""] {
        commands += 8;
        let k = key(format!("{prefix}set{n}"));
        bytes.extend(encode(&["SET", &k, "1"]));
        let (k, l) = (key(format!("{prefix}m{n}")), key(format!("{prefix}n{n}")));
        bytes.extend(encode(&["MSET", &k, "1", &l, "1"]));
        let k = key(format!("{prefix}inline{n}"));
        bytes.extend(format!("SET {k} 1\r\n").into_bytes());
        let k = key(format!("{prefix}eval{n}"));
        bytes.extend(encode(&["EVAL", "return redis.call('set', KEYS[1], '1')", "1", &k]));
        let k = key(format!("{prefix}tx{n}"));
        bytes.extend([encode(&["MULTI"]), encode(&["SET", &k, "1"]), encode(&["EXEC"])].concat());
        let k = key(format!("{prefix}list{n}"));
        bytes.extend(encode(&["RPUSH", &k, "1"]));
    }
    let (a, b) = (key(format!("a:both{n}")), key(format!("b:both{n}")));
    bytes.extend(encode(&["MSET", &a, "1", &b, "1"]));
    (keys, bytes, commands)
}

/// One half of an update: what the manifests say, and what they render to.
struct Half {
    name: &'static str,
    rendered: Rendered,
    /// The server that a key goes to, and the key there; `None`: no route.
    route: fn(&str) -> Option<(char, &str)>,
    /// The server that gets copies of what goes to x.
    mirror: Option<char>,
}

#[test]
fn half_an_update_fails_closed() -> Result<()> {
    let scene = Scene::new()?;
    let secret = Redis::start_with(Options {
        addr: Some(scene.subnet.redis(3)),
        password: Some("upstream-password".into()),
        ..Options::default()
    })?;
    let port = scene.subnet.port();
    let halves = halves(&scene, &secret)?;
    let listener = listener_name("cache", port);

    let mut config = Config::new();
    for half in &halves {
        config = config.clusters(half.rendered.clusters());
    }
    // Every filter before every listener, on a subnet of their own, and every listener without a filter.
    let subnet = Subnet::claim()?;
    let mut combinations: Vec<(Option<&Half>, &Half, SocketAddr)> = Vec::new();
    for behind in &halves {
        for filter in halves.iter().map(Some).chain([None]) {
            combinations.push((filter, behind, subnet.redis(combinations.len() as u8 + 1)));
        }
    }
    for (filter, behind, addr) in &combinations {
        let name = format!("{} before {}", filter.map_or("nothing", |filter| filter.name), behind.name);
        let mut filters = Vec::new();
        if let Some(filter) = filter {
            let mut document = filter.rendered.document(&listener)?;
            document.name = name.clone();
            filters.push(wasm(&document)?);
        }
        filters.push(behind.rendered.terminal(&listener)?);
        config = config.listener(&name, *addr, filters);
    }
    let envoy = config.start()?;

    let servers = [('x', &scene.x), ('y', &scene.y), ('p', &secret)];
    let mut table = Vec::new();
    for (n, (filter, behind, addr)) in combinations.iter().enumerate() {
        let what = format!("{} before {}", filter.map_or("nothing", |filter| filter.name), behind.name);
        for (_, redis) in servers {
            redis.forget()?;
        }
        let (keys, bytes, commands) = burst(n);
        let mut client = Client::connect(*addr)?;
        client.write(&bytes)?;
        // Until the last reply, or until the connection is closed.
        let replies: Vec<String> = (0..commands).map_while(|_| client.read().ok()).map(|reply| reply.text()).collect();
        let on_proxy = behind.name.starts_with("proxy");
        let mut written = 0;
        for (letter, redis) in servers {
            for key in redis.cmd(&["KEYS", "*"])?.items() {
                let key = key.text();
                written += 1;
                ensure!(!key.contains('\u{1}'), "{what}: the key {key:?} was stored in {letter}");
                let routed = |half: &Half| {
                    let letter = if half.mirror == Some(letter) { 'x' } else { letter };
                    keys.iter().any(|one| (half.route)(one) == Some((letter, key.as_str())))
                };
                let by_filter = filter.is_some_and(routed);
                let by_listener = routed(behind);
                // What a redis_proxy of ours executes is what its filter has decided. Behind tcp_proxy there is one
                // destination, so a filter that has none to choose either sends everything there.
                let right = if on_proxy { by_filter } else { by_filter || by_listener };
                ensure!(right, "{what}: the key {key:?} was stored in {letter}");
            }
        }
        table.push(format!("{what}: {written} keys"));
        let whole = filter.is_some_and(|filter| filter.name == behind.name);
        if whole {
            let expected: std::collections::BTreeSet<_> = keys.iter().filter_map(|key| (behind.route)(key)).collect();
            ensure!(written >= expected.len() - 4, "{what}: only {written} of {} keys", expected.len());
        }
        if on_proxy && filter.is_none() {
            assert_eq!(written, 0, "{what}");
            assert!(replies.iter().all(|reply| reply == "NOAUTH Authentication required."), "{what}: {replies:?}");
        }
        let filter_on_proxy = filter.is_some_and(|filter| filter.name.starts_with("proxy"));
        if filter_on_proxy && !on_proxy {
            // Nothing but the handshake may have got there, which no server takes for a login.
            assert_eq!(written, 0, "{what}");
            for (letter, redis) in servers {
                let stats = redis.info("commandstats")?;
                let ours = ["auth", "config|resetstat", "flushall", "info", "keys", "ping"];
                let other = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
                let other: Vec<_> = other.filter(|name| !ours.contains(name)).collect();
                assert!(other.is_empty(), "{what}: {letter} was sent {other:?}");
            }
            assert_eq!(replies.len(), 1, "{what}: {replies:?}");
            assert!(replies[0].starts_with("ERR redis-mesh: the configuration of "), "{what}: {replies:?}");
        }
        if filter.is_some_and(|filter| filter.name.starts_with("direct")) && on_proxy {
            assert_eq!(written, 0, "{what}");
        }
    }
    for (name, value) in envoy.stats("wasm")? {
        assert!(!name.contains("crash") || value == 0, "{name}: {value}");
    }
    assert!(!envoy.log().contains("upstream-password"));
    println!("{}", table.join("\n"));
    Ok(())
}

fn halves(scene: &Scene, secret: &Redis) -> Result<Vec<Half>> {
    let port = scene.subnet.port();
    let mut base = String::new();
    for (name, at, redis) in [("one", 21, &scene.x), ("two", 22, &scene.y), ("hidden", 23, secret)] {
        base += &service(name, scene.subnet.redis(at), redis.addr());
    }
    base += &service("cache", scene.subnet.redis(24), scene.x.addr());
    base += &object(
        "RedisDestination",
        "hidden",
        "  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: upstream-password}}}}}\n",
    );
    let to = |name: &str| format!("route: {{host: {}, port: {port}}}", host(name));
    let only = |name: &str| format!("  redis: [{{{}}}]\n", to(name));
    let two = |a: &str, b: &str| {
        format!(
            "  redis:\n  - {{match: {{key: {{prefix: 'b:'}}}}, {}}}\n  - {{match: {{key: {{prefix: 'r:', removePrefix: true}}}}, {}}}\n  - {{{}}}\n",
            to(b),
            to(b),
            to(a)
        )
    };
    let mirrored = format!("  redis: [{{{}, mirror: [{{{}, percentage: {{value: 100}}}}]}}]\n", to("one"), to("two"));
    fn x(key: &str) -> Option<(char, &str)> {
        Some(('x', key))
    }
    fn y(key: &str) -> Option<(char, &str)> {
        Some(('y', key))
    }
    fn p(key: &str) -> Option<(char, &str)> {
        Some(('p', key))
    }
    fn x_and_y(key: &str) -> Option<(char, &str)> {
        match key.strip_prefix("r:") {
            Some(rest) => Some(('y', rest)),
            None => Some((if key.starts_with("b:") { 'y' } else { 'x' }, key)),
        }
    }
    fn y_and_x(key: &str) -> Option<(char, &str)> {
        x_and_y(key).map(|(letter, key)| (if letter == 'x' { 'y' } else { 'x' }, key))
    }
    fn p_and_y(key: &str) -> Option<(char, &str)> {
        x_and_y(key).map(|(letter, key)| (if letter == 'x' { 'p' } else { letter }, key))
    }
    /// Which Redis a key belongs to, and what it is called there.
    type Placement = fn(&str) -> Option<(char, &str)>;
    let specs: Vec<(&'static str, &str, String, Placement)> = vec![
        ("direct to x", "direct", only("one"), x),
        ("direct to y", "direct", only("two"), y),
        ("direct to p", "direct", only("hidden"), p),
        ("proxy to x", "proxy", only("one"), x),
        ("proxy to y", "proxy", only("two"), y),
        ("proxy to p", "proxy", only("hidden"), p),
        ("proxy to x and y", "auto", two("one", "two"), x_and_y),
        ("proxy to y and x", "auto", two("two", "one"), y_and_x),
        ("proxy to p and y", "auto", two("hidden", "two"), p_and_y),
        ("proxy to x, mirrored", "auto", mirrored, x),
    ];
    let mut halves = Vec::new();
    for (name, path, spec, route) in specs {
        let manifests = format!("{base}{}", pinned("RedisService", "cache", path, &spec));
        let rendered = Rendered::new(&manifests, &["--handshake-key", "the same for all"])
            .with_context(|| format!("rendering {name}"))?;
        let mirror = name.ends_with("mirrored").then_some('y');
        halves.push(Half { name, rendered, route, mirror });
    }
    Ok(halves)
}

/// One writer of the test below: pipelines on one connection until told to stop. Every command's reply is known whatever
/// configuration is in force.
fn write_until(stop: &AtomicBool, addr: SocketAddr, writer: usize, count: &AtomicU64) -> Result<()> {
    let mut client = Client::connect(addr)?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut commands: Vec<Vec<String>> = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..40 {
            n += 1;
            let id = format!("{writer}-{n}");
            let mut send = |command: &[&str], reply: Reply| {
                commands.push(command.iter().map(ToString::to_string).collect());
                expected.push(reply);
            };
            send(&["SET", &format!("a:{id}"), &id], Reply::ok());
            send(&["SET", &format!("b:{id}"), &id], Reply::ok());
            send(&["GET", &format!("a:{id}")], Reply::bulk(&id));
            send(&["MGET", &format!("a:{id}"), &format!("b:{id}")], Reply::bulks(&[&id, &id]));
            send(&["PING", &id], Reply::bulk(&id));
            send(&["SELECT", "0"], Reply::ok());
            send(&["MSET", &format!("a:m{id}"), "1", &format!("b:m{id}"), "1"], Reply::ok());
            send(&["SET", &format!("c:{id}"), &id], Reply::ok());
            send(&["SET", &format!("r:{id}"), &id], Reply::ok());
            send(&["SET", "a:nested"], Reply::error("ERR wrong number of arguments for 'set' command"));
            send(&["SINTER", "a:s", "b:s"], Reply::error("CROSSSLOT redis-mesh: keys route to different destinations"));
        }
        let replies = client.pipeline(&commands).with_context(|| format!("writer {writer} at {n}"))?;
        for ((command, got), want) in commands.iter().zip(&replies).zip(&expected) {
            ensure!(got == want, "{}: {got:?} instead of {want:?}", command.join(" "));
        }
        count.fetch_add(replies.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn under_load_no_connection_is_closed_and_no_key_misrouted() -> Result<()> {
    let scene = Scene::new()?;
    // `a:` and `b:` stay where they are; `c:` moves to and fro, `r:` keeps and loses its prefix, faults of a command that
    // nobody sends come and go, a password that nobody is asked for is set and reset, regexes and exact keys are added.
    let of = |revision: u64| {
        let odd = revision % 2 == 1;
        let mut more = vec![route(KeyMatch::Prefix("c:".into()), u32::from(odd))];
        let strip = wire::Route { remove_prefix: odd, ..route(KeyMatch::Prefix("r:".into()), 1) };
        more.push(strip);
        if revision.is_multiple_of(3) {
            more.push(route(KeyMatch::Regex("^never$".into()), 0));
            more.push(route(KeyMatch::Exact(format!("exact-{revision}")), 1));
        }
        let mut host = several_hosts(more);
        if revision.is_multiple_of(5) {
            host.faults = vec![fault(FaultKind::Delay, Duration::from_millis(50), &["getdel"])];
        }
        config("load", revision, host)
    };
    let mut discovered = Discovered::new(&of(1))?;
    let envoy = scene
        .config()
        .listener("several", scene.subnet.redis(SEVERAL), vec![discovered.filter(), several_proxy()])
        .text();
    let envoy = Envoy::start_with(&envoy, &envoy::Options { concurrency: 2, ..envoy::Options::default() })?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let changes = std::thread::scope(|scope| -> Result<u64> {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (stop, count, addr) = (&stop, &count, scene.subnet.redis(SEVERAL));
                scope.spawn(move || write_until(stop, addr, writer, count))
            })
            .collect();
        let mut revision = 1;
        while started.elapsed() < Duration::from_secs(4) && !writers.iter().any(|writer| writer.is_finished()) {
            revision += 1;
            discovered.write(&of(revision))?;
            std::thread::sleep(Duration::from_micros(500));
        }
        let took = started.elapsed();
        let last = discovered.wait_for(&envoy, revision);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            match writer.join() {
                Ok(result) => result?,
                Err(_) => bail!("a writer panicked"),
            }
        }
        last?;
        println!("{:.0} changes a second", revision as f64 / took.as_secs_f64());
        Ok(revision)
    })?;
    let taken = envoy.log().matches("redis-mesh: load revision ").count();
    println!("{changes} changes written, {taken} taken, {} commands", count.load(Ordering::Relaxed));
    assert!(count.load(Ordering::Relaxed) > 2000, "hardly any load");
    assert!(taken > 100, "only {taken} configurations were taken");
    let mut seen = [0; 5];
    for (letter, redis) in [('x', &scene.x), ('y', &scene.y)] {
        for key in redis.cmd(&["KEYS", "*"])?.items() {
            let key = key.text();
            let (kind, right) = match key.split_once(':').map(|(prefix, _)| prefix) {
                Some("a") => (0, letter == 'x'),
                Some("b") => (1, letter == 'y'),
                Some("c") => (2, true),
                Some("r") => (3, letter == 'y'),
                None => (4, letter == 'y'),
                _ => (0, false),
            };
            ensure!(right && !key.contains('\u{1}'), "the key {key:?} is in {letter}");
            seen[kind] += 1;
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[3] + seen[4], seen[2]);
    assert_eq!(envoy.stat("listener_manager.listener_in_place_updated")?, Some(0));
    for (name, value) in envoy.stats("wasm")? {
        assert!(!name.contains("crash") || value == 0, "{name}: {value}");
    }
    Ok(())
}

#[test]
fn a_connection_that_can_no_longer_be_served_as_it_began_is_closed() -> Result<()> {
    let scene = Scene::new()?;
    let mut on_direct = Discovered::new(&config("direct", 1, direct("x")))?;
    let mut on_proxy = Discovered::new(&config("proxy", 1, proxy("x", HANDSHAKE)))?;
    let envoy = scene
        .config()
        .listener("direct", scene.subnet.redis(DIRECT), vec![on_direct.filter(), tcp_proxy("x")])
        .listener("proxy", scene.subnet.redis(SINGLE), vec![on_proxy.filter(), single_proxy("x")])
        .start()?;
    let connect = |at: u8| -> Result<Client> {
        let mut client = scene.client(at)?;
        assert_eq!(client.line("set k 1")?, Reply::ok());
        Ok(client)
    };
    // What a client of such a connection sends next, in a row, reaches no server.
    let cut_off = |client: &mut Client, key: &str| -> Result<String> {
        client.write(&[encode(&["SET", key, "1"]), encode(&["SET", key, "2"])].concat())?;
        let reply = client.read().map(|reply| reply.text()).unwrap_or_default();
        assert!(client.is_closed_within(Duration::from_secs(5)), "{key}: still open after {reply:?}");
        assert_eq!(scene.x.cmd(&["EXISTS", key])?, Reply::Integer(0), "{key}");
        Ok(reply)
    };

    // The other kind of filter stands behind.
    let mut client = connect(DIRECT)?;
    on_direct.push(&envoy, &config("direct", 2, proxy("x", HANDSHAKE)))?;
    cut_off(&mut client, "became-proxy")?;
    on_direct.push(&envoy, &config("direct", 3, direct("x")))?;
    let mut client = connect(SINGLE)?;
    on_proxy.push(&envoy, &config("proxy", 2, direct("x")))?;
    cut_off(&mut client, "became-direct")?;
    on_proxy.push(&envoy, &config("proxy", 3, proxy("x", HANDSHAKE)))?;

    // The host is no longer among those of the plugin.
    let selector = wire::Selector { addresses: vec!["192.0.2.1:6379".into()], ..wire::Selector::default() };
    let mut client = connect(DIRECT)?;
    on_direct.push(&envoy, &config("direct", 4, wire::Host { selector: selector.clone(), ..direct("x") }))?;
    cut_off(&mut client, "no-longer-managed")?;
    on_direct.push(&envoy, &config("direct", 5, direct("x")))?;
    let mut client = connect(SINGLE)?;
    on_proxy.push(&envoy, &config("proxy", 4, wire::Host { selector, ..proxy("x", HANDSHAKE) }))?;
    cut_off(&mut client, "no-longer-managed")?;
    on_proxy.push(&envoy, &config("proxy", 5, proxy("x", HANDSHAKE)))?;

    // redis_proxy doesn't know the new handshake yet.
    let mut client = connect(SINGLE)?;
    on_proxy.push(&envoy, &config("proxy", 6, proxy("x", "another")))?;
    let replaced = "ERR redis-mesh: the configuration of x.test:6379 is being replaced, try again";
    assert_eq!(cut_off(&mut client, "handshake")?, replaced);
    assert_eq!(cut_off(&mut scene.client(SINGLE)?, "handshake")?, replaced);
    on_proxy.push(&envoy, &config("proxy", 7, proxy("x", HANDSHAKE)))?;
    connect(SINGLE)?;
    Ok(())
}

#[test]
fn a_login_that_comes_later_is_done_on_open_connections() -> Result<()> {
    let scene = Scene::new()?;
    let secret = Redis::start_with(Options {
        addr: Some(scene.subnet.redis(3)),
        password: Some("upstream-password".into()),
        ..Options::default()
    })?;
    let with = |revision: u64, password: Option<&str>| {
        let upstream_login = password.map(|p| wire::UpstreamLogin { username: None, password: p.to_string() });
        config("login", revision, wire::Host { upstream_login, ..direct("p") })
    };
    let mut discovered = Discovered::new(&with(1, None))?;
    let envoy = Config::new()
        .cluster("p", &[secret.addr()])
        .listener("login", scene.subnet.redis(DIRECT), vec![discovered.filter(), tcp_proxy("p")])
        .start()?;
    let mut early = scene.client(DIRECT)?;
    assert_eq!(early.line("get k")?, Reply::error("NOAUTH Authentication required."));
    let mut idle = scene.client(DIRECT)?;
    discovered.push(&envoy, &with(2, Some("upstream-password")))?;
    for client in [&mut early, &mut idle] {
        assert_eq!(client.line("get k")?, Reply::NullBulk);
        assert_eq!(client.line("set k 1")?, Reply::ok());
        assert_eq!(client.line("del k")?, Reply::Integer(1));
    }
    // A wrong one: who is in stays in, who comes is told.
    discovered.push(&envoy, &with(3, Some("not-the-password")))?;
    assert_eq!(early.line("get k")?, Reply::NullBulk);
    let mut late = scene.client(DIRECT)?;
    assert_eq!(
        late.line("get k")?,
        Reply::error("ERR redis-mesh: p.test:6379 refused the login of its RedisDestination")
    );
    assert!(late.is_closed_within(Duration::from_secs(5)));
    assert!(!envoy.log().contains("password"), "a password in the log");
    Ok(())
}

#[test]
fn a_tag_of_another_age_is_never_part_of_a_key() -> Result<()> {
    let scene = Scene::new()?;
    // Even where the handshake would let the filter in.
    let stale = config("stale", 1, several_hosts(vec![route(KeyMatch::Any, 0)]));
    let envoy = scene
        .config()
        .listener("stale", scene.subnet.redis(SEVERAL), vec![wasm(&stale)?, single_proxy("x")])
        .start()?;
    let mut client = scene.client(SEVERAL)?;
    for line in [
        "set a:1 1",
        "set b:1 1",
        "mset a:2 1 b:2 1",
        "del a:1 b:1",
        "eval \"return redis.call('set', KEYS[1], 1)\" 1 b:3",
    ] {
        let reply = client.line(line)?;
        assert!(
            reply.text().contains("no upstream host") || reply.text().contains("finished with"),
            "{line}: {reply:?}"
        );
    }
    for redis in [&scene.x, &scene.y] {
        assert_eq!(redis.cmd(&["DBSIZE"])?, Reply::Integer(0));
    }
    drop(envoy);
    Ok(())
}

/// A writer of the test below: keys that name the phase in which they are sent, over connections that are made anew whenever they
/// are closed. Every reply is an OK, or an error that says that something is being replaced.
fn write_through(stop: &AtomicBool, phase: &AtomicUsize, addr: SocketAddr, writer: usize) -> Result<(u64, u64)> {
    let (mut good, mut bad, mut n) = (0, 0, 0);
    'connections: while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(addr) else { continue };
        client.set_patience(Duration::from_secs(5))?;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let phase = phase.load(Ordering::SeqCst);
            let key = |prefix: &str| format!("{prefix}{phase}-{writer}-{n}");
            let commands = [
                vec!["SET".to_string(), key("a:"), "1".into()],
                vec!["SET".to_string(), key("b:"), "1".into()],
                vec!["RPUSH".to_string(), key("b:l"), "1".into()],
                vec!["SET".to_string(), key("none"), "1".into()],
            ];
            let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
            if client.write(&bytes).is_err() {
                continue 'connections;
            }
            for _ in &commands {
                match client.read() {
                    Ok(reply) if !reply.is_error() => good += 1,
                    Ok(reply) => {
                        let text = reply.text();
                        let known =
                            ["is being replaced, try again", "NOAUTH Authentication required.", "no upstream host"];
                        let known = known.iter().any(|known| text.contains(known));
                        ensure!(known, "{text}");
                        bad += 1;
                    }
                    Err(error) if error.to_string().contains("no reply in time") => bail!("a reply never came"),
                    Err(_) => continue 'connections,
                }
            }
        }
    }
    Ok((good, bad))
}

#[test]
fn filter_and_listener_arrive_one_after_the_other_under_load() -> Result<()> {
    let scene = Scene::new()?;
    type Route = fn(&str) -> char;
    let kinds: [(&str, wire::Host, Value, Route); 5] = [
        ("several", several_hosts(vec![route(KeyMatch::Any, 0)]), several_proxy(), |key| {
            if key.starts_with("b:") { 'y' } else { 'x' }
        }),
        ("single x", proxy("x", "for x"), single_proxy_with("x", "for x"), |_| 'x'),
        ("single y", proxy("y", "for y"), single_proxy_with("y", "for y"), |_| 'y'),
        ("direct x", direct("x"), tcp_proxy("x"), |_| 'x'),
        ("direct y", direct("y"), tcp_proxy("y"), |_| 'y'),
    ];
    // Every kind becomes every other, in both orders.
    let mut path = vec![(0, false)];
    for from in 0..kinds.len() {
        for to in 0..from {
            path.extend([(from, true), (to, false), (from, false), (to, true)]);
        }
    }
    path.dedup_by_key(|(kind, _)| *kind);
    let addr = scene.subnet.redis(SEVERAL);
    let mut discovered = Discovered::new(&config("changing", 1, kinds[0].1.clone()))?;
    let listeners = workspace::scratch("lds")?.join("lds.json");
    let with =
        |terminal: &Value, filter: Value| scene.config().listener("changing", addr, vec![filter, terminal.clone()]);
    let first = with(&kinds[0].2, discovered.filter());
    first.write_listeners(&listeners)?;
    let options = envoy::Options {
        args: ["--drain-time-s", "1", "--drain-strategy", "immediate"].map(str::to_string).to_vec(),
        ..envoy::Options::default()
    };
    let envoy = Envoy::start_with(&first.text_with_listeners_in(&listeners), &options)?;
    let (stop, phase) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (stop, phase) = (&stop, &phase);
                scope.spawn(move || write_through(stop, phase, addr, writer))
            })
            .collect();
        let mut walk = || -> Result<()> {
            for (n, (kind, filter_first)) in path.iter().enumerate().skip(1) {
                let (name, host, terminal, _) = &kinds[*kind];
                let next = config("changing", n as u64 + 1, host.clone());
                phase.store(n, Ordering::SeqCst);
                let updates = envoy.stat("listener_manager.lds.update_success")?.unwrap_or(0);
                if *filter_first {
                    discovered.push(&envoy, &next)?;
                }
                with(terminal, discovered.filter()).write_listeners(&listeners)?;
                wait_until("the listener", Duration::from_secs(10), || {
                    envoy.stat("listener_manager.lds.update_success").is_ok_and(|now| now > Some(updates))
                })?;
                if !filter_first {
                    discovered.push(&envoy, &next)?;
                }
                // The whole update is there: it serves before long.
                wait_until(&format!("service by {name}"), Duration::from_secs(10), || {
                    let reply = Client::connect(addr).and_then(|mut client| client.line(&format!("set a:probe-{n} 1")));
                    reply.is_ok_and(|reply| reply == Reply::ok())
                })?;
            }
            Ok(())
        };
        let walked = walk();
        stop.store(true, Ordering::Relaxed);
        let mut total = (0, 0);
        for writer in writers {
            let Ok(counts) = writer.join() else { bail!("a writer panicked") };
            let (good, bad) = counts?;
            total = (total.0 + good, total.1 + bad);
        }
        println!("{} changes, {} commands served, {} refused", path.len() - 1, total.0, total.1);
        ensure!(total.0 > 1000, "hardly any load");
        walked
    })?;
    for (letter, redis) in [('x', &scene.x), ('y', &scene.y)] {
        for key in redis.cmd(&["KEYS", "*"])?.items() {
            let key = key.text();
            ensure!(!key.contains('\u{1}'), "the key {key:?} is in {letter}");
            let number: String =
                key.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            let n: usize = number.parse().with_context(|| format!("the key {key:?}"))?;
            // Sent in this phase, it may have been executed in the next.
            let from = n.saturating_sub(1);
            let allowed: Vec<char> =
                path[from..(n + 2).min(path.len())].iter().map(|(kind, _)| (kinds[*kind].3)(&key)).collect();
            ensure!(allowed.contains(&letter), "the key {key:?} is in {letter}");
        }
    }
    for (name, value) in envoy.stats("wasm")? {
        assert!(!name.contains("crash") || value == 0, "{name}: {value}");
    }
    Ok(())
}

fn single_proxy_with(cluster: &str, handshake: &str) -> Value {
    RedisProxy::new("single").catch_all(cluster).route("\u{1}", "nowhere", false).password(handshake).filter()
}

/// The VM's timer is armed on some plugin's root context. When that goes, because its last connection does, another takes over.
#[test]
fn delays_outlive_the_plugin_that_armed_the_timer() -> Result<()> {
    let scene = Scene::new()?;
    let delayed = |revision: u64| {
        let faults = vec![fault(FaultKind::Delay, Duration::from_millis(1100), &["get"])];
        config("ticked", revision, wire::Host { faults, ..direct("x") })
    };
    let mut discovered = Discovered::new(&delayed(1))?;
    let filters = vec![discovered.filter(), tcp_proxy("x")];
    let envoy = scene.config().listener("direct", scene.subnet.redis(DIRECT), filters).start()?;
    for revision in 2..4 {
        let mut old = scene.client(DIRECT)?;
        old.line("strlen k")?;
        discovered.push(&envoy, &delayed(revision))?;
        old.line("strlen k")?;
        drop(old);
        // Nothing tells when Envoy has let go of the old root context; it does so soon after the connection's end.
        std::thread::sleep(Duration::from_millis(1500));
        scene.client(DIRECT)?.line("get k").context("a delayed command was never answered")?;
    }
    Ok(())
}
