//! Policies that change while clients are connected, and configurations that are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::{self, FaultKind, KeyMatch};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::listener::{Discovered, config, direct, fault, proxy, route, tcp_proxy, wasm};
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

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

/// The VM's timer is armed on the root context of one plugin. When that context ends with its last
/// connection, another takes over.
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
        // Nothing tells when Envoy has let go of the old root context; it does so soon after the
        // connection's end.
        std::thread::sleep(Duration::from_millis(1500));
        scene.client(DIRECT)?.line("get k").context("a delayed command was never answered")?;
    }
    Ok(())
}
