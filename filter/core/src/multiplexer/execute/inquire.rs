//! Asking all workers of the process about their clients.

use super::connect::connect;
use super::context::{Context, Obstacle, wait_for_room};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::inquiry::examine::scope_of;
use crate::multiplexer::inquiry::question::{ClientInquiry, ClientQuestion};
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::ConnectionRoute;
use crate::multiplexer::upstream::discovery::NodeAccess;
use crate::multiplexer::upstream::pending::{Owner, PendingReply};
use crate::resp::encode;

/// Asks all workers. The client's next command waits for the answer, so that a client asks for one
/// thing at a time.
pub fn inquire(context: &mut Context<'_>, client: &mut Client, question: ClientQuestion) -> Result<(), Obstacle> {
    if !context.inquiries.has_room(&question, &client.rules.config.host) {
        return Err(Obstacle::Wait(Wait::Inquiry));
    }
    let permission = permission(client, &question);
    let server = permission.is_some().then(|| server(context, client)).transpose()?;
    let sequence = client.output.queue.expect(client.is_mute());
    let owner = Owner { client: client.id, sequence };
    let inquiry = ClientInquiry { scope: scope_of(client), question };
    client.pause.wait = Some(Wait::Answers);
    match server.zip(permission) {
        None => context.inquiries.begin(owner, inquiry, context.effects),
        Some((server, command)) => {
            let to = PendingReply::Inquiry(context.inquiries.begin_if_permitted(owner, inquiry, context.effects));
            let write = |out: &mut Vec<u8>| out.extend_from_slice(&command);
            context.upstreams.pool.send(server.id(), to.into(), context.effects, write);
        }
    }
    Ok(())
}

/// A command that does nothing and is refused if the question would be. Where clients log in at the
/// servers, these say what a user may do. `None`: nobody is asked.
fn permission(client: &Client, question: &ClientQuestion) -> Option<Vec<u8>> {
    if !client.rules.config.auth.passes_auth {
        return None;
    }
    let (mut out, number) = (Vec::new(), client.presence.number.to_string());
    match question {
        ClientQuestion::List(_) => encode::command(&mut out, &[b"CLIENT", b"LIST", b"TYPE", b"master"]),
        // No connection of a server has such a number.
        ClientQuestion::Kill(..) => encode::command(&mut out, &[b"CLIENT", b"KILL", b"ID", number.as_bytes()]),
        // The server at which the other client waits is asked, with the login of the same user.
        ClientQuestion::Unblock(..) => return None,
    }
    Some(out)
}

/// The server that is asked: the one that takes commands without a key, else any.
fn server(context: &mut Context<'_>, client: &mut Client) -> Result<ConnectionRoute, Obstacle> {
    let target = RouteTarget { target: client.rules.config.home().unwrap_or_default(), slot: None };
    let connection = connect(context, client, target, NodeAccess::Write)?;
    wait_for_room(context, connection)?;
    Ok(connection)
}
