//! State of a client's connection: watched keys, blocking commands, subscriptions, the database.

use std::time::{Duration, Instant};

use anyhow::Result;
use redis_mesh_core::wire::{KeyMatch, Route};
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::listener::route;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

use crate::Scene;

#[test]
fn watched_keys_are_watched() -> Result<()> {
    let scene = Scene::one()?;
    let (mut a, mut b) = (scene.client()?, scene.client()?);
    assert_eq!(a.line("watch k")?, Reply::ok());
    b.ok(&["SET", "k", "other"])?;
    let replies = a.pipeline(&[vec!["MULTI"], vec!["SET", "k", "mine"], vec!["EXEC"], vec!["GET", "k"]])?;
    assert_eq!(replies[2..], [Reply::NullArray, Reply::bulk("other")]);
    let lines = ["WATCH k", "GET k", "MULTI", "SET k mine", "EXEC", "GET k"];
    let lines: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let replies = a.pipeline(&lines)?;
    assert_eq!(replies[4..], [Reply::Array(vec![Reply::ok()]), Reply::bulk("mine")]);
    // UNWATCH and DISCARD end it.
    for end in [vec!["UNWATCH"], vec!["MULTI"]] {
        a.ok(&["WATCH", "k"])?;
        a.ok(&end)?;
        if end == ["MULTI"] {
            a.ok(&["DISCARD"])?;
        }
        b.ok(&["SET", "k", "again"])?;
        let replies = a.pipeline(&[vec!["MULTI"], vec!["GET", "k"], vec!["EXEC"]])?;
        assert_eq!(replies[2], Reply::Array(vec![Reply::bulk("again")]));
    }
    Ok(())
}

#[test]
fn transactions_open_no_connections() -> Result<()> {
    let scene = Scene::one()?;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(scene.client()?);
    }
    clients[0].ok(&["SET", "n", "0"])?;
    let before = scene.upstream("one", "upstream_cx_total")?;
    for round in 0..100 {
        for client in &mut clients {
            client.write(b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$4\r\nEXEC\r\n")?;
        }
        for client in &mut clients {
            for _ in 0..3 {
                client.read()?;
            }
            let both = client.read()?;
            let [Reply::Integer(first), Reply::Integer(second)] = both.items() else { panic!("{round}: {both}") };
            assert_eq!(first + 1, *second, "nothing comes between the commands of a transaction");
        }
    }
    assert_eq!(scene.upstream("one", "upstream_cx_total")?, before);
    Ok(())
}

#[test]
fn who_waits_holds_up_nobody() -> Result<()> {
    let scene = Scene::one()?;
    let (mut a, mut b) = (scene.client()?, scene.client()?);
    a.write(b"SET k 1\r\nBLPOP list 0\r\nGET k\r\n")?;
    assert_eq!(a.read()?, Reply::ok());
    assert_eq!(b.line("GET k")?, Reply::bulk("1"));
    assert!(a.read_within(Duration::from_millis(200))?.is_none());
    b.ok(&["SET", "k", "2"])?;
    b.ok(&["RPUSH", "list", "x"])?;
    assert_eq!(a.read()?, Reply::Array(vec![Reply::bulk("list"), Reply::bulk("x")]));
    assert_eq!(a.read()?, Reply::bulk("2"), "what comes behind a command that waits is executed after it");
    let begin = Instant::now();
    assert_eq!(a.line("BLPOP list 0.2")?, Reply::NullArray);
    assert!(begin.elapsed() >= Duration::from_millis(190));
    // Who goes while it waits takes nothing away.
    a.send(&["BLPOP", "list", "0"])?;
    let blocked = |scene: &Scene| Ok(info_field(&scene.servers[0].info("clients")?, "blocked_clients") == Some("1"));
    scene.wait_for("one that waits", blocked)?;
    drop(a);
    scene.wait_for("nobody waits", |scene| Ok(!blocked(scene)?))?;
    b.ok(&["RPUSH", "list", "y"])?;
    assert_eq!(b.line("LLEN list")?, Reply::Integer(1));
    Ok(())
}

#[test]
fn connections_of_ones_own_are_used_again() -> Result<()> {
    let scene = Scene::one()?;
    for _ in 0..20 {
        // Each comes when the one before may not have gone yet.
        let mut client = scene.client()?;
        assert_eq!(client.line("BLPOP nothing 0.01")?, Reply::NullArray);
        client.ok(&["WATCH", "k"])?;
        client.ok(&["UNWATCH"])?;
        assert_eq!(client.line("GET k")?, Reply::NullBulk);
    }
    let opened = scene.upstream("one", "upstream_cx_total")?;
    assert!((2..=4).contains(&opened), "{opened}");
    Ok(())
}

