//! CLIENT LIST, KILL and UNBLOCK over the workers of one Envoy.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_core::wire::{Host, KeyMatch, ReadPolicy};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

use crate::{PATIENCE, Scene, cluster};

const WORKERS: u32 = 2;

/// So many clients that each worker has some.
const MANY: usize = 24;

fn scene() -> Result<Scene> {
    Scene::start(&["one"], vec![route(KeyMatch::Any, 0)], WORKERS)
}

/// Connects clients, of which every worker has some.
fn clients(scene: &Scene) -> Result<Vec<Client>> {
    let mut clients: Vec<Client> = (0..MANY).map(|_| scene.client()).collect::<Result<_>>()?;
    for client in &mut clients {
        assert_eq!(client.line("ECHO x")?, Reply::bulk("x"), "it is accepted");
    }
    let stats = scene.envoy.stats("^listener\\.127.*\\.worker_.*downstream_cx_active$")?;
    assert_eq!(stats.len(), WORKERS as usize, "{stats:?}");
    assert!(stats.iter().all(|(_, clients)| *clients > 0), "a worker has no clients: {stats:?}");
    Ok(clients)
}

fn number(client: &mut Client) -> Result<i64> {
    client.line("CLIENT ID")?.integer().context("no number")
}

/// The lines of CLIENT LIST by the numbers of the clients.
fn list(client: &mut Client, line: &str) -> Result<BTreeMap<i64, String>> {
    let text = client.line(line)?.text();
    let of = |line: &str| Some((line.strip_prefix("id=")?.split(' ').next()?.parse().ok()?, line.to_owned()));
    Ok(text.lines().filter_map(of).collect())
}

fn is_closed(client: &mut Client) -> bool {
    client.is_closed_within(PATIENCE)
}

#[test]
fn a_client_sees_those_of_all_workers() -> Result<()> {
    let scene = scene()?;
    let mut clients = clients(&scene)?;
    let numbers = clients.iter_mut().map(number).collect::<Result<Vec<i64>>>()?;
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), MANY, "numbers are unique");
    for (index, client) in clients.iter_mut().enumerate() {
        client.ok(&["CLIENT", "SETNAME", &format!("c{index}")])?;
    }
    let address = scene.subnet.redis(1);
    for protocol in [2, 3] {
        clients[0].line(&format!("HELLO {protocol}"))?;
        let lines = list(&mut clients[0], "CLIENT LIST")?;
        assert_eq!(lines.keys().copied().collect::<Vec<_>>(), sorted);
        for (index, client) in clients.iter().enumerate() {
            let line = &lines[&numbers[index]];
            let shown = format!("addr={} laddr={address} fd=0 name=c{index} ", client.local_addr()?);
            assert!(line.contains(&shown), "{line}");
        }
    }
    clients[1].line("SUBSCRIBE c")?;
    clients[2].send(&["BLPOP", "none", "0"])?;
    clients[3].line("MULTI")?;
    wait_until("a client that is blocked", PATIENCE, || {
        list(&mut clients[0], "CLIENT LIST").is_ok_and(|lines| lines[&numbers[2]].contains(" flags=b "))
    })?;
    let lines = list(&mut clients[0], "CLIENT LIST")?;
    assert!(lines[&numbers[1]].contains(" flags=P ") && lines[&numbers[1]].contains(" sub=1 "), "{lines:?}");
    assert!(lines[&numbers[2]].contains(" cmd=blpop "), "{lines:?}");
    assert!(lines[&numbers[3]].contains(" flags=x ") && lines[&numbers[0]].contains(" cmd=client|list "), "{lines:?}");
    let of_kind = list(&mut clients[0], "CLIENT LIST TYPE pubsub")?;
    assert_eq!(of_kind.into_keys().collect::<Vec<_>>(), [numbers[1]]);
    let named = clients[0].line(&format!("CLIENT LIST ID {} {} 7", numbers[5], numbers[4]))?.text();
    let ids: Vec<&str> = named.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ids, [format!("id={}", numbers[5]), format!("id={}", numbers[4])]);
    Ok(())
}

