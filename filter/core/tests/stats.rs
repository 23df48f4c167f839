//! The counters of the multiplexer.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::command;
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, HostStats, Multiplexer, Output};
use redis_mesh_core::stats::Stat;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Returns a host that routes keys with `a:` to one server, and all others to another. `more` has
/// further fields.
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

/// A multiplexer before servers whose replies the tests dictate.
struct World {
    multiplexer: Multiplexer,
    /// The connections that have been opened, each with its cluster in Envoy.
    opened: Vec<(String, ConnectionId)>,
    closed: Vec<ClientId>,
    /// Bytes of a client that the multiplexer hasn't taken.
    waiting: Vec<u8>,
    now: Duration,
}

impl World {
    fn new() -> World {
        World {
            multiplexer: Multiplexer::new([3; 32]),
            opened: Vec::new(),
            closed: Vec::new(),
            waiting: Vec::new(),
            now: Duration::from_secs(1),
        }
    }

    /// Sends bytes of a client.
    fn send(&mut self, client: ClientId, text: &str) {
        self.waiting.extend_from_slice(text.as_bytes());
        self.offer(client);
        self.drain();
    }

    fn offer(&mut self, client: ClientId) {
        let taken = self.multiplexer.read(client, &self.waiting, self.now);
        self.waiting.drain(..taken);
    }

    fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, address) => self.opened.push((address.cluster.to_string(), id)),
                Output::Send(id) => drop(self.multiplexer.take_upstream(id)),
                Output::Write(id) => drop(self.multiplexer.take_downstream(id)),
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => self.closed.push(id),
                Output::Resume(id) => self.offer(id),
                Output::PauseUpstream(_)
                | Output::ResumeUpstream(_)
                | Output::CloseUpstream(_)
                | Output::FindMembers(_)
                | Output::Tell(..) => {}
                Output::Ask(inquiry, _) => self.multiplexer.desk(self.now).sent(inquiry, 0),
            }
        }
    }

    /// Sends a reply over the first connection to this cluster.
    fn reply(&mut self, cluster: &str, text: &str) {
        let id = self.opened.iter().find(|(of, _)| of == cluster).unwrap().1;
        self.multiplexer.reply(id, text.as_bytes(), self.now);
        self.drain();
    }

    /// Takes the counters of all hosts, and returns those that aren't zero by name.
    fn counted(&mut self) -> String {
        let (mut host, mut found) = (HostStats::default(), Vec::new());
        while self.multiplexer.counted(&mut host).is_some() {
            for stat in Stat::ALL {
                found.push((stat.name().to_owned(), host.stats.of(stat)));
            }
            found.push(("errors".into(), host.errors));
            found.push(("cut_off".into(), host.cut_off));
            found.extend(host.routes.iter().enumerate().map(|(route, count)| (format!("route {route}"), *count)));
            for one in &host.answered {
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
fn commands_count_by_route_and_with_their_latency() {
    let mut world = World::new();
    let client = world.multiplexer.open(config(json!({})));
    world.send(client, "GET x\r\nGET a:x\r\nINCR y\r\n");
    assert_eq!(world.counted(), "commands_total 3, route 0 1, route 1 2");
    world.reply("b", "+PONG\r\n");
    world.now += Duration::from_millis(7);
    world.reply("b", "$1\r\nv\r\n-ERR value is not an integer or out of range\r\n");
    // The third reply waits for the second.
    assert_eq!(world.counted(), "get ms 7");
    world.now += Duration::from_millis(2);
    world.reply("a", "+OK\r\n$-");
    world.now += Duration::from_millis(1);
    world.reply("a", "1\r\n");
    assert_eq!(world.counted(), "errors 1, get ms 10, incr failed ms 10");
    assert_eq!(world.counted(), "");
}

#[test]
fn a_command_that_is_split_counts_once_and_for_each_part() {
    let mut world = World::new();
    let client = world.multiplexer.open(config(json!({})));
    world.send(client, "MGET x a:x y\r\n");
    assert_eq!(world.counted(), "commands_total 1, route 0 1, route 1 1");
    world.reply("b", "+PONG\r\n*2\r\n$-1\r\n$-1\r\n");
    world.now += Duration::from_millis(3);
    world.reply("a", "+OK\r\n*1\r\n$-1\r\n");
    assert_eq!(world.counted(), "mget ms 3");
}

#[test]
fn commands_that_are_answered_here_count_too() {
    let mut world = World::new();
    let auth = json!({"clientAuth": {"salt": "00".repeat(16), "passwordSha256": ["00".repeat(32)]}});
    let client = world.multiplexer.open(config(auth));
    world.send(client, "GET x\r\n");
    assert_eq!(world.counted(), "commands_total 1, commands_unauthenticated_total 1, errors 1");
    world.send(client, "AUTH wrong\r\n");
    assert_eq!(world.counted(), "commands_total 1, client_auth_failures_total 1, errors 1");
    let client = world.multiplexer.open(config(json!({"faults": [{"type": "error", "perMillion": 1_000_000}]})));
    world.send(client, "GET x\r\nNOSUCH\r\n");
    assert_eq!(world.counted(), "commands_total 2, fault_errors_total 1, errors 2");
    world.send(client, "*1\r\n!\r\n");
    assert_eq!(world.counted(), "protocol_errors_total 1, errors 1");
    assert_eq!(world.closed, [client]);
}

#[test]
fn a_delay_fault_is_part_of_the_latency() {
    let mut world = World::new();
    let fault = json!({"type": "delay", "perMillion": 1_000_000, "delayMs": 50, "commands": ["get"]});
    let client = world.multiplexer.open(config(json!({"faults": [fault]})));
    world.send(client, "GET x\r\n");
    assert_eq!(world.counted(), "commands_total 1, fault_delays_total 1");
    world.now += Duration::from_millis(50);
    world.multiplexer.tick(world.now);
    world.drain();
    world.reply("b", "+PONG\r\n$-1\r\n");
    assert_eq!(world.counted(), "route 1 1, get ms 50");
}

#[test]
fn a_refused_login_counts_for_the_hosts_that_lead_to_the_server() {
    let mut world = World::new();
    let client = world.multiplexer.open(config(json!({})));
    let only_b = json!({"host": "other:6379", "targets": [{"destination": "b:6379", "upstream": {"cluster": "b"}}],
                        "routes": [{"match": "any", "target": 0}]});
    let other = world.multiplexer.open(config(only_b));
    world.send(client, "GET a:x\r\n");
    world.send(other, "PING\r\n");
    world.counted();
    world.reply("a", "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    assert_eq!(world.counted(), "upstream_login_failures_total 1, errors 1");
    world.multiplexer.closed(client);
    world.multiplexer.closed(other);
    assert_eq!(world.counted(), "");
}

#[test]
fn a_new_configuration_has_new_counters() {
    let mut world = World::new();
    let (before, after) = (config(json!({})), config(json!({"commandStats": false})));
    let client = world.multiplexer.open(before.clone());
    world.send(client, "GET x\r\n");
    world.multiplexer.update(&after);
    world.send(client, "GET x\r\n");
    let mut host = HostStats::default();
    let mut found = Vec::new();
    while let Some(of) = world.multiplexer.counted(&mut host) {
        found.push((Arc::ptr_eq(&of, &before), host.stats.of(Stat::Commands)));
    }
    found.sort_unstable();
    assert_eq!(found, [(false, 1), (true, 1)]);
    // No client uses the first configuration any more.
    assert_eq!(Arc::strong_count(&before), 1);
    world.reply("b", "+PONG\r\n$-1\r\n$-1\r\n");
    assert_eq!(world.counted(), "");
}

#[test]
fn a_client_that_is_cut_off_counts() {
    let mut world = World::new();
    let client = world.multiplexer.open(config(json!({})));
    world.send(client, "SUBSCRIBE c\r\n");
    world.reply("b", "+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    world.counted();
    world.multiplexer.downstream_full(client, true);
    let size = 1024 * 1024;
    let message = format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${size}\r\n{}\r\n", "x".repeat(size));
    for _ in 0..9 {
        world.reply("b", &message);
    }
    assert_eq!(world.counted(), "cut_off 1");
    assert_eq!(world.closed, [client]);
}