#[test]
fn subscribers_hear_what_is_published() -> Result<()> {
    let scene = Scene::one()?;
    for resp3 in [false, true] {
        let (mut a, mut b) = (scene.client()?, scene.client()?);
        if resp3 {
            a.line("HELLO 3")?;
        }
        let told = |words: Vec<Reply>| if resp3 { Reply::Push(words) } else { Reply::Array(words) };
        let bulks = |words: &[&str]| words.iter().map(Reply::bulk).collect::<Vec<Reply>>();
        let confirmed =
            |kind: &str, name: &str, count| told([bulks(&[kind, name]), vec![Reply::Integer(count)]].concat());
        a.send(&["SUBSCRIBE", "one", "two"])?;
        assert_eq!(a.read()?, confirmed("subscribe", "one", 1));
        assert_eq!(a.read()?, confirmed("subscribe", "two", 2));
        a.send(&["PSUBSCRIBE", "t*"])?;
        assert_eq!(a.read()?, confirmed("psubscribe", "t*", 3));
        assert_eq!(b.line("PUBLISH two hello")?, Reply::Integer(2));
        assert_eq!(a.read()?, told(bulks(&["message", "two", "hello"])));
        assert_eq!(a.read()?, told(bulks(&["pmessage", "t*", "two", "hello"])));
        let text = a.line("GET k")?.to_string();
        assert_eq!(text.contains("only (P|S)SUBSCRIBE"), !resp3, "{text}");
        a.send(&["UNSUBSCRIBE"])?;
        assert_eq!(a.read()?, confirmed("unsubscribe", "one", 2));
        assert_eq!(a.read()?, confirmed("unsubscribe", "two", 1));
        a.send(&["PUNSUBSCRIBE", "t*"])?;
        assert_eq!(a.read()?, confirmed("punsubscribe", "t*", 0));
        assert_eq!(a.line("SET k v")?, Reply::ok());
        assert_eq!(b.line("PUBLISH two hello")?, Reply::Integer(0));
    }
    Ok(())
}

#[test]
fn who_publishes_and_who_hears_meet() -> Result<()> {
    let stripped = Route { remove_prefix: true, ..route(KeyMatch::Prefix("r:".into()), 1) };
    let routes = vec![route(KeyMatch::Prefix("b:".into()), 1), stripped, route(KeyMatch::Any, 0)];
    let scene = Scene::start(&["one", "two"], routes, 1)?;
    let (mut a, mut b) = (scene.client()?, scene.client()?);
    a.line("HELLO 3")?;
    for (subscribe, publish, kind) in [("SSUBSCRIBE", "SPUBLISH", "smessage"), ("SUBSCRIBE", "PUBLISH", "message")] {
        for channel in ["x", "b:x", "r:x"] {
            let message = || Reply::Push([kind, channel, "hello"].map(Reply::bulk).to_vec());
            a.send(&[subscribe, channel])?;
            a.read()?;
            assert_eq!(b.cmd(&[publish, channel, "hello"])?, Reply::Integer(1), "{publish} {channel}");
            assert_eq!(a.read()?, message());
            let say = [vec!["MULTI"], vec!["SET", "k", "v"], vec![publish, channel, "hello"], vec!["EXEC"]];
            assert_eq!(b.pipeline(&say)?[3], Reply::Array(vec![Reply::ok(), Reply::Integer(1)]));
            assert_eq!(a.read()?, message());
            // What nobody would hear is refused.
            let say = [vec!["MULTI"], vec!["SET", "b:k", "v"], vec![publish, channel, "hello"], vec!["EXEC"]];
            let replies = b.pipeline(&say)?;
            assert!(replies[2].text().starts_with("CROSSSLOT") && replies[3].is_error(), "{replies:?}");
            let counted = if kind == "smessage" { "SHARDNUMSUB" } else { "NUMSUB" };
            let counts = Reply::Array(vec![Reply::bulk(channel), Reply::Integer(1)]);
            assert_eq!(b.cmd(&["PUBSUB", counted, channel])?, counts);
        }
    }
    Ok(())
}

#[test]
fn a_subscriber_that_reads_nothing_is_cut_off() -> Result<()> {
    let scene = Scene::one()?;
    let mut deaf = scene.client()?;
    deaf.send(&["SUBSCRIBE", "c"])?;
    deaf.read()?;
    let (mut b, message) = (scene.servers[0].client()?, "x".repeat(100_000));
    let before = scene.envoy.process().resident_memory()?;
    let mut heard = 1;
    for _ in 0..1000 {
        heard = b.cmd(&["PUBLISH", "c", &message])?.integer().unwrap_or_default();
        if heard == 0 {
            break;
        }
    }
    let grown = scene.envoy.process().resident_memory()?.saturating_sub(before);
    assert!(grown < 40_000_000, "{grown}");
    assert_eq!(heard, 0, "100 MB were kept for it");
    Ok(())
}

