//! Clients that log in themselves, with rules that neither require nor provide a login.

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{KeyMatch, ReadPolicy, Route};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

use crate::{Scene, cluster};

pub fn scene(destinations: &[(&str, Options)], routes: Vec<Route>) -> Result<Scene> {
    let subnet = Subnet::claim()?;
    let names: Vec<&str> = destinations.iter().map(|(name, _)| *name).collect();
    let filters = vec![native::proxy(&listener::config("redis", 1, native::host(&names, routes)))?];
    let mut config = Config::new().listener("redis", subnet.redis(1), filters);
    let mut servers = Vec::new();
    for (number, (name, options)) in destinations.iter().enumerate() {
        let addr = Some(subnet.redis(21 + number as u8));
        let redis = Redis::start_with(Options { addr, ..options.clone() })?;
        config = config.cluster(&format!("{name}.test:6379"), &[redis.addr()]);
        servers.push(redis);
    }
    let envoy = native::start(&config, 1)?;
    Ok(Scene { envoy, servers, subnet })
}

fn with_password() -> Options {
    Options { password: Some("secret".into()), ..Options::default() }
}

/// Opens a connection to a server without logging in.
fn stranger(server: &Redis) -> Result<Client> {
    Client::connect(server.addr())
}

const NOAUTH: &str = "NOAUTH Authentication required.";

#[test]
fn the_server_decides_who_is_let_in() -> Result<()> {
    let scene = scene(&[("one", with_password())], vec![route(KeyMatch::Any, 0)])?;
    let lines = [
        "GET k",
        "AUTH wrong",
        "AUTH nobody secret",
        "GET k",
        "AUTH a b c",
        "AUTH secret",
        "SET k v",
        "AUTH wrong",
        "GET k",
        "AUTH default secret",
        "ACL WHOAMI",
        "WATCH k",
        "UNWATCH",
        "BLPOP none 0.01",
        "RESET",
        "GET k",
        "HELLO 3 AUTH default wrong",
        "HELLO 3 AUTH default secret SETNAME me",
        "CLIENT GETNAME",
        "GET none",
        "SELECT 1",
        "GET k",
    ];
    let (mut ours, mut server) = (scene.client()?, stranger(&scene.servers[0])?);
    let mut stays = scene.client()?;
    for line in lines {
        let (ours, server) = (ours.line(line)?, server.line(line)?);
        let is_hello = line.starts_with("HELLO 3") && matches!((&ours, &server), (Reply::Map(_), Reply::Map(_)));
        ensure!(is_hello || ours == server, "{line}: {ours:?}, by the server {server:?}");
        ensure!(stays.line("GET k")? == Reply::error(NOAUTH), "{line}: somebody else has logged in");
    }
    // In one piece, with what follows.
    let commands = [vec!["GET", "k"], vec!["AUTH", "secret"], vec!["GET", "k"], vec!["AUTH", "x"], vec!["GET", "k"]];
    let replies = scene.client()?.pipeline(&commands)?;
    ensure!(replies[0] == Reply::error(NOAUTH) && replies[1] == Reply::ok(), "{replies:?}");
    ensure!(replies[2] == Reply::bulk("v") && replies[3].text().starts_with("WRONGPASS"), "{replies:?}");
    ensure!(replies[4] == Reply::bulk("v"), "{replies:?}");
    Ok(())
}

