//! What the machine that opens connections itself counts, by values.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::command;
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, HostStats, Multiplexer, Output};
use redis_mesh_core::stats::Stat;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// One Redis for keys with `a:`, another for the rest.
fn config(more: Value) -> Arc<HostConfig> {
    let mut host = json!({
        "host": "h:6379", "path": "native", "commandStats": true,
        "targets": [
            {"destination": "a:6379", "upstream": {"cluster": "a", "login": {"password": "p"}}},
            {"destination": "b:6379", "upstream": {"cluster": "b"}},
        ],
        "routes": [{"match": {"prefix": "a:"}, "target": 0}, {"match": "any", "target": 1}],
    });
    host.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let document = json!({"name": "n", "revision": 1, "hosts": [host]}).to_string();
    ListenerConfig::from_json(document.as_bytes()).unwrap().host
}

struct World {
    proxy: Multiplexer,
    /// Connections, by the name of their cluster.
    opened: Vec<(String, ConnectionId)>,
    closed: Vec<ClientId>,
    /// What a client has said and the machine hasn't taken.
    waiting: Vec<u8>,
    now: Duration,
}

impl World {
    fn new() -> World {
        World {
            proxy: Multiplexer::new([3; 32]),
            opened: Vec::new(),
            closed: Vec::new(),
            waiting: Vec::new(),
            now: Duration::from_secs(1),
        }
    }

    fn say(&mut self, client: ClientId, text: &str) {
        self.waiting.extend_from_slice(text.as_bytes());
        self.offer(client);
        self.drain();
    }

    fn offer(&mut self, client: ClientId) {
        let taken = self.proxy.read(client, &self.waiting, self.now);
        self.waiting.drain(..taken);
    }

    fn drain(&mut self) {
        while let Some(output) = self.proxy.poll() {
            match output {
                Output::Open(id, address) => self.opened.push((address.cluster.to_string(), id)),
                Output::Send(id) => drop(self.proxy.take_upstream(id)),
                Output::Write(id) => drop(self.proxy.take_downstream(id)),
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => self.closed.push(id),
                Output::Resume(id) => self.offer(id),
                Output::CloseUpstream(_) => {}
            }
        }
    }

    /// The newest connection to this cluster answers.
    fn answer(&mut self, cluster: &str, text: &str) {
        let id = self.opened.iter().rev().find(|(of, _)| of == cluster).unwrap().1;
        self.proxy.reply(id, text.as_bytes(), self.now);
        self.drain();
    }