#[test]
fn a_client_ends_others_of_all_workers() -> Result<()> {
    let scene = scene()?;
    let mut clients = clients(&scene)?;
    let mut first = clients.remove(0);
    let own = number(&mut first)?;
    // One after another by its number or an address.
    for index in 0..6 {
        let mut other = clients.remove(0);
        let (number, address) = (number(&mut other)?, other.local_addr()?);
        let (line, expected) = match index % 3 {
            0 => (format!("CLIENT KILL ID {number}"), Reply::Integer(1)),
            1 => (format!("CLIENT KILL {address}"), Reply::ok()),
            _ => (format!("CLIENT KILL ADDR {address} USER default SKIPME yes"), Reply::Integer(1)),
        };
        assert_eq!(first.line(&line)?, expected, "{line}");
        assert!(is_closed(&mut other), "{line}");
        assert!(!list(&mut first, "CLIENT LIST")?.contains_key(&number), "{line}");
        let gone = first.line(&line)?;
        assert!(gone == Reply::Integer(0) || gone == Reply::error("ERR No such client"), "{gone}");
    }
    clients[0].line("SUBSCRIBE c")?;
    assert_eq!(first.line("CLIENT KILL TYPE pubsub")?, Reply::Integer(1));
    assert!(is_closed(&mut clients.remove(0)));
    assert_eq!(first.line("CLIENT KILL TYPE normal MAXAGE 1000")?, Reply::Integer(0));
    let local = scene.subnet.redis(1);
    assert_eq!(first.line(&format!("CLIENT KILL LADDR {local}"))?, Reply::Integer(clients.len() as i64));
    assert!(clients.iter_mut().all(is_closed));
    // The client itself is left out unless it says so, and gets its reply before it is closed.
    assert_eq!(first.line(&format!("CLIENT KILL ID {own}"))?, Reply::Integer(0));
    assert_eq!(first.line(&format!("CLIENT KILL ID {own} SKIPME no"))?, Reply::Integer(1));
    assert!(is_closed(&mut first));
    let mut last = scene.client()?;
    let address = last.local_addr()?;
    last.write(format!("CLIENT KILL {address}\r\nSET k v\r\n").as_bytes())?;
    assert_eq!(last.read()?, Reply::ok());
    assert!(is_closed(&mut last));
    assert_eq!(scene.servers[0].cmd(&["EXISTS", "k"])?, Reply::Integer(0), "nothing is executed behind it");
    Ok(())
}

#[test]
fn errors_are_those_of_redis() -> Result<()> {
    let scene = scene()?;
    let (mut ours, mut server) = (scene.client()?, scene.servers[0].client()?);
    for line in [
        "CLIENT LIST x",
        "CLIENT LIST TYPE",
        "CLIENT LIST TYPE x",
        "CLIENT LIST TYPE master",
        "CLIENT LIST TYPE replica",
        "CLIENT LIST ID",
        "CLIENT LIST ID x",
        "CLIENT LIST ID 1 x",
        "CLIENT LIST ID 9223372036854775807",
        "CLIENT LIST ID -1",
        "CLIENT KILL",
        "CLIENT KILL 127.0.0.1:1",
        "CLIENT KILL x",
        "CLIENT KILL ID",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID -1",
        "CLIENT KILL ID x",
        "CLIENT KILL ID 01",
        "CLIENT KILL ID +1",
        "CLIENT KILL ID 9223372036854775807",
        "CLIENT KILL ID 9223372036854775808",
        "CLIENT KILL ID 1 x",
        "CLIENT KILL ID 9223372036854775807 TYPE",
        "CLIENT KILL TYPE x",
        "CLIENT KILL TYPE master",
        "CLIENT KILL USER nobody",
        "CLIENT KILL USER nobody SKIPME x",
        "CLIENT KILL ADDR x SKIPME maybe",
        "CLIENT KILL ADDR x LADDR y",
        "CLIENT KILL x y",
        "CLIENT UNBLOCK",
        "CLIENT UNBLOCK x",
        "CLIENT UNBLOCK 1.5",
        "CLIENT UNBLOCK -1",
        "CLIENT UNBLOCK 9223372036854775807",
        "CLIENT UNBLOCK 9223372036854775808",
        "CLIENT UNBLOCK 1 x",
        "CLIENT UNBLOCK x TIMEOUT",
        "CLIENT UNBLOCK 9223372036854775807 TIMEOUT x",
        "CLIENT unblock 9223372036854775807 error x",
        "CLIENT UNBLOCK 9223372036854775807 timeout",
        "CLIENT NO-EVICT",
        "CLIENT NO-EVICT x",
    ] {
        assert_eq!(ours.line(line)?.encode(), server.line(line)?.encode(), "{line}");
    }
    Ok(())
}

