//! The requests of a hostile client, and the conditions that must hold: other clients are served,
//! and every key is where it routes to.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

/// The value of keys that no client of a host with several destinations can reach: each is on a
/// server to which its key doesn't route.
pub const HIDDEN: &str = "nobody-may-read-this";

pub fn hide(scene: &Scene) -> Result<()> {
    scene.x.cmd(&["MSET", "b:hidden", HIDDEN, "b:h", HIDDEN])?;
    scene.y.cmd(&["MSET", "hidden", HIDDEN, "a:hidden", HIDDEN, "h", HIDDEN])?;
    Ok(())
}

/// Checks that every key is where it routes to, except the hidden ones.
pub fn check_keys(scene: &Scene, what: &str) -> Result<()> {
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

/// Checks that another client of the same worker is served.
pub fn check_served(client: &mut Client, what: &str) -> Result<()> {
    for key in ["a:good", "b:good"] {
        let reply = client.cmd(&["SET", key, "1"])?;
        ensure!(reply == Reply::ok(), "{what}: the other client got {reply:?}");
    }
    let reply = client.cmd(&["MGET", "a:good", "b:good"])?;
    ensure!(reply == Reply::bulks(&["1", "1"]), "{what}: the other client got {reply:?}");
    Ok(())
}

/// Sends chunks of bytes and returns all bytes that come back before a short silence.
pub fn attack(scene: &Scene, at: u8, chunks: &[&[u8]]) -> Result<Vec<u8>> {
    let mut client = scene.client(at)?;
    for chunk in chunks {
        if client.write(chunk).is_err() {
            break;
        }
    }
    client.read_until_silent(Duration::from_millis(25))
}

pub fn malformed() -> Vec<(&'static str, Vec<u8>)> {
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
        ("more arguments than allowed", text("*2147483648\r\n$3\r\nDEL\r\n")),
    ];
    let mut random = fastrand::Rng::with_seed(0x9E37_79B9_7F4A_7C15);
    for _ in 0..20 {
        let length = 1 + random.usize(..2000);
        out.push(("noise", (0..length).map(|_| random.u8(..)).collect()));
        let alphabet = b"*$:+-0123456789\r\n \"'\\\x01abGETSET";
        out.push(("noise of RESP", (0..length).map(|_| alphabet[random.usize(..alphabet.len())]).collect()));
    }
    out
}

/// Commands of all kinds. Each argument may be replaced.
pub const KINDS: &[&str] = &[
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
