//! The end of a client.

use super::{Client, Life};
use crate::multiplexer::outbox::{Outbox, Output};
use crate::resp::request::Parser;

impl Client {
    /// Closes its connection, since nothing true could be said over it any more. A client that reads gets
    /// what is to be written; for one that doesn't, that would be kept for as long as it stays.
    pub fn cut_off(&mut self, outbox: &mut Outbox) {
        if self.output.is_full {
            return self.abort(outbox);
        }
        if self.life != Life::Closed {
            if !self.output.out.is_empty() && !std::mem::replace(&mut self.output.is_announced, true) {
                outbox.push(Output::Write(self.id));
            }
            outbox.push(Output::CloseDownstream(self.id));
            end(self);
        }
    }

    /// Closes its connection at once.
    pub fn abort(&mut self, outbox: &mut Outbox) {
        if self.life != Life::Closed {
            outbox.push(Output::AbortDownstream(self.id));
            end(self);
        }
    }
}

/// Nothing more comes of a client or for it. What it has sent, and what it was to get, is given up, since
/// a host may learn late that it is gone.
fn end(client: &mut Client) {
    client.life = Life::Closed;
    client.output.queue.abandon();
    client.input.buffer = Vec::new();
    client.input.parser = Parser::default();
    client.transaction = None;
    // How long commands took that weren't answered isn't known.
    client.activity.latency = None;
}
