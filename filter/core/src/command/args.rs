//! The arguments of a command, as spans of its bytes.

use super::key_spec::{Arguments, is_word};
use crate::resp::encode;
use crate::resp::request::{Parser, Progress, Span};
use crate::wire::Limits;

/// The arguments of a command, or the first of them when the rest is still to come.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    /// The command as an array of bulk strings, from its `*`.
    pub frame: &'a [u8],
    /// Where the arguments lie.
    pub spans: &'a [Span],
    /// Number of arguments that the command has in all.
    pub count: usize,
}

impl<'a> Args<'a> {
    /// Returns argument `i`; empty if it hasn't arrived or the command has fewer arguments.
    pub fn get(&self, i: usize) -> &'a [u8] {
        self.spans.get(i).map(|s| s.of(self.frame)).unwrap_or_default()
    }

    /// True if all arguments have arrived.
    pub fn complete(&self) -> bool {
        self.spans.len() == self.count
    }

    /// True if argument `i` is `word`, in any case, as servers compare the words of a command: up
    /// to a NUL, which ends a C string.
    pub fn is_word(&self, i: usize, word: &[u8]) -> bool {
        is_word(self.get(i), word)
    }

    /// Returns argument `i` as text of at most 128 characters, as Redis quotes it in errors.
    pub fn quoted(&self, i: usize) -> String {
        let arg = self.get(i);
        // 128 characters have no more bytes than that.
        String::from_utf8_lossy(&arg[..arg.len().min(512)]).chars().take(128).collect()
    }
}

impl Arguments for Args<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.spans.get(index).map(|s| s.of(self.frame))
    }
}

/// Writes arguments as an array of bulk strings; returns the bytes with the spans of the
/// arguments.
pub fn canonical(args: &Args<'_>) -> (Vec<u8>, Vec<Span>) {
    let mut frame = Vec::with_capacity(args.frame.len() + 16 * args.spans.len());
    let mut spans = Vec::with_capacity(args.spans.len());
    encode::array(&mut frame, args.spans.len());
    for span in args.spans {
        encode::header(&mut frame, b'$', u64::from(span.len));
        spans.push(Span { start: frame.len() as u32, len: span.len });
        frame.extend_from_slice(span.of(args.frame));
        frame.extend_from_slice(b"\r\n");
    }
    (frame, spans)
}

/// Calls `each` for each of the commands in `bytes`, which are arrays of bulk strings.
pub fn each_command(bytes: &[u8], mut each: impl FnMut(&Args<'_>)) {
    let mut at = 0;
    let limits =
        Limits { max_arguments: u32::MAX, max_bulk_bytes: u64::MAX, max_held_bytes: u32::MAX, ..Limits::default() };
    let mut parser = Parser::default();
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Ok(Progress::Complete(length)) = parser.parse(rest, &limits) else { return };
        each(&Args { frame: parser.frame(rest), spans: parser.args(), count: parser.args().len() });
        parser.reset();
        at += length;
    }
}
