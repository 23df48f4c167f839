//! Long pipelines of commands that the filter answers, splits, delays, fails and forwards: every
//! reply arrives, in order.

use std::collections::HashMap;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::encode;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

/// A conversation: bytes to send, and the expected replies by a model of Redis for these commands.
struct Script {
    bytes: Vec<u8>,
    expected: Vec<(String, Reply)>,
    store: HashMap<String, String>,
    resp3: bool,
}

impl Script {
    fn send(&mut self, words: &[&str], reply: Reply) {
        self.bytes.extend(encode(words));
        self.expected.push((words.join(" "), reply));
    }

    fn inline(&mut self, line: &str, reply: Reply) {
        self.bytes.extend(format!("{line}\r\n").into_bytes());
        self.expected.push((line.to_string(), reply));
    }

    fn value(&self, key: &str) -> Reply {
        match self.store.get(key) {
            Some(value) => Reply::bulk(value),
            None if self.resp3 => Reply::Null,
            None => Reply::NullBulk,
        }
    }
}

fn script(kind: u8, resp3: bool, commands: usize, seed: u64) -> Script {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut script = Script { bytes: Vec::new(), expected: Vec::new(), store: HashMap::new(), resp3 };
    let (one_destination, on_proxy) = (kind != MIXED_SEVERAL, kind != MIXED_DIRECT);
    let crossslot = Reply::error("CROSSSLOT redis-mesh: keys route to different destinations");
    while script.expected.len() < commands {
        let key = |random: &mut fastrand::Rng| format!("{}{}", ["a:", "b:", ""][random.usize(..3)], random.usize(..40));
        let (k, l) = (key(&mut random), key(&mut random));
        let n = script.expected.len();
        let v = match random.usize(..30) {
            0 => "v".repeat(1 + random.usize(..20_000)),
            _ => format!("value {n}\r\n"),
        };
        match random.usize(..24) {
            0..5 => {
                script.send(&["SET", &k, &v], Reply::ok());
                script.store.insert(k, v);
            }
            5..9 => {
                let reply = script.value(&k);
                script.send(&["GET", &k], reply);
            }
            9 => {
                let reply = Reply::Array(vec![script.value(&k), script.value(&l), script.value(&k)]);
                script.send(&["MGET", &k, &l, &k], reply);
            }
            10 => {
                script.send(&["MSET", &k, &v, &l, "second"], Reply::ok());
                script.store.insert(k, v);
                script.store.insert(l, "second".into());
            }
            11 => {
                let gone = [&k, &l].into_iter().filter(|key| script.store.remove(*key).is_some()).count();
                script.send(&["DEL", &k, &l], Reply::Integer(gone as i64));
            }
            12 => {
                let there = [&k, &l].into_iter().filter(|key| script.store.contains_key(*key)).count();
                script.send(&["EXISTS", &k, &l], Reply::Integer(there as i64));
            }
            13 => script.send(&["STRLEN", &k], Reply::error("Fault Injected: Error")),
            14 if random.usize(..10) == 0 => {
                let text = script.store.get(&k).map(|value| value[..1].to_string()).unwrap_or_default();
                script.send(&["GETRANGE", &k, "0", "0"], Reply::bulk(text));
            }
            14 | 15 => script.send(&["PING"], Reply::Status(b"PONG".to_vec())),
            16 => script.send(&["PING", &v], Reply::bulk(&v)),
            17 => script.send(&["ECHO", &v], Reply::bulk(&v)),
            18 => script.send(&["SELECT", "0"], Reply::ok()),
            19 => script.send(&["GET"], Reply::error("ERR wrong number of arguments for 'get' command")),
            20 => script.send(&["CLIENT", "SETNAME", "n"], Reply::ok()),
            21 if k.starts_with("b:") != l.starts_with("b:") && !one_destination => {
                script.send(&["RENAME", &k, &l], crossslot.clone());
            }
            21 => {
                script.inline(&format!("set {k} inline"), Reply::ok());
                script.store.insert(k, "inline".into());
            }
            22 if on_proxy => {
                let reply = Reply::error("ERR redis-mesh: BLPOP needs the direct or native data path");
                script.send(&["BLPOP", &k, "1"], reply);
            }
            22 => script.send(&["EVAL", "return 5", "0"], Reply::Integer(5)),
            _ if one_destination => {
                let queued = Reply::Status(b"QUEUED".to_vec());
                let got = script.value(&l);
                script.send(&["MULTI"], Reply::ok());
                script.send(&["GET", &l], queued.clone());
                script.send(&["SET", &k, &v], queued);
                if random.usize(..3) == 0 {
                    script.send(&["DISCARD"], Reply::ok());
                } else {
                    script.send(&["EXEC"], Reply::Array(vec![got, Reply::ok()]));
                    script.store.insert(k, v);
                }
            }
            _ => script.send(&["EVAL", "return ARGV[1]", "1", &k, &v], Reply::bulk(&v)),
        }
    }
    script
}

fn converse(kind: u8, resp3: bool, commands: usize, seed: u64) -> Result<()> {
    let scene = scene()?;
    let script = script(kind, resp3, commands, seed);
    let mut client = scene.client(kind)?;
    if resp3 {
        client.ok(&["HELLO", "3"])?;
    }
    let mut writer = client.stream().try_clone()?;
    let bytes = script.bytes;
    let writing = std::thread::spawn(move || -> std::io::Result<()> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let limit = [3, 50, 1500, 9000, 100_000][random.usize(..5)];
            let (now, later) = rest.split_at(rest.len().min(1 + random.usize(..limit)));
            writer.write_all(now)?;
            rest = later;
        }
        Ok(())
    });
    for (n, (command, expected)) in script.expected.iter().enumerate() {
        let command: String = command.chars().take(100).collect();
        let reply = client.read().with_context(|| format!("reply {n}, to {command:?}"))?;
        ensure!(reply == *expected, "reply {n}, to {command:?}: {reply:?} instead of {expected:?}");
    }
    ensure!(writing.join().is_ok_and(|result| result.is_ok()), "not everything was sent");
    for (key, value) in &script.store {
        let redis = if kind == MIXED_SEVERAL && key.starts_with("b:") { &scene.y } else { &scene.x };
        ensure!(redis.cmd(&["GET", key])? == Reply::bulk(value), "{key} is wrong in the end");
    }
    scene.check_alive()
}

#[test]
fn on_direct() -> Result<()> {
    converse(MIXED_DIRECT, false, 20_000, 1)?;
    converse(MIXED_DIRECT, true, 5_000, 2)
}

#[test]
fn on_proxy_with_one_destination() -> Result<()> {
    converse(MIXED_SINGLE, false, 20_000, 3)?;
    converse(MIXED_SINGLE, true, 5_000, 4)
}

#[test]
fn on_proxy_with_several_destinations() -> Result<()> {
    converse(MIXED_SEVERAL, false, 20_000, 5)?;
    converse(MIXED_SEVERAL, true, 5_000, 6)
}
