//! By which number and name a server knows a connection over which a client waits, so that the client
//! can be unblocked (<https://redis.io/docs/latest/commands/client-unblock/>).
//!
//! A number alone isn't enough: another server behind the same address, or the same one after a
//! restart, may have given it to somebody else's connection. So the connection gets a name that nobody
//! can guess, and before it is unblocked, the server is asked whether the number is that of a
//! connection with this name.

use super::connection::UpstreamConnection;
use super::pending::{Control, PendingReply};
use super::pool::Pool;
use crate::hex::to_hex;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;

/// How a server knows a connection.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// The name that it has got.
    pub name: String,
    /// Its number, or the server's error if it doesn't take the name or tell the number; `None`: it
    /// hasn't answered yet.
    pub number: Option<Result<u64, String>>,
}

/// Names a connection and asks for its number, unless that was done before.
pub fn establish(pool: &mut Pool, id: ConnectionId, effects: &mut Effects) {
    let Some(connection) = pool.get_mut(id).filter(|connection| connection.memory.identity.is_none()) else { return };
    let name = format!("redis-mesh-{}", to_hex(&effects.random.secret()));
    connection.memory.identity = Some(ServerIdentity { name: name.clone(), number: None });
    for (control, words) in [
        (Control::Name, &[&b"CLIENT"[..], b"SETNAME", name.as_bytes()][..]),
        (Control::Number, &[&b"CLIENT"[..], b"ID"][..]),
    ] {
        let to = PendingReply::Control(control).into();
        pool.send(id, to, effects, |out| encode::command(out, words));
    }
}

/// A server has answered one of the two.
pub fn answered(connection: &mut UpstreamConnection, control: Control, reply: &[u8]) {
    let Some(identity) = &mut connection.memory.identity else { return };
    let text = || String::from_utf8_lossy(reply.get(1..).unwrap_or_default().trim_ascii_end()).into_owned();
    if reply.first() == Some(&b'-') {
        identity.number = Some(Err(text()));
    } else if control == Control::Number && identity.number.is_none() {
        identity.number = text().parse().ok().filter(|_| reply.first() == Some(&b':')).map(Ok);
    }
}
