//! Where replies end, and which of them are needed as a whole.

use super::pending::{InFlight, PendingReply};
use crate::multiplexer::ids::ClientId;
use crate::resp::framer::Framer;

/// How the frame that is coming is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Its bytes are passed on as they arrive.
    #[default]
    Stream,
    /// It is collected: something in it has to be looked at. It may have this many bytes.
    Collect(usize),
    /// It is collected, and is no reply, or a reply that says so itself: for this client.
    Push(ClientId),
    /// It is for nobody: a push over a connection over which nobody has asked to be told anything. It
    /// answers no command.
    Skip,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'d> {
    /// A piece of a frame that is passed on as it arrives; true with the last one.
    Piece(&'d [u8], bool),
    /// A whole frame that was collected.
    Whole(Vec<u8>),
    /// A whole frame for this client.
    Push(ClientId, Vec<u8>),
    /// Nothing whole; more bytes are needed.
    Incomplete,
}

/// The bytes are not RESP, or no reply to what was asked can be as large.
#[derive(Debug, PartialEq, Eq)]
pub struct NotResp;

/// The bytes that a reply may have to a command of the multiplexer's own, such as HELLO, or to a
/// command in a transaction, which is queued.
const MAX_OWN: usize = 64 * 1024;
/// The bytes that an answer about a Redis Cluster may have. CLUSTER SLOTS of one whose slots are all
/// apart from each other has 6 MB.
const MAX_TOPOLOGY: usize = 32 * 1024 * 1024;

/// Reads frames from the bytes of one connection.
#[derive(Debug, Default)]
pub struct ReplyReader {
    framer: Framer,
    mode: ReadMode,
    /// What has come of a frame that is collected.
    collected: Vec<u8>,
    /// The host was told to take no bytes of Redis.
    pub is_paused: bool,
}

impl ReplyReader {
    /// True if the next byte begins a frame.
    #[inline]
    pub fn is_between_frames(&self) -> bool {
        !self.framer.is_open() && self.collected.is_empty()
    }

    /// True if part of a frame was passed on, and the rest is still to come.
    pub fn has_passed_on_part(&self) -> bool {
        self.framer.is_open() && self.collected.is_empty() && self.mode != ReadMode::Skip
    }

    /// The number of bytes that are held.
    pub fn held(&self) -> usize {
        self.collected.len()
    }

    /// Says how the next frame is read.
    #[inline]
    pub fn begin(&mut self, mode: ReadMode) {
        self.mode = mode;
    }

    /// Reads from the front of `input`, which is shortened by what was read.
    ///
    /// # Errors
    /// The bytes are not RESP, or what is collected is too large.
    #[inline]
    pub fn read<'d>(&mut self, input: &mut &'d [u8]) -> Result<Frame<'d>, NotResp> {
        let data = *input;
        let (used, is_complete) = self.framer.feed(data).map_err(|_| NotResp)?;
        let (piece, rest) = data.split_at_checked(used).unwrap_or((data, &[]));
        *input = rest;
        if self.mode == ReadMode::Stream {
            return Ok(Frame::Piece(piece, is_complete));
        }
        if self.mode == ReadMode::Skip {
            return Ok(Frame::Incomplete);
        }
        if let ReadMode::Collect(most) = self.mode
            && self.collected.len() + piece.len() > most
        {
            return Err(NotResp);
        }
        self.collected.extend_from_slice(piece);
        if !is_complete {
            return Ok(Frame::Incomplete);
        }
        let frame = std::mem::take(&mut self.collected);
        Ok(match self.mode {
            ReadMode::Push(client) => Frame::Push(client, frame),
            ReadMode::Collect(_) | ReadMode::Stream | ReadMode::Skip => Frame::Whole(frame),
        })
    }
}

/// How a reply is read that answers this, by its first byte.
#[inline]
pub fn mode_of(in_flight: Option<&InFlight>, first: u8) -> ReadMode {
    let Some(in_flight) = in_flight else { return ReadMode::Stream };
    let is_error = first == b'-';
    let is_collected = match in_flight.what {
        // An error may say that another server has to get the command, or that the script isn't
        // known.
        PendingReply::Command(_) => is_error,
        // In the answers of a transaction there may be such errors, too.
        PendingReply::Exec(_) => is_error || in_flight.names_scripts || in_flight.is_mirrored,
        PendingReply::Copy(_) => is_error,
        PendingReply::CopiedExec(_) | PendingReply::Part(..) | PendingReply::Subscription(..) => true,
        PendingReply::Ignored => false,
        PendingReply::SilentChange(_) | PendingReply::Inquiry(_) => true,
        PendingReply::Handshake(_) | PendingReply::Queued | PendingReply::Control(_) => {
            return ReadMode::Collect(MAX_OWN);
        }
        PendingReply::Topology => return ReadMode::Collect(MAX_TOPOLOGY),
    };
    if is_collected { ReadMode::Collect(usize::MAX) } else { ReadMode::Stream }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn frames_are_passed_on_or_collected() {
        let mut reader = ReplyReader::default();
        let mut input: &[u8] = b"$5\r\nhel";
        reader.begin(ReadMode::Stream);
        assert_eq!(reader.read(&mut input), Ok(Frame::Piece(b"$5\r\nhel", false)));
        assert!(reader.has_passed_on_part() && !reader.is_between_frames());
        input = b"lo\r\n+OK\r\n";
        assert_eq!(reader.read(&mut input), Ok(Frame::Piece(b"lo\r\n", true)));
        assert!(reader.is_between_frames());
        reader.begin(ReadMode::Collect(5));
        let mut begun: &[u8] = b"+O";
        assert_eq!(reader.read(&mut begun), Ok(Frame::Incomplete));
        assert!(!reader.has_passed_on_part() && !reader.is_between_frames());
        let mut rest: &[u8] = b"K\r\n";
        assert_eq!(reader.read(&mut rest), Ok(Frame::Whole(b"+OK\r\n".to_vec())));
        reader.begin(ReadMode::Push(ClientId::of_number(3)));
        let mut push: &[u8] = b">1\r\n+x\r\n";
        let expected = Frame::Push(ClientId::of_number(3), b">1\r\n+x\r\n".to_vec());
        assert_eq!(reader.read(&mut push), Ok(expected));
        reader.begin(ReadMode::Collect(4));
        let mut large: &[u8] = b"+O";
        assert_eq!(reader.read(&mut large), Ok(Frame::Incomplete));
        large = b"K\r\n";
        assert_eq!(reader.read(&mut large), Err(NotResp));
        reader = ReplyReader::default();
        // What is skipped is no part of a reply.
        reader.begin(ReadMode::Skip);
        let mut skipped: &[u8] = b">2\r\n$6\r\nMOV";
        assert_eq!(reader.read(&mut skipped), Ok(Frame::Incomplete));
        assert!(!reader.has_passed_on_part() && !reader.is_between_frames());
        skipped = b"ING\r\n:1\r\n+OK\r\n";
        assert_eq!(reader.read(&mut skipped), Ok(Frame::Incomplete));
        assert!(reader.is_between_frames() && skipped == b"+OK\r\n");
        reader = ReplyReader::default();
        let mut bad: &[u8] = b"?\r\n";
        assert_eq!(reader.read(&mut bad), Err(NotResp));
    }
}
