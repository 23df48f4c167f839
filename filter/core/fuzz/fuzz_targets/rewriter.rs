//! Arbitrary bytes from a client and from the next filter, in pieces of any size: no panic, no
//! endless loop, and what goes on is a sequence of commands, none of which has a tag that isn't
//! the filter's where redis_proxy routes by it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire::Limits;

#[allow(dead_code)]
#[path = "../../tests/support/harness.rs"]
mod harness;
use harness::Harness;

const HOSTS: [&str; 3] = [
    r#"{"host": "h:1", "path": "direct", "upstreamLogin": {"password": "s"}, "guardCredentials": true, "targets": [{"destination": "d:1"}], "routes": [{"match": {"prefix": "b:"}, "target": 0}, {"match": "any", "target": 0}], "faults": [{"type": "error", "perMillion": 300000}, {"type": "delay", "perMillion": 300000, "delayMs": 5}]}"#,
    r#"{"host": "h:1", "path": "proxy", "handshake": "hs", "targets": [{"destination": "a:1", "tags": ["\u0001aaaa:"]}, {"destination": "b:1", "mirrors": [{"destination": "m:1", "perMillion": 500000}], "tags": ["\u0001bbbb:", "\u0001cccc:"]}], "routes": [{"match": {"prefix": "b:"}, "target": 1}, {"match": {"regex": "^[a-z]+$"}, "target": 0}]}"#,
    r#"{"host": "h:1", "path": "proxy", "handshake": "hs", "targets": [{"destination": "a:1", "tags": [null]}], "routes": [{"match": "any", "target": 0}]}"#,
];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let several = usize::from(choice) % 3 == 1;
    let mut harness = Harness::new(Harness::config(HOSTS[usize::from(choice) % 3]));
    if choice & 0x80 != 0 {
        harness.send(b"PING\r\n");
        harness.answer(b"+OK\r\n");
    }
    let mut at = 0;
    while let Some(&head) = rest.get(at) {
        let len = usize::from(head & 0x3f) + 1;
        let piece = &rest[at + 1..(at + 1 + len).min(rest.len())];
        match head >> 6 {
            0 | 1 => harness.send(piece),
            2 => harness.answer(piece),
            _ => harness.wait(std::time::Duration::from_millis(len as u64)),
        }
        at += 1 + len;
    }
    let mut at = 0;
    while at < harness.next.len() {
        let mut parser = Parser::default();
        match parser.parse(&harness.next[at..], &Limits::default()) {
            Ok(Progress::Complete(n)) => {
                assert_eq!(harness.next[at], b'*');
                let frame = &harness.next[at..];
                if several && parser.args().len() == 2 && parser.args()[0].of(frame).eq_ignore_ascii_case(b"get") {
                    let key = parser.args()[1].of(frame);
                    let ours = [&b"\x01aaaa:"[..], b"\x01bbbb:", b"\x01cccc:"].iter().any(|tag| key.starts_with(tag));
                    assert!(ours, "{}", key.escape_ascii());
                }
                at += n;
            }
            Ok(Progress::Partial) => break,
            other => panic!("{other:?} went out"),
        }
    }
});
