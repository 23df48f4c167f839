//! A Redis Cluster whose nodes die, stop, move slots, and can't be reached.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::ReadPolicy;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::relay::Relay;
use redis_mesh_tests::reply::Reply;
use serde_json::Value;

use crate::PATIENCE;
use crate::faults::forgets_nothing;
use crate::load::{Load, SLOW, slow_value};
use crate::scene::{Scene, Setup};

/// Three masters that announce the addresses of relays, through which all connections to them go.
struct Hidden {
    cluster: Cluster,
    /// The relays by node, for clients and for other nodes.
    relays: Vec<(Relay, Relay)>,
}

impl Hidden {
    fn start(subnet: &Subnet) -> Result<Hidden> {
        let nodes: Vec<_> = (21..24).map(|host| subnet.redis(host)).collect();
        let mut config = forgets_nothing();
        config.push("cluster-require-full-coverage no".to_owned());
        let shape = Shape { replicas: 0, addrs: Some(nodes.clone()), config, ..Shape::default() };
        let cluster = Cluster::start_with(shape)?;
        let mut hidden = Hidden { cluster, relays: Vec::new() };
        hidden.move_behind(subnet, 31)?;
        Ok(hidden)
    }

    /// Starts a cluster behind Envoy.
    fn behind_envoy() -> Result<(Hidden, Scene)> {
        let subnet = Subnet::claim()?;
        let hidden = Hidden::start(&subnet)?;
        let setup = Setup { is_cluster: true, ..Setup::default() };
        let scene = Scene::start(subnet, hidden.upstream(), &setup)?;
        Ok((hidden, scene))
    }

    /// Moves all nodes to other addresses, beginning with this host. Nothing listens at the former
    /// ones.
    fn move_behind(&mut self, subnet: &Subnet, first: u8) -> Result<()> {
        let mut relays = Vec::new();
        for (node, host) in self.cluster.nodes.iter().zip(first..) {
            let (outside, inside) = (subnet.redis(host), node.addr());
            let bus = |mut addr: SocketAddr| {
                addr.set_port(addr.port() + 10_000);
                addr
            };
            relays.push((Relay::start(outside, inside)?, Relay::start(bus(outside), bus(inside))?));
            node.client()?.ok(&["CONFIG", "SET", "cluster-announce-ip", &outside.ip().to_string()])?;
        }
        let addrs: Vec<String> = relays.iter().map(|(relay, _)| relay.addr().ip().to_string()).collect();
        wait_until("nodes at the addresses of relays", PATIENCE, || {
            self.cluster.nodes.iter().all(|node| {
                node.cmd(&["CLUSTER", "SLOTS"]).is_ok_and(|slots| {
                    let known = |range: &Reply| addrs.contains(&range.items()[2].items()[0].text());
                    slots.items().len() >= 3 && slots.items().iter().all(known)
                })
            })
        })?;
        self.relays = relays;
        Ok(())
    }

    /// Returns the cluster for Envoy's configuration.
    fn upstream(&self) -> Value {
        let nodes: Vec<_> = self.relays.iter().map(|(relay, _)| relay.addr()).collect();
        native::redis_cluster("one.test:6379", &nodes)
    }

    /// Returns the node that owns a slot.
    fn owner(&self, slot: usize) -> Result<usize> {
        let slots = self.cluster.nodes[0].cmd(&["CLUSTER", "SLOTS"])?;
        let has = |range: &&Reply| {
            let bound = |i: usize| range.items()[i].integer().unwrap_or(-1) as usize;
            (bound(0)..=bound(1)).contains(&slot)
        };
        let range = slots.items().iter().find(has).with_context(|| format!("nobody has {slot}"))?;
        let ip = range.items()[2].items()[0].text();
        let found = self.relays.iter().position(|(relay, _)| relay.addr().ip().to_string() == ip);
        found.with_context(|| format!("nobody is at {ip}"))
    }
}

#[test]
fn what_clients_of_a_cluster_see_is_what_one_redis_could_have_told() -> Result<()> {
    let (mut hidden, mut scene) = Hidden::behind_envoy()?;
    let load = Load::run(scene.addr(), 12, |load| {
        load.wait_served(1000)?;
        // Slots move, of keys that are in use.
        for key in 0..6 {
            let slot = hidden.cluster.slot_of(&format!("{}:{key}", ["register", "counter"][key % 2]))?;
            let from = hidden.owner(slot)?;
            hidden.cluster.move_slot(slot, from, (from + 1) % 3)?;
            load.wait_served(300)?;
        }
        for node in 0..3 {
            for pause in [100, 700] {
                hidden.cluster.nodes[node].pause()?;
                std::thread::sleep(Duration::from_millis(pause));
                hidden.cluster.nodes[node].resume()?;
                load.wait_served(300)?;
            }
            let relay = &hidden.relays[node].0;
            relay.darken();
            std::thread::sleep(Duration::from_millis(600));
            relay.lighten();
            load.wait_served(300)?;
            relay.cut();
            scene.push_listener()?;
            scene.push_cluster()?;
            load.wait_served(300)?;
        }
        // It comes back with what it had.
        hidden.cluster.nodes[1].kill();
        load.wait_served(300)?;
        hidden.cluster.nodes[1].restart()?;
        load.wait_served(1000)
    })?;
    let numbers = load.history.numbers();
    ensure!(numbers.done > 5_000 && numbers.unknown > 0 && numbers.refused > 0, "{numbers:?}");
    ensure!(load.reconnected() == 0, "{} connections of clients ended", load.reconnected());
    load.history.check()?;
    scene.check_is_empty()
}

