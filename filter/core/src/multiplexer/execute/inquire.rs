//! Asking all workers of the process about their clients.

use super::context::{Context, Obstacle};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::inquiry::examine::scope_of;
use crate::multiplexer::inquiry::question::{ClientInquiry, ClientQuestion};
use crate::multiplexer::upstream::pending::Owner;

/// Asks all workers. The client's next command waits for the answer, so that a client asks for one
/// thing at a time.
pub fn inquire(context: &mut Context<'_>, client: &mut Client, question: ClientQuestion) -> Result<(), Obstacle> {
    if !context.inquiries.has_room(&question) {
        return Err(Obstacle::Wait(Wait::Inquiry));
    }
    let sequence = client.output.queue.expect(client.is_mute());
    let owner = Owner { client: client.id, sequence };
    let inquiry = ClientInquiry { scope: scope_of(client), question };
    context.inquiries.begin(owner, inquiry, context.effects);
    client.pause.wait = Some(Wait::Answers);
    Ok(())
}
