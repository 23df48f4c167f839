//! Random conversations of the rewriter with a reference of the next filter. Commands reach the
//! destinations that their keys route to, and replies come in the order of the commands, whatever
//! a client sends and however both directions are cut into pieces.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(not(target_arch = "wasm32"))]

#[allow(dead_code, reason = "only transcripts let time pass")]
#[path = "support/harness.rs"]
mod harness;

use harness::Harness;
use proptest::collection::vec;
use proptest::prelude::*;
use redis_mesh_core::resp::framer::Framer;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::rewriter::config::RewriterConfig;
use redis_mesh_core::wire::Limits;

const DIRECT: &str = r#"{"host": "h:1", "path": "direct", "targets": [{"destination": "d:1"}], "routes": [{"match": {"prefix": "b:"}, "target": 0}, {"match": {"prefix": "a:"}, "target": 0, "removePrefix": true}]}"#;
const SEVERAL: &str = r#"{"host": "h:1", "path": "proxy", "handshake": "hs",
  "targets": [{"destination": "a:1", "tags": ["\u0001aaaa:"]}, {"destination": "b:1", "tags": ["\u0001bbbb:"]}],
  "routes": [{"match": {"prefix": "b:"}, "target": 1}, {"match": {"prefix": "a:"}, "target": 0, "removePrefix": true}]}"#;
const SINGLE: &str = r#"{"host": "h:1", "path": "proxy", "handshake": "hs", "targets": [{"destination": "a:1", "tags": [null]}], "routes": [{"match": "any", "target": 0}]}"#;

/// Returns the configuration of one host.
fn config(host: &str) -> RewriterConfig {
    Harness::config(&format!(r#"{{"name": "test", "revision": 1, "hosts": [{host}]}}"#))
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop_oneof![
            Just("GET"),
            Just("SET"),
            Just("MGET"),
            Just("MSET"),
            Just("DEL"),
            Just("RENAME"),
            Just("EVAL"),
            Just("MULTI"),
            Just("EXEC"),
            Just("DISCARD"),
            Just("WATCH"),
            Just("PING"),
            Just("ECHO"),
            Just("SELECT"),
            Just("HELLO"),
            Just("RESET"),
            Just("CLIENT"),
            Just("REPLY"),
            Just("KEYS"),
            Just("OBJECT"),
            Just("BITOP"),
            Just("ZUNION"),
            Just("SORT"),
            Just("BY"),
            Just("CONFIG"),
            Just("COMMAND"),
            Just("3"),
            Just("2"),
            Just("1"),
            Just("0"),
            Just("AUTH"),
            Just("XREAD"),
            Just("STREAMS"),
            Just("nosuch"),
            Just("SUBSCRIBE"),
            Just("QUIT"),
        ]
        .prop_map(|w| w.as_bytes().to_vec()),
        prop_oneof![
            Just("a:k"),
            Just("b:k"),
            Just("a:l"),
            Just("other"),
            Just("\u{1}bbbb:x"),
            Just("a:\u{1}bbbb:x"),
            Just("")
        ]
        .prop_map(|w| w.as_bytes().to_vec()),
        vec(any::<u8>(), 0..6),
    ]
}

fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for w in words {
        out.extend(format!("${}\r\n", w.len()).into_bytes());
        out.extend(w);
        out.extend(b"\r\n");
    }
    out
}

/// Parses the commands that the next filter has got. Returns them with the number of their bytes,
/// and panics if the bytes are no commands.
fn commands(bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, usize) {
    let (mut at, mut all) = (0, Vec::new());
    loop {
        let mut parser = Parser::default();
        match parser.parse(&bytes[at..], &Limits::default()) {
            Ok(Progress::Complete(n)) => {
                assert_eq!(bytes[at], b'*', "an inline command went out");
                all.push(parser.args().iter().map(|s| s.of(&bytes[at..]).to_vec()).collect());
                at += n;
            }
            Ok(Progress::Partial) => return (all, at),
            other => panic!("{other:?} went out: {}", bytes[at..].escape_ascii()),
        }
    }
}

/// Returns the reply of the next filter to a command: ECHO and errors as Redis gives them, a
/// fixed reply for other commands.
fn answer(command: &[Vec<u8>]) -> Vec<u8> {
    let name = command[0].to_ascii_uppercase();
    let bulk = |b: &[u8]| [format!("${}\r\n", b.len()).as_bytes(), b, b"\r\n"].concat();
    match name.as_slice() {
        b"AUTH" | b"MULTI" | b"DISCARD" => b"+OK\r\n".to_vec(),
        b"ECHO" if command.len() == 2 => bulk(&command[1]),
        b"EXEC" => b"*0\r\n".to_vec(),
        n if n.len() == 32 => [b"-ERR unknown command '", n, b"', with args beginning with: \r\n"].concat(),
        _ => b":1\r\n".to_vec(),
    }
}

