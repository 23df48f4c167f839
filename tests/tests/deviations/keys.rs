//! Keys with prefixes: the server to which they lead, and the key that is left when a prefix is
//! removed.

use anyhow::{Result, anyhow};
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

#[test]
fn e5_nothing_is_written_where_no_reader_looks() -> Result<()> {
    let scene = scene()?;
    let mut alone = scene.client(ALONE_PREFIX)?;
    lines(&mut alone, &["multi", "set a:2 1", "set b:2 1", "exec"])?;
    lines(&mut alone, &["set a:1 1", "rename a:1 b:ren"])?;
    alone.line("eval \"redis.call('set', KEYS[2], '1')\" 2 a:3 b:3")?;
    for key in ["b:2", "b:ren", "b:3"] {
        assert_eq!(scene.x.cmd(&["EXISTS", key])?, Reply::Integer(1), "{key}: redis_proxy alone now does better");
        assert_eq!(alone.line(&format!("exists {key}"))?, Reply::Integer(0));
    }

    scene.x.forget()?;
    let mut ours = scene.client(PREFIX)?;
    let crossslot = "(error) CROSSSLOT redis-mesh: keys route to different destinations";
    let replies = lines(&mut ours, &["multi", "set a:2 1", "set b:2 1", "exec", "exists a:2 b:2"])?;
    assert!(
        replies[1..3].iter().all(|reply| reply.contains("redis-mesh: a transaction needs the native data path")),
        "{replies:?}"
    );
    assert!(replies[3].starts_with("(error) EXECABORT"), "{replies:?}");
    assert_eq!(replies[4], "(integer) 0");
    for line in [
        "rename a:1 b:ren",
        "eval \"redis.call('set', KEYS[2], '1')\" 2 a:3 b:3",
        "sinterstore a:d b:s",
        "bitop and b:d a:1 a:2",
        "lmove a:l b:l left left",
        "copy a:1 b:1",
        "zunionstore a:z 2 a:y b:y",
        "georadius a:g 0 0 1 m store b:g",
        "sort a:l store b:l",
        "msetnx a:m 1 b:m 2",
        "pfmerge a:p b:p",
        "smove a:s b:s m",
        "zrangestore b:z a:z 0 -1",
    ] {
        lines(&mut ours, &["set a:1 1", "rpush a:l 1"])?;
        assert_eq!(ours.line(line)?.tty(), crossslot, "{line}");
    }
    // Those that can be split are, and the parts put together again.
    assert_eq!(
        lines(
            &mut ours,
            &["mset a:k 1 b:k 2", "mget b:k a:k none b:k", "exists a:k b:k", "touch b:k a:k", "del a:k b:k"]
        )?,
        ["OK", "1) \"2\"\n2) \"1\"\n3) (nil)\n4) \"2\"", "(integer) 2", "(integer) 2", "(integer) 2",]
    );
    assert_eq!(scene.y.cmd(&["DBSIZE"])?, Reply::Integer(0));
    // One destination for all keys: everything goes.
    assert_eq!(lines(&mut ours, &["set b:1 1", "rename b:1 b:2", "get b:2"])?, ["OK", "OK", "\"1\""]);
    assert_eq!(scene.y.cmd(&["GET", "b:2"])?, Reply::bulk("1"));
    assert_eq!(ours.line("eval \"return redis.call('get', KEYS[1])\" 1 b:2")?, Reply::bulk("1"));
    Ok(())
}

#[test]
fn e6_a_prefix_is_removed_from_every_key() -> Result<()> {
    let scene = scene()?;
    let script = ["sadd r:s1 x y", "sadd r:s2 x", "sinter r:s1 r:s2", "sunionstore r:d r:s1 r:s2", "rename r:s2 r:s3"];
    let mut alone = scene.client(ALONE_STRIP)?;
    let replies = lines(&mut alone, &script)?;
    assert_eq!(replies[2..4], ["(empty array)", "(integer) 0"], "redis_proxy alone now does better");
    assert_eq!(scene.x.cmd(&["EXISTS", "r:s3"])?, Reply::Integer(1));
    // Without a catch-all it can't begin a transaction.
    let mut alone = scene.client(ALONE_STRIP_ONLY)?;
    let replies = lines(&mut alone, &["multi", "set r:t 1", "exec"])?;
    assert!(replies.iter().any(|reply| reply.contains("no upstream host")), "{replies:?}");

    for at in [STRIP, STRIP_DIRECT] {
        scene.x.forget()?;
        let mut ours = scene.client(at)?;
        assert_eq!(lines(&mut ours, &script)?, ["(integer) 2", "(integer) 1", "1) \"x\"", "(integer) 2", "OK"]);
        assert_eq!(
            lines(&mut ours, &["multi", "set r:t 1", "mset r:u 2 v 3", "get r:t", "exec", "get r:t"])?,
            ["OK", "QUEUED", "QUEUED", "QUEUED", "1) OK\n2) OK\n3) \"1\"", "\"1\""]
        );
        ours.ok(&["EVAL", "return redis.call('set', KEYS[2], ARGV[1])", "2", "r:e", "r:f", "r:value"])?;
        let Reply::Array(mut keys) = scene.x.cmd(&["KEYS", "*"])? else { return Err(anyhow!("KEYS gave no array")) };
        keys.sort_by_key(Reply::text);
        assert_eq!(keys, ["d", "f", "s1", "s3", "t", "u", "v"].map(Reply::bulk));
        assert_eq!(scene.x.cmd(&["GET", "f"])?, Reply::bulk("r:value"), "an argument that is no key stays");
        // Names of keys in replies would need the prefix again.
        for line in ["keys *", "randomkey", "scan 0"] {
            assert!(ours.line(line)?.text().contains("which removePrefix changes"), "{line}");
        }
    }
    Ok(())
}
