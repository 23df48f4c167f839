//! HELLO: a client that says who it is and in which protocol it goes on
//! (<https://redis.io/docs/latest/commands/hello/>).

use super::context::{Context, Obstacle};
use super::login;
use crate::downstream::hello::{self, ServerRelease};
use crate::multiplexer::client::login::{HelloChange, HelloRequest, PresentedLogin};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::multiplexer::upstream::introduction::Spoken;

/// Answers HELLO when it is known which protocols the servers speak. A server that doesn't speak
/// RESP3 answers for itself: client libraries then go on in RESP2.
pub fn hello(context: &mut Context<'_>, client: &mut Client, request: HelloRequest) -> Result<(), Obstacle> {
    let HelloRequest { resp3, name, presented } = request;
    let release = match spoken(context, client, presented.as_ref())? {
        Some(Spoken::Resp2(error)) if resp3 => {
            client.answer_error(&error);
            return Ok(());
        }
        Some(Spoken::Resp3(release)) => release,
        Some(Spoken::Resp2(_)) | None => ServerRelease::default(),
    };
    let reply = hello::reply(resp3, client.presence.number, &release);
    if let Some(presented) = presented {
        let hello = Some(HelloChange { resp3, name, reply });
        return login::present(context, client, PresentedLogin { hello, ..presented });
    }
    if let Some(name) = name {
        client.session.name = name;
    }
    if client.session.resp3 != resp3 {
        client.session.resp3 = resp3;
        // Each protocol has connections of its own, and nothing overtakes what went over those of
        // the other.
        client.rules.forget_lookups();
        client.pause.wait = Some(Wait::Answers);
    }
    client.answer(&reply);
    Ok(())
}

/// What the client's servers speak: RESP3 if all do of which it is known. `None`: those that could
/// say refuse the login that the client presents, as they will tell it.
fn spoken(
    context: &mut Context<'_>,
    client: &Client,
    presented: Option<&PresentedLogin>,
) -> Result<Option<Spoken>, Obstacle> {
    let mut endpoints: Vec<UpstreamEndpoint> = Vec::new();
    let login = presented.map(|presented| &presented.login).or(client.session.login.as_ref());
    for target in &client.rules.config.targets {
        let endpoint = target.upstream.presented(login);
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    let (mut known, mut missing, mut is_being_asked) = (None, None, false);
    for endpoint in &endpoints {
        match context.upstreams.spoken(endpoint, context.effects) {
            Ok(Some(resp2 @ Spoken::Resp2(_))) => known = Some(resp2),
            // The first target's release is told.
            Ok(Some(resp3)) => known = known.or(Some(resp3)),
            Ok(None) => is_being_asked = true,
            // One that can't be reached speaks for itself when it is needed.
            Err(why) => missing = missing.or(Some(why)),
        }
    }
    if is_being_asked {
        return Err(Obstacle::Wait(Wait::Introduction));
    }
    match missing {
        Some(Missing::Error(text)) if known.is_none() && presented.is_none() && text.starts_with("NOAUTH") => {
            Err(Obstacle::Error(hello::NOAUTH.into()))
        }
        Some(why) if known.is_none() && presented.is_none() => Err(why.into()),
        _ => Ok(known),
    }
}