    /// All that was counted, by name.
    fn counted(&mut self) -> String {
        let (mut tally, mut found) = (HostStats::default(), Vec::new());
        while self.proxy.counted(&mut tally).is_some() {
            for stat in Stat::ALL {
                found.push((stat.name().to_owned(), tally.stats.of(stat)));
            }
            found.push(("errors".into(), tally.errors));
            found.push(("cut_off".into(), tally.cut_off));
            found.extend(tally.routes.iter().enumerate().map(|(route, count)| (format!("route {route}"), *count)));
            for one in &tally.answered {
                let name = command::all()[usize::from(one.command)].name;
                let end = if one.is_error { " failed" } else { "" };
                found.push((format!("{name}{end} ms"), one.took.as_millis() as u64));
            }
        }
        found.retain(|(_, count)| *count > 0);
        found.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn commands_count_by_route_and_by_how_long_they_took() {
    let mut world = World::new();
    let client = world.proxy.open(config(json!({})));
    world.say(client, "GET x\r\nGET a:x\r\nINCR y\r\n");
    assert_eq!(world.counted(), "commands_total 3, route 0 1, route 1 2");
    world.answer("b", "+PONG\r\n");
    world.now += Duration::from_millis(7);
    world.answer("b", "$1\r\nv\r\n-ERR value is not an integer or out of range\r\n");
    // The third reply waits for the second.
    assert_eq!(world.counted(), "get ms 7");
    world.now += Duration::from_millis(2);
    world.answer("a", "+OK\r\n$-");
    world.now += Duration::from_millis(1);
    world.answer("a", "1\r\n");
    assert_eq!(world.counted(), "errors 1, get ms 10, incr failed ms 10");
    assert_eq!(world.counted(), "");
}

#[test]
fn a_command_that_is_split_counts_once_and_for_each_part() {
    let mut world = World::new();
    let client = world.proxy.open(config(json!({})));
    world.say(client, "MGET x a:x y\r\n");
    assert_eq!(world.counted(), "commands_total 1, route 0 1, route 1 1");
    world.answer("b", "+PONG\r\n*2\r\n$-1\r\n$-1\r\n");
    world.now += Duration::from_millis(3);
    world.answer("a", "+OK\r\n*1\r\n$-1\r\n");
    assert_eq!(world.counted(), "mget ms 3");
}

#[test]
fn what_is_answered_here_is_counted_too() {
    let mut world = World::new();
    let auth = json!({"clientAuth": {"salt": "00".repeat(16), "passwordSha256": ["00".repeat(32)]}});
    let client = world.proxy.open(config(auth));
    world.say(client, "GET x\r\n");
    assert_eq!(world.counted(), "commands_total 1, commands_unauthenticated_total 1, errors 1");
    world.say(client, "AUTH wrong\r\n");
    assert_eq!(world.counted(), "commands_total 1, client_auth_failures_total 1, errors 1");
    let client = world.proxy.open(config(json!({"faults": [{"type": "error", "perMillion": 1_000_000}]})));
    world.say(client, "GET x\r\nNOSUCH\r\n");
    assert_eq!(world.counted(), "commands_total 2, fault_errors_total 1, errors 2");
    world.say(client, "*1\r\n!\r\n");
    assert_eq!(world.counted(), "protocol_errors_total 1, errors 1");
    assert_eq!(world.closed, [client]);
}

#[test]
fn a_delay_is_part_of_how_long_it_took() {
    let mut world = World::new();
    let fault = json!({"type": "delay", "perMillion": 1_000_000, "delayMs": 50, "commands": ["get"]});
    let client = world.proxy.open(config(json!({"faults": [fault]})));
    world.say(client, "GET x\r\n");
    assert_eq!(world.counted(), "commands_total 1, fault_delays_total 1");
    world.now += Duration::from_millis(50);
    world.proxy.tick(world.now);
    world.drain();
    world.answer("b", "+PONG\r\n$-1\r\n");
    assert_eq!(world.counted(), "route 1 1, get ms 50");
}

#[test]
fn what_redis_refuses_counts_for_those_who_lead_there() {
    let mut world = World::new();
    let client = world.proxy.open(config(json!({})));
    let only_b = json!({"host": "other:6379", "targets": [{"destination": "b:6379", "upstream": {"cluster": "b"}}],
                        "routes": [{"match": "any", "target": 0}]});
    let other = world.proxy.open(config(only_b));
    world.say(client, "GET a:x\r\n");
    world.say(other, "PING\r\n");
    world.counted();
    world.answer("a", "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    assert_eq!(world.counted(), "upstream_login_failures_total 1, errors 1");
    world.proxy.closed(client);
    world.proxy.closed(other);
    assert_eq!(world.counted(), "");
}

#[test]
fn a_new_configuration_has_counters_of_its_own() {
    let mut world = World::new();
    let (before, after) = (config(json!({})), config(json!({"commandStats": false})));
    let client = world.proxy.open(before.clone());
    world.say(client, "GET x\r\n");
    world.proxy.update(&after);
    world.say(client, "GET x\r\n");
    let mut tally = HostStats::default();
    let mut found = Vec::new();
    while let Some(of) = world.proxy.counted(&mut tally) {
        found.push((Arc::ptr_eq(&of, &before), tally.stats.of(Stat::Commands)));
    }
    found.sort_unstable();
    assert_eq!(found, [(false, 1), (true, 1)]);
    // Nobody has the first one any more.
    assert_eq!(Arc::strong_count(&before), 1);
    world.answer("b", "+PONG\r\n$-1\r\n$-1\r\n");
    assert_eq!(world.counted(), "");
}

#[test]
fn who_is_cut_off_is_counted() {
    let mut world = World::new();
    let client = world.proxy.open(config(json!({})));
    world.say(client, "SUBSCRIBE c\r\n");
    world.answer("b", "+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    world.counted();
    world.proxy.downstream_full(client, true);
    let size = 1024 * 1024;
    let message = format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${size}\r\n{}\r\n", "x".repeat(size));
    for _ in 0..9 {
        world.answer("b", &message);
    }
    assert_eq!(world.counted(), "cut_off 1");
    assert_eq!(world.closed, [client]);
}
