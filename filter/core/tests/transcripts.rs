//! Replays the transcripts: each whole, and with both directions cut into pieces of 1, 2, 3 …
//! bytes. Whatever the pieces, the same bytes must come out.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/harness.rs"]
mod harness;
#[path = "support/transcript.rs"]
mod transcript;

use harness::Harness;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire::Limits;
use std::time::Duration;
use transcript::{Nonces, Step, Transcript, encode, replace};

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

macro_rules! transcripts {
    ($($name:ident)*) => {
        /// The names and texts of all transcripts.
        const ALL: &[(&str, &str)] = &[$((stringify!($name), include_str!(concat!("transcripts/", stringify!($name), ".txt")))),*];
        $(#[test]
        fn $name() {
            replay(stringify!($name), include_str!(concat!("transcripts/", stringify!($name), ".txt")));
        })*
    };
}

transcripts! {
    direct_plain
    direct_client_auth
    direct_upstream_login
    direct_login_review
    direct_subscriptions
    direct_login_refused
    direct_login_withheld
    direct_maintenance
    direct_faults
    direct_routes
    direct_guard
    direct_guard_evasions
    direct_disguised_options
    direct_reset
    direct_reset_no_password
    direct_reply_modes
    direct_transaction
    direct_replies_off
    direct_faults_of_state
    proxy_single
    proxy_info
    proxy_time
    proxy_routes
    proxy_prefix_before_a_tag
    proxy_transaction
    proxy_refused_transaction
    proxy_session
    proxy_several_endpoints
    proxy_resp3
    proxy_mirror
    proxy_ping
    proxy_detour
    proxy_handshake_refused
    protocol_error
    refused
}

#[cfg(not(target_arch = "wasm32"))]
#[test]
fn every_file_is_replayed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut listed: Vec<_> = ALL.iter().map(|(name, _)| format!("{name}.txt")).collect();
    listed.sort();
    assert_eq!(files, listed);
}

fn replay(name: &str, text: &str) {
    let transcript = Transcript::parse(text);
    for piece in [usize::MAX, 1, 2, 3, 5, 7, 11, 16, 31] {
        Run::new(name, &transcript, piece).all(&transcript.steps);
    }
}

/// A replay in pieces of one size.
struct Run {
    name: String,
    piece: usize,
    harness: Harness,
    nonces: Nonces,
    checked_next: usize,
    checked_client: usize,
}

impl Run {
    fn new(name: &str, transcript: &Transcript, piece: usize) -> Run {
        let harness = Harness::new(Harness::config(&transcript.document("test")));
        let harness = if transcript.asks { harness } else { harness.has_asked() };
        let name = format!("{name} in pieces of {piece}");
        Run { name, piece, harness, nonces: Nonces::default(), checked_next: 0, checked_client: 0 }
    }

    fn all(mut self, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            let at = format!("{}, step {}: {step:?}", self.name, number + 1);
            match step {
                Step::ClientSends(bytes) => bytes.chunks(self.piece).for_each(|piece| self.harness.send(piece)),
                Step::NextAnswers(bytes) => {
                    let bytes = self.nonces.fill(bytes);
                    bytes.chunks(self.piece).for_each(|piece| self.harness.answer(piece));
                }
                Step::NextGets(words) => self.next_gets(words, &at),
                Step::ClientGets(bytes) => {
                    let bytes = &replace(bytes, b"<id>", b"7");
                    let got = &self.harness.client[self.checked_client..];
                    let shown = &got[..got.len().min(bytes.len())];
                    assert_eq!(shown.escape_ascii().to_string(), bytes.escape_ascii().to_string(), "{at}");
                    self.checked_client += bytes.len();
                }
                Step::Wait(ms) => {
                    self.nothing_more(&at);
                    self.harness.wait(Duration::from_millis(*ms));
                }
                Step::Closed => assert!(self.harness.rewriter.closing(), "{at}"),
            }
        }
        self.nothing_more(&self.name);
    }

    /// Checks the next command that went out.
    fn next_gets(&mut self, words: &[Vec<u8>], at: &str) {
        let rest = &self.harness.next[self.checked_next..];
        let mut parser = Parser::default();
        let Ok(Progress::Complete(length)) = parser.parse(rest, &Limits::default()) else {
            panic!("{at}: no command went out, but {:?}", rest.escape_ascii().to_string());
        };
        let words_out = parser.args().iter().map(|span| span.of(rest).to_vec());
        let got: Vec<Vec<u8>> = words_out.map(|word| self.nonces.name(word)).collect();
        assert_eq!(encode(&got).escape_ascii().to_string(), encode(words).escape_ascii().to_string(), "{at}");
        self.checked_next += length;
    }

    fn nothing_more(&self, at: &str) {
        let next = &self.harness.next[self.checked_next..];
        let client = &self.harness.client[self.checked_client..];
        assert_eq!(next.escape_ascii().to_string(), "", "{at}: went out, unexpected");
        assert_eq!(client.escape_ascii().to_string(), "", "{at}: reached the client, unexpected");
    }
}
