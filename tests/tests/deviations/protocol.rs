//! Commands and protocol versions to which redis_proxy answers otherwise than Redis.

use anyhow::Result;
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

#[test]
fn e9_protocol_deviations() -> Result<()> {
    let scene = scene()?;
    let mut alone = scene.client(ALONE_SINGLE)?;
    assert!(alone.line("eval \"return 1\" 0")?.text().contains("wrong number of arguments"));
    assert_eq!(alone.line("ping hi")?.tty(), "PONG");
    assert_eq!(
        lines(&mut alone, &["multi", "ping", "eval \"return 1\" 1 k", "script load \"return 1\"", "discard"])?,
        [
            "OK",
            "PONG",
            "(error) 'eval' command is not supported within transaction",
            "(error) 'script' command is not supported within transaction",
            "OK"
        ]
    );

    let mut ours = scene.client(DIRECT)?;
    assert_eq!(ours.line("eval \"return 1\" 0")?, Reply::Integer(1));
    assert_eq!(ours.line("ping hi")?, Reply::bulk("hi"));
    assert_eq!(
        lines(&mut ours, &["multi", "ping", "ping hi", "eval \"return 1\" 1 k", "exec"])?,
        ["OK", "QUEUED", "QUEUED", "QUEUED", "1) PONG\n2) \"hi\"\n3) (integer) 1"]
    );

    let mut ours = scene.client(SINGLE)?;
    assert_eq!(ours.line("ping hi")?, Reply::bulk("hi"));
    assert_eq!(ours.line("ping")?.tty(), "PONG");
    assert_eq!(
        ours.line("eval \"return 1\" 0")?.text(),
        "ERR redis-mesh: EVAL without a key or an argument needs the direct or native data path"
    );
    assert_eq!(ours.line("eval \"return ARGV[1]\" 0 a")?, Reply::bulk("a"));
    for line in ["ping", "eval \"return 1\" 1 k", "script load \"return 1\"", "echo x"] {
        let replies = lines(&mut ours, &["multi", "set n 1", line, "exec", "exists n"])?;
        assert!(
            replies[2].contains("inside a transaction needs the direct or native data path"),
            "{line}: {replies:?}"
        );
        assert!(replies[3].starts_with("(error) EXECABORT"), "{line}: {replies:?}");
        assert_eq!(replies[4], "(integer) 0", "{line}");
    }
    Ok(())
}

#[test]
fn e10_both_protocols_on_one_port() -> Result<()> {
    let scene = scene()?;
    scene.x.cmd(&["HSET", "h", "f", "v"])?;
    assert!(scene.client(ALONE_SINGLE)?.line("hello 3")?.text().starts_with("NOPROTO"));
    let mut alone = scene.client(ALONE_RESP3)?;
    assert!(alone.line("get k")?.text().starts_with("NOPROTO"));
    assert!(alone.line("hello 2")?.text().starts_with("NOPROTO"));

    let (map, array) = (
        Reply::Map(vec![(Reply::bulk("f"), Reply::bulk("v"))]),
        Reply::Array(vec![Reply::bulk("f"), Reply::bulk("v")]),
    );
    for at in [SINGLE, DIRECT, PREFIX, MIRROR] {
        let (mut two, mut three) = (scene.client(at)?, scene.client(at)?);
        assert!(matches!(three.ok(&["HELLO", "3"])?, Reply::Map(_)));
        assert_eq!((two.line("get none")?, three.line("get none")?), (Reply::NullBulk, Reply::Null));
        assert_eq!((two.line("hgetall h")?, three.line("hgetall h")?), (array.clone(), map.clone()));
        assert!(matches!(three.ok(&["HELLO", "2"])?, Reply::Array(_)));
        assert_eq!(three.line("hgetall h")?, array);
        assert!(two.line("hello 4")?.text().starts_with("NOPROTO"));
    }
    Ok(())
}

#[test]
fn e13_info_does_not_pretend_a_cluster() -> Result<()> {
    let scene = scene()?;
    let mode = |at: u8| -> Result<Option<String>> {
        let text = scene.client(at)?.ok(&["INFO"])?.text();
        // Valkey has another name for it.
        Ok(info_field(&text, "redis_mode").or(info_field(&text, "server_mode")).map(str::to_string))
    };
    assert_eq!(mode(ALONE_SINGLE)?.as_deref(), Some("cluster"), "redis_proxy alone now does better");
    assert_eq!(mode(DIRECT)?.as_deref(), Some("standalone"));
    assert_eq!(mode(PREFIX)?.as_deref(), Some("standalone"));
    Ok(())
}
