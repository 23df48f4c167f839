//! The command table of the core compared with real servers: the installed Redis, if there is one,
//! and the pinned Valkey.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, ensure};
use redis_mesh_core::command::{
    Command, Extract, Find, KeySpec, KeysError, Known, Protocol, Proxy, all, describe, each_command, lookup,
    lookup_subcommand,
};
use redis_mesh_core::request::keys::{KeyRules, route_keys};
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::framer::Framer;
use redis_mesh_core::resp::resp3::{HeadForm, exec_to_resp3, to_resp3, to_resp3_head};
use redis_mesh_core::resp::shape::Shape;
use redis_mesh_core::route::Router;
use redis_mesh_core::wire::{KeyMatch, Route};
use redis_mesh_tests::command_table::{PROXY, Server, generate, path, start_servers};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::line;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

type Request = Vec<Vec<u8>>;

fn ask(server: &Redis) -> Result<Server> {
    Server::ask(&mut server.client()?)
}

fn title(server: &Redis) -> Result<String> {
    let server = ask(server)?;
    Ok(format!("{} {}", server.name, server.version))
}

/// With both pinned servers the committed file is compared as a whole, else row by row with the
/// reports of the pinned ones.
#[test]
fn the_committed_table_is_what_the_generator_makes() -> Result<()> {
    let servers = start_servers(&[])?.iter().map(ask).collect::<Result<Vec<_>>>()?;
    let committed = std::fs::read_to_string(path())?;
    let again = "; run `cargo run -p redis-mesh-tests --bin generate-command-table`";
    if servers.len() == 2 && servers.iter().all(Server::is_pinned) {
        ensure!(generate(&servers)? == committed, "table.rs isn't what the generator makes{again}");
        return Ok(());
    }
    let pinned: Vec<Server> = servers.into_iter().filter(Server::is_pinned).collect();
    ensure!(!pinned.is_empty(), "no pinned server at hand");
    let rows: BTreeSet<&str> = committed.lines().map(str::trim).filter(|line| line.starts_with("row!")).collect();
    for row in generate(&pinned)?.lines().map(str::trim).filter(|line| line.starts_with("row!")) {
        ensure!(rows.contains(row), "table.rs lacks {row}{again}");
    }
    Ok(())
}

#[test]
fn every_command_of_a_live_server_is_in_the_table() -> Result<()> {
    for server in start_servers(&[])? {
        let server = ask(&server)?;
        let unknown: Vec<String> = server.names()?.into_iter().filter(|name| row(name).is_none()).collect();
        ensure!(unknown.is_empty(), "{} {} knows {unknown:?}, the table doesn't", server.name, server.version);
    }
    Ok(())
}

/// Returns the row of a name, `container|subcommand` for a subcommand.
fn row(name: &str) -> Option<&'static Command> {
    match name.split_once('|') {
        Some((container, own)) => lookup_subcommand(lookup(container.as_bytes())?, own.as_bytes()),
        None => lookup(name.as_bytes()),
    }
}

/// Commands that redis_proxy doesn't route are answered before it looks for a handler, and so have
/// no statistics.
#[test]
fn the_proxy_facts_are_about_the_commands_that_envoy_registers() -> Result<()> {
    const UNREGISTERED: &[&str] = &["auth", "client", "echo", "ping", "quit", "time"];
    let envoy = Envoy::start(include_str!("command_table/envoy.yaml"))?;
    let registered: BTreeSet<String> = envoy
        .stats("redis.table.command.")?
        .iter()
        .filter_map(|(name, _)| Some(name.strip_prefix("redis.table.command.")?.strip_suffix(".total")?.to_owned()))
        .collect();
    let mut ours: BTreeSet<String> = BTreeSet::new();
    for (treatment, names) in PROXY {
        let names = names.split_whitespace().filter(|_| *treatment != "Unsupported");
        ours.extend(names.map(|name| name.split('|').next().unwrap_or(name).to_owned()));
    }
    ours.retain(|name| !UNREGISTERED.contains(&name.as_str()));
    // No command of Redis's: it chooses the shard by number.
    ours.insert("info.shard".to_owned());
    ensure!(registered == ours, "Envoy has {registered:?}\nthe table {ours:?}");
    Ok(())
}