/// Runs a conversation to its end: the client sends these bytes in pieces of these sizes.
fn converse(host: &str, sent: &[u8], pieces: &[usize]) -> Harness {
    let mut harness = Harness::new(config(host));
    let (mut at, mut answered) = (0, 0);
    let mut pieces = pieces.iter().cycle();
    loop {
        let piece = (*pieces.next().unwrap_or(&1)).max(1);
        let end = (at + piece).min(sent.len());
        harness.send(&sent[at..end]);
        at = end;
        let (all, consumed) = commands(&harness.next[answered..]);
        let replies: Vec<u8> = all.iter().flat_map(|c| answer(c)).collect();
        answered += consumed;
        for part in replies.chunks(piece) {
            harness.answer(part);
        }
        if at == sent.len() && replies.is_empty() {
            return harness;
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1usize..8, 1usize..200], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The sizes of the pieces make no difference.
    #[test]
    fn pieces_change_nothing(conversation in vec(vec(word(), 1..6), 1..12), pieces in pieces(), host in 0..3usize) {
        let host = [DIRECT, SEVERAL, SINGLE][host];
        let sent: Vec<u8> = conversation.iter().flat_map(|c| encode(c)).collect();
        let whole = converse(host, &sent, &[usize::MAX / 2]);
        let cut = converse(host, &sent, &pieces);
        prop_assert_eq!(whole.next.escape_ascii().to_string(), cut.next.escape_ascii().to_string());
        prop_assert_eq!(whole.client.escape_ascii().to_string(), cut.client.escape_ascii().to_string());
    }

    /// Keys go only to the destinations that they route to, and an argument by which redis_proxy
    /// routes begins with 0x01 only if the rewriter has put a tag there.
    #[test]
    fn keys_go_where_they_route(conversation in vec(vec(word(), 1..6), 1..12), pieces in pieces()) {
        let sent: Vec<u8> = conversation.iter().flat_map(|c| encode(c)).collect();
        let harness = converse(SEVERAL, &sent, &pieces);
        for command in commands(&harness.next).0 {
            let name = command[0].to_ascii_uppercase();
            if matches!(name.as_slice(), b"GET" | b"SET" | b"DEL" | b"MGET" | b"RENAME") {
                let routed = if matches!(name.as_slice(), b"DEL" | b"MGET") { &command[1..] } else { &command[1..2] };
                for arg in routed {
                    let to_a = arg.strip_prefix(b"\x01aaaa:");
                    let to_b = arg.strip_prefix(b"\x01bbbb:");
                    prop_assert!(to_a.is_some() || to_b.is_some_and(|k| k.starts_with(b"b:")), "{}", arg.escape_ascii());
                }
            }
            prop_assert!(!matches!(name.as_slice(), b"MULTI" | b"WATCH" | b"SELECT" | b"KEYS"), "{}", name.escape_ascii());
        }
    }

    /// Each command has one reply, in RESP.
    #[test]
    fn every_command_is_answered(conversation in vec(vec(word(), 1..6), 1..12), pieces in pieces(), host in 1..3usize) {
        let conversation: Vec<_> = conversation
            .into_iter()
            .filter(|c| !["RESET", "HELLO", "QUIT"].iter().any(|n| c[0].eq_ignore_ascii_case(n.as_bytes())))
            .collect();
        let sent: Vec<u8> = conversation.iter().flat_map(|c| encode(c)).collect();
        let harness = converse([DIRECT, SEVERAL, SINGLE][host], &sent, &pieces);
        let (mut at, mut replies) = (0, 0);
        while at < harness.client.len() {
            let Ok((n, true)) = Framer::default().feed(&harness.client[at..]) else {
                panic!("not RESP: {}", harness.client[at..].escape_ascii());
            };
            at += n;
            replies += 1;
        }
        prop_assert_eq!(replies, conversation.len(), "{}", harness.client.escape_ascii());
    }

    /// Random bytes from a client lead to a reply or a closed connection.
    #[test]
    fn garbage_does_no_harm(sent in vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'*'), Just(b'$'), Just(b'1')], 0..300), pieces in pieces(), host in 0..3usize) {
        let harness = converse([DIRECT, SEVERAL, SINGLE][host], &sent, &pieces);
        commands(&harness.next);
    }

    /// Random bytes in place of replies don't stop the rewriter.
    #[test]
    fn garbage_from_the_next_filter_does_no_harm(replies in vec(vec(any::<u8>(), 0..40), 0..20), host in 0..3usize) {
        let mut harness = Harness::new(config([DIRECT, SEVERAL, SINGLE][host]));
        harness.send(&encode(&[b"HELLO".to_vec(), b"3".to_vec()]));
        harness.answer(b"+OK\r\n");
        for reply in replies {
            harness.send(&encode(&[b"HGETALL".to_vec(), b"a:k".to_vec()]));
            harness.answer(&reply);
        }
    }
}

/// A client that sends all commands at once and closes its side gets all replies, since the
/// upstream login is sent together with the commands.
#[test]
fn a_client_that_closes_its_side_at_once_gets_its_replies() {
    let host = r#"{"host": "h:1", "path": "direct", "upstreamLogin": {"password": "s"}, "targets": [{"destination": "d:1"}], "routes": [{"match": "any", "target": 0}]}"#;
    let mut harness = Harness::new(config(host));
    harness.ending = true;
    harness.send(b"GET k\r\nPING\r\n");
    let names: Vec<_> = commands(&harness.next).0.into_iter().map(|c| c[0].clone()).collect();
    assert_eq!(names, [b"AUTH".to_vec(), b"GET".to_vec(), b"PING".to_vec()]);
    harness.answer(b"+OK\r\n$-1\r\n+PONG\r\n");
    assert_eq!(harness.client.escape_ascii().to_string(), "$-1\\r\\n+PONG\\r\\n");
}
