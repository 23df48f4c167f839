//! Replies through the filter, in both protocols and on both data paths, compared byte by byte
//! with those of the same server when it is asked directly.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use redis_mesh_core::command::{Known, Proxy};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::line::{self, words};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

type Request = Vec<Vec<u8>>;

/// The number of pairs. Every test has a pair of servers of its own: one behind the filter, and
/// one that is asked directly.
const PAIRS: u8 = 8;

struct Mesh {
    subnet: Subnet,
    _envoy: Envoy,
}

/// The Envoy that all tests share. Pair `i` has its server at `10 + i`, its peer at `30 + i`, and
/// listens at `100 + i` (`direct`) and `120 + i` (`proxy`).
fn mesh() -> Result<&'static Mesh> {
    static MESH: OnceLock<Result<Mesh, String>> = OnceLock::new();
    let start = || -> Result<Mesh> {
        let subnet = Subnet::claim()?;
        let mut scene = Scene::on(&subnet);
        for pair in 0..PAIRS {
            for (path, listens) in [("direct", 100), ("proxy", 120)] {
                let host = format!("{path}-{pair}");
                scene.service(&host, listens + pair, &[10 + pair]).rules(&host, path, "");
            }
        }
        let envoy = scene.start(1)?;
        Ok(Mesh { subnet, _envoy: envoy })
    };
    MESH.get_or_init(|| start().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow!("{error}"))
}

/// A server behind the filter and its peer.
struct Pair {
    number: u8,
    behind: Redis,
    peer: Redis,
}

impl Pair {
    fn start(number: u8) -> Result<Pair> {
        let at = |host: u8| -> Result<Redis> {
            Redis::start_with(Options {
                addr: Some(mesh()?.subnet.redis(host)),
                // Nothing is in the slow log because a machine was slow.
                config: vec!["slowlog-log-slower-than -1".into(), "enable-debug-command yes".into()],
                ..Options::default()
            })
        };
        Ok(Pair { number, behind: at(10 + number)?, peer: at(30 + number)? })
    }

    fn ours(&self, path: &str) -> Result<Client> {
        let listens = if path == "direct" { 100 } else { 120 };
        Client::connect(mesh()?.subnet.redis(listens + self.number))
    }

    fn forget(&self) -> Result<()> {
        for server in [&self.behind, &self.peer] {
            server.forget()?;
            server.cmd(&["SCRIPT", "FLUSH"])?;
        }
        Ok(())
    }
}

/// Replaces RESP2's null array by the null bulk string. Clients treat them alike, and redis_proxy
/// knows only the latter.
fn one_null(reply: Reply) -> Reply {
    match reply {
        Reply::NullArray => Reply::NullBulk,
        Reply::Array(items) => Reply::Array(items.into_iter().map(one_null).collect()),
        other => other,
    }
}

/// Whether a reply is the server's, except for differences by design.
fn same(path: &str, request: &Request, ours: &Reply, expected: &Reply) -> bool {
    let is = |name: &str| request.iter().zip(name.split(' ')).all(|(a, b)| a.eq_ignore_ascii_case(b.as_bytes()));
    // It is answered here, whatever the server's age.
    if path == "proxy" && is("CLIENT SETINFO") {
        return *ours == Reply::ok();
    }
    let normal = |reply: &Reply| match path {
        "proxy" => one_null(reply.clone().timeless()),
        _ => reply.clone().timeless(),
    };
    normal(ours) == normal(expected)
}

/// Whether a reply is a refusal by the filter.
fn refused(reply: &Reply) -> bool {
    reply.is_error() && reply.text().starts_with("ERR redis-mesh: ")
}

/// Sends every probe through the filter, and each one that isn't refused to the peer. Returns the
/// compared requests.
fn one_by_one(pair: &Pair, path: &str, protocol: &str) -> Result<Vec<(Request, Reply)>> {
    pair.forget()?;
    let (mut ours, mut peer) = (pair.ours(path)?, pair.peer.client()?);
    ours.ok(&["HELLO", protocol])?;
    peer.ok(&["HELLO", protocol])?;
    let mut compared = Vec::new();
    let mut wrong = Vec::new();
    for request in line::commands(include_str!("command_table/probes.txt"))? {
        let reply = ours.cmd(&request).with_context(|| format!("{path}: {}", line::shown(&request)))?;
        if refused(&reply) {
            ensure!(path == "proxy", "{path} refuses {}: {}", line::shown(&request), reply.text());
            continue;
        }
        let expected = peer.cmd(&request)?;
        if !same(path, &request, &reply, &expected) {
            wrong.push(format!("{}: {reply:?}, by the server {expected:?}", line::shown(&request)));
        }
        compared.push((request, expected));
    }
    if !wrong.is_empty() {
        anyhow::bail!("{path} in RESP{protocol}:\n  {}", wrong.join("\n  "));
    }
    Ok(compared)
}

