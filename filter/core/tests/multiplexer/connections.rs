//! Connections that fail, are refused, or are replaced by others.

use crate::config::{compiled, one, turned, two};
use crate::world::{World, command};
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::wire;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_server_that_is_down_is_reported_at_once_and_tried_again() {
    let mut world = World::new(3);
    let id = world.client(&compiled(&two()));
    world.redis.get_mut("two").unwrap().is_down = true;
    for _ in 0..3 {
        world.send(id, b"SET b 1\r\n");
    }
    assert_eq!(world.received(id), "-ERR redis-mesh: two can't be reached ".repeat(3));
    assert_eq!(world.opened, 2, "a second attempt before it is told, and none for each command");
    world.redis.get_mut("two").unwrap().is_down = false;
    world.now += Duration::from_secs(3);
    world.send(id, b"SET b 1\r\n");
    world.settle();
    assert_eq!(world.received(id), "+OK ");
}

#[test]
fn a_refused_login_is_reported() {
    let mut world = World::new(3);
    world.redis.get_mut("one").unwrap().password = Some(b"other".to_vec());
    let id = world.client(&compiled(&two()));
    world.send(id, b"SET a:1 1\r\nSET b 1\r\nGET a:1\r\n");
    world.settle();
    assert_eq!(
        world.received(id),
        "-ERR redis-mesh: one refused the login +OK -ERR redis-mesh: one refused the login "
    );
    assert!(world.redis["one"].keys.is_empty());
}

#[test]
fn replies_to_a_client_that_is_gone_reach_no_other_client() {
    let mut world = World::new(5);
    let config = compiled(&two());
    let (first, second) = (world.client(&config), world.client(&config));
    world.send(first, b"SET b first\r\nGET b\r\n");
    world.send(second, b"SET c second\r\nGET c\r\n");
    world.multiplexer.closed(first);
    world.drain();
    let third = world.client(&config);
    world.send(third, b"GET c\r\n");
    world.settle();
    assert_eq!(world.received(second), "+OK $6 second ");
    assert_eq!(world.received(third), "$6 second ");
    assert_eq!(world.received(first), "");
}

#[test]
fn connections_are_replaced_and_no_command_is_overtaken() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let id = world.client(&compiled(&two()));
        let mut expected = String::new();
        let mut append = |world: &mut World, count: usize| {
            for _ in 0..count {
                expected.push(char::from(b'a' + world.random.below(26) as u8));
                let value = expected[expected.len() - 1..].to_owned();
                world.send(id, &command(&["APPEND", "b", &value]));
                for _ in 0..world.random.below(3) {
                    world.arrive();
                }
            }
        };
        append(&mut world, 5);
        world.settle();
        for _ in 0..3 {
            world.now += Duration::from_secs(59);
            append(&mut world, 5);
            world.now += Duration::from_secs(2);
            world.multiplexer.tick(world.now);
            world.drain();
            append(&mut world, 20);
            world.settle();
        }
        world.received(id);
        world.send(id, &command(&["GET", "b"]));
        world.settle();
        assert_eq!(world.received(id), format!("${} {expected} ", expected.len()), "seed {seed}");
        let open = world.connections.values().filter(|(name, _)| name == "two").count();
        assert_eq!((world.opened, open), (4, 1), "seed {seed}");
        // A connection that isn't used is closed.
        world.now += Duration::from_secs(121);
        world.multiplexer.tick(world.now);
        world.drain();
        assert!(world.connections.is_empty(), "seed {seed}");
        world.send(id, &command(&["DEL", "b"]));
        world.settle();
        assert_eq!(world.received(id), ":1 ", "seed {seed}");
    }
}