#[test]
fn a_client_that_waits_is_unblocked() -> Result<()> {
    let scene = scene()?;
    let mut clients = clients(&scene)?;
    let mut first = clients.remove(0);
    let waiting = [
        ("BLPOP none 0", Reply::NullArray),
        ("BLMOVE none other LEFT RIGHT 0", Reply::NullArray),
        ("XREAD BLOCK 0 STREAMS none $", Reply::NullArray),
        ("BZPOPMIN none 0", Reply::NullArray),
        ("WAIT 3 0", Reply::Integer(0)),
    ];
    let error = Reply::error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
    for (index, other) in clients.iter_mut().enumerate() {
        let (line, nothing) = &waiting[index % waiting.len()];
        let number = number(other)?;
        assert_eq!(first.line(&format!("CLIENT UNBLOCK {number}"))?, Reply::Integer(0), "it doesn't wait");
        let (how, expected) = match (index / waiting.len() % 3, *line) {
            (0, _) => ("", nothing),
            (1, _) => (" TIMEOUT", nothing),
            (_, _) => (" ERROR", &error),
        };
        other.send(&line.split(' ').collect::<Vec<_>>())?;
        let unblock = format!("CLIENT UNBLOCK {number}{how}");
        wait_until("an unblocked client", PATIENCE, || {
            first.line(&unblock).is_ok_and(|reply| reply == Reply::Integer(1))
        })?;
        assert_eq!(other.read()?, *expected, "{line}: {unblock}");
        assert_eq!(first.line(&unblock)?, Reply::Integer(0), "it waits no longer");
        assert_eq!(other.line("ECHO x")?, Reply::bulk("x"));
    }
    // Nobody else was meant: whoever waits now gets what comes.
    for other in &mut clients {
        other.send(&["BLPOP", "list", "0"])?;
    }
    for value in 0..clients.len() {
        first.line(&format!("RPUSH list {value}"))?;
    }
    let mut got: Vec<String> = Vec::new();
    for other in &mut clients {
        got.push(other.read()?.items()[1].text());
    }
    got.sort_by_key(|text| text.parse::<usize>().unwrap_or_default());
    assert_eq!(got, (0..clients.len()).map(|value| value.to_string()).collect::<Vec<_>>());
    Ok(())
}

/// Two hosts with the same Redis on listeners of one Envoy; the second one is guarded.
fn two_hosts(options: Options) -> Result<Scene> {
    let subnet = Subnet::claim()?;
    let addr = Some(subnet.redis(21));
    let redis = Redis::start_with(Options { addr, ..options })?;
    let mut config = Config::new().cluster("one.test:6379", &[redis.addr()]);
    for (number, name) in [(1, "redis"), (2, "guarded")] {
        let host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
        let host = Host { host: format!("{name}.test:6379"), guard_credentials: name == "guarded", ..host };
        let filters = vec![native::proxy(&listener::config(name, 1, host))?];
        config = config.listener(name, subnet.redis(number), filters);
    }
    Ok(Scene { envoy: native::start(&config, WORKERS)?, servers: vec![redis], subnet })
}

