//! What carriers hang on: a connection of this module to itself, which no client's end takes along.
//!
//! A worker has one. A client asks for it by a request to the internal listener of anchors, and gets an answer; with that the
//! connection lies idle in Envoy's pool and belongs to nobody. Until then the client's end would take it along.

use crate::client::Client;
use crate::envoy::Filter;
use crate::head::{self, Head};
use crate::metrics::Metrics;
use crate::{Action, worker};
use std::rc::Rc;
use std::sync::Arc;

/// The cluster whose only host is the internal listener of anchors. Carriers need one of their own: from this one's pool they
/// would get the anchor itself.
pub const CLUSTER: &str = "redis_anchor";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A connection on the internal listener of anchors.
pub struct Anchor {
    pub filter: Filter,
    pub metrics: Arc<Metrics>,
}

/// How a worker stands with its anchor.
#[derive(Default)]
pub enum Standing {
    /// There is none.
    #[default]
    Absent,
    /// A client has asked for one.
    Asked {
        /// Names the request.
        number: u64,
        /// Who has asked.
        client: Rc<Client>,
        /// Who has answered. It becomes the anchor when the client has got the answer.
        candidate: Option<Rc<Anchor>>,
    },
    /// There it is.
    Up(Rc<Anchor>),
}

impl Anchor {
    /// A connection that Envoy has just accepted.
    pub fn new(filter: Filter, metrics: Arc<Metrics>) -> Anchor {
        Anchor { filter, metrics }
    }

    /// A request has come. A connection that answered a client who went away meanwhile may get another one.
    pub fn read(self: &Rc<Self>) -> Action {
        match head::parse(&self.filter.peek_read()) {
            Head::Incomplete => {}
            Head::Foreign => self.filter.abort(),
            Head::Number(number, len) => {
                self.filter.drain_read(len);
                worker::anchor_arrived(self, number);
                self.filter.write(ANSWER);
            }
        }
        Action::Stop
    }
}
