//! Values of up to 100 MB in both directions.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

use crate::mib;

/// Bytes of which no two 4 KiB blocks are alike, so that none can be missing, doubled or out of
/// place.
fn value(size: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(size + 4096);
    let mut block = 0u64;
    while value.len() < size {
        value.extend_from_slice(format!("{block:016x}\r\n$5\r\n").as_bytes().repeat(186).as_slice());
        block += 1;
    }
    value.truncate(size);
    value
}

#[test]
fn values_up_to_100_mb_come_back_as_they_were() -> Result<()> {
    let subnet = Subnet::claim()?;
    let server = Redis::start_at(subnet.redis(10))?;
    for (path, listens) in [("direct", 110), ("proxy", 111)] {
        // An Envoy of its own, so that its memory tells something.
        let mut scene = Scene::on(&subnet);
        scene.service(path, listens, &[10]).rules(path, path, "settings: {opTimeout: 60s}");
        let envoy = scene.start(1)?;
        for (size, protocol) in [
            (1_000_000, "2"),
            (1_000_000, "3"),
            (16_000_000, "2"),
            (16_000_000, "3"),
            (100_000_000, "2"),
            (100_000_000, "3"),
        ] {
            let value = value(size);
            let mut client = Client::connect(subnet.redis(listens))?;
            client.set_patience(Duration::from_secs(60))?;
            client.ok(&["HELLO", protocol])?;
            let begun = Instant::now();
            let set = client.cmd(&[&b"SET"[..], b"k", &value])?;
            let set_took = begun.elapsed();
            ensure!(set == Reply::ok(), "{path}, RESP{protocol}, {size} bytes: {:.200}", format!("{set:?}"));
            let begun = Instant::now();
            // The head of a bulk string is the same in both protocols, so that its size is no
            // matter.
            let got = client.cmd(&["GET", "k"])?;
            let get_took = begun.elapsed();
            ensure!(
                got.bytes() == Some(&value[..]),
                "{path}, RESP{protocol}, {size} bytes: {:.200}",
                format!("{got:?}")
            );
            // The connection is in order.
            ensure!(client.cmd(&["STRLEN", "k"])? == Reply::Integer(size as i64));
            println!(
                "{} MB, {path}, RESP{protocol}: SET {set_took:.2?}, GET {get_took:.2?}; peak of Envoy's memory {}",
                size / 1_000_000,
                mib(envoy.process().peak_memory()?)
            );
            server.forget()?;
        }
        one_among_others(&mut Client::connect(subnet.redis(listens))?, path)?;
    }
    Ok(())
}

/// A pipeline in which large values and small commands alternate, and a command whose every
/// argument is large.
fn one_among_others(client: &mut Client, path: &str) -> Result<()> {
    let value = value(2_000_000);
    for protocol in ["2", "3"] {
        client.ok(&["HELLO", protocol])?;
        client.set_patience(Duration::from_secs(60))?;
        let commands: [&[&[u8]]; 7] = [
            &[b"SET", b"a", &value],
            &[b"STRLEN", b"a"],
            &[b"MSET", b"b", &value, b"c", &value],
            &[b"GET", b"b"],
            &[b"ECHO", b"x"],
            &[b"MGET", b"a", b"none", b"c"],
            &[b"EVAL", b"return #ARGV[1] + #ARGV[2]", b"1", b"k", &value, &value],
        ];
        let mut bytes: Vec<u8> = Vec::new();
        for command in commands {
            bytes.extend(encode(command));
        }
        let mut writer = client.stream().try_clone()?;
        let sender = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
        let null = if protocol == "2" { Reply::NullBulk } else { Reply::Null };
        let expected = [
            Reply::ok(),
            Reply::Integer(value.len() as i64),
            Reply::ok(),
            Reply::bulk(&value),
            Reply::bulk("x"),
            Reply::Array(vec![Reply::bulk(&value), null, Reply::bulk(&value)]),
            Reply::Integer(2 * value.len() as i64),
        ];
        for (i, expected) in expected.iter().enumerate() {
            let reply = client.read()?;
            ensure!(reply == *expected, "{path}, RESP{protocol}: reply {i}: {:.200}", format!("{reply:?}"));
        }
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    }
    Ok(())
}