/// Sends the same requests in one write, so that no reply has arrived when the last command is
/// sent.
fn pipelined(pair: &Pair, path: &str, protocol: &str, requests: &[(Request, Reply)], piece: usize) -> Result<()> {
    pair.forget()?;
    let (mut ours, mut peer) = (pair.ours(path)?, pair.peer.client()?);
    let hello = [b"HELLO".to_vec(), protocol.as_bytes().to_vec()];
    let mut bytes = encode(&hello);
    // Redis's own debugger of scripts can't be used in a pipeline.
    let requests = || {
        requests.iter().map(|(request, _)| request).filter(|request| !request[1..].starts_with(&[b"DEBUG".to_vec()]))
    };
    for request in requests() {
        bytes.extend_from_slice(&encode(request));
    }
    let mut writer = ours.stream().try_clone()?;
    let sender = std::thread::spawn(move || -> Result<()> {
        for part in bytes.chunks(piece) {
            std::io::Write::write_all(&mut writer, part)?;
        }
        Ok(())
    });
    ensure!(!ours.read()?.is_error());
    peer.ok(&hello)?;
    let mut wrong = Vec::new();
    for request in requests() {
        let reply = ours.read().with_context(|| format!("{path}, pipelined: {}", line::shown(request)))?;
        let expected = peer.cmd(request)?;
        if !same(path, request, &reply, &expected) {
            wrong.push(format!("{}: {reply:?}, by the server {expected:?}", line::shown(request)));
        }
    }
    ensure!(wrong.is_empty(), "{path} in RESP{protocol}, pipelined in pieces of {piece}:\n  {}", wrong.join("\n  "));
    sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    ensure!(ours.read_within(std::time::Duration::from_millis(20))?.is_none(), "more replies than commands");
    Ok(())
}

fn compare(number: u8, path: &str, protocol: &str) -> Result<()> {
    let pair = Pair::start(number)?;
    let compared = one_by_one(&pair, path, protocol)?;
    println!("{path}, RESP{protocol}: {} replies compared", compared.len());
    if path == "proxy" {
        every_supported_command_was_answered(&compared)?;
    }
    pipelined(&pair, path, protocol, &compared, usize::MAX)?;
    pipelined(&pair, path, protocol, &compared, 7)
}

/// A refusal must not hide a command that the path is said to serve.
fn every_supported_command_was_answered(compared: &[(Request, Reply)]) -> Result<()> {
    let answered: BTreeSet<&str> = compared
        .iter()
        .filter_map(|(request, _)| Known::of(&request[..]).and_then(Known::row))
        .map(|command| command.name)
        .collect();
    let missing: Vec<&str> = redis_mesh_core::command::all()
        .iter()
        .filter(|command| command.subcommands.is_empty() && !command.name.starts_with("bf."))
        .filter(|command| matches!(command.proxy, Proxy::Simple | Proxy::Eval | Proxy::SplitKeys | Proxy::SplitPairs))
        .map(|command| command.name)
        .filter(|name| !answered.contains(name))
        .collect();
    ensure!(missing.is_empty(), "{missing:?} were refused");
    Ok(())
}

#[test]
fn proxy_in_resp3_is_the_server_in_resp3() -> Result<()> {
    compare(0, "proxy", "3")
}

#[test]
fn proxy_in_resp2_is_the_server_in_resp2() -> Result<()> {
    compare(1, "proxy", "2")
}

#[test]
fn direct_in_resp3_is_the_server_in_resp3() -> Result<()> {
    compare(2, "direct", "3")
}

#[test]
fn direct_in_resp2_is_the_server_in_resp2() -> Result<()> {
    compare(3, "direct", "2")
}