#[test]
fn clients_of_other_hosts_and_users_are_not_there() -> Result<()> {
    let config = ["app", "other"].map(|user| format!("user {user} on >{user} ~* &* +@all"));
    let scene = two_hosts(Options { config: config.to_vec(), ..Options::default() })?;
    let connect = |host: u8, user: &str| -> Result<(Client, i64)> {
        let mut client = Client::connect(scene.subnet.redis(host))?;
        if !user.is_empty() {
            client.ok(&["AUTH", user, user])?;
        }
        let number = number(&mut client)?;
        Ok((client, number))
    };
    let (mut nobody, nobody_number) = connect(1, "")?;
    let mut app = (0..8).map(|_| connect(1, "app")).collect::<Result<Vec<_>>>()?;
    let mut other = (0..8).map(|_| connect(1, "other")).collect::<Result<Vec<_>>>()?;
    let mut elsewhere = (0..8).map(|_| connect(2, "app")).collect::<Result<Vec<_>>>()?;
    for (client, _) in &mut other {
        client.send(&["BLPOP", "none", "0"])?;
    }
    let shown = list(&mut app[0].0, "CLIENT LIST")?;
    assert_eq!(shown.keys().copied().collect::<Vec<_>>(), app.iter().map(|(_, number)| *number).collect::<Vec<_>>());
    assert!(shown.values().all(|line| line.contains(" user=app ")), "{shown:?}");
    assert_eq!(list(&mut nobody, "CLIENT LIST")?.into_keys().collect::<Vec<_>>(), [nobody_number]);
    let foreign = [(nobody.local_addr()?, nobody_number)].into_iter();
    let own = app.iter().map(|(client, _)| client.local_addr()).collect::<Result<Vec<_>, _>>()?;
    let of_others = other.iter().chain(&elsewhere).map(|(client, number)| Ok((client.local_addr()?, *number)));
    for (address, number) in foreign.chain(of_others.collect::<Result<Vec<_>>>()?) {
        let client = &mut app[0].0;
        assert_eq!(client.line(&format!("CLIENT LIST ID {number}"))?.text(), "");
        assert_eq!(client.line(&format!("CLIENT UNBLOCK {number}"))?, Reply::Integer(0));
        assert_eq!(client.line(&format!("CLIENT KILL ID {number}"))?, Reply::Integer(0));
        // Connections to two hosts may come from the same port.
        if !own.contains(&address) {
            assert_eq!(client.line(&format!("CLIENT KILL {address}"))?, Reply::error("ERR No such client"));
        }
    }
    assert_eq!(app[0].0.line("CLIENT KILL TYPE normal")?, Reply::Integer(7));
    assert!(app[1..].iter_mut().all(|(client, _)| is_closed(client)));
    for (client, _) in &mut elsewhere {
        assert_eq!(client.line("ECHO x")?, Reply::bulk("x"));
    }
    assert_eq!(nobody.line("ECHO x")?, Reply::bulk("x"));
    // Those who waited still do.
    let (mut unblocking, _) = connect(1, "other")?;
    for (client, number) in &mut other {
        let line = format!("CLIENT UNBLOCK {number}");
        wait_until("a client that waits", PATIENCE, || {
            unblocking.line(&line).is_ok_and(|reply| reply == Reply::Integer(1))
        })?;
        assert_eq!(client.read()?, Reply::NullArray);
    }
    Ok(())
}

#[test]
fn where_the_sidecar_logs_in_nobody_ends_others_connections() -> Result<()> {
    let scene = two_hosts(Options::default())?;
    let connect = || Client::connect(scene.subnet.redis(2));
    let mut clients: Vec<Client> = (0..8).map(|_| connect()).collect::<Result<_>>()?;
    let mut first = clients.remove(0);
    let own = number(&mut first)?;
    let numbers = clients.iter_mut().map(number).collect::<Result<Vec<_>>>()?;
    let other = numbers[0];
    assert_eq!(list(&mut first, "CLIENT LIST")?.len(), 8);
    for line in [
        format!("CLIENT KILL ID {other}"),
        "CLIENT KILL ID 7".into(),
        format!("CLIENT KILL {}", clients[0].local_addr()?),
        "CLIENT KILL TYPE normal".into(),
        "CLIENT KILL TYPE normal SKIPME no".into(),
    ] {
        let refused = first.line(&line)?.text();
        assert!(refused.starts_with("NOPERM redis-mesh: CLIENT KILL ends connections of other clients"), "{refused}");
    }
    clients[0].send(&["BLPOP", "none", "0"])?;
    let line = format!("CLIENT UNBLOCK {other}");
    wait_until("an unblocked client", PATIENCE, || first.line(&line).is_ok_and(|reply| reply == Reply::Integer(1)))?;
    assert_eq!(clients[0].read()?, Reply::NullArray);
    assert_eq!(first.line(&format!("CLIENT KILL ID {own} SKIPME no"))?, Reply::Integer(1));
    assert!(is_closed(&mut first));
    assert!(!clients[0].is_closed_within(Duration::from_millis(100)));
    Ok(())
}

