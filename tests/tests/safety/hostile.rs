//! Bytes that no well-behaved client sends.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

/// A generator that needs no crate; the seed is in the test, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Values of keys that no client of a host with several destinations can reach: each is where its key doesn't route to.
const HIDDEN: &str = "nobody-may-read-this";

fn hide(scene: &Scene) -> Result<()> {
    scene.x.cmd(&["MSET", "b:hidden", HIDDEN, "b:h", HIDDEN])?;
    scene.y.cmd(&["MSET", "hidden", HIDDEN, "a:hidden", HIDDEN, "h", HIDDEN])?;
    Ok(())
}

/// Every key is where it routes to, but for those that were hidden.
fn check_keys(scene: &Scene, what: &str) -> Result<()> {
    for (letter, redis) in [('x', &scene.x), ('y', &scene.y)] {
        for key in redis.cmd(&["KEYS", "*"])?.items() {
            let bytes = key.bytes().unwrap_or_default();
            let hidden = ["b:hidden", "b:h", "hidden", "a:hidden", "h"].iter().any(|one| one.as_bytes() == bytes);
            let right = if bytes.starts_with(b"b:") { 'y' } else { 'x' };
            ensure!(hidden || right == letter, "{what}: the key {key:?} is in {letter}");
        }
    }
    Ok(())
}

/// A second client of the same worker.
fn check_served(client: &mut Client, what: &str) -> Result<()> {
    for key in ["a:good", "b:good"] {
        let reply = client.cmd(&["SET", key, "1"])?;
        ensure!(reply == Reply::ok(), "{what}: the other client got {reply:?}");
    }
    let reply = client.cmd(&["MGET", "a:good", "b:good"])?;
    ensure!(reply == Reply::bulks(&["1", "1"]), "{what}: the other client got {reply:?}");
    Ok(())
}

/// Whatever comes back within a moment.
fn attack(scene: &Scene, at: u8, chunks: &[&[u8]]) -> Result<Vec<u8>> {
    let mut client = scene.client(at)?;
    for chunk in chunks {
        if client.write(chunk).is_err() {
            break;
        }
    }
    client.read_until_silent(Duration::from_millis(25))
}

fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut out: Vec<(&'static str, Vec<u8>)> = vec![
        ("HTTP", text("GET / HTTP/1.1\r\nHost: redis\r\nContent-Length: 10\r\n\r\n0123456789")),
        ("HTTP POST", text("POST / HTTP/1.1\r\nHost: redis\r\nContent-Length: 30\r\n\r\nSET smuggled 1\r\n")),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("a huge count", text("*1000000000\r\n$3\r\nSET\r\n")),
        ("a count over i32", text("*2147483648\r\n$3\r\nSET\r\n")),
        ("a count over u64", text("*99999999999999999999999\r\n")),
        ("a negative count", text("*-7\r\nPING\r\n")),
        ("no count", text("*\r\nPING\r\n")),
        ("a count with a sign", text("*+1\r\n$4\r\nPING\r\n")),
        ("a count with a space", text("* 1\r\n$4\r\nPING\r\n")),
        ("a count with letters", text("*1x\r\n$4\r\nPING\r\n")),
        ("empty arrays", text("*0\r\n*-1\r\n*0\r\nPING\r\n")),
        ("a huge length", text("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9999999999\r\n")),
        ("a length just over the limit", text("*2\r\n$3\r\nGET\r\n$536870913\r\n")),
        ("a length just under the limit", text("*2\r\n$3\r\nGET\r\n$536870912\r\nxyz")),
        ("a length over u64", text("*2\r\n$3\r\nGET\r\n$99999999999999999999999\r\n")),
        ("a negative length", text("*2\r\n$3\r\nGET\r\n$-1\r\n")),
        ("a length with a zero before it", text("*1\r\n$04\r\nPING\r\n")),
        ("a length with a sign", text("*1\r\n$+4\r\nPING\r\n")),
        ("a length that is too short", text("*3\r\n$3\r\nSET\r\n$1\r\nkey\r\n$1\r\nv\r\n")),
        ("a length that is too long", text("*3\r\n$3\r\nSET\r\n$9\r\nkey\r\n$1\r\nv\r\n")),
        ("an integer as argument", text("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n:1\r\n")),
        ("a status as argument", text("*1\r\n+PING\r\n")),
        ("an array as argument", text("*2\r\n$3\r\nGET\r\n*1\r\n$8\r\nb:hidden\r\n")),
        ("deep arrays", text(&"*1\r\n".repeat(50_000))),
        ("a map", text("%1\r\n$3\r\nGET\r\n$1\r\nk\r\n")),
        ("a set", text("~1\r\n$4\r\nPING\r\n")),
        ("an attribute before a command", text("|1\r\n+a\r\n+b\r\n*1\r\n$4\r\nPING\r\n")),
        ("replies", text("+OK\r\n:1\r\n$5\r\nhello\r\n-ERR x\r\n_\r\n#t\r\n,1.5\r\n")),
        ("bare line feeds", text("*1\n$4\nPING\n")),
        ("a missing line feed", text("*1\r$4\rPING\r")),
        ("an empty name", text("*1\r\n$0\r\n\r\n*2\r\n$0\r\n\r\n$0\r\n\r\n")),
        ("open quotes", text("SET \"a:open 1\r\nPING\r\n")),
        ("quotes inside a word", text("SET a\"b\"c 1\r\n")),
        ("a long line", vec![b'x'; 80_000]),
        ("a long line of arguments", text(&"x ".repeat(40_000))),
        ("a long name", encode(&[vec![b'n'; 300_000], b"x".to_vec()])),
        ("nothing but line breaks", text(&"\r\n".repeat(10_000))),
        ("zeros", vec![0; 4096]),
        ("high bytes", vec![0xff; 4096]),
        ("a million arguments", [text("*1048576\r\n"), b"$1\r\nx\r\n".repeat(1000)].concat()),
        ("more arguments than allowed", text("*1048577\r\n$3\r\nDEL\r\n")),
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..20 {
        let length = 1 + random.below(2000);
        out.push(("noise", (0..length).map(|_| random.next() as u8).collect()));
        let alphabet = b"*$:+-0123456789\r\n \"'\\\x01abGETSET";
        out.push(("noise of RESP", (0..length).map(|_| alphabet[random.below(alphabet.len())]).collect()));
    }
    out
}

#[test]
fn malformed_bytes_hurt_nobody_else() -> Result<()> {
    let scene = scene()?;
    hide(&scene)?;
    let mut others = [scene.client(DIRECT)?, scene.client(SINGLE)?, scene.client(SEVERAL)?];
    // The passwords of the handshakes and the names of tags are nobody's business.
    let mut secrets = scene.tags("several")?;
    secrets.extend([scene.handshake("single")?, scene.handshake("several")?]);
    for (what, bytes) in malformed() {
        for (i, at) in [DIRECT, SINGLE, SEVERAL].into_iter().enumerate() {
            let answer = attack(&scene, at, &[&bytes])?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            ensure!(secrets.iter().all(|secret| !answer.contains(secret.as_str())), "{what}: {answer:?}");
            check_served(&mut others[i], what)?;
        }
    }
    scene.x.cmd(&["DEL", "a:good", "b:good"])?;
    check_keys(&scene, "malformed bytes").or_else(|error| {
        // On one destination a key with any name is at home in x.
        ensure!(error.to_string().contains("is in x"), "{error}");
        Ok(())
    })?;
    assert_eq!(scene.x.cmd(&["EXISTS", "smuggled"])?, Reply::Integer(0));
    scene.check_alive()
}