#[test]
fn each_has_what_its_own_user_may() -> Result<()> {
    let users = ["alice on >a ~a:* &* +@all", "bob on >b ~b:* &* +@all"].map(str::to_owned).to_vec();
    let scene = scene(&[("one", Options { users, ..with_password() })], vec![route(KeyMatch::Any, 0)])?;
    let mut clients = Vec::new();
    for number in 0..20 {
        let (name, word) = if number % 2 == 0 { ("alice", "a") } else { ("bob", "b") };
        let mut client = scene.client()?;
        if number % 3 == 0 {
            client.ok(&["HELLO", "3", "AUTH", name, word])?;
        } else {
            client.ok(&["AUTH", name, word])?;
        }
        clients.push((client, name, word));
    }
    for _ in 0..20 {
        for (client, _, word) in &mut clients {
            let key = format!("{word}:k");
            let commands = [vec!["ACL", "WHOAMI"], vec!["SET", &key, word], vec!["GET", "a:k"], vec!["GET", "b:k"]];
            let multi = [vec!["MULTI"], vec!["ACL", "WHOAMI"], vec!["EXEC"], vec!["WATCH", &key], vec!["UNWATCH"]];
            client.write(
                &commands
                    .iter()
                    .chain(&multi)
                    .flat_map(|words| redis_mesh_tests::client::encode(words))
                    .collect::<Vec<_>>(),
            )?;
        }
        for (client, name, word) in &mut clients {
            ensure!(client.read()? == Reply::bulk(*name) && client.read()? == Reply::ok());
            for of in ["a", "b"] {
                let reply = client.read()?;
                let is_right = if of == *word { reply == Reply::bulk(of) } else { reply.text().starts_with("NOPERM") };
                ensure!(is_right, "{name}: {reply:?}");
            }
            ensure!(client.read()? == Reply::ok() && client.read()?.text() == "QUEUED");
            ensure!(client.read()? == Reply::Array(vec![Reply::bulk(*name)]));
            ensure!(client.read()? == Reply::ok() && client.read()? == Reply::ok());
        }
    }
    // Those of one user share; to watch, each needs one of its own for a moment.
    let opened = scene.upstream("one", "upstream_cx_total")?;
    ensure!(opened < 60, "{opened}");
    Ok(())
}

#[test]
fn a_password_that_is_right_no_more_lets_nobody_in() -> Result<()> {
    let scene = scene(&[("one", with_password())], vec![route(KeyMatch::Any, 0)])?;
    let mut before = scene.client()?;
    before.ok(&["AUTH", "secret"])?;
    before.ok(&["SET", "k", "v"])?;
    scene.servers[0].cmd(&["CONFIG", "SET", "requirepass", "new"])?;
    let mut after = scene.client()?;
    ensure!(after.line("AUTH secret")?.text().starts_with("WRONGPASS"));
    ensure!(after.line("GET k")? == Reply::error(NOAUTH));
    after.ok(&["AUTH", "new"])?;
    // As at the server, whose connections stay logged in.
    ensure!(after.line("GET k")? == Reply::bulk("v") && before.line("GET k")? == Reply::bulk("v"));
    Ok(())
}

#[test]
fn several_servers_have_to_let_a_client_in() -> Result<()> {
    let other = Options { password: Some("other".into()), ..Options::default() };
    let destinations = [("one", with_password()), ("two", Options::default()), ("three", other)];
    let prefix = |prefix: &str, target| route(KeyMatch::Prefix(prefix.into()), target);
    let open = scene(&destinations[..2], vec![prefix("b:", 1), route(KeyMatch::Any, 0)])?;
    let mut client = open.client()?;
    ensure!(client.line("SET b:k v")? == Reply::ok() && client.line("SET k v")? == Reply::error(NOAUTH));
    client.ok(&["AUTH", "secret"])?;
    let replies = client.pipeline(&[vec!["SET", "b:k", "1"], vec!["SET", "k", "2"], vec!["MGET", "k", "b:k"]])?;
    ensure!(replies[2] == Reply::bulks(&["2", "1"]), "{replies:?}");
    let apart = scene(&destinations, vec![prefix("b:", 1), prefix("c:", 2), route(KeyMatch::Any, 0)])?;
    let mut client = apart.client()?;
    ensure!(client.line("AUTH secret")?.text().starts_with("WRONGPASS"));
    ensure!(client.line("GET k")? == Reply::error(NOAUTH));
    Ok(())
}

#[test]
fn nodes_of_a_cluster_ask_for_a_password() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    for node in &scene.cluster.nodes {
        node.cmd(&["CONFIG", "SET", "requirepass", "secret"])?;
    }
    let (mut client, mut stays) = (scene.client()?, scene.client()?);
    ensure!(client.line("SET k v")? == Reply::error(NOAUTH));
    ensure!(client.line("AUTH wrong")?.text().starts_with("WRONGPASS"));
    client.ok(&["AUTH", "secret"])?;
    let sets: Vec<Vec<String>> = (0..200).map(|i| vec!["SET".into(), format!("k{i}"), "v".into()]).collect();
    ensure!(client.pipeline(&sets)?.iter().all(|reply| *reply == Reply::ok()));
    ensure!(client.line("DBSIZE")? == Reply::Integer(200));
    ensure!(stays.line("GET k1")? == Reply::error(NOAUTH));
    Ok(())
}
