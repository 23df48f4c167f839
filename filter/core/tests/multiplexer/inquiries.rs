//! CLIENT LIST, KILL and UNBLOCK over the workers of a process.

use crate::config::{compiled, two, without_login};
use crate::world::World;
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{ClientId, InquiryOrigin};
use redis_mesh_core::wire;
use std::sync::Arc;
use std::time::Duration;

/// The workers of a process.
struct Process(Vec<World>);

impl Process {
    fn new() -> Process {
        Process(vec![World::new(1), World::new(2)])
    }

    /// Connects a client to a worker, from a port of its own.
    fn client(&mut self, worker: usize, config: &Arc<HostConfig>) -> ClientId {
        let world = &mut self.0[worker];
        let id = world.client(config);
        let port = 1000 * (worker as u16 + 1) + world.clients.len() as u16;
        let address = |text: &str| format!("{text}:{port}").parse().ok();
        world.multiplexer.desk(world.now).arrived(id, address("10.0.0.1"), address("10.0.0.2"));
        id
    }

    /// Carries questions and answers between the workers, and lets everything arrive.
    fn settle(&mut self) {
        loop {
            let mut is_idle = true;
            for asking in 0..self.0.len() {
                self.0[asking].settle();
                for (id, inquiry) in std::mem::take(&mut self.0[asking].asked) {
                    is_idle = false;
                    for other in (0..self.0.len()).filter(|other| *other != asking) {
                        let world = &mut self.0[other];
                        world
                            .multiplexer
                            .desk(world.now)
                            .asked(InquiryOrigin { worker: asking as u64, id }, inquiry.clone());
                        world.drain();
                    }
                    let others = self.0.len() - 1;
                    let world = &mut self.0[asking];
                    world.multiplexer.desk(world.now).sent(id, others);
                    world.drain();
                }
                for (origin, answer) in std::mem::take(&mut self.0[asking].told) {
                    is_idle = false;
                    let world = &mut self.0[origin.worker as usize];
                    world.multiplexer.desk(world.now).answered(origin.id, answer);
                    world.drain();
                }
            }
            if is_idle {
                return;
            }
        }
    }

    fn ask(&mut self, worker: usize, id: ClientId, line: &str) -> String {
        self.0[worker].send(id, format!("{line}\r\n").as_bytes());
        self.settle();
        self.0[worker].received(id)
    }

    fn number(&mut self, worker: usize, id: ClientId) -> String {
        self.ask(worker, id, "CLIENT ID").trim_matches([':', ' ']).to_owned()
    }

    fn is_closed(&self, worker: usize, id: ClientId) -> bool {
        self.0[worker].clients[&id].is_closed
    }

    /// The numbers in the lines of CLIENT LIST.
    fn listed(&mut self, worker: usize, id: ClientId, line: &str) -> Vec<String> {
        let text = self.ask(worker, id, line);
        text.split("id=").skip(1).filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
    }
}

#[test]
fn clients_of_all_workers_are_listed() {
    let (mut process, config) = (Process::new(), compiled(&two()));
    let (a, b, c) = (process.client(0, &config), process.client(1, &config), process.client(1, &config));
    let [first, second, third] = [(0, a), (1, b), (1, c)].map(|(worker, id)| process.number(worker, id));
    assert_eq!(process.listed(0, a, "CLIENT LIST"), [&*first, &second, &third]);
    assert_eq!(process.listed(1, c, "CLIENT LIST"), [&*first, &second, &third]);
    assert_eq!(process.listed(0, a, &format!("CLIENT LIST ID {third} 7 {first} {third}")), [&*third, &first, &third]);
    process.0[1].send(b, b"SUBSCRIBE x\r\n");
    process.settle();
    process.ask(1, c, "CLIENT SETNAME me");
    let lines = process.ask(0, a, "CLIENT LIST");
    assert!(lines.contains("addr=10.0.0.1:2002 laddr=10.0.0.2:2002 fd=0 name=me "), "{lines}");
    assert!(lines.contains(" cmd=client|list ") && lines.contains(" cmd=client|setname "), "{lines}");
    assert_eq!(process.listed(0, a, "CLIENT LIST TYPE pubsub"), [&*second]);
    assert_eq!(process.listed(0, a, "CLIENT LIST TYPE normal"), [&*first, &third]);
    assert_eq!(process.ask(0, a, "CLIENT LIST TYPE master"), "$0  ");
}

