//! Generated commands, well-formed and not, in pieces of any size.

use anyhow::{Result, ensure};
use redis_mesh_tests::client::encode;
use redis_mesh_tests::reply::Reply;

use crate::attack::*;
use crate::scene::*;

#[test]
fn everything_at_once() -> Result<()> {
    let scene = scene()?;
    hide(&scene)?;
    let tags = scene.tags("several")?;
    let mut random = fastrand::Rng::with_seed(0xD1B5_4A32_D192_ED03);
    let malformed = malformed();
    let mut others = [scene.client(DIRECT)?, scene.client(SINGLE)?, scene.client(SEVERAL)?];
    for round in 0..60 {
        let mut bytes = if random.usize(..2) == 0 { encode(&["HELLO", "3"]) } else { Vec::new() };
        for _ in 0..40 {
            let mut words = redis_mesh_tests::line::words(KINDS[random.usize(..KINDS.len())])?;
            if words[0] == b"quit" {
                continue;
            }
            if random.usize(..3) == 0 {
                let position = random.usize(..words.len());
                words[position].splice(0..0, tags[random.usize(..tags.len())].bytes());
            }
            bytes.extend(encode(&words));
            if random.usize(..10) == 0 {
                bytes.extend(encode(&[["MULTI"], ["EXEC"]][random.usize(..2)]));
            }
        }
        let (_, last) = &malformed[random.usize(..malformed.len())];
        bytes.extend_from_slice(last);
        let mut chunks = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let limit = [1, 7, 100, 5000][random.usize(..4)];
            let (chunk, behind) = rest.split_at(rest.len().min(1 + random.usize(..limit)));
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
    let mut random = fastrand::Rng::with_seed(0xA076_1D64_78BD_642F);
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
                    let mut words = redis_mesh_tests::line::words(kinds[random.usize(..kinds.len())])?;
                    match random.usize(..12) {
                        0 => {
                            let position = random.usize(..words.len());
                            words[position].splice(0..0, tags[random.usize(..tags.len())].bytes());
                        }
                        1 => words.truncate(1 + random.usize(..words.len())),
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
                    let limit = [5, 200, 3000, 20_000][random.usize(..4)];
                    let (now, later) = rest.split_at(rest.len().min(1 + random.usize(..limit)));
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
