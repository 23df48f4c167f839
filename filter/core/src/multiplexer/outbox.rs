//! What a host has to do, in the order in which it has to be done.

use super::ids::{ClientId, ConnectionId};
use super::inquiry::question::{Answer, ClientInquiry, InquiryId, InquiryOrigin};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The name of a cluster in Envoy.
    pub cluster: Arc<str>,
    /// The host of that cluster to connect to; absent: whichever Envoy chooses.
    pub node: Option<SocketAddr>,
}

/// What a host has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write to the client what [`take_downstream`](super::Multiplexer::take_downstream) returns.
    Write(ClientId),
    /// Offer again the bytes that [`read`](super::Multiplexer::read) did not take.
    Resume(ClientId),
    /// Close the client's connection after everything that has been written to it.
    CloseDownstream(ClientId),
    /// Close the client's connection at once: the client does not read what it is sent.
    AbortDownstream(ClientId),
    /// Open a connection.
    Open(ConnectionId, Address),
    /// Tell the healthy members of this cluster in Envoy by
    /// [`set_members`](super::Multiplexer::set_members), now or when there are some.
    FindMembers(Arc<str>),
    /// Carry a question to all other workers of the process, and tell their number by
    /// [`Desk::sent`](super::Desk::sent).
    Ask(InquiryId, Arc<ClientInquiry>),
    /// Carry an answer to the worker that has asked.
    Tell(InquiryOrigin, Answer),
    /// Send to Redis what [`take_upstream`](super::Multiplexer::take_upstream) returns.
    Send(ConnectionId),
    /// Take no more bytes of Redis over a connection, so that Redis keeps them. What the host has
    /// taken already may still be given to the multiplexer.
    PauseUpstream(ConnectionId),
    /// Take bytes of Redis again.
    ResumeUpstream(ConnectionId),
    /// Close a connection to Redis.
    CloseUpstream(ConnectionId),
}

/// Buffers that are kept to be used again.
const SPARE_BUFFERS: usize = 16;
/// The largest buffer that is kept, in bytes.
const SPARE_CAPACITY: usize = 256 * 1024;

/// The queue of outputs, and buffers that can be used again.
#[derive(Debug, Default)]
pub struct Outbox {
    outputs: VecDeque<Output>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// Adds an output behind the others.
    #[inline]
    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Removes and returns the next output.
    pub fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns an empty buffer.
    pub fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a buffer whose content is not needed any more.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() <= SPARE_CAPACITY {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}