/// All nodes get new addresses, as restarted pods in Kubernetes do.
#[test]
fn a_cluster_all_of_whose_nodes_have_moved_is_found_again() -> Result<()> {
    let (mut hidden, mut scene) = Hidden::behind_envoy()?;
    let mut client = Client::connect(scene.addr())?;
    let all: Vec<String> = (0..30).map(|i| format!("k{i}")).collect();
    for key in &all {
        client.ok(&["SET", key, key])?;
    }
    for first in [41, 51] {
        hidden.move_behind(&scene.subnet, first)?;
        scene.push_upstream(hidden.upstream())?;
        // On a connection from before.
        wait_until("all slots at their new addresses", PATIENCE, || {
            all.iter().all(|key| client.cmd(&["GET", key]).is_ok_and(|reply| reply == Reply::bulk(key)))
        })?;
        client.ok(&["SET", "moved", &first.to_string()])?;
        assert_eq!(Client::connect(scene.addr())?.line("GET moved")?, Reply::bulk(first.to_string()));
    }
    drop(client);
    scene.check_is_empty()
}

/// Writes that a master has acknowledged and not replicated are lost with it, so only the replies
/// are checked, not the history.
#[test]
fn masters_and_replicas_die_and_nobody_gets_what_is_not_his() -> Result<()> {
    let shape = Shape { node_timeout: Duration::from_millis(1000), ..Shape::default() };
    let mut cluster = Cluster::start_with(shape)?;
    // A replica may answer before it has got what was written last. The slow reader expects the one
    // value that it ever writes: all nodes have it from the start.
    let mut owner = cluster.nodes[cluster.master_of(SLOW)?].client()?;
    owner.ok(&["SET", SLOW, &slow_value()])?;
    let copies = owner.ok(&["WAIT", "1", "5000"])?;
    ensure!(copies == Reply::Integer(1), "{SLOW} is at {copies:?} replicas");
    let upstream = native::redis_cluster("one.test:6379", &cluster.addrs());
    let setup = Setup { is_cluster: true, read_policy: ReadPolicy::Any, op_timeout: 3000, ..Setup::default() };
    let scene = Scene::start(Subnet::claim()?, upstream, &setup)?;
    let load = Load::run(scene.addr(), 12, |load| {
        load.wait_served(1000)?;
        // What replicas have got survives.
        let mut client = Client::connect(load.addr)?;
        for i in 0..100 {
            client.ok(&["SET", &format!("kept:{i}"), &i.to_string()])?;
        }
        for master in cluster.masters() {
            cluster.nodes[master].client()?.ok(&["WAIT", "1", "5000"])?;
        }
        let replica = cluster.replicas()[0];
        cluster.nodes[replica].kill();
        load.wait_served(1000)?;
        cluster.nodes[replica].restart()?;
        cluster.wait_ok(PATIENCE)?;
        let master = cluster.master_of("register:0")?;
        cluster.nodes[master].kill();
        wait_until("a replica in its place", PATIENCE, || {
            cluster.masters().len() == 3 && cluster.master_of("register:0").is_ok_and(|now| now != master)
        })?;
        wait_until("service by the replica", PATIENCE, || {
            client.cmd(&["INCR", "register:0:after"]).is_ok_and(|reply| !reply.is_error())
                && client.cmd(&["SET", "register:0", "x"]).is_ok_and(|reply| reply == Reply::ok())
        })?;
        cluster.nodes[master].restart()?;
        cluster.wait_ok(PATIENCE)?;
        load.wait_served(1000)?;
        for i in 0..100 {
            let reply = client.cmd(&["GET", &format!("kept:{i}")])?;
            ensure!(reply == Reply::bulk(i.to_string()), "kept:{i}: {reply:?}");
        }
        Ok(())
    })?;
    let numbers = load.history.numbers();
    ensure!(numbers.done > 5_000 && load.reconnected() == 0, "{numbers:?}, {}", load.reconnected());
    scene.check_is_empty()
}
