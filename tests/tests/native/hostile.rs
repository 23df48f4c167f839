//! Nodes of a Redis Cluster that answer nonsense, above all while commands wait for them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{Host, KeyMatch};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::listener::route;
use redis_mesh_tests::native;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::scripted::{Node, Scene, bulk, slots};

const PATIENCE: Duration = Duration::from_secs(10);
const DOWN: &[u8] = b"-CLUSTERDOWN The cluster is down\r\n";

/// What a client sends in one piece, and how many replies it gets.
const ASKED: [(&[&str], usize); 10] = [
    (&["GET k"], 1),
    (&["SET k v", "GET k", "INCR k"], 3),
    (&["MULTI", "INCR k", "EXEC"], 3),
    (&["WATCH k", "MULTI", "GET k", "EXEC"], 4),
    (&["BLPOP k 0"], 1),
    (&["MGET a b c"], 1),
    (&["DBSIZE"], 1),
    (&["SSUBSCRIBE k"], 1),
    (&["SPUBLISH k v"], 1),
    (&["EVAL x 1 k"], 1),
];

fn is_question(words: &[String]) -> bool {
    words[0].eq_ignore_ascii_case("CLUSTER")
}

fn is_greeting(words: &[String]) -> bool {
    ["HELLO", "PING", "CLIENT", "READONLY", "COMMAND", "ACL"].contains(&words[0].to_uppercase().as_str())
}

/// Has all nodes answer so what isn't a greeting.
fn all(nodes: &[Node], answer: impl Fn(&[String]) -> Option<Vec<u8>> + Send + Clone + 'static) {
    for node in nodes {
        let answer = answer.clone();
        node.answers(move |words| match is_greeting(words) {
            true => None,
            false => answer(words),
        });
    }
}

/// What a node says while its cluster is down.
fn down(words: &[String]) -> Option<Vec<u8>> {
    let reply = match words[0].to_uppercase().as_str() {
        "EXEC" => &b"-EXECABORT Transaction discarded because of previous errors.\r\n"[..],
        "MULTI" => b"+OK\r\n",
        _ => DOWN,
    };
    (!is_question(words) && !is_greeting(words)).then(|| reply.to_vec())
}

type Nonsense = Box<dyn Fn(&[Node; 2])>;

