//! Edits of a command's arguments.

use crate::command::Args;
use crate::resp::encode;

/// A change of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgEdit {
    /// Index of the argument.
    pub arg: u32,
    /// Number of bytes to remove from the beginning of the argument.
    pub strip: u32,
    /// The tag to put before the argument.
    pub tag: TagRef,
}

/// The tag of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRef {
    /// No tag.
    None,
    /// Tag `tag` of target `target` of the host.
    Of {
        /// Index of the target.
        target: u32,
        /// Index of the tag: the bit mask of the mirrors.
        tag: u32,
    },
}

/// Appends the command with the edits, which are in the order of their arguments, applied.
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
        // The header is `$`, the digits and `\r\n`, since the parser takes no other form of a
        // length.
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