#[test]
fn protocol_errors_are_told_and_end_the_connection() -> Result<()> {
    let scene = scene()?;
    for at in [DIRECT, SINGLE, SEVERAL, LOGIN_DIRECT, LOGIN_PROXY] {
        for (bytes, text) in [
            ("*1\r\n:5\r\n", "ERR Protocol error: expected '$', got ':'"),
            ("*1000000000\r\n", "ERR Protocol error: invalid multibulk length"),
            ("*2\r\n$3\r\nGET\r\n$9999999999\r\n", "ERR Protocol error: invalid bulk length"),
            ("GET \"open\r\n", "ERR Protocol error: unbalanced quotes in request"),
        ] {
            let mut client = scene.client(at)?;
            // What came before is answered before.
            client.write(
                &[&encode(&["SET", "a:before", "1"]), bytes.as_bytes(), &encode(&["SET", "a:after", "1"])].concat(),
            )?;
            assert_eq!(client.read()?, Reply::ok(), "{at}: {bytes:?}");
            assert_eq!(client.read()?, Reply::error(text), "{at}: {bytes:?}");
            assert!(client.is_closed_within(Duration::from_secs(5)), "{at}: {bytes:?}");
        }
        for redis in [&scene.x, &scene.secret] {
            assert_eq!(redis.cmd(&["EXISTS", "a:after"])?, Reply::Integer(0), "{at}");
        }
    }
    scene.check_alive()
}

#[test]
fn half_frames_and_single_bytes() -> Result<()> {
    let scene = scene()?;
    let frame = [encode(&["SET", "a:half", "0123456789"]), b"SET b:inline 1\r\n".to_vec(), encode(&["MULTI"])].concat();
    for at in [DIRECT, SINGLE, SEVERAL, LOGIN_DIRECT] {
        let mut other = scene.client(at)?;
        for end in 1..frame.len() {
            let mut client = scene.client(at)?;
            client.write(&frame[..end])?;
            drop(client);
            if end % 10 == 0 {
                check_served(&mut other, "half a frame")?;
            }
        }
        // A client that never ends its command holds up nobody.
        let mut slow = scene.client(at)?;
        slow.write(&frame[..20])?;
        check_served(&mut other, "an open frame")?;
        for byte in frame[20..].chunks(1) {
            slow.write(byte)?;
        }
        for _ in 0..3 {
            assert_eq!(slow.read()?.tty(), "OK", "{at}");
        }
    }
    check_keys(&scene, "half frames").or_else(|error| {
        ensure!(error.to_string().contains("is in x"), "{error}");
        Ok(())
    })?;
    scene.check_alive()
}

/// Commands of all kinds, each with arguments of which any may be replaced.
const KINDS: &[&str] = &[
    "get hidden",
    "set hidden 1",
    "getset h 1",
    "mget hidden a:hidden",
    "mset hidden 1 a:hidden 2",
    "msetnx n1 1 n2 2",
    "del hidden h",
    "unlink hidden",
    "exists hidden a:hidden",
    "touch hidden",
    "rename hidden other",
    "copy hidden other",
    "append hidden x",
    "dump hidden",
    "object encoding hidden",
    "eval \"return redis.call('get', KEYS[1])\" 1 hidden",
    "eval \"return redis.call('get', KEYS[1])\" 0 hidden",
    "eval \"return 1\" 2 hidden h",
    "evalsha 0123456789012345678901234567890123456789 1 hidden",
    "bitop and d hidden h",
    "sort hidden by hidden get hidden store d",
    "georadius hidden 0 0 1 m store h",
    "zunionstore d 2 hidden h weights 1 2",
    "sinterstore d hidden h",
    "smove hidden h x",
    "lmove hidden h left right",
    "pfcount hidden h",
    "xadd hidden * f v",
    "xread count 1 streams hidden 0",
    "blpop hidden 1",
    "publish hidden x",
    "keys hidden",
    "scan 0 match hidden",
    "sscan hidden 0",
    "randomkey",
    "script load hidden",
    "cluster keyslot hidden",
    "info hidden",
    "role",
    "select 0",
    "client setname hidden",
    "hello 2 setname hidden",
    "ping hidden",
    "echo hidden",
    "watch hidden",
    "multi",
    "get hidden",
    "exec",
    "discard",
    "quit",
    "migrate 127.0.0.1 1 hidden 0 10",
    "restore hidden 0 x",
    "wait 0 0",
    "module.command hidden",
    "nosuchcommand hidden",
    "subscribe hidden",
    "reset",
];