#[test]
fn both_protocols_on_one_port_at_the_same_time() -> Result<()> {
    const COMMANDS: usize = 2_000;
    let pair = Pair::start(4)?;
    pair.behind.cmd(&["HSET", "h", "f", "1.5", "g", ""])?;
    pair.behind.cmd(&["ZADD", "z", "1.5", "a"])?;
    let requests: [&[&str]; 5] =
        [&["HGETALL", "h"], &["ZSCORE", "z", "a"], &["GET", "none"], &["SMEMBERS", "none"], &["ECHO", "x"]];
    let expected = |protocol: &str| -> Result<Vec<Reply>> {
        let mut client = pair.behind.client()?;
        client.ok(&["HELLO", protocol])?;
        requests.iter().map(|request| client.cmd(request)).collect()
    };
    let expected = [("2", expected("2")?), ("3", expected("3")?)];
    ensure!(expected[0].1 != expected[1].1);
    for path in ["direct", "proxy"] {
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..6)
                .map(|i| {
                    let (protocol, expected) = &expected[i % 2];
                    let pair = &pair;
                    scope.spawn(move || -> Result<()> {
                        let mut client = pair.ours(path)?;
                        // RESP2 is what a client gets that doesn't ask.
                        if i != 0 {
                            client.ok(&["HELLO", protocol])?;
                        }
                        for _ in 0..COMMANDS / 10 {
                            let commands: Vec<Vec<&str>> = (0..10).map(|j| requests[j % 5].to_vec()).collect();
                            for (j, reply) in client.pipeline(&commands)?.iter().enumerate() {
                                ensure!(*reply == expected[j % 5], "{path}, RESP{protocol}: {reply:?}");
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
        })?;
    }
    Ok(())
}

/// HELLO changes the protocol of one connection from its own reply on, any number of times.
#[test]
fn hello_changes_the_protocol_where_it_stands() -> Result<()> {
    let pair = Pair::start(5)?;
    for server in [&pair.behind, &pair.peer] {
        server.cmd(&["HSET", "h", "f", "v"])?;
    }
    let lines = [
        "hgetall h",
        "hello 3",
        "hgetall h",
        "get none",
        "hello",
        "hello 2",
        "hgetall h",
        "get none",
        "hello 3 setname me",
        "client getname",
        "smembers none",
        "hello 4",
        "hello x",
        "hello 3 setname",
        "hgetall h",
        "hello 3 auth nobody wrong",
        "hgetall h",
        "multi",
        "hgetall h",
        "get none",
        "exec",
        "hello 2",
        "multi",
        "hgetall h",
        "get none",
        "exec",
        "reset",
        "hgetall h",
        "hello 3",
        "hgetall h",
        "reset",
        "hgetall h",
        "hello 2",
        "hello 3",
        "hello 2",
        "hello 3",
        "get none",
    ];
    let requests: Vec<Request> = lines.iter().map(|line| words(line)).collect::<Result<_>>()?;
    for path in ["direct", "proxy"] {
        let mut peer = pair.peer.client()?;
        let expected: Vec<Reply> = requests.iter().map(|request| peer.cmd(request)).collect::<Result<_>>()?;
        let mut client = pair.ours(path)?;
        let one_by_one: Vec<Reply> = requests.iter().map(|request| client.cmd(request)).collect::<Result<_>>()?;
        let at_once = pair.ours(path)?.pipeline(&requests)?;
        for (how, ours) in [("one by one", one_by_one), ("at once", at_once)] {
            for ((line, ours), expected) in lines.iter().zip(&ours).zip(&expected) {
                let (ours, expected) = (without_identity(ours), without_identity(expected));
                // On `proxy` HELLO doesn't say which server stands behind; Valkey gives its own
                // name and modules.
                let named = line.starts_with("hello") && format!("{expected:?}").contains("valkey");
                let same_kind = std::mem::discriminant(&ours) == std::mem::discriminant(&expected);
                ensure!(
                    ours == expected || named && path == "proxy" && same_kind,
                    "{path}, {how}: {line}: {ours:?}, by the server {expected:?}"
                );
            }
        }
    }
    Ok(())
}

/// Returns a reply to HELLO without the connection's id and the server's version.
fn without_identity(reply: &Reply) -> Reply {
    let mine = |name: &Reply| matches!(name.text().as_str(), "id" | "version");
    match reply {
        Reply::Map(fields) => Reply::Map(fields.iter().filter(|(name, _)| !mine(name)).cloned().collect()),
        Reply::Array(items) if items.len() == 14 => {
            let fields = items.chunks(2).filter(|field| !mine(&field[0]));
            Reply::Array(fields.flatten().cloned().collect())
        }
        other => other.clone(),
    }
}

/// Replies up to the limit are right. Larger ones are right or an error with the reason, after
/// which the connection ends.
#[test]
fn large_replies_are_right_or_refused() -> Result<()> {
    let pair = Pair::start(6)?;
    let fill = |count: usize, size: usize| -> Result<()> {
        let mut client = pair.behind.client()?;
        client.ok(&["FLUSHALL"])?;
        let value = "v".repeat(size);
        for i in 0..count {
            let (field, value) = (format!("{i:06}"), format!("{value}{i}"));
            client.send(&["HSET", "h", &field, &value])?;
            client.send(&["ZADD", "z", &format!("{i}.5"), &value])?;
            client.send(&["SADD", "s", &value])?;
            client.send(&["RPUSH", "l", &value])?;
        }
        (0..4 * count).try_for_each(|_| client.read().map(drop))
    };
    let requests: [&[&str]; 6] = [
        &["HGETALL", "h"],
        &["ZRANGE", "z", "0", "-1", "WITHSCORES"],
        &["SMEMBERS", "s"],
        &["LRANGE", "l", "0", "-1"],
        &["EVAL", "return redis.call('LRANGE', KEYS[1], 0, -1)", "1", "l"],
        &["GET", "none"],
    ];
    for (megabytes, count, size) in [(1, 10_000, 100), (4, 64, 65_536), (14, 14, 1_000_000), (40, 40, 1_000_000)] {
        fill(count, size)?;
        for protocol in ["2", "3"] {
            for path in ["direct", "proxy"] {
                let (mut right, mut refusals) = (0, 0);
                // The order of a hash's fields is each server's own, so the same one is asked
                // directly.
                let mut peer = pair.behind.client()?;
                peer.ok(&["HELLO", protocol])?;
                let mut ours: Option<Client> = None;
                for request in requests {
                    let mut client = match ours.take() {
                        Some(client) => client,
                        None => {
                            let mut client = pair.ours(path)?;
                            client.ok(&["HELLO", protocol])?;
                            client
                        }
                    };
                    let (reply, expected) = (client.cmd(request)?, peer.cmd(request)?);
                    if refused(&reply) && megabytes > 16 && path == "proxy" && protocol == "3" {
                        ensure!(
                            client.is_closed_within(std::time::Duration::from_secs(5)),
                            "{request:?}: it isn't closed"
                        );
                        refusals += 1;
                        continue;
                    }
                    ensure!(
                        reply == expected,
                        "{path}, RESP{protocol}, {megabytes} MB: {request:?}: {:.200}",
                        format!("{reply:?}")
                    );
                    right += 1;
                    ours = Some(client);
                }
                println!("{megabytes} MB, {path}, RESP{protocol}: {right} right, {refusals} refused");
            }
        }
    }
    Ok(())
}

/// redis_proxy reports every Redis as a cluster, and clients that believe it look for the nodes.
#[test]
fn info_is_that_of_one_redis() -> Result<()> {
    let pair = Pair::start(7)?;
    for path in ["direct", "proxy"] {
        for protocol in ["2", "3"] {
            let mut ours = pair.ours(path)?;
            let commands = [
                vec!["HELLO", protocol],
                vec!["SET", "a", "1"],
                vec!["INFO", "server"],
                vec!["GET", "a"],
                vec!["INFO"],
                vec!["INFO", "nothing"],
                vec!["GET", "a"],
            ];
            let replies = ours.pipeline(&commands)?;
            let context = || format!("{path}, RESP{protocol}: {replies:?}");
            ensure!(replies[3] == Reply::bulk("1") && replies[6] == Reply::bulk("1"), "{}", context());
            for reply in [&replies[2], &replies[4], &replies[5]] {
                ensure!(matches!(reply, Reply::Verbatim(_)) == (protocol == "3"), "{}", context());
            }
            // Valkey calls it `server_mode`.
            ensure!(replies[2].text().contains("_mode:standalone\r\n"), "{}", context());
            ensure!(replies[4].text().contains("cluster_enabled:0\r\n"), "{}", context());
            ensure!(replies[5].text().is_empty(), "{}", context());
            for sections in [&["everything"][..], &["Replication"], &["server", "clients"]] {
                let reply = ours.cmd(&[&["INFO"], sections].concat())?;
                ensure!(!refused(&reply) && !reply.text().is_empty(), "{path}: {reply:?}");
            }
        }
    }
    Ok(())
}