#[test]
fn connections_are_closed_over_all_workers() {
    let (mut process, config) = (Process::new(), compiled(&two()));
    let (a, b, c) = (process.client(0, &config), process.client(1, &config), process.client(1, &config));
    let [first, second] = [(0, a), (1, b)].map(|(worker, id)| process.number(worker, id));
    assert_eq!(process.ask(0, a, &format!("CLIENT KILL ID {second} ADDR 10.0.0.1:7")), ":0 ");
    assert_eq!(process.ask(0, a, &format!("CLIENT KILL ID {second}")), ":1 ");
    assert!(process.is_closed(1, b) && !process.is_closed(1, c));
    assert_eq!(process.ask(0, a, &format!("CLIENT KILL ID {second}")), ":0 ", "it is gone");
    assert_eq!(process.ask(0, a, "CLIENT KILL 10.0.0.1:7"), "-ERR No such client ");
    assert_eq!(process.ask(0, a, "CLIENT KILL 10.0.0.1:2002"), "+OK ");
    assert!(process.is_closed(1, c));
    // The client itself is left out, unless it is named by its address or asks for it.
    assert_eq!(process.ask(0, a, &format!("CLIENT KILL ID {first}")), ":0 ");
    assert_eq!(process.ask(0, a, "CLIENT KILL TYPE normal SKIPME no\r\nECHO x"), ":1 ");
    assert!(process.is_closed(0, a));
}

#[test]
fn other_hosts_and_users_are_not_there() {
    let config = compiled(&two());
    let of_other_host = compiled(&wire::Host { host: "other.test:6379".into(), ..two() });
    let mut process = Process::new();
    let (a, b) = (process.client(0, &config), process.client(1, &of_other_host));
    let [own, other] = [(0, a), (1, b)].map(|(worker, id)| process.number(worker, id));
    assert_eq!(process.listed(0, a, "CLIENT LIST"), [own]);
    assert_eq!(process.ask(0, a, &format!("CLIENT LIST ID {other}")), "$0  ");
    for line in [format!("CLIENT KILL ID {other}"), "CLIENT KILL TYPE normal".into(), format!("CLIENT UNBLOCK {other}")]
    {
        assert_eq!(process.ask(0, a, &line), ":0 ", "{line}");
    }
    assert_eq!(process.ask(0, a, "CLIENT KILL 10.0.0.1:2001"), "-ERR No such client ");
    assert!(!process.is_closed(1, b));
    // Clients log in at the server.
    let config = compiled(&without_login());
    let mut process = Process::new();
    let clients = [0, 0, 1, 1].map(|worker| (worker, process.client(worker, &config)));
    for (worker, id) in &clients[1..] {
        process.0[*worker].redis.get_mut("two").unwrap().password = Some(b"x".to_vec());
        let login = if *worker == 0 { "AUTH me x" } else { "AUTH you x" };
        process.ask(*worker, *id, login);
    }
    let numbers = clients.map(|(worker, id)| process.number(worker, id));
    assert_eq!(process.ask(0, clients[0].1, "CLIENT LIST"), "-NOAUTH Authentication required. ");
    assert_eq!(process.listed(0, clients[1].1, "CLIENT LIST"), [&*numbers[1]]);
    assert_eq!(process.listed(1, clients[2].1, "CLIENT LIST"), [&*numbers[2], &numbers[3]]);
    assert_eq!(process.ask(1, clients[2].1, &format!("CLIENT KILL ID {}", numbers[1])), ":0 ");
    assert_eq!(process.ask(1, clients[2].1, "CLIENT KILL USER you"), ":1 ");
    assert!(process.is_closed(1, clients[3].1) && !process.is_closed(0, clients[1].1));
}