#[test]
fn tags_of_a_clients_own_making_lead_nowhere() -> Result<()> {
    let scene = scene()?;
    hide(&scene)?;
    let mut tags = scene.tags("several")?;
    assert_eq!(tags.len(), 2, "{tags:?}");
    tags.extend(scene.tags("mirror")?);
    tags.extend(["\u{1}", "\u{1}aaaaaaaaaa:", "\u{1}:"].map(str::to_string));
    let mut other = scene.client(SEVERAL)?;
    let mut client = scene.client(SEVERAL)?;
    for tag in &tags {
        for kind in KINDS {
            let words = redis_mesh_tests::line::words(kind)?;
            for position in 0..words.len() {
                for front in [true, false] {
                    let mut command = words.clone();
                    if front {
                        command[position].splice(0..0, tag.bytes());
                    } else {
                        command[position] = tag.clone().into_bytes();
                    }
                    let inline = {
                        let quoted = |word: &Vec<u8>| {
                            format!("\"{}\"", word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>())
                        };
                        command.iter().map(quoted).collect::<Vec<_>>().join(" ") + "\r\n"
                    };
                    let what = format!("{} with {tag:?} at {position}", kind);
                    for bytes in [encode(&command), inline.into_bytes()] {
                        // A sentinel behind tells where the answer ends; some commands end the connection.
                        client.write(&[bytes, encode(&["DISCARD"]), encode(&["ECHO", "sentinel"])].concat())?;
                        loop {
                            match client.read() {
                                Ok(reply) if reply == Reply::bulk("sentinel") => break,
                                Ok(reply) => {
                                    let text = String::from_utf8_lossy(&reply.encode()).into_owned();
                                    ensure!(!text.contains(HIDDEN), "{what}: {text:?}");
                                }
                                Err(_) => {
                                    ensure!(kind.starts_with("quit"), "{what}: the connection was closed");
                                    client = scene.client(SEVERAL)?;
                                    break;
                                }
                            }
                        }
                    }
                }
            }
        }
        check_served(&mut other, tag)?;
        check_keys(&scene, tag)?;
    }
    // Unquoted, as bytes of an inline command.
    for tag in &tags {
        let answer = attack(&scene, SEVERAL, &[format!("GET {tag}hidden\r\nSET {tag}inline 1\r\n").as_bytes()])?;
        ensure!(!String::from_utf8_lossy(&answer).contains(HIDDEN));
    }
    check_keys(&scene, "inline tags")?;
    // Every hidden value is as it was.
    assert_eq!(scene.y.cmd(&["MGET", "hidden", "a:hidden", "h"])?, Reply::bulks(&[HIDDEN; 3]));
    assert_eq!(scene.x.cmd(&["MGET", "b:hidden", "b:h"])?, Reply::bulks(&[HIDDEN; 2]));
    scene.check_alive()
}