#[test]
fn a_server_may_refuse_to_unblock() -> Result<()> {
    let config = vec!["user app on >app ~* &* +@all -client|unblock".to_owned()];
    let scene = two_hosts(Options { config, ..Options::default() })?;
    let (mut a, mut b) = (Client::connect(scene.subnet.redis(1))?, Client::connect(scene.subnet.redis(1))?);
    for client in [&mut a, &mut b] {
        client.ok(&["AUTH", "app", "app"])?;
    }
    let number = number(&mut b)?;
    b.send(&["BLPOP", "list", "0"])?;
    let line = format!("CLIENT UNBLOCK {number}");
    wait_until("a refusal", PATIENCE, || a.line(&line).is_ok_and(|reply| reply.is_error()))?;
    let refused = a.line(&line)?.text();
    assert!(refused.starts_with("ERR redis-mesh: the server refuses what CLIENT UNBLOCK needs: NOPERM"), "{refused}");
    a.line("RPUSH list x")?;
    assert_eq!(b.read()?, Reply::bulks(&["list", "x"]));
    Ok(())
}

#[test]
fn where_clients_log_in_at_redis_it_says_what_they_may_do() -> Result<()> {
    let config = vec!["user app on >app ~* &* +@all -client|list -client|kill".to_owned()];
    let password = Some("secret".to_owned());
    let scene = two_hosts(Options { config, password, ..Options::default() })?;
    let (mut a, mut b) = (Client::connect(scene.subnet.redis(1))?, Client::connect(scene.subnet.redis(1))?);
    let noauth = Reply::error("NOAUTH Authentication required.");
    assert_eq!([a.line("CLIENT LIST")?, a.line("CLIENT KILL TYPE normal")?], [noauth.clone(), noauth]);
    let mut direct = Client::connect(scene.servers[0].addr())?;
    for client in [&mut a, &mut b, &mut direct] {
        client.ok(&["AUTH", "app", "app"])?;
    }
    let number = number(&mut b)?;
    for line in ["CLIENT LIST", &format!("CLIENT LIST ID {number}"), &format!("CLIENT KILL ID {number}")] {
        let refused = a.line(line)?;
        assert!(refused.is_error(), "{line}: {refused}");
        assert_eq!(refused, direct.line(line)?, "{line}");
    }
    assert_eq!(b.line("ECHO x")?, Reply::bulk("x"));
    Ok(())
}

#[test]
fn a_client_that_waits_at_the_nodes_of_a_cluster_is_unblocked() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let (mut first, mut other) = (scene.client()?, scene.client()?);
    let number = number(&mut other)?;
    let error = Reply::error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
    // The keys are at one node each, and WAIT waits at all of them.
    for (line, nothing) in [
        ("BLPOP a 0", Reply::NullArray),
        ("BLPOP b 0", Reply::NullArray),
        ("BLPOP c 0", Reply::NullArray),
        ("WAIT 1 0", Reply::Integer(0)),
    ] {
        for (how, expected) in [("TIMEOUT", &nothing), ("ERROR", &error)] {
            other.line("SET k v")?;
            other.send(&line.split(' ').collect::<Vec<_>>())?;
            let unblock = format!("CLIENT UNBLOCK {number} {how}");
            // It may not wait at all of the nodes yet.
            let mut answered = None;
            wait_until("an unblocked client", PATIENCE, || {
                answered =
                    first.line(&unblock).and_then(|_| other.read_within(Duration::from_millis(50))).ok().flatten();
                answered.is_some()
            })?;
            assert_eq!(answered.as_ref(), Some(expected), "{line}: {how}");
        }
    }
    Ok(())
}
