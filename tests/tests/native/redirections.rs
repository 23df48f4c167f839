//! Errors that a client's script makes up before a Redis Cluster that has a password: they lead
//! nowhere, and nothing is executed twice.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::cluster::slot::slot;
use redis_mesh_core::wire::{KeyMatch, Upstream, UpstreamLogin};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::reply::Reply;
use serde_json::json;

/// The sidecar logs in, and clients don't know the password. Nodes are reached at any address, as
/// where a Redis Cluster is found by a name in DNS.
fn guarded(subnet: &Subnet, cluster: &Cluster, password: &str) -> Result<Envoy> {
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    host.guard_credentials = true;
    let target = &mut host.targets[0];
    target.cluster = true;
    let login = UpstreamLogin { username: None, password: password.into() };
    let nodes = "one.test:6379|nodes";
    let cluster_name = target.destination.clone();
    target.upstream =
        Some(Upstream { cluster: cluster_name, login: Some(login), nodes: Some(nodes.into()), key_hash: None });
    let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
    let config = Config::new().listener("redis", subnet.redis(1), filters);
    let nodes =
        json!({"name": nodes, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "1s"});
    native::start(&config.clusters(&[native::redis_cluster("one.test:6379", &cluster.addrs()), nodes]), 1)
}

#[test]
fn an_error_that_a_script_makes_up_leads_nowhere() -> Result<()> {
    let cluster = Cluster::start_with(Shape { replicas: 0, password: Some("topsecret".into()), ..Shape::default() })?;
    let subnet = Subnet::claim()?;
    let _envoy = guarded(&subnet, &cluster, "topsecret")?;
    let attacker = TcpListener::bind("127.0.0.1:0")?;
    attacker.set_nonblocking(true)?;
    let evil = attacker.local_addr()?;
    let mut client = Client::connect(subnet.redis(1))?;
    let mut other = Client::connect(subnet.redis(1))?;
    let victim = "victim";
    other.ok(&["SET", victim, "true"])?;
    let elsewhere = cluster.nodes[(cluster.master_of("x")? + 1) % 3].addr();
    let (own, others) = (slot(b"x"), slot(victim.as_bytes()));
    let mut errors = vec!["TRYAGAIN x".to_owned(), "CLUSTERDOWN x".to_owned(), "MOVED 16384 1.2.3.4:5".to_owned()];
    for address in [evil, elsewhere] {
        errors.extend(
            [own, others].iter().flat_map(|slot| ["MOVED", "ASK"].map(|kind| format!("{kind} {slot} {address}"))),
        );
    }
    errors.push("NOSCRIPT No matching script. Please use EVAL.".to_owned());
    let script = "redis.call('INCR', KEYS[1]) return redis.error_reply(ARGV[1])";
    let sha = client.cmd(&["SCRIPT", "LOAD", script])?.text();
    let mut calls = 0;
    for error in &errors {
        for name in [["EVAL", script], ["EVALSHA", &sha]] {
            let told = client.cmd(&[name[0], name[1], "1", "x", error])?;
            ensure!(told.is_error() && told.text() == *error, "{}: {told:?} instead of {error}", name[0]);
            let unkeyed = client.cmd(&["EVAL", "return redis.error_reply(ARGV[1])", "0", error])?;
            ensure!(unkeyed.is_error() && unkeyed.text() == *error, "{unkeyed:?} instead of {error}");
            calls += 1;
            ensure!(client.line("GET x")? == Reply::bulk(calls.to_string()), "{error}: executed more than once");
        }
    }
    // On a connection of the client's own, and in a transaction, where the words are an element.
    client.ok(&["WATCH", "{x}y"])?;
    let told = client.cmd(&["EVAL", script, "1", "x", &errors[3]])?;
    ensure!(told.text() == errors[3], "{told:?}");
    client.ok(&["UNWATCH"])?;
    client.ok(&["MULTI"])?;
    client.cmd(&["EVAL", script, "1", "x", &errors[3]])?;
    let all = client.cmd(&["EXEC"])?;
    ensure!(all.items().len() == 1 && all.items()[0].text() == errors[3], "{all:?}");
    ensure!(client.line("GET x")? == Reply::bulk((calls + 2).to_string()));
    // The table that all clients share says what it did.
    for _ in 0..20 {
        other.ok(&["SET", victim, "again"])?;
        let mut owner = cluster.nodes[cluster.master_of(victim)?].client()?;
        ensure!(owner.cmd(&["GET", victim])?.text() == "again");
        owner.ok(&["SET", victim, "true"])?;
    }
    std::thread::sleep(Duration::from_millis(200));
    ensure!(attacker.accept().is_err(), "the sidecar has connected to an address that a script named");
    Ok(())
}
