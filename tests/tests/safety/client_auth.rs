//! Client authentication: the required credentials, and the replies without them.

use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

const NOAUTH: &str = "(error) NOAUTH Authentication required.";
const INVALID: &str = "(error) ERR invalid password";
const WRONGPASS: &str = "(error) WRONGPASS invalid username-password pair or user is disabled.";
const HELLO_NOAUTH: &str = "(error) NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";

fn right() -> String {
    format!("auth {CLIENT_PASSWORD}")
}

#[test]
fn nothing_without_the_password() -> Result<()> {
    let scene = scene()?;
    let long = format!("auth {}", "x".repeat(100_000));
    for at in [ASK_DIRECT, ASK_PROXY, ASK_LOGIN] {
        let mut client = scene.client(at)?;
        for line in [
            "get k",
            "set k 1",
            "ping",
            "echo x",
            "multi",
            "exec",
            "select 0",
            "info",
            "command",
            "client setname x",
            "client id",
            "config get *",
            "keys *",
            "eval \"return 1\" 0",
            "subscribe c",
            "monitor",
            "nosuchcommand",
            "time",
            "shutdown nosave",
            "client reply off",
            "psync ? -1",
        ] {
            assert_eq!(client.line(line)?.tty(), NOAUTH, "{at}: {line}");
        }
        for (line, told) in [
            ("auth wrong", INVALID),
            ("auth \"\"", INVALID),
            (&long, INVALID),
            (&format!("auth {CLIENT_PASSWORD}x"), INVALID),
            (&format!("auth {}", CLIENT_PASSWORD.to_lowercase()), INVALID),
            (&format!("auth \" {CLIENT_PASSWORD}\""), INVALID),
            (&format!("auth \"{CLIENT_PASSWORD}\\x00\""), INVALID),
            ("auth default wrong", WRONGPASS),
            (&format!("auth nobody {CLIENT_PASSWORD}"), WRONGPASS),
            ("auth", "(error) ERR wrong number of arguments for 'auth' command"),
            ("auth a b c", "(error) ERR syntax error"),
            ("hello", HELLO_NOAUTH),
            ("hello 3", HELLO_NOAUTH),
            ("hello 3 auth default wrong", WRONGPASS),
            (&format!("hello 3 auth nobody {CLIENT_PASSWORD}"), WRONGPASS),
            ("hello 3 auth default", "(error) ERR Syntax error in HELLO option 'auth'"),
        ] {
            assert_eq!(client.line(line)?.tty(), told, "{at}: {line}");
            assert_eq!(client.line("get k")?.tty(), NOAUTH, "{at}: after {line}");
        }
        assert_eq!(client.line("quit")?, Reply::ok());
        assert!(client.is_closed_within(Duration::from_secs(5)));
    }
    // None of it has reached a server.
    for redis in [&scene.x, &scene.y, &scene.secret] {
        for command in ["get", "set", "eval", "keys", "config|get", "psync", "monitor", "multi", "subscribe", "hello"] {
            assert_eq!(redis.calls(command)?, 0, "{command}");
        }
    }
    assert_eq!(scene.x.calls("auth")?, 0);
    scene.check_alive()
}

#[test]
fn with_the_password_as_with_redis_itself() -> Result<()> {
    let scene = scene()?;
    for at in [ASK_DIRECT, ASK_PROXY, ASK_LOGIN] {
        let mut client = scene.client(at)?;
        // All in one write.
        assert_eq!(
            lines(
                &mut client,
                &[
                    "get k",
                    "auth wrong",
                    "set k 0",
                    &right(),
                    "set k 1",
                    "get k",
                    // Whoever is in stays in.
                    "auth wrong",
                    "get k",
                    &format!("auth default {CLIENT_PASSWORD}"),
                    "get k",
                    "reset",
                    "get k",
                    &right(),
                    "get k",
                ]
            )?,
            [
                NOAUTH, INVALID, NOAUTH, "OK", "OK", "\"1\"", INVALID, "\"1\"", "OK", "\"1\"", "RESET", NOAUTH, "OK",
                "\"1\""
            ],
            "{at}"
        );
        // HELLO carries it, in both protocols, byte by byte.
        for (protocol, null) in [("2", Reply::NullBulk), ("3", Reply::Null)] {
            let mut client = scene.client(at)?;
            let hello =
                format!("HELLO {protocol} AUTH default {CLIENT_PASSWORD} SETNAME me\r\nGET none\r\nCLIENT GETNAME\r\n");
            for byte in hello.as_bytes().chunks(1) {
                client.write(byte)?;
            }
            assert!(matches!(client.read()?, Reply::Map(_) | Reply::Array(_)), "{at}");
            assert_eq!(client.read()?, null, "{at}");
            assert_eq!(client.read()?, Reply::bulk("me"), "{at}");
            assert_eq!(client.line("reset")?.tty(), "RESET");
            assert_eq!(client.line("get k")?.tty(), NOAUTH);
        }
        // A transaction has no place for it.
        if at != ASK_PROXY {
            let mut client = scene.client(at)?;
            let replies = lines(&mut client, &[&right(), "multi", "set t 1", &right(), "exec", "exists t"])?;
            assert_eq!(replies[..3], ["OK", "OK", "QUEUED"], "{at}");
            assert_eq!(replies[3], "(error) ERR Command not allowed inside a transaction", "{at}");
            assert!(replies[4].starts_with("(error) EXECABORT"), "{at}: {replies:?}");
            assert_eq!(replies[5], "(integer) 0", "{at}");
        }
    }
    // Each connection for itself.
    let (mut one, mut two) = (scene.client(ASK_PROXY)?, scene.client(ASK_PROXY)?);
    assert_eq!(one.line(&right())?, Reply::ok());
    assert_eq!(two.line("get k")?.tty(), NOAUTH);
    scene.check_alive()
}

#[test]
fn a_user_name_that_is_asked_for() -> Result<()> {
    let scene = scene()?;
    let mut client = scene.client(ASK_USER)?;
    for line in [
        format!("auth default {CLIENT_PASSWORD}"),
        format!("auth App {CLIENT_PASSWORD}"),
        "auth app wrong".to_string(),
        format!("hello 2 auth default {CLIENT_PASSWORD}"),
    ] {
        assert_eq!(client.line(&line)?.tty(), WRONGPASS, "{line}");
        assert_eq!(client.line("get k")?.tty(), NOAUTH, "{line}");
    }
    assert_eq!(client.line(&format!("auth app {CLIENT_PASSWORD}"))?, Reply::ok());
    assert_eq!(client.line("get k")?, Reply::NullBulk);
    Ok(())
}

#[test]
fn where_none_is_asked_for() -> Result<()> {
    let scene = scene()?;
    let none = "(error) ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
    // On `direct` it is Redis that says so, or takes it.
    for at in [DIRECT, SINGLE, SEVERAL, LOGIN_DIRECT, LOGIN_PROXY] {
        let mut client = scene.client(at)?;
        assert_eq!(client.line("auth anything")?.tty(), none, "{at}");
        assert_eq!(client.line("auth default anything")?.tty(), "OK", "{at}");
        assert_eq!(client.line("auth nobody anything")?.tty(), WRONGPASS, "{at}");
        assert_eq!(client.line("get k")?, Reply::NullBulk, "{at}");
        // No way to find the password of the server out.
        assert_eq!(client.line(&format!("auth {UPSTREAM_PASSWORD}"))?.tty(), none, "{at}");
        assert_eq!(client.line(&format!("auth default {UPSTREAM_PASSWORD}"))?.tty(), "OK", "{at}");
    }
    Ok(())
}