#[test]
fn a_client_goes_on_when_the_connection_that_it_waits_for_is_replaced() {
    let mut world = World::new(1);
    let id = world.client(&compiled(&two()));
    world.send(id, &command(&["SET", "b", "1"]));
    world.settle();
    world.send(id, &command(&["GET", "b"]));
    // Envoy takes no more bytes for the connection, and reports nothing else until its end.
    let connection = *world.connections.keys().next().unwrap();
    world.multiplexer.upstream_full(connection, true);
    world.send(id, &command(&["GET", "b"]));
    assert!(!world.clients[&id].waiting.is_empty());
    world.now += Duration::from_secs(61);
    world.multiplexer.tick(world.now);
    world.drain();
    world.settle();
    assert_eq!(world.received(id), "+OK $1 1 $1 1 ");
    assert!(!world.connections.contains_key(&connection));
}

#[test]
fn no_command_is_overtaken_when_the_login_changes() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let id = world.client(&compiled(&two()));
        let mut all = String::new();
        for number in 0..40 {
            let value = char::from(b'a' + number % 26).to_string();
            all.push_str(&value);
            world.send(id, &command(&["APPEND", "b", &value]));
            if world.random.below(4) == 0 {
                let mut host = two();
                let login = wire::UpstreamLogin { username: None, password: format!("secret {number}") };
                host.targets[1].upstream.as_mut().unwrap().login = Some(login);
                world.multiplexer.update(&compiled(&host));
                world.drain();
            }
            for _ in 0..world.random.below(3) {
                world.arrive();
            }
        }
        world.settle();
        world.received(id);
        world.send(id, &command(&["GET", "b"]));
        world.settle();
        assert_eq!(world.received(id), format!("$40 {all} "), "seed {seed}");
    }
}

#[test]
fn connections_on_which_a_client_waits_at_several_servers_end_with_it() {
    let mut world = World::new(11);
    let config = compiled(&two());
    let id = world.client(&config);
    world.send(id, b"WAIT 1 0\r\n");
    world.settle();
    assert_eq!((world.received(id).as_str(), world.multiplexer.load().dedicated), ("", 2));
    world.multiplexer.closed(id);
    world.drain();
    assert!(world.multiplexer.load().is_idle(), "{:?}", world.multiplexer.load());
    // A client that has closed its sending side may have gone altogether.
    let id = world.client(&config);
    world.send(id, b"WAIT 1 0\r\n");
    world.settle();
    world.multiplexer.ended(id, world.now);
    for _ in 0..3 {
        world.now += Duration::from_millis(100);
        world.multiplexer.tick(world.now);
        world.drain();
    }
    assert!(world.clients[&id].is_closed);
}

#[test]
fn a_client_that_would_wait_at_a_server_that_is_down_opens_nothing() {
    let mut world = World::new(12);
    let id = world.client(&compiled(&two()));
    world.redis.get_mut("two").unwrap().is_down = true;
    world.send(id, b"SET b 1\r\n");
    let opened = world.opened;
    world.send(id, b"WAIT 1 0\r\nWAIT 1 0\r\n");
    world.settle();
    assert_eq!(world.received(id), "-ERR redis-mesh: two can't be reached ");
    assert_eq!(world.opened, opened);
    assert!(world.clients[&id].is_closed, "as by Redis");
}

/// A client whose Redis is gone by the time at which it has sent the last one of these.
fn left_after(config: &Arc<HostConfig>, lines: &[&str]) -> (String, bool) {
    let mut world = World::new(13);
    let id = world.client(config);
    let (last, before) = lines.split_last().unwrap();
    for line in before {
        world.send(id, format!("{line}\r\n").as_bytes());
        world.settle();
    }
    world.redis.get_mut("one").unwrap().is_down = true;
    let lost: Vec<_> =
        world.connections.iter().filter(|(_, (cluster, _))| cluster == "one").map(|(id, _)| *id).collect();
    for id in lost {
        world.connections.remove(&id);
        world.multiplexer.lost(id, world.now);
        world.drain();
    }
    world.send(id, format!("{last}\r\n").as_bytes());
    world.settle();
    (world.received(id), world.clients[&id].is_closed)
}