/// Generates requests of every command with keys, from words that are options of some commands, in
/// random order.
#[test]
fn keys_are_those_that_the_servers_find() -> Result<()> {
    const WORDS: &[&str] = &[
        "k",
        "0",
        "1",
        "2",
        "3",
        "STORE",
        "STOREDIST",
        "streams",
        "KEYS",
        "BY",
        "GET",
        "LIMIT",
        "x*",
        "",
        "-1",
        "9999999999",
    ];
    const EACH: usize = 150;
    let mut random = fastrand::Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for server in start_servers(&[])? {
        let title = title(&server)?;
        let mut client = server.client()?;
        let known: BTreeSet<String> = ask(&server)?.names()?.into_iter().collect();
        let rows = all().iter().flat_map(|command| [command].into_iter().chain(command.subcommands));
        let (mut compared, mut with_keys) = (0, 0);
        for command in rows.filter(|command| command.has_keys() && known.contains(command.name)) {
            // What the servers themselves get wrong is compared by hand below.
            if command.key_specs.extract != Extract::Specs {
                continue;
            }
            let requests: Vec<Request> = (0..EACH)
                .map(|_| {
                    let mut request: Request = command.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
                    let least = usize::from(command.arity.unsigned_abs());
                    let most = least + if command.arity < 0 { random.usize(..7) } else { 0 };
                    while request.len() < most {
                        request.push(WORDS[random.usize(..WORDS.len())].as_bytes().to_vec());
                    }
                    request
                })
                .collect();
            let replies = client.pipeline(&requests.iter().map(getkeys).collect::<Vec<_>>())?;
            for (request, reply) in requests.iter().zip(replies) {
                let (ours, theirs) = (keys(command, request), indexed(&reply));
                // The table has the newer server's arity.
                if reply.text().contains("Invalid number of arguments") && command.accepts(request.len()) {
                    continue;
                }
                // COMMAND GETKEYS doesn't mind that a key has no value; the command does.
                if matches!(command.keys(request.as_slice()), Err(KeysError::Unpaired)) {
                    let refused = client.cmd(request)?;
                    ensure!(refused.is_error(), "{title}: {}: {refused:?}", line::shown(request));
                    continue;
                }
                // Only servers mind that PFMERGE has no source.
                if command.name == "pfmerge" && request.len() == 2 {
                    continue;
                }
                ensure!(
                    ours == theirs,
                    "{title}: {}: {ours:?}, by the server {theirs:?}: {reply:?}",
                    line::shown(request)
                );
                compared += 1;
                with_keys += usize::from(!theirs.is_empty());
            }
        }
        ensure!(compared > 10_000 && with_keys * 2 > compared, "{title}: {compared} requests, {with_keys} with keys");
    }
    Ok(())
}

