//! Hosts with a login on behalf of clients: clients can use Redis, and can't obtain the
//! credentials.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::line::words;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

fn reveals(reply: &Reply) -> bool {
    let text = String::from_utf8_lossy(&reply.encode()).into_owned();
    text.contains(UPSTREAM_PASSWORD) || text.contains("requirepass") || text.contains("masterauth")
}

/// Forms of a command: unchanged, in capitals, in mixed case, as an inline command, as inline
/// bytes in quotes.
fn ways(line: &str) -> Result<Vec<Vec<u8>>> {
    let words = words(line)?;
    let with_name = |name: Vec<u8>| {
        let mut words = words.clone();
        words[0] = name;
        words
    };
    let mixed: Vec<u8> = (0..)
        .zip(&words[0])
        .map(|(i, byte)| if i % 2 == 0 { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() })
        .collect();
    let quoted =
        |word: &Vec<u8>| format!("\"{}\"", word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>());
    Ok(vec![
        encode(&words),
        encode(&with_name(words[0].to_ascii_uppercase())),
        encode(&with_name(mixed)),
        format!("{line}\r\n").into_bytes(),
        format!("  {line}\n").into_bytes(),
        (words.iter().map(quoted).collect::<Vec<_>>().join(" ") + "\r\n").into_bytes(),
    ])
}

/// Returns the reply to bytes and checks that the connection stays in sync.
fn ask(client: &mut Client, bytes: &[u8], what: &str) -> Result<Reply> {
    client.write(bytes)?;
    let reply = client.read()?;
    let echo = client.cmd(&["ECHO", what])?;
    ensure!(echo == Reply::bulk(what), "{what}: out of step: {reply:?}, then {echo:?}");
    Ok(reply)
}

const REVEALING: &[&str] = &[
    "config get requirepass",
    "config get REQUIREPASS",
    "config get *",
    "config get **",
    "config get req*",
    "config get *pass",
    "config get r*i*e*s",
    "config get ?equirepass",
    "config get [r]equirepass",
    "config get [^x]equirepass",
    "config get [a-z]equirepass",
    "config get [z-a]equirepass",
    "config get \"r\\\\equirepass\"",
    "config get \"require\\\\pass\"",
    "config get ???????????",
    "config get masterauth",
    "config get *auth",
    "config get m*",
    "config get maxmemory requirepass",
    "config get maxmemory maxmemory *pass*",
    "config get masteruser",
    "config get primaryauth",
    "config get aclfile",
    "config get user",
    "config get tls-key-file-pass",
    "config get tls*",
    "config set requirepass \"\"",
    "config set maxmemory 0",
    "config set maxmemory 0 requirepass none",
    "config set dir /tmp",
    "config rewrite",
    "acl list",
    "acl getuser default",
    "acl users",
    "acl setuser default nopass",
    "acl deluser nobody",
    "acl save",
    "acl load",
    "acl log",
    "acl dryrun default get k",
    "migrate 127.0.0.1 1 k 0 10",
    "migrate 127.0.0.1 1 k 0 10 copy replace auth x",
    "replicaof 127.0.0.1 1",
    "slaveof no one",
    "debug object k",
    "debug sleep 0",
    "debug segfault",
    "shutdown",
    "shutdown nosave",
    "module load /tmp/x.so",
    "module loadex /tmp/x.so",
    "monitor",
    "sync",
    "psync ? -1",
    "replconf listening-port 1",
    "failover",
    "failover abort",
    "save",
    "bgsave",
    "bgrewriteaof",
    "cluster reset",
    "cluster meet 127.0.0.1 1",
    "cluster failover",
    "client kill type normal",
    "client pause 1",
    "pfselftest",
];