#[test]
fn what_a_client_has_begun_at_a_redis_that_is_lost_ends_its_connection() {
    let config = compiled(&two());
    let open = ["WATCH a:1\r\nMULTI", "MULTI\r\nGET a:1", "PING\r\nMULTI\r\nGET a:1"];
    for lines in [["WATCH a:1", "PING"], ["BLPOP a:1 0", "PING"], ["PING", "BLPOP a:1 0"], ["PING", "WATCH a:1"]]
        .into_iter()
        .chain(open.map(|open| [open, "EXEC"]))
    {
        let (received, is_closed) = left_after(&config, &lines);
        assert!(is_closed && !received.contains("redis-mesh"), "{lines:?}: {received}");
    }
    let (received, is_closed) = left_after(&config, &["ECHO x", "GET a:1"]);
    assert_eq!((received.as_str(), is_closed), ("$1 x -ERR redis-mesh: one can't be reached ", false));
}

#[test]
fn new_rules_end_a_wait_only_where_its_destination_is_gone() {
    for line in ["BLPOP k 0", "WAIT 1 0", "WATCH k"] {
        let mut world = World::new(14);
        let id = world.client(&compiled(&one()));
        world.send(id, format!("ECHO x\r\n{line}\r\n").as_bytes());
        world.settle();
        world.received(id);
        // A route is added before the one that is there.
        world.multiplexer.update(&compiled(&turned()));
        world.drain();
        assert!(!world.clients[&id].is_closed, "{line}");
        if line == "BLPOP k 0" {
            let (waits, _) = world.connections.iter().find(|(_, (cluster, _))| cluster == "one").unwrap();
            world.multiplexer.reply(*waits, b"*2\r\n$1\r\nk\r\n$1\r\nx\r\n", world.now);
            world.drain();
            world.send(id, b"ECHO x\r\nBLPOP k 0\r\n");
            world.settle();
            assert_eq!(world.received(id), "*2 $1 k $1 x $1 x ");
        }
        // Its destination goes.
        let mut without = one();
        without.targets[0].upstream.as_mut().unwrap().cluster = "two".into();
        world.multiplexer.update(&compiled(&without));
        world.drain();
        assert!(world.clients[&id].is_closed, "{line}");
    }
}

#[test]
fn a_client_that_no_server_has_answered_yet_is_closed_where_there_is_only_one() {
    let config = compiled(&one());
    assert_eq!(left_after(&config, &["ECHO x", "GET a:1"]), ("$1 x ".into(), true));
    assert_eq!(left_after(&config, &["ECHO x", "PING"]), ("$1 x ".into(), true));
    let (received, is_closed) = left_after(&config, &["GET a:1", "GET a:1"]);
    assert_eq!((received.as_str(), is_closed), ("$-1 -ERR redis-mesh: one can't be reached ", false));
}

#[test]
fn a_mirror_that_never_answers_misses_copies() {
    let mut world = World::new(16);
    let mut host = one();
    host.targets[0].mirrors = vec![wire::Mirror {
        destination: "two".into(),
        per_million: 1_000_000,
        exclude_read_commands: false,
        include_admin: false,
        cluster: false,
        upstream: Some(wire::Upstream { cluster: "two".into(), login: None, nodes: None, key_hash: None }),
    }];
    let id = world.client(&compiled(&host));
    world.send(id, b"GET k\r\n");
    world.settle();
    let to = |world: &World, name: &str| *world.connections.iter().find(|(_, (of, _))| of == name).unwrap().0;
    let (redis, mirror) = (to(&world, "one"), to(&world, "two"));
    let mut answered = 0;
    while answered < 20_000 {
        world.send(id, &b"GET k\r\n".repeat(500));
        let sent = std::mem::take(&mut world.connections.get_mut(&redis).unwrap().1.sent);
        let count = sent.windows(3).filter(|word| word == b"GET").count();
        world.multiplexer.reply(redis, &b"$-1\r\n".repeat(count), world.now);
        world.drain();
        answered += count;
    }
    let copies = world.connections[&mirror].1.sent.windows(3).filter(|word| word == b"GET").count();
    assert_eq!(copies, 16 * 1024);
}