#[test]
fn where_the_sidecar_logs_in_nobody_ends_others_connections() {
    let (mut process, config) = (Process::new(), compiled(&wire::Host { guard_credentials: true, ..two() }));
    let (a, b) = (process.client(0, &config), process.client(1, &config));
    let [own, other] = [(0, a), (1, b)].map(|(worker, id)| process.number(worker, id));
    for line in [
        &*format!("CLIENT KILL ID {other}"),
        "CLIENT KILL ID 7",
        "CLIENT KILL 10.0.0.1:2001",
        "CLIENT KILL TYPE normal",
    ] {
        let refused = process.ask(0, a, line);
        assert!(refused.starts_with("-NOPERM redis-mesh: CLIENT KILL ends connections of other clients"), "{refused}");
    }
    assert!(!process.is_closed(1, b));
    assert_eq!(process.listed(0, a, "CLIENT LIST"), [&*own, &other]);
    assert_eq!(process.ask(0, a, &format!("CLIENT UNBLOCK {other}")), ":0 ");
    assert_eq!(process.ask(0, a, &format!("CLIENT KILL ID {own} SKIPME no")), ":1 ");
    assert!(process.is_closed(0, a));
}

#[test]
fn who_waits_at_a_server_is_unblocked_there() {
    let (mut process, config) = (Process::new(), compiled(&two()));
    let (a, b) = (process.client(0, &config), process.client(1, &config));
    let number = process.number(1, b);
    assert_eq!(process.ask(0, a, &format!("CLIENT UNBLOCK {number}")), ":0 ", "it doesn't wait");
    assert_eq!(process.ask(1, b, "BLPOP b 0"), "");
    assert!(process.ask(0, a, "CLIENT LIST").contains(" flags=b "));
    assert_eq!(process.ask(0, a, &format!("CLIENT UNBLOCK {number} ERROR")), ":1 ");
    let server = process.0[1].redis.get_mut("two").unwrap();
    assert_eq!(std::mem::take(&mut server.unblocked), [(1, "ERROR".to_owned())]);
    // A connection of another client has the number by now.
    server.names.insert(1, b"redis-mesh-somebody".to_vec());
    let refused = process.ask(0, a, &format!("CLIENT UNBLOCK {number}"));
    assert!(refused.starts_with("-ERR redis-mesh: the server at which the client waits can't be asked"), "{refused}");
    assert!(process.0[1].redis["two"].unblocked.is_empty());
}

#[test]
fn a_worker_that_does_not_answer_is_not_waited_for() {
    let (mut process, config) = (Process::new(), compiled(&two()));
    let a = process.client(0, &config);
    let world = &mut process.0[0];
    world.send(a, b"CLIENT LIST\r\nECHO x\r\n");
    let (id, _) = world.asked.pop().unwrap();
    world.multiplexer.desk(world.now).sent(id, 1);
    world.drain();
    assert_eq!(world.received(a), "");
    world.now += Duration::from_secs(2);
    world.multiplexer.tick(world.now);
    world.drain();
    let error =
        "-ERR redis-mesh: a worker of Envoy, or Redis, hasn't answered in time; the command may have been executed ";
    assert_eq!(world.received(a), format!("{error}$1 x "));
}

#[test]
fn few_clients_of_a_host_are_told_lists_at_a_time() {
    let (mut process, config) = (Process::new(), compiled(&two()));
    let of_other_host = compiled(&wire::Host { host: "other.test:6379".into(), ..two() });
    let clients: Vec<ClientId> = (0..6).map(|_| process.client(0, &config)).collect();
    let other = process.client(0, &of_other_host);
    for id in clients.iter().chain([&other]) {
        process.0[0].send(*id, b"CLIENT LIST\r\nECHO x\r\n");
    }
    assert_eq!(process.0[0].asked.len(), 5, "four of the host, and one of another");
    process.settle();
    for id in clients {
        let told = process.0[0].received(id);
        assert!(told.matches("id=").count() == 6 && told.ends_with("$1 x "), "{told}");
    }
    assert!(process.0[0].received(other).ends_with("$1 x "));
}

#[test]
fn many_clients_are_listed_in_parts() {
    let (mut process, config) = (Process::new(), compiled(&two()));
    let a = process.client(0, &config);
    for _ in 0..2500 {
        process.0[0].multiplexer.open(config.clone());
    }
    assert_eq!(process.ask(0, a, "CLIENT LIST"), "", "other clients of the worker are served in between");
    let world = &mut process.0[0];
    for _ in 0..2 {
        world.now += Duration::from_millis(1);
        world.multiplexer.tick(world.now);
        world.drain();
    }
    assert_eq!(world.received(a).matches("id=").count(), 2501);
}
