//! A command's arguments, and a command written anew with some of them changed.

use crate::command::Arguments;
use crate::resp::encode;
use crate::resp::request::Span;

/// The arguments of a command, or the first of them when the rest is still to come.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    /// The command as an array of bulk strings, from its `*`.
    pub frame: &'a [u8],
    /// Where the arguments lie.
    pub spans: &'a [Span],
    /// How many arguments the command has in all.
    pub count: usize,
}

impl<'a> Args<'a> {
    /// Argument `i`; empty if it isn't there.
    pub fn get(&self, i: usize) -> &'a [u8] {
        self.spans.get(i).map(|s| s.of(self.frame)).unwrap_or_default()
    }

    /// True when all arguments are there.
    pub fn complete(&self) -> bool {
        self.spans.len() == self.count
    }

    /// Redis's answer to a command that it doesn't know.
    pub fn unknown(&self) -> String {
        let mut shown = String::new();
        for i in 1..self.spans.len() {
            if shown.len() >= 128 {
                break;
            }
            shown.push_str(&format!("'{}' ", self.quoted(i)));
        }
        format!("ERR unknown command '{}', with args beginning with: {shown}", self.quoted(0))
    }

    /// Argument `i` as printable text of at most 128 characters, as Redis quotes it in errors.
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

/// A change of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgEdit {
    /// Which argument.
    pub arg: u32,
    /// Bytes to remove from its beginning.
    pub strip: u32,
    /// Put the tag before it.
    pub tag: TagRef,
}

/// Which tag to put before an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRef {
    /// None.
    None,
    /// Tag `tag` of target `target` of the host.
    Of {
        /// Index of the target.
        target: u32,
        /// Index of the tag: the bit mask of its mirrors.
        tag: u32,
    },
}

/// Appends the command with `edits`, which are in the order of their arguments.
pub fn write_edited<'t>(args: &Args<'_>, edits: &[ArgEdit], tag_of: impl Fn(TagRef) -> &'t [u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    for edit in edits {
        let Some(span) = args.spans.get(edit.arg as usize) else {
            continue;
        };
        let arg = span.of(args.frame);
        let kept = arg.get(edit.strip as usize..).unwrap_or_default();
        let tag = tag_of(edit.tag);
        let start = span.start as usize;
        // `$`, the digits and `\r\n`: the parser takes no other form of a length.
        let header = 3 + digits(span.len);
        out.extend_from_slice(&args.frame[copied..start - header]);
        encode::header(out, b'$', (tag.len() + kept.len()) as u64);
        out.extend_from_slice(tag);
        out.extend_from_slice(kept);
        copied = start + span.len as usize;
    }
    out.extend_from_slice(&args.frame[copied..]);
}

fn digits(n: u32) -> usize {
    n.checked_ilog10().map_or(1, |d| d as usize + 1)
}

/// Writes arguments as an array of bulk strings, with the spans that they have there.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::{Parser, Progress};
    use crate::wire::Limits;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn edits_arguments_in_place() {
        let frame = b"*4\r\n$4\r\nMSET\r\n$3\r\na:1\r\n$1\r\nx\r\n$12\r\na:2345678901\r\n";
        let mut parser = Parser::default();
        assert_eq!(parser.parse(frame, &Limits::default()), Ok(Progress::Complete(frame.len())));
        let args = Args { frame, spans: parser.args(), count: 4 };
        let tag = TagRef::Of { target: 0, tag: 0 };
        let edits = [ArgEdit { arg: 1, strip: 2, tag }, ArgEdit { arg: 3, strip: 2, tag: TagRef::None }];
        let mut out = Vec::new();
        write_edited(&args, &edits, |t| if t == TagRef::None { b"" } else { b"\x01t:" }, &mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            b"*4\r\n$4\r\nMSET\r\n$4\r\n\x01t:1\r\n$1\r\nx\r\n$10\r\n2345678901\r\n".escape_ascii().to_string()
        );
    }
}
