//! Updates of which only one half has arrived: the filter of one configuration before the listener
//! of another.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::listener::{Config, Rendered, host, listener_name, object, pinned, service, wasm};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;

use crate::scene::*;

/// Returns a pipeline of commands for a combination: the keys that they write, the bytes, and the
/// number of replies.
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

/// One of the configurations between which an update changes.
struct Half {
    name: &'static str,
    rendered: Rendered,
    /// The server to which a key is routed, and the key there, or `None` without a route.
    route: fn(&str) -> Option<(char, &str)>,
    /// The server that mirrors x.
    mirror: Option<char>,
}

#[test]
fn half_an_update_fails_closed() -> Result<()> {
    let scene = Scene::new()?;
    let secret = scene.secret()?;
    let port = scene.subnet.port();
    let halves = halves(&scene, &secret)?;
    let listener = listener_name("cache", port);

    let mut config = Config::new();
    for half in &halves {
        config = config.clusters(half.rendered.clusters());
    }
    // Every filter before every listener, on a subnet of their own, and every listener without a
    // filter.
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
                // What a redis_proxy of ours executes is what its filter has decided. Behind
                // tcp_proxy there is one destination, so a filter that has none to choose either
                // sends everything there.
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
    check_sandbox(&envoy)?;
    assert!(!envoy.log().contains(UPSTREAM_PASSWORD));
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
    /// The server to which a key belongs, and the key there.
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