fn what_is_said() -> Vec<(&'static str, Nonsense)> {
    fn questions(answer: &'static [u8]) -> Nonsense {
        Box::new(move |nodes| {
            all(nodes, move |words| if is_question(words) { Some(answer.to_vec()) } else { down(words) });
        })
    }
    fn commands(answer: Vec<u8>) -> Nonsense {
        Box::new(move |nodes| {
            let answer = answer.clone();
            all(nodes, move |words| Some(answer.clone()).filter(|_| !is_question(words)));
        })
    }
    fn loops(kind: &'static str) -> Nonsense {
        Box::new(move |nodes| {
            for (node, other) in [(0, 1), (1, 0)] {
                let other = nodes[other].addr;
                nodes[node].answers(move |words| {
                    let slot = redis_mesh_core::cluster::slot::slot(words.last()?.as_bytes());
                    let slot = if words.len() == 2 { slot } else { redis_mesh_core::cluster::slot::slot(b"k") };
                    (!is_question(words) && !is_greeting(words))
                        .then(|| format!("-{kind} {slot} {other}\r\n").into_bytes())
                });
            }
        })
    }
    let long = [b"-CLUSTERDOWN ".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
    let mut said: Vec<(&'static str, Nonsense)> = vec![
        ("down for ever", Box::new(|nodes| all(nodes, down))),
        ("questions: an error", questions(b"-ERR no\r\n")),
        ("questions: nil", questions(b"$-1\r\n")),
        ("questions: an integer", questions(b":5\r\n")),
        ("questions: no slots", questions(b"*0\r\n")),
        ("questions: nested", questions(b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n")),
        ("questions: negative slots", questions(b"*1\r\n*3\r\n:-5\r\n:99999999999\r\n*2\r\n$1\r\nx\r\n:0\r\n")),
        ("questions: truncated", questions(b"*5\r\n$3\r\nab")),
        ("questions: garbage", questions(b"\x00\xff garbage\r\n")),
        ("questions: a push", questions(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n")),
        ("questions: two answers", questions(b":1\r\n:2\r\n:3\r\n")),
        ("questions: down", questions(DOWN)),
        ("questions: huge", questions(b"$536870912\r\n")),
        ("questions: endless array", questions(b"*2147483647\r\n*2147483647\r\n")),
        ("questions: closed", questions(b"")),
        ("commands: closed", commands(Vec::new())),
        ("commands: truncated", commands(b"$100\r\nab".to_vec())),
        ("commands: garbage", commands(b"\x00\xff garbage\r\n".to_vec())),
        ("commands: a push and down", commands([b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", DOWN].concat())),
        ("commands: two answers", commands([DOWN, DOWN].concat())),
        ("commands: down in a mebibyte", commands(long)),
        ("commands: half an error", commands(b"-CLUSTERDOWN The clu".to_vec())),
        ("commands: nameless", commands(b"-\r\n".to_vec())),
        ("commands: tryagain", commands(b"-TRYAGAIN no\r\n".to_vec())),
        ("commands: masterdown", commands(b"-MASTERDOWN no\r\n".to_vec())),
        ("commands: loading", commands(b"-LOADING no\r\n".to_vec())),
        ("commands: an empty frame", commands(b"*0\r\n".to_vec())),
        ("commands: smessage", commands(b">3\r\n$8\r\nsmessage\r\n$1\r\nk\r\n$1\r\nv\r\n-CLUSTERDOWN x\r\n".to_vec())),
        (
            "commands: sunsubscribe",
            commands(b">3\r\n$12\r\nsunsubscribe\r\n$1\r\nk\r\n:0\r\n-CLUSTERDOWN x\r\n".to_vec()),
        ),
        ("loop of MOVED", loops("MOVED")),
        ("loop of ASK", loops("ASK")),
    ];
    said.push((
        "commands: moved to itself",
        Box::new(|nodes| {
            let slot = redis_mesh_core::cluster::slot::slot(b"k");
            for node in nodes {
                let addr = node.addr;
                all(std::slice::from_ref(node), move |words| {
                    (!is_question(words)).then(|| format!("-MOVED {slot} {addr}\r\n").into_bytes())
                });
            }
        }),
    ));
    said.push((
        "topology flips at each question",
        Box::new(|nodes| {
            let (a, b) = (nodes[0].addr, nodes[1].addr);
            let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            all(nodes, move |words| match words.get(1).map(|word| word.to_uppercase()).as_deref() {
                Some("SLOTS") if is_question(words) => {
                    let at = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    Some(slots(if at.is_multiple_of(2) { b } else { a }))
                }
                _ if is_question(words) => None,
                _ => down(words),
            });
        }),
    ));
    said.push((
        "the epoch grows, and the state is fail",
        Box::new(|nodes| {
            let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(2));
            all(nodes, move |words| match words.get(1).map(|word| word.to_uppercase()).as_deref() {
                Some("INFO") if is_question(words) => {
                    let at = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    Some(bulk(&format!("cluster_state:fail\r\ncluster_current_epoch:{at}\r\n")))
                }
                _ if is_question(words) => None,
                _ => down(words),
            });
        }),
    ));
    said
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn ask(client: &mut Client, lines: &[&str]) -> Result<()> {
    let bytes: Vec<u8> = lines.iter().flat_map(|line| encode(&words(line))).collect();
    client.write(&bytes)
}

#[test]
fn whatever_nodes_say_clients_hear_of_it_in_time_and_all_is_well_later() -> Result<()> {
    let scene = Scene::start(|host| host.op_timeout_ms = Some(500))?;
    let mut warm = scene.client()?;
    warm.ok(&["GET", "k"])?;
    let (mut told, idle) = (Vec::new(), scene.descriptors()?);
    for (name, nonsense) in what_is_said() {
        nonsense(&scene.nodes);
        let mut clients = Vec::new();
        for resp3 in [false, true] {
            for (lines, replies) in ASKED {
                // A reply that never ends isn't told from one that is to come.
                let is_endless = ["commands: truncated", "commands: half an error"].contains(&name);
                if is_endless && lines[0].starts_with("BLPOP") {
                    continue;
                }
                let mut client = scene.client()?;
                if resp3 {
                    client.line("HELLO 3")?;
                }
                ask(&mut client, lines)?;
                clients.push((client, lines, replies, resp3));
            }
        }
        let begin = Instant::now();
        let before: usize = scene.nodes.iter().map(|node| node.count("GET")).sum();
        let share = scene.share(Duration::from_millis(500))?;
        if share > 0.3 {
            told.push(format!("{name}: {share:.2} of a processor"));
        }
        let asked: usize = scene.nodes.iter().map(|node| node.count("GET")).sum::<usize>() - before;
        if asked > 200 {
            told.push(format!("{name}: {asked} GETs in half a second"));
        }
        for (client, lines, replies, resp3) in &mut clients {
            client.set_patience(Duration::from_secs(6))?;
            for number in 0..*replies {
                match client.read() {
                    Ok(_) => {}
                    Err(error) if error.to_string().contains("no reply in time") => {
                        told.push(format!("{name}: {lines:?} (RESP3: {resp3}): no reply {number}"));
                        break;
                    }
                    // Closed.
                    Err(_) => break,
                }
            }
        }
        let took = begin.elapsed();
        if took > Duration::from_secs(8) {
            told.push(format!("{name}: {took:?}"));
        }
        for node in &scene.nodes {
            node.answers(|_| None);
        }
        let well = wait_until("all is well", PATIENCE, || {
            scene.client().and_then(|mut client| client.line("GET k")).is_ok_and(|reply| reply == Reply::bulk("v"))
        });
        if well.is_err() {
            told.push(format!("{name}: not served afterwards: {:?}", scene.client()?.line("GET k")));
        }
        drop(clients);
    }
    // Connections that are used again stay open for a while.
    let closed = wait_until("nothing is left", PATIENCE, || scene.descriptors().is_ok_and(|now| now < idle + 40));
    if closed.is_err() {
        told.push(format!("{} descriptors, before it {idle}", scene.descriptors()?));
    }
    ensure!(told.is_empty(), "{}", told.join("\n"));
    Ok(())
}

type Change = fn(&mut Host);

const CHANGES: [(&str, Change); 7] = [
    ("another route before it", |host| {
        host.targets.push(native::target("two"));
        host.routes.insert(0, route(KeyMatch::Prefix("other:".into()), 1));
    }),
    ("its place in the list", |host| {
        host.targets.insert(0, native::target("two"));
        host.routes = vec![route(KeyMatch::Prefix("other:".into()), 0), route(KeyMatch::Any, 1)];
    }),
    ("another cluster", |host| {
        host.targets = vec![native::target("two")];
        host.targets[0].cluster = true;
    }),
    ("no cluster", |host| host.targets[0].cluster = false),
    ("a plain one", |host| host.targets = vec![native::target("two")]),
    ("another key", |host| host.routes[0].key = KeyMatch::Prefix("other:".into())),
    ("a shorter time", |host| host.op_timeout_ms = Some(100)),
];

#[test]
fn rules_that_change_while_commands_wait_leave_nobody_waiting() -> Result<()> {
    let mut scene = Scene::start(|host| host.op_timeout_ms = Some(1500))?;
    let mut told = Vec::new();
    for refusal in ["down", "unreachable"] {
        for (name, change) in CHANGES {
            let host = scene.host();
            let name = format!("{refusal}, {name}");
            let mut clients = Vec::new();
            for resp3 in [false, true] {
                for (lines, replies) in ASKED {
                    let mut client = scene.client()?;
                    if resp3 {
                        client.line("HELLO 3")?;
                    }
                    ensure!(client.line("GET k")? == Reply::bulk("v"));
                    clients.push((client, lines, replies, resp3));
                }
            }
            match refusal {
                "down" => scene.nodes[0].answers(down),
                _ => scene.nodes[0].answers(|_| Some(Vec::new())),
            }
            if refusal == "unreachable" {
                // The connection that is there ends with this one.
                drop(scene.client()?.line("GET k"));
            }
            for (client, lines, ..) in &mut clients {
                ask(client, lines)?;
            }
            std::thread::sleep(Duration::from_millis(300));
            let (begin, mut is_open) = (Instant::now(), Vec::new());
            scene.change(change)?;
            for (client, lines, replies, resp3) in &mut clients {
                client.set_patience(Duration::from_secs(6))?;
                let mut said = Vec::new();
                for number in 0..*replies {
                    match client.read() {
                        Ok(reply) => said.push(reply.tty()),
                        Err(error) if error.to_string().contains("no reply in time") => {
                            told.push(format!("{name}: {lines:?} (RESP3: {resp3}): no reply {number}"));
                            break;
                        }
                        Err(_) => {
                            said.push("closed".into());
                            break;
                        }
                    }
                }
                is_open.push(said.last().is_some_and(|last| last != "closed"));
            }
            let took = begin.elapsed();
            if took > Duration::from_secs(4) {
                told.push(format!("{name}: {took:?}"));
            }
            scene.nodes[0].answers(|_| None);
            scene.change(|now| *now = host)?;
            let well = wait_until("all is well", PATIENCE, || {
                scene.client().and_then(|mut client| client.line("GET k")).is_ok_and(|reply| reply == Reply::bulk("v"))
            });
            if well.is_err() {
                told.push(format!("{name}: not served afterwards: {:?}", scene.client()?.line("GET k")));
            }
            // They go on.
            for ((mut client, lines, _, resp3), _) in clients.into_iter().zip(is_open).filter(|(_, open)| *open) {
                let is_subscriber = lines[0].starts_with("SSUBSCRIBE");
                let said = client.line("PING");
                if !is_subscriber && said.as_ref().map(Reply::text).unwrap_or_default() != "PONG" {
                    told.push(format!("{name}: {lines:?} (RESP3: {resp3}): PING: {said:?}"));
                }
            }
        }
    }
    ensure!(told.is_empty(), "{}", told.join("\n"));
    Ok(())
}

/// Clients that go away while their commands wait, are refused or have just been sent again, and that have
/// begun all kinds of things, leave nothing.
#[test]
fn clients_that_vanish_while_they_wait_leave_nothing() -> Result<()> {
    let scene = Scene::start(|host| host.op_timeout_ms = Some(2000))?;
    let mut stays = scene.client()?;
    ensure!(stays.line("GET k")? == Reply::bulk("v"));
    let (mut memory, mut descriptors) = (0, 0);
    let rounds = 1000;
    for round in 0..rounds {
        match round % 4 {
            0 => scene.nodes[0].answers(down),
            1 => scene.nodes[0].answers(|_| Some(Vec::new())),
            2 => scene.nodes[0].answers(|_| None),
            _ => {}
        }
        let mut clients = Vec::new();
        for (number, (lines, _)) in ASKED.into_iter().enumerate() {
            let mut client = scene.client()?;
            // What the sidecar answers alone.
            client.write(&if number % 2 == 0 {
                encode(&["HELLO", "3"])
            } else {
                encode(&["CLIENT", "SETNAME", "x"])
            })?;
            if number % 3 == 0 {
                client.send(&["CLIENT", "TRACKING", "ON"])?;
            }
            ask(&mut client, lines)?;
            clients.push(client);
        }
        std::thread::sleep(Duration::from_millis(round % 7));
        drop(clients);
        if round == rounds / 4 {
            memory = scene.envoy.allocated()?;
            descriptors = scene.descriptors()?;
        }
    }
    scene.nodes[0].answers(|_| None);
    wait_until("all is well", PATIENCE, || stays.line("GET k").is_ok_and(|reply| reply == Reply::bulk("v")))?;
    let mut last = (0, 0);
    let settled = wait_until("nothing is left", PATIENCE, || {
        last = (scene.envoy.allocated().unwrap_or_default(), scene.descriptors().unwrap_or_default());
        last.0 < memory + 2 * 1024 * 1024 && last.1 < descriptors + 20
    });
    ensure!(settled.is_ok(), "{last:?}, after a quarter of the rounds {:?}", (memory, descriptors));
    Ok(())
}

/// Each client gets its own replies, whatever a server pushes that nobody has asked for.
#[test]
fn pushes_that_nobody_has_asked_for_answer_nothing() -> Result<()> {
    let scene = Scene::start(|_| {})?;
    for node in &scene.nodes {
        node.answers(|words| {
            let is_read = words[0].eq_ignore_ascii_case("GET");
            is_read.then(|| [b">2\r\n$6\r\nMOVING\r\n$8\r\n1.2.3.4:\r\n".to_vec(), bulk(&words[1])].concat())
        });
    }
    let mut clients = [scene.client()?, scene.client()?];
    for (number, client) in clients.iter_mut().enumerate() {
        client.line("HELLO 3")?;
        for round in 0..100 {
            client.send(&["GET", &format!("{number}:{round}")])?;
        }
    }
    for round in 0..100 {
        for (number, client) in clients.iter_mut().enumerate() {
            let reply = client.read()?;
            ensure!(reply == Reply::bulk(format!("{number}:{round}")), "{number}:{round}: {reply:?}");
        }
    }
    Ok(())
}
