//! What can be decided about a command.

use super::fan_out::FanOut;
use super::target::{KeyEdit, RouteTarget, SubCommand};
use crate::command::sharing::{Shareable, Sharing};
use crate::multiplexer::client::login::{HelloRequest, PresentedLogin};
use crate::multiplexer::client::subscription::SubscriptionChange;
use crate::multiplexer::client::tracking::TrackingChange;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::inquiry::question::ClientQuestion;
use crate::resp::encode;

/// What becomes of a command.
pub enum Decision {
    /// It is answered here with this reply.
    Answer(Vec<u8>),
    /// It is refused with this text, which counts as a refusal of ours.
    Refuse(String),
    /// It is denied with this text, as Redis would.
    Deny(String),
    /// It goes to one target.
    Forward(Forward),
    /// It goes to several targets in parts; for each key, the index of its part.
    Split(Vec<SubCommand>, Vec<usize>, Shareable),
    /// It goes to all servers that it concerns, or to one of them as well as to another.
    FanOut(FanOut),
    /// The transaction is executed.
    Exec(Transaction),
    /// What was watched is watched no more; then this is answered.
    Unwatch(Vec<u8>),
    /// The client is told of changed keys from now on, or no more.
    Track(TrackingChange),
    /// The client says something else of its connection, by the subcommand of CLIENT of this name.
    Set(&'static str),
    /// All workers are asked about their clients.
    Inquire(ClientQuestion),
    /// The client says who it is and in which protocol it goes on, which the servers have to speak.
    Hello(Box<HelloRequest>),
    /// The servers are asked whether they let the client in.
    Present(PresentedLogin),
    /// Another database is selected.
    Select(u32),
    /// Subscriptions begin or end.
    Subscribe(SubscriptionChange),
    /// The client is told of all commands.
    Monitor,
    /// The connection begins anew.
    Reset,
}

/// A command that goes to one target.
pub struct Forward {
    /// Where it goes.
    pub target: RouteTarget,
    /// The route of its first key.
    pub route: Option<usize>,
    /// What is removed from its keys.
    pub edits: Vec<KeyEdit>,
    /// What kind of connection it needs.
    pub sharing: Sharing,
}

impl Forward {
    /// A command without a key.
    pub fn keyless(target: RouteTarget, route: Option<usize>, sharing: Sharing) -> Forward {
        Forward { target, route, edits: Vec::new(), sharing }
    }
}

impl Decision {
    /// True if it waits at a server, begins something that ends with the connection to it, or is the
    /// end of a transaction.
    pub fn needs_connection(&self) -> bool {
        match self {
            Decision::Forward(Forward { sharing, .. }) | Decision::FanOut(FanOut { sharing, .. }) => {
                !matches!(sharing, Sharing::Safe(_) | Sharing::Interrupts)
            }
            Decision::Exec(_) | Decision::Subscribe(_) | Decision::Track(_) | Decision::Set(_) | Decision::Monitor => {
                true
            }
            _ => false,
        }
    }

    /// `+OK`.
    pub fn ok() -> Decision {
        Decision::Answer(b"+OK\r\n".to_vec())
    }

    /// A bulk string.
    pub fn bulk(text: &[u8]) -> Decision {
        let mut out = Vec::new();
        encode::bulk(&mut out, text);
        Decision::Answer(out)
    }

    /// An integer.
    pub fn integer(number: u64) -> Decision {
        let mut out = Vec::new();
        encode::integer(&mut out, number);
        Decision::Answer(out)
    }
}