#[test]
fn a_database_is_the_clients_own() -> Result<()> {
    let scene = Scene::two()?;
    let (mut a, mut b) = (scene.client()?, scene.client()?);
    let lines = ["SET k 0", "SELECT 1", "SET k 1", "SET b:k 1", "SELECT 0", "GET k", "GET b:k", "SELECT 1", "GET b:k"];
    let lines: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let replies = a.pipeline(&lines)?;
    assert_eq!(replies[5..7], [Reply::bulk("0"), Reply::NullBulk]);
    assert_eq!(replies[8], Reply::bulk("1"));
    assert_eq!((b.line("GET k")?, b.line("GET b:k")?), (Reply::bulk("0"), Reply::NullBulk));
    assert_eq!(a.line("SELECT 16")?.to_string(), "(error) ERR DB index is out of range");
    assert_eq!(a.line("GET k")?, Reply::bulk("1"));
    assert_eq!(scene.servers[0].cmd(&["GET", "k"])?, Reply::bulk("0"));
    Ok(())
}

#[test]
fn a_database_that_one_server_refuses_is_entered_at_none() -> Result<()> {
    let mut scene = Scene::two()?;
    let mut client = scene.client()?;
    client.ok(&["SET", "k", "0"])?;
    scene.servers[1].kill();
    // The connection on which the client watches takes SELECT, and the other server doesn't.
    client.ok(&["WATCH", "k"])?;
    assert!(client.line("SELECT 1")?.is_error());
    assert_eq!((client.line("GET k")?, client.line("SET k 1")?), (Reply::bulk("0"), Reply::ok()));
    assert_eq!(scene.servers[0].cmd(&["GET", "k"])?, Reply::bulk("1"));
    let transaction = [vec!["MULTI"], vec!["SET", "k", "2"], vec!["EXEC"]];
    assert!(client.pipeline(&transaction)?[2].is_null(), "the key is watched still, and has changed");
    client.ok(&["WATCH", "k"])?;
    assert!(client.line("SELECT 1")?.is_error());
    assert!(!client.pipeline(&transaction)?[2].is_null());
    assert_eq!(scene.servers[0].cmd(&["GET", "k"])?, Reply::bulk("2"));
    Ok(())
}

#[test]
fn wait_counts_those_who_have_what_the_client_wrote() -> Result<()> {
    let scene = Scene::one()?;
    let (host, port) = (scene.servers[0].addr().ip().to_string(), scene.servers[0].addr().port().to_string());
    let config = vec![format!("replicaof {host} {port}")];
    let replica = Redis::start_with(Options { config, ..Options::default() })?;
    scene.wait_for("a replica", |scene| Ok(scene.servers[0].info("replication")?.contains("state=online")))?;
    let mut client = scene.client()?;
    client.ok(&["SET", "k", "1"])?;
    assert_eq!(client.line("WAIT 1 5000")?, Reply::Integer(1));
    replica.pause()?;
    let replies = client.pipeline(&[vec!["SET", "k", "2"], vec!["WAIT", "1", "100"]])?;
    assert_eq!(replies, [Reply::ok(), Reply::Integer(0)]);
    replica.resume()?;
    Ok(())
}

#[test]
fn what_stands_behind_several_routes_is_one_redis_to_its_clients() -> Result<()> {
    let scene = Scene::two()?;
    let mut client = scene.client()?;
    for i in 0..100 {
        client.ok(&["SET", &format!("{}{i}", if i % 2 == 0 { "b:" } else { "a" }), "v"])?;
    }
    // A key that no route leads to there is nobody's.
    scene.servers[1].cmd(&["SET", "hidden", "v"])?;
    assert_eq!(client.line("DBSIZE")?, Reply::Integer(101));
    assert_eq!(client.line("KEYS *")?.items().len(), 100);
    assert_eq!(client.line("KEYS b:1?")?.items().len(), 5);
    let (mut cursor, mut found) = ("0".to_owned(), std::collections::BTreeSet::new());
    loop {
        let reply = client.cmd(&["SCAN", &cursor, "COUNT", "7"])?;
        cursor = reply.items()[0].text();
        found.extend(reply.items()[1].items().iter().map(Reply::text));
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 100);
    let sha = client.cmd(&["SCRIPT", "LOAD", "return 'x'"])?.text();
    for server in &scene.servers {
        assert_eq!(server.cmd(&["EVALSHA", &sha, "0"])?, Reply::bulk("x"));
    }
    assert_eq!(client.line("FLUSHALL")?, Reply::ok());
    assert_eq!(client.line("DBSIZE")?, Reply::Integer(0));
    // A number of a client is no number of a connection at any server.
    let number = client.line("CLIENT ID")?;
    assert_eq!(
        scene.servers[0].cmd(&["CLIENT", "KILL", "ID", &number.integer().unwrap_or_default().to_string()])?,
        Reply::Integer(0)
    );
    Ok(())
}