#[test]
fn with_one_destination_a_tag_is_refused_or_a_key_like_others() -> Result<()> {
    let scene = scene()?;
    let tags = scene.tags("mirror")?;
    assert!(!tags.is_empty());
    for tag in tags.iter().map(String::as_str).chain(["\u{1}", "\u{1}aaaaaaaaaa:"]) {
        let key = format!("{tag}k");
        for at in [SINGLE, MIRROR] {
            let mut client = scene.client(at)?;
            for command in [
                vec!["SET", &key, "1"],
                vec!["GET", &key],
                vec!["MSET", "ok", "1", &key, "1"],
                vec!["DEL", "ok", &key],
                vec!["EVAL", "return redis.call('set', KEYS[1], '1')", "1", &key],
                vec!["OBJECT", "ENCODING", &key],
                vec!["PUBLISH", &key, "x"],
            ] {
                let reply = client.cmd(&command)?;
                assert_eq!(
                    reply.text(),
                    "ERR redis-mesh: a key that begins with the byte 0x01 needs the direct or native data path",
                    "{command:?}"
                );
            }
            let replies = client.pipeline(&[
                vec!["MULTI"],
                vec!["SET", &key, "1"],
                vec!["SET", "ok", "1"],
                vec!["EXEC"],
                vec!["EXISTS", "ok"],
            ])?;
            assert!(replies[3].text().starts_with("EXECABORT"), "{replies:?}");
            assert_eq!(replies[4], Reply::Integer(0));
        }
        for redis in [&scene.x, &scene.y] {
            assert_eq!(redis.cmd(&["DBSIZE"])?, Reply::Integer(0));
        }
        // Where nothing has a tag it is a key as any other.
        let mut client = scene.client(DIRECT)?;
        assert_eq!(client.cmd(&["SET", &key, "1"])?, Reply::ok());
        assert_eq!(scene.x.cmd(&["GET", &key])?, Reply::bulk("1"));
        scene.x.forget()?;
    }
    scene.check_alive()
}

#[test]
fn line_breaks_in_keys_and_values_are_data() -> Result<()> {
    let scene = scene()?;
    let smuggled = "\r\n*1\r\n$8\r\nFLUSHALL\r\n*3\r\n$3\r\nSET\r\n$8\r\nsmuggled\r\n$1\r\n1\r\n";
    for at in [DIRECT, SINGLE, SEVERAL, MIRROR] {
        let mut client = scene.client(at)?;
        for prefix in ["a:", "b:", ""] {
            let key = format!("{prefix}{smuggled}");
            assert_eq!(client.cmd(&["SET", &key, smuggled])?, Reply::ok());
            assert_eq!(client.cmd(&["GET", &key])?, Reply::bulk(smuggled));
            assert_eq!(client.cmd(&["MGET", &key, &key])?, Reply::bulks(&[smuggled, smuggled]));
            // And in what comes back as an error.
            let error = client.cmd(&[&format!("nosuch{smuggled}"), smuggled])?;
            assert!(error.is_error(), "{error:?}");
            let error = client.cmd(&["SINTER", &key, &format!("b:{smuggled}"), "a:"])?;
            assert!(!error.text().contains('\n'), "{error:?}");
            let error = client.cmd(&["HELLO", "2", smuggled])?;
            assert!(error.is_error(), "{error:?}");
            let error = client.cmd(&["CLIENT", smuggled])?;
            assert!(error.is_error(), "{error:?}");
            assert_eq!(client.cmd(&["ECHO", "in step"])?, Reply::bulk("in step"), "{at}");
            assert_eq!(client.cmd(&["DEL", &key])?, Reply::Integer(1));
        }
        for redis in [&scene.x, &scene.y] {
            assert_eq!(redis.cmd(&["EXISTS", "smuggled"])?, Reply::Integer(0), "{at}");
        }
    }
    scene.check_alive()
}

