//! What the rewriter tells its host about the two byte streams.

use std::time::Duration;

/// What became of the bytes that were passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum StreamEdit {
    /// They go on as they are.
    Unchanged,
    /// `out` goes on in their place.
    Replaced,
}

/// Whether client bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Client bytes are wanted.
    Open,
    /// Client bytes wait for a certain reply.
    Reply,
    /// Client bytes wait until fewer replies are outstanding.
    Backlog,
    /// Client bytes wait until this time of `Env::now`.
    Until(Duration),
    /// No client bytes are wanted any more: the connection is about to be closed.
    Shut,
}

/// How upstream bytes are to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyNeed {
    /// They pass unread.
    Nothing,
    /// All of them go to `Rewriter::reply`.
    All,
    /// The first of them (up to [`HEAD`]) go to `Rewriter::reply_head`, which may say that all are
    /// needed.
    Head,
}

/// Number of bytes that `Rewriter::reply_head` wants to see.
pub const HEAD: usize = 64;
