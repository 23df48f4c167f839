//! Bytes that no well-behaved client sends.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::encode;
use redis_mesh_tests::reply::Reply;

use crate::attack::*;
use crate::scene::*;

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
            ("*3000000000\r\n", "ERR Protocol error: invalid multibulk length"),
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