#[test]
fn everything_at_once() -> Result<()> {
    let scene = scene()?;
    hide(&scene)?;
    let tags = scene.tags("several")?;
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    let malformed = malformed();
    let mut others = [scene.client(DIRECT)?, scene.client(SINGLE)?, scene.client(SEVERAL)?];
    for round in 0..60 {
        let mut bytes = if random.below(2) == 0 { encode(&["HELLO", "3"]) } else { Vec::new() };
        for _ in 0..40 {
            let mut words = redis_mesh_tests::line::words(KINDS[random.below(KINDS.len())])?;
            if words[0] == b"quit" {
                continue;
            }
            if random.below(3) == 0 {
                let position = random.below(words.len());
                words[position].splice(0..0, tags[random.below(tags.len())].bytes());
            }
            bytes.extend(encode(&words));
            if random.below(10) == 0 {
                bytes.extend(encode(&[["MULTI"], ["EXEC"]][random.below(2)]));
            }
        }
        let (_, last) = &malformed[random.below(malformed.len())];
        bytes.extend_from_slice(last);
        let mut chunks = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let limit = [1, 7, 100, 5000][random.below(4)];
            let (chunk, behind) = rest.split_at(rest.len().min(1 + random.below(limit)));
            chunks.push(chunk);
            rest = behind;
        }
        chunks.truncate(400);
        let (i, at) = [(0, DIRECT), (1, SINGLE), (2, SEVERAL)][round % 3];
        let answer = attack(&scene, at, &chunks)?;
        if at == SEVERAL {
            ensure!(!String::from_utf8_lossy(&answer).contains(HIDDEN), "round {round}");
        }
        check_served(&mut others[i], &format!("round {round}"))?;
        if at == SEVERAL {
            check_keys(&scene, &format!("round {round}"))?;
        }
        scene.x.cmd(&["FLUSHALL"])?;
        hide(&scene)?;
    }
    scene.check_alive()
}

#[test]
fn every_command_has_one_answer() -> Result<()> {
    let scene = scene()?;
    let tags = scene.tags("several")?;
    let mut random = Random(0xA076_1D64_78BD_642F);
    // All but those that end the conversation or have no answer, or many.
    let kinds: Vec<&str> = KINDS
        .iter()
        .copied()
        .filter(|kind| !["quit", "subscribe", "reset", "hello", "blpop", "wait"].iter().any(|no| kind.starts_with(no)))
        .collect();
    for at in [DIRECT, SINGLE, SEVERAL, MIRROR, LOGIN_DIRECT, LOGIN_PROXY] {
        for protocol in ["2", "3"] {
            for round in 0..4 {
                let mut commands = Vec::new();
                for _ in 0..300 {
                    let mut words = redis_mesh_tests::line::words(kinds[random.below(kinds.len())])?;
                    match random.below(12) {
                        0 => {
                            let position = random.below(words.len());
                            words[position].splice(0..0, tags[random.below(tags.len())].bytes());
                        }
                        1 => words.truncate(1 + random.below(words.len())),
                        2 => words.push(b"more".to_vec()),
                        3 => words[0].make_ascii_uppercase(),
                        _ => {}
                    }
                    commands.push(words);
                }
                let bytes: Vec<u8> = commands.iter().flat_map(|words| encode(words)).collect();
                let mut client = scene.client(at)?;
                client.ok(&["HELLO", protocol])?;
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let limit = [5, 200, 3000, 20_000][random.below(4)];
                    let (now, later) = rest.split_at(rest.len().min(1 + random.below(limit)));
                    client.write(now)?;
                    rest = later;
                }
                client.write(&[encode(&["DISCARD"]), encode(&["ECHO", "sentinel"])].concat())?;
                let mut replies = Vec::new();
                for _ in 0..commands.len() + 1 {
                    replies.push(client.read()?);
                }
                let last = client.read()?;
                if last != Reply::bulk("sentinel") {
                    let table: Vec<String> = commands
                        .iter()
                        .zip(&replies)
                        .map(|(words, reply)| {
                            format!("{} → {}", words.join(&b' ').escape_ascii(), reply.tty().replace('\n', " "))
                        })
                        .collect();
                    anyhow::bail!("{at}, RESP{protocol}, round {round}: {last:?} at the end of\n{}", table.join("\n"));
                }
            }
        }
    }
    scene.check_alive()
}