#[test]
fn a_wrong_number_of_keys_is_refused_in_the_servers_words() -> Result<()> {
    let counts = ["x", "", "-1", "0", "00", "01", "-0", "+1", "3", "99", "9223372036854775807", "9223372036854775808"];
    let function = "#!lua name=l\nredis.register_function{function_name='f', callback=function() return 1 end, flags={'no-writes'}}";
    let router = Router::new(
        &[Route { key: KeyMatch::Any, remove_prefix: false, target: 0, read_policy: None, faults: Vec::new() }],
        false,
    )
    .map_err(|error| anyhow!("{error:?}"))?;
    let rules = KeyRules { host: "h:1", router: &router, has_one_destination: true, renames_replies: true };
    for server in start_servers(&[])? {
        let title = title(&server)?;
        let mut client = server.client()?;
        let _ = client.cmd(&["FUNCTION", "LOAD", function])?;
        let known: BTreeSet<String> = ask(&server)?.names()?.into_iter().collect();
        let counts_keys = |command: &&Command| {
            let is_counted = |spec: &KeySpec| matches!(spec.find, Find::KeyNum { step: 1, .. });
            command.key_specs.specs.iter().any(is_counted) && known.contains(command.name)
        };
        let mut compared = 0;
        for command in all().iter().filter(counts_keys) {
            let before: &[&str] = match command.name {
                "eval" | "eval_ro" => &["return 1"],
                "evalsha" | "evalsha_ro" => &["e0e1f9fabfc9d4800c877a703b823ac0578ff8db"],
                "fcall" | "fcall_ro" => &["f"],
                "blmpop" | "bzmpop" => &["0.01"],
                "zunionstore" | "zinterstore" | "zdiffstore" => &["d"],
                _ => &[],
            };
            let behind = vec!["MIN"; command.arguments_behind_counted_keys()];
            for count in counts {
                let words = [&[command.name], before, &[count], &["a", "b"], &behind].concat();
                let mut bytes = Vec::new();
                encode::command(&mut bytes, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
                let mut ours = None;
                each_command(&bytes, |args| ours = route_keys(&rules, command, args, |_| ()).err());
                let theirs = client.cmd(&words)?;
                match ours {
                    Some(ours) => {
                        ensure!(theirs == Reply::error(ours.to_string()), "{title}: {words:?}: {ours}, {theirs:?}")
                    }
                    None => ensure!(count == "0" || !theirs.is_error(), "{title}: {words:?}: {theirs:?}"),
                }
                compared += 1;
            }
        }
        ensure!(compared >= 15 * counts.len(), "{title}: {compared}");
    }
    Ok(())
}

#[test]
fn keys_found_by_grammar_are_those_that_the_servers_find() -> Result<()> {
    const REQUESTS: &[&str] = &[
        "SORT k",
        "SORT k BY store GET store LIMIT 0 1",
        "SORT k BY w_* GET # STORE d",
        "SORT k LIMIT store 1",
        "GEORADIUS k 1 2 3 m",
        "GEORADIUS k 1 2 3 m WITHDIST STORE a",
        "GEORADIUS k 1 2 3 m STOREDIST a COUNT 1",
        "GEORADIUSBYMEMBER k m 3 m STORE store",
        "XREAD STREAMS a b c 0 0 0",
        "XREAD COUNT 5 BLOCK 0 streams a 0",
        "XREADGROUP GROUP g c STREAMS a b > >",
        "XREADGROUP GROUP streams streams COUNT 1 NOACK STREAMS a >",
        "MIGRATE h 1 k 0 5",
        "MIGRATE h 1 k 0 5 COPY REPLACE AUTH keys",
        "MIGRATE h 1 '' 0 5 AUTH2 keys keys KEYS a b c",
        "MIGRATE h 1 '' 0 5 COPY KEYS a",
    ];
    for server in start_servers(&[])? {
        let title = title(&server)?;
        let mut client = server.client()?;
        for line in REQUESTS {
            let request = line::words(line)?;
            let Some(command) = Known::of(&request[..]).and_then(Known::row) else { panic!("{line}") };
            let reply = client.cmd(&getkeys(&request))?;
            let (ours, theirs) = (keys(command, &request), indexed(&reply));
            ensure!(ours == theirs, "{title}: {line}: {ours:?}, by the server {theirs:?}: {reply:?}");
        }
    }
    Ok(())
}

fn getkeys(request: &Request) -> Request {
    [b"COMMAND".to_vec(), b"GETKEYS".to_vec()].into_iter().chain(request.iter().cloned()).collect()
}

/// Returns the keys that the table finds, or none if they can't be determined. The server answers
/// an error in both cases.
fn keys(command: &Command, request: &Request) -> Vec<Vec<u8>> {
    match command.keys(&request[..]) {
        Ok(keys) => keys.iter().map(|key| request[key.index].clone()).collect(),
        Err(_) => Vec::new(),
    }
}

fn indexed(reply: &Reply) -> Vec<Vec<u8>> {
    reply.items().iter().map(|key| key.bytes().unwrap_or_default().to_vec()).collect()
}

/// Keeps the slow log empty on a slow machine.
const STEADY: &str = "slowlog-log-slower-than -1";

#[test]
fn replies_in_their_shapes_are_those_of_resp3() -> Result<()> {
    let requests = line::commands(include_str!("command_table/probes.txt"))?;
    let mut answered = BTreeSet::new();
    for server in start_servers(&[STEADY])? {
        answered.extend(compare(&server, &requests)?);
    }
    let requests = line::commands(include_str!("command_table/probes-cluster.txt"))?;
    for server in start_servers(&[STEADY, "cluster-enabled yes"])? {
        server.cmd(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])?;
        let mut client = server.client()?;
        while !client.ok(&["CLUSTER", "INFO"])?.text().contains("cluster_state:ok") {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        answered.extend(compare(&server, &requests)?);
    }
    let missing: Vec<&str> = all()
        .iter()
        .flat_map(
            |command| {
                if command.subcommands.is_empty() { std::slice::from_ref(command) } else { command.subcommands }
            },
        )
        .filter(|command| !matches!(command.proxy, Proxy::Unsupported | Proxy::Local | Proxy::Transaction))
        .map(|command| command.name)
        .filter(|name| !answered.contains(*name) && !name.starts_with("bf.") && *name != "script|kill")
        .collect();
    ensure!(missing.is_empty(), "no probe of {missing:?} was answered without an error");
    Ok(())
}

/// Sends the requests in both protocols and compares the replies. Returns the commands with a
/// reply other than an error.
fn compare(server: &Redis, requests: &[Request]) -> Result<BTreeSet<&'static str>> {
    let title = title(server)?;
    let run = |protocol: &str| -> Result<Vec<Vec<u8>>> {
        let mut client = server.client()?;
        client.ok(&["FLUSHALL"])?;
        client.ok(&["SCRIPT", "FLUSH"])?;
        client.ok(&["CONFIG", "RESETSTAT"])?;
        client.ok(&["HELLO", protocol])?;
        requests.iter().map(|request| Ok(client.cmd(request)?.timeless().encode())).collect()
    };
    let (resp2, resp3) = (run("2")?, run("3")?);
    let mut answered = BTreeSet::new();
    let mut transaction: Option<Vec<Shape>> = None;
    for ((request, resp2), resp3) in requests.iter().zip(&resp2).zip(&resp3) {
        let (name, shape) = match Known::of(&request[..]).and_then(Known::row) {
            Some(command) => (command.name, command.reply_shape(&request[..])),
            None => ("", Shape::Plain),
        };
        let mut ours = Vec::new();
        let consumed = match (name, &mut transaction) {
            ("exec", Some(shapes)) => exec_to_resp3(resp2, shapes, &mut ours),
            ("exec" | "discard" | "multi", _) | (_, None) => to_resp3(resp2, shape, &mut ours),
            (_, Some(shapes)) => {
                shapes.push(shape);
                to_resp3(resp2, Shape::Plain, &mut ours)
            }
        };
        match name {
            "multi" => transaction = Some(Vec::new()),
            "exec" | "discard" => transaction = None,
            _ => {}
        }
        let context = || format!("{title}: {}: {}", line::shown(request), resp2.escape_ascii());
        ensure!(consumed == Ok(resp2.len()), "{}: {consumed:?}", context());
        ensure!(ours == *resp3, "{}\n  becomes {}\n  but is  {}", context(), ours.escape_ascii(), resp3.escape_ascii());
        if transaction.is_none() && name != "exec" {
            head_suffices_or_says_so(resp2, shape, resp3).with_context(context)?;
            if !resp2.starts_with(b"-") {
                answered.insert(name);
            }
        }
    }
    Ok(answered)
}

