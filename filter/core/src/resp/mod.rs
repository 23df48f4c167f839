//! RESP, the Redis serialization protocol
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! Requests are framed by [`request`]. Replies are read in three ways: [`framer`] finds their ends
//! in a stream, [`value`] reads a whole reply whose content matters, [`resp3`] converts a reply to
//! its RESP3 form.

mod converter;
pub mod elements;
pub mod encode;
pub mod framer;
pub mod request;
pub mod resp3;
pub mod shape;
pub mod value;

use std::borrow::Cow;

/// Returns the words of an error reply, without its first byte and its line break.
pub fn error_text(reply: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(reply.get(1..).unwrap_or_default().trim_ascii_end())
}