#[test]
fn what_reveals_or_takes_over_is_refused() -> Result<()> {
    let scene = scene()?;
    for at in [LOGIN_DIRECT, LOGIN_PROXY] {
        let mut client = scene.client(at)?;
        for line in REVEALING {
            for bytes in ways(line)? {
                let reply = ask(&mut client, &bytes, line)?;
                ensure!(reply.text().starts_with("NOPERM redis-mesh: "), "{at}: {}: {reply:?}", bytes.escape_ascii());
                ensure!(
                    reply.text().ends_with("; allowAdminCommands of the RedisService would permit it"),
                    "{reply:?}"
                );
                ensure!(!reveals(&reply) || !reply.text().contains(UPSTREAM_PASSWORD), "{at}: {line}: {reply:?}");
            }
            // In a transaction, which is then aborted.
            let replies = client.pipeline(&[words("multi")?, words(line)?, words("exec")?])?;
            ensure!(replies[1].text().starts_with("NOPERM redis-mesh: "), "{at}: {line} in MULTI: {:?}", replies[1]);
            ensure!(replies[2].text().starts_with("EXECABORT"), "{at}: {line} in MULTI: {:?}", replies[2]);
        }
        // In pieces.
        let mut slow = scene.client(at)?;
        for byte in encode(&["CONFIG", "GET", "requirepass"]).chunks(1) {
            slow.write(byte)?;
        }
        ensure!(slow.read()?.text().starts_with("NOPERM redis-mesh: "));
        // Too long to be waited for as a whole.
        let long = format!("{}requirepass", "*".repeat(40_000));
        let reply = ask(&mut slow, &encode(&["CONFIG", "GET", "maxmemory", &long]), "a long pattern")?;
        ensure!(reply.text().starts_with("NOPERM redis-mesh: "), "{reply:?}");
        let reply = ask(&mut slow, &encode(&["CONFIG", "GET", &"x".repeat(40_000), "requirepass"]), "a long pattern")?;
        ensure!(reply.text().starts_with("NOPERM redis-mesh: "), "{reply:?}");
    }
    assert_eq!(scene.secret.cmd(&["CONFIG", "GET", "requirepass"])?.items()[1], Reply::bulk(UPSTREAM_PASSWORD));
    scene.check_alive()
}

#[test]
fn scripts_do_not_get_round_it() -> Result<()> {
    let scene = scene()?;
    for at in [LOGIN_DIRECT, LOGIN_PROXY] {
        let mut client = scene.client(at)?;
        for call in [
            "'config','get','requirepass'",
            "'CONFIG','GET','*'",
            "'acl','list'",
            "'acl','getuser','default'",
            "'debug','sleep','0'",
            "'monitor'",
            "'shutdown','nosave'",
            "'replicaof','no','one'",
            "'module','list'",
            "'auth','x'",
            "'psync','?','-1'",
        ] {
            for function in ["call", "pcall"] {
                let script = format!("return redis.{function}({call})");
                let reply = client.cmd(&["EVAL", &script, "1", "k"])?;
                ensure!(reply.is_error() && !reveals(&reply), "{at}: {script}: {reply:?}");
            }
        }
        let load = "#!lua name=lib\nredis.register_function('f', function() return redis.call('config','get','*') end)";
        let reply = client.cmd(&["FUNCTION", "LOAD", "REPLACE", load])?;
        if !reply.is_error() {
            let reply = client.cmd(&["FCALL", "f", "0"])?;
            ensure!(reply.is_error() && !reveals(&reply), "{at}: {reply:?}");
        }
        // What a client sends isn't shown to others.
        for line in ["slowlog get 128", "latency latest", "client list", "client info", "info everything", "info all"] {
            let reply = client.line(line)?;
            ensure!(!reveals(&reply), "{at}: {line}: {reply:?}");
        }
    }
    scene.check_alive()
}

#[test]
fn what_every_client_may_know_is_served() -> Result<()> {
    let scene = scene()?;
    let mut client = scene.client(LOGIN_DIRECT)?;
    for line in [
        "config get maxmemory",
        "config get save",
        "config get maxmemory*",
        "config get notify-keyspace-events",
        "acl whoami",
        "acl cat",
        "client list",
        "client getname",
        "slowlog len",
        "info server",
        "command count",
        "lastsave",
        "memory usage none",
        "object help",
        "function list",
        "dbsize",
    ] {
        let reply = client.line(line)?;
        ensure!(!reply.is_error() && !reveals(&reply), "{line}: {reply:?}");
    }
    assert_eq!(client.line("acl whoami")?, Reply::bulk("default"));
    let mut client = scene.client(LOGIN_PROXY)?;
    for line in ["config get maxmemory", "slowlog len", "info server", "keys none"] {
        let reply = client.line(line)?;
        ensure!(!reply.is_error(), "{line}: {reply:?}");
    }
    // RESET forgets our login, which is done again before anything else.
    let mut client = scene.client(LOGIN_DIRECT)?;
    assert_eq!(
        lines(&mut client, &["set k 1", "reset", "get k", "reset", "reset", "get k"])?,
        ["OK", "RESET", "\"1\"", "RESET", "RESET", "\"1\""]
    );
    let replies = lines(&mut client, &["multi", "set k 2", "reset", "get k", "config get requirepass"])?;
    assert_eq!(replies[..4], ["OK", "QUEUED", "RESET", "\"1\""]);
    ensure!(replies[4].starts_with("(error) NOPERM"));
    Ok(())
}

