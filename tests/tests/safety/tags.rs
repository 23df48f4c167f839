//! Keys that look like the tags by which redis_proxy chooses a cluster.

use anyhow::{Result, ensure};
use redis_mesh_tests::client::encode;
use redis_mesh_tests::reply::Reply;

use crate::attack::*;
use crate::scene::*;

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
                        // A sentinel behind tells where the answer ends; some commands end the
                        // connection.
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