/// If only the head of a reply is replaced, the head with the unchanged rest must be the same
/// reply.
fn head_suffices_or_says_so(resp2: &[u8], shape: Shape, resp3: &[u8]) -> Result<()> {
    ensure!(Framer::default().feed(resp2) == Ok((resp2.len(), true)));
    let line = resp2.iter().position(|byte| *byte == b'\n').context("no line")? + 1;
    let mut ours = Vec::new();
    match to_resp3_head(&resp2[..line], shape, &mut ours) {
        Ok(HeadForm::Replaced(consumed)) => {
            ours.extend_from_slice(&resp2[consumed..]);
            ensure!(ours == resp3, "by its head alone it becomes {}", ours.escape_ascii());
            Ok(())
        }
        Ok(HeadForm::Whole) => Ok(()),
        Err(error) => anyhow::bail!("{error:?}"),
    }
}

/// Compares COMMAND INFO with the server's, except for the notes of key specs, which the table
/// doesn't hold.
#[test]
fn command_info_is_what_the_newest_server_says() -> Result<()> {
    let servers = start_servers(&[])?;
    let server = servers.last().context("no server")?;
    ensure!(ask(server)?.is_pinned(), "the newest server isn't the pinned one");
    let mut client = server.client()?;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        client.ok(&["HELLO", if protocol == Protocol::Resp3 { "3" } else { "2" }])?;
        let theirs: BTreeMap<String, Reply> = entries(&client.ok(&["COMMAND"])?);
        let ours = entries(&describe_all(protocol)?);
        let info = |name: &str| -> Result<Reply> { answer(&["COMMAND", "INFO", name], protocol) };
        for (name, theirs) in theirs {
            ensure!(ours.get(&name) == Some(&theirs), "{name}: {:?}\n is {theirs:?}", ours.get(&name));
            ensure!(entries(&info(&name)?).get(&name) == Some(&theirs), "COMMAND INFO {name}");
        }
        for filter in [&["COMMAND", "LIST"][..], &["COMMAND", "LIST", "FILTERBY", "ACLCAT", "hyperloglog"]] {
            let names = |reply: &Reply| reply.items().iter().map(Reply::text).collect::<BTreeSet<_>>();
            let mut ours = names(&answer(filter, protocol)?);
            ours.retain(|name| !name.starts_with("bf."));
            let theirs = names(&client.ok(filter)?);
            let difference: Vec<_> = ours.symmetric_difference(&theirs).collect();
            ensure!(difference.is_empty(), "{filter:?}: {difference:?}");
        }
        let count = answer(&["COMMAND", "COUNT"], protocol)?.integer();
        ensure!(count == Some(all().len() as i64), "{count:?}");
    }
    Ok(())
}

