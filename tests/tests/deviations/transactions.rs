//! SELECT, WATCH and MULTI: the state of one client's connection, and the order of its commands.

use anyhow::Result;
use redis_mesh_tests::client::encode;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

#[test]
fn e3_select_does_not_leak_to_others() -> Result<()> {
    let scene = scene()?;
    let in_db = |db: &str, key: &str| -> Result<Reply> {
        let mut client = scene.x.client()?;
        client.ok(&["SELECT", db])?;
        client.cmd(&["GET", key])
    };
    let (mut a, mut b) = (scene.client(ALONE_SINGLE)?, scene.client(ALONE_SINGLE)?);
    assert_eq!(b.line("get warm")?, Reply::NullBulk);
    assert_eq!(a.line("select 1")?, Reply::ok());
    assert_eq!(b.line("set leak 1")?, Reply::ok());
    assert_eq!(in_db("1", "leak")?, Reply::bulk("1"), "redis_proxy alone no longer leaks");
    assert_eq!(a.line("select 0")?, Reply::ok());

    for at in [SINGLE, PREFIX, MIRROR] {
        let (mut a, mut b) = (scene.client(at)?, scene.client(at)?);
        assert_eq!(
            a.line("select 1")?.text(),
            "ERR redis-mesh: SELECT other than 0 needs the direct or native data path"
        );
        assert_eq!(a.line("select 0")?, Reply::ok());
        assert_eq!(b.line("set own 1")?, Reply::ok());
        assert_eq!(in_db("0", "own")?, Reply::bulk("1"));
        scene.x.forget()?;
    }
    let (mut a, mut b) = (scene.client(DIRECT)?, scene.client(DIRECT)?);
    assert_eq!(a.line("select 1")?, Reply::ok());
    assert_eq!(b.line("set own b")?, Reply::ok());
    assert_eq!(a.line("set own a")?, Reply::ok());
    assert_eq!((in_db("0", "own")?, in_db("1", "own")?), (Reply::bulk("b"), Reply::bulk("a")));
    Ok(())
}

#[test]
fn e4_watch_is_enforced_or_refused() -> Result<()> {
    let scene = scene()?;
    let conflict = |at: u8| -> Result<Vec<String>> {
        let mut client = scene.client(at)?;
        client.ok(&["SET", "w", "0"])?;
        let watched = client.cmd(&["WATCH", "w"])?;
        scene.x.cmd(&["SET", "w", "conflict"])?;
        let mut replies = vec![watched.tty()];
        for line in ["multi", "set w lost-update", "exec", "get w"] {
            replies.push(client.line(line)?.tty());
        }
        Ok(replies)
    };
    assert_eq!(conflict(ALONE_SINGLE)?[4], "\"lost-update\"", "redis_proxy alone now enforces WATCH");
    assert_eq!(conflict(DIRECT)?, ["OK", "OK", "QUEUED", "(nil)", "\"conflict\""]);
    let refusal = "(error) ERR redis-mesh: WATCH needs the direct or native data path";
    for at in [SINGLE, PREFIX, MIRROR] {
        let replies = conflict(at)?;
        assert_eq!(replies[0], refusal);
        assert!(replies[3].starts_with("(error) EXECABORT"), "{replies:?}");
        assert_eq!(replies[4], "\"conflict\"");
    }
    // A client that doesn't look at the answer to WATCH must not be served as if it had been
    // enforced.
    let mut client = scene.client(SINGLE)?;
    let replies =
        lines(&mut client, &["watch w", "multi", "set w lost", "exec", "unwatch", "multi", "set w 1", "exec"])?;
    assert_eq!(replies[0], refusal);
    assert!(replies[3].starts_with("(error) EXECABORT"), "{replies:?}");
    assert_eq!(replies[5..], ["OK", "QUEUED", "1) OK"]);
    assert_eq!(scene.x.cmd(&["GET", "w"])?, Reply::bulk("1"));
    Ok(())
}

#[test]
fn e14_what_follows_exec_is_outside_the_transaction() -> Result<()> {
    let scene = scene()?;
    let script = [
        "multi",
        "set k 1",
        "exec",
        "keys k",
        "eval \"return 5\" 1 k",
        "mget k k",
        "scan 0 count 100",
        "multi",
        "incr k",
        "discard",
        "keys k",
        "mget k {other}x",
    ];
    let scan = "1) \"0\"\n2) 1) \"k\"";
    let right = [
        "OK",
        "QUEUED",
        "1) OK",
        "1) \"k\"",
        "(integer) 5",
        "1) \"1\"\n2) \"1\"",
        scan,
        "OK",
        "QUEUED",
        "OK",
        "1) \"k\"",
        "1) \"1\"\n2) (nil)",
    ];
    let alone = lines(&mut scene.client(ALONE_SINGLE)?, &script)?;
    assert!(alone[3].contains("not supported within transaction"), "redis_proxy alone now does better: {alone:?}");
    assert!(alone[4].contains("not supported within transaction"), "{alone:?}");
    for at in [SINGLE, DIRECT, MIRROR] {
        scene.x.forget()?;
        assert_eq!(lines(&mut scene.client(at)?, &script)?, right, "{at}");
        // Byte by byte, and without waiting for anything.
        scene.x.forget()?;
        let mut client = scene.client(at)?;
        for line in script {
            for byte in encode(&redis_mesh_tests::line::words(line)?).chunks(1) {
                client.write(byte)?;
            }
        }
        for (line, right) in script.iter().zip(right) {
            assert_eq!(client.read()?.tty(), right, "{at}: {line}");
        }
    }
    Ok(())
}

#[test]
fn a_transaction_does_not_overtake_what_was_sent_before() -> Result<()> {
    let scene = scene()?;
    // redis_proxy runs a transaction on a connection of its own. What Redis is busy with on the
    // shared one is overtaken.
    let slow = "local i = 0; while i < 3000000 do i = i + 1 end; redis.call('set', KEYS[1], 'before'); return 1";
    let overtaken = |at: u8, n: usize| -> Result<bool> {
        let mut client = scene.client(at)?;
        let key = format!("o{n}");
        let pad = vec![b'x'; 200_000];
        let mut commands: Vec<Vec<&[u8]>> = (0..5).map(|_| vec![&b"SET"[..], b"pad", &pad]).collect();
        commands.push(vec![b"EVAL", slow.as_bytes(), b"1", key.as_bytes()]);
        commands.push(vec![b"MULTI"]);
        commands.push(vec![b"SET", key.as_bytes(), b"after"]);
        commands.push(vec![b"EXEC"]);
        client.pipeline(&commands)?;
        Ok(scene.x.cmd(&["GET", &key])? != Reply::bulk("after"))
    };
    // It is a race: one of many is enough.
    let mut tries = (100..120).map(|n| overtaken(ALONE_SINGLE, n));
    assert!(tries.any(|result| result.unwrap_or(false)), "redis_proxy alone now keeps the order");
    for at in [SINGLE, DIRECT, MIRROR] {
        for n in 10..15 {
            assert!(!overtaken(at, n)?, "{}", scene.addr(at));
        }
    }
    Ok(())
}