#[test]
fn allow_admin_commands_lifts_it() -> Result<()> {
    let scene = scene()?;
    for at in [ADMIN_DIRECT, ADMIN_PROXY] {
        let mut client = scene.client(at)?;
        let reply = client.ok(&["CONFIG", "GET", "requirepass"])?;
        assert_eq!(reply.items()[1], Reply::bulk(UPSTREAM_PASSWORD), "{at}");
        assert_eq!(client.ok(&["CONFIG", "SET", "maxmemory", "0"])?, Reply::ok(), "{at}");
    }
    let mut client = scene.client(ADMIN_DIRECT)?;
    assert!(!client.ok(&["ACL", "LIST"])?.items().is_empty());
    Ok(())
}

#[test]
fn a_refused_login_is_told() -> Result<()> {
    let scene = scene()?;
    let port = scene.x.addr().port();
    let mut client = scene.client(WRONG_DIRECT)?;
    client.write(&[encode(&["GET", "k"]), encode(&["SET", "k", "1"])].concat())?;
    let told =
        format!("ERR redis-mesh: wrong.redis.svc.cluster.local:{port} refused the login of its RedisDestination");
    assert_eq!(client.read()?, Reply::error(&told));
    assert!(client.is_closed_within(Duration::from_secs(5)));
    // redis_proxy goes on without a login, and Redis refuses each command.
    let mut client = scene.client(WRONG_PROXY)?;
    for _ in 0..3 {
        let reply = client.cmd(&["GET", "k"])?;
        ensure!(reply.is_error() && !reply.text().contains("Secret"), "{reply:?}");
    }
    assert_eq!(scene.secret.calls("set")?, 0);
    Ok(())
}

#[test]
fn no_credential_shows_in_envoy() -> Result<()> {
    let scene = scene()?;
    let mut secrets: Vec<String> =
        [UPSTREAM_PASSWORD, CLIENT_PASSWORD, HANDSHAKE_KEY, "wrong-Secret-999"].map(str::to_string).to_vec();
    for name in ["single", "several", "login-proxy", "ask-proxy"] {
        secrets.push(scene.handshake(name)?);
    }
    // After logins that were taken and refused, and with what Envoy writes when it is asked to be
    // talkative.
    for at in [LOGIN_DIRECT, LOGIN_PROXY, WRONG_DIRECT, WRONG_PROXY, ASK_PROXY] {
        let _ = scene.client(at)?.line("get k");
    }
    for path in [
        "/config_dump",
        "/config_dump?include_eds",
        "/stats",
        "/clusters",
        "/listeners",
        "/init_dump",
        "/server_info",
        "/runtime",
    ] {
        let text = scene.envoy.get(path)?;
        for secret in &secrets {
            ensure!(!text.contains(secret.as_str()), "{path} shows {secret}");
        }
    }
    ensure!(scene.envoy.get("/config_dump")?.contains("[redacted]"));
    let log = scene.envoy.log();
    for secret in &secrets {
        ensure!(!log.contains(secret.as_str()), "the log shows {secret}");
    }
    Ok(())
}

#[test]
fn who_leaves_while_the_sidecar_logs_in_leaves_nothing_behind() -> Result<()> {
    let scene = scene()?;
    let connected = |redis: &Redis| -> Result<u64> {
        let info = redis.info("clients")?;
        Ok(info_field(&info, "connected_clients").context("no number of clients")?.parse()?)
    };
    let before = connected(&scene.secret)?;
    for bytes in
        [&b"*2\r\n$3\r\nGE"[..], b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"]
    {
        let mut clients = Vec::new();
        scene.secret.pause()?;
        for _ in 0..10 {
            let mut client = scene.client(LOGIN_DIRECT)?;
            client.write(bytes)?;
            clients.push(client);
        }
        std::thread::sleep(Duration::from_millis(50));
        for client in &clients {
            client.finish()?;
        }
        std::thread::sleep(Duration::from_millis(50));
        scene.secret.resume()?;
        for client in &mut clients {
            client.read_until_silent(Duration::from_millis(200))?;
            ensure!(client.is_closed_within(Duration::from_secs(5)), "{:?}", bytes.escape_ascii().to_string());
        }
    }
    let is_as_before = || connected(&scene.secret).is_ok_and(|now| now <= before);
    wait_until("end of all connections at Redis", Duration::from_secs(5), is_as_before)
}