#[test]
fn answers_to_command_are_those_of_both_servers() -> Result<()> {
    for server in start_servers(&[])? {
        let title = title(&server)?;
        let mut client = server.client()?;
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            client.ok(&["HELLO", if protocol == Protocol::Resp3 { "3" } else { "2" }])?;
            for request in [
                &["COMMAND", "DOCS", "nonsense"][..],
                &["COMMAND", "INFO", "nonsense"],
                &["COMMAND", "GETKEYS", "get", "k"],
                &["COMMAND", "GETKEYS", "mset", "k", "v", "l", "w"],
                &["COMMAND", "GETKEYS", "ping", "a"],
                &["COMMAND", "GETKEYS", "get", "a", "b"],
                &["COMMAND", "GETKEYS", "nonsense", "a"],
                &["COMMAND", "GETKEYS", "eval", "s", "0"],
                &["COMMAND", "GETKEYS", "spublish", "c", "m"],
                &["COMMAND", "GETKEYS", "object", "encoding", "k"],
                &["COMMAND", "GETKEYS"],
                &["COMMAND", "GETKEYSANDFLAGS", "lmove", "a", "b", "LEFT", "RIGHT"],
                &["COMMAND", "GETKEYSANDFLAGS", "mset", "k", "v"],
                &["COMMAND", "LIST", "FILTERBY", "PATTERN", "mget"],
                &["COMMAND", "LIST", "FILTERBY", "PATTERN", "config|g?t"],
                &["COMMAND", "LIST", "FILTERBY", "MODULE", "nonsense"],
                &["COMMAND", "LIST", "FILTERBY", "ACLCAT", "nonsense"],
                &["COMMAND", "LIST", "FILTERBY", "x"],
                &["COMMAND", "LIST", "x"],
                &["COMMAND", "COUNT", "x"],
                &["COMMAND", "nonsense"],
            ] {
                let (ours, theirs) = (answer(request, protocol)?, client.cmd(request)?);
                ensure!(ours == theirs, "{title}: {request:?}: {ours:?}, by the server {theirs:?}");
            }
        }
    }
    Ok(())
}

fn describe_all(protocol: Protocol) -> Result<Reply> {
    answer(&["COMMAND"], protocol)
}

fn answer(request: &[&str], protocol: Protocol) -> Result<Reply> {
    let mut out = Vec::new();
    describe(request, protocol, |_| true, &mut out);
    let mut rest = &out[..];
    let reply = Reply::read(&mut rest)?;
    ensure!(rest.is_empty(), "{request:?} has more than one reply");
    Ok(reply)
}

/// Returns a COMMAND reply by name, without fields that the table doesn't hold and with unordered
/// fields sorted.
fn entries(reply: &Reply) -> BTreeMap<String, Reply> {
    let entries = reply.items().iter().filter(|entry| !entry.is_null());
    entries.map(|entry| (entry.items()[0].text(), normal(entry.clone()))).collect()
}

fn normal(mut entry: Reply) -> Reply {
    let Reply::Array(elements) = &mut entry else {
        return entry;
    };
    let [_, _, flags, _, _, _, _, tips, specs, subcommands] = &mut elements[..] else {
        return entry;
    };
    let (Reply::Array(flags) | Reply::Set(flags)) = flags else { panic!() };
    for flag in flags.iter_mut().filter(|flag| flag.text() == "skip_commandlog") {
        *flag = Reply::Status(b"skip_slowlog".to_vec());
    }
    let (Reply::Array(tips) | Reply::Set(tips)) = tips else { panic!() };
    tips.sort_by_key(Reply::text);
    let (Reply::Array(specs) | Reply::Set(specs)) = specs else { panic!() };
    for spec in specs {
        match spec {
            Reply::Array(fields) if fields[0].text() == "notes" => drop(fields.drain(..2)),
            Reply::Map(fields) => fields.retain(|(name, _)| name.text() != "notes"),
            _ => {}
        }
    }
    let Reply::Array(subcommands) = subcommands else { panic!() };
    subcommands.sort_by_key(|entry| entry.items()[0].text());
    for subcommand in subcommands.iter_mut() {
        *subcommand = normal(subcommand.clone());
    }
    entry
}
