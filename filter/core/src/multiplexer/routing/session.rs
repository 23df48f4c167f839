//! Commands about the client itself: who it is, what it is called, in which protocol and database.

use super::decision::{Decision, Forward};
use super::fan_out::FanOut;
use super::target::RouteTarget;
use crate::command::sharing::{Sharing, sharing};
use crate::command::{Args, Command};
use crate::downstream::auth::{self, Credentials};
use crate::downstream::client_name;
use crate::downstream::hello::{self, Hello};
use crate::downstream::maintenance;
use crate::multiplexer::client::Client;
use crate::multiplexer::client::login::{HelloRequest, PresentedLogin};
use crate::multiplexer::client::tracking::{Tracking, TrackingChange};
use crate::multiplexer::inquiry::grammar;
use crate::multiplexer::inquiry::line::line;
use crate::multiplexer::inquiry::question::{ClientFilter, ClientQuestion, NumberList};
use crate::multiplexer::stats::StatsTable;
use crate::resp::encode;
use crate::stats::Stat;

/// AUTH, where the configuration says what clients must present.
pub fn auth(client: &mut Client, args: &Args<'_>, stats: &mut StatsTable) -> Decision {
    let checked = Credentials::of_auth(args).and_then(|credentials| check(client, credentials, stats));
    match checked {
        Ok(()) => Decision::ok(),
        Err(text) => Decision::Deny(text),
    }
}

fn check(client: &mut Client, credentials: Credentials<'_>, stats: &mut StatsTable) -> Result<(), String> {
    let client_auth = client.rules.config.auth.client_auth.as_ref();
    let Some(text) = credentials.refusal(client_auth) else {
        client.session.is_authenticated |= client_auth.is_some();
        return Ok(());
    };
    client.count(Stat::AuthFailures, stats);
    Err(text.into())
}

/// HELLO.
pub fn hello(client: &mut Client, args: &Args<'_>, stats: &mut StatsTable) -> Decision {
    let Hello { resp3, credentials, name } = match Hello::parse(args) {
        Ok(hello) => hello,
        Err(text) => return Decision::Deny(text),
    };
    let presented = credentials.filter(|_| client.rules.config.auth.passes_auth);
    if let Some((username, password)) = credentials
        && presented.is_none()
        && check(client, Credentials { username: Some(username), password }, stats).is_err()
    {
        return Decision::Deny(auth::WRONGPASS.into());
    }
    let resp3 = resp3.unwrap_or(client.session.resp3);
    if !client.may_command() {
        client.count(Stat::Unauthenticated, stats);
        return Decision::Deny(hello::NOAUTH.into());
    }
    if client.session.resp3 != resp3 && (client.dedicated.has_state() || !client.subscriptions.is_empty()) {
        // What its own connections push is written in the protocol that they were opened with.
        return Decision::Refuse("ERR redis-mesh: HELLO can't change the protocol of a client that has subscriptions, CLIENT TRACKING or another state of its connection; RESET first".into());
    }
    if let Some(Err(text)) = name.map(client_name::check) {
        return Decision::Deny(text.into());
    }
    Decision::Hello(Box::new(HelloRequest {
        resp3,
        name: name.map(<[u8]>::to_vec),
        presented: presented.map(|(username, password)| PresentedLogin::new(&[username, password])),
    }))
}

/// SELECT.
pub fn select(client: &Client, args: &Args<'_>) -> Decision {
    let index = std::str::from_utf8(args.get(1)).ok().and_then(|text| text.parse::<i32>().ok());
    match index.map(u32::try_from) {
        None => Decision::Deny("ERR value is not an integer or out of range".into()),
        Some(Err(_)) => Decision::Deny("ERR DB index is out of range".into()),
        Some(Ok(index)) if index == client.session.database => Decision::ok(),
        Some(Ok(0)) => Decision::Select(0),
        Some(Ok(_)) if client.rules.config.targets.iter().any(|target| target.is_cluster) => {
            Decision::Deny("ERR SELECT is not allowed in cluster mode".into())
        }
        Some(Ok(_)) if client.dedicated.has_state() => {
            Decision::Refuse("ERR redis-mesh: SELECT isn't served to a client that has CLIENT TRACKING or another state of its connection".into())
        }
        Some(Ok(index)) => Decision::Select(index),
    }
}

/// The error of CLIENT KILL of others where the sidecar logs in.
const KILLS_OTHERS: &str = "NOPERM redis-mesh: CLIENT KILL ends connections of other clients; allowAdminCommands of the RedisService would permit it";

/// CLIENT and its subcommands (<https://redis.io/docs/latest/commands/client/>).
pub fn client_command(client: &mut Client, command: &'static Command, args: &Args<'_>) -> Decision {
    if let Some(text) = maintenance::refusal(args) {
        return Decision::Deny(text);
    }
    match command.own_name() {
        "id" => Decision::integer(client.presence.number),
        "getname" if client.session.name.is_empty() => Decision::Answer(client.session.nil().to_vec()),
        "getname" => Decision::bulk(&client.session.name),
        "setname" => match client_name::check(args.get(2)) {
            Ok(()) => {
                client.session.name = args.get(2).to_vec();
                Decision::ok()
            }
            Err(text) => Decision::Deny(text.into()),
        },
        "setinfo" => match client_name::check_info(args) {
            Ok(()) => Decision::ok(),
            Err(text) => Decision::Deny(text),
        },
        "reply" => match client.session.reply_mode.switched(args.get(2)) {
            Some(mode) => {
                client.session.reply_mode = mode;
                Decision::ok()
            }
            None => Decision::Deny("ERR syntax error".into()),
        },
        "info" => {
            let mut out = Vec::new();
            encode::text(&mut out, client.session.resp3, &line(client, client.presence.heard, false));
            Decision::Answer(out)
        }
        "list" => inquiry(grammar::list(args)),
        "kill" => kill(client, args),
        "unblock" => inquiry(grammar::unblock(args)),
        "tracking" => track(client, args),
        "caching" => match Tracking::set_caching(client.dedicated.tracking_mut(), args) {
            Ok(()) => Decision::ok(),
            Err(text) => Decision::Deny(text),
        },
        "trackinginfo" => Decision::Answer(Tracking::info(client.dedicated.tracking(), client.session.resp3)),
        "getredir" => Decision::Answer(match client.dedicated.tracking() {
            Some(_) => b":0\r\n".to_vec(),
            None => b":-1\r\n".to_vec(),
        }),
        _ => at_server(client, command, args),
    }
}

fn inquiry(question: Result<ClientQuestion, String>) -> Decision {
    match question {
        Ok(question) => Decision::Inquire(question),
        Err(text) => Decision::Deny(text),
    }
}

/// CLIENT KILL. Where clients don't know the server's password, none may end the connections of others.
fn kill(client: &Client, args: &Args<'_>) -> Decision {
    let presence = &client.presence;
    let user = client.session.user();
    let question = grammar::kill(args, presence.number, user.as_deref().unwrap_or(b"default"));
    if !client.rules.config.auth.guard.credentials {
        return inquiry(question);
    }
    match question {
        Ok(ClientQuestion::Kill(filter, form)) => {
            let is_own = filter.numbers.as_ref().is_some_and(|numbers| numbers.named() == [presence.number])
                || filter.remote.is_some() && filter.remote == presence.remote;
            if !is_own {
                return Decision::Refuse(KILLS_OTHERS.into());
            }
            let numbers = Some(NumberList::new(vec![presence.number]));
            Decision::Inquire(ClientQuestion::Kill(ClientFilter { numbers, ..filter }, form))
        }
        other => inquiry(other),
    }
}

/// CLIENT TRACKING.
fn track(client: &Client, args: &Args<'_>) -> Decision {
    let now = client.dedicated.tracking().map(|tracking| &tracking.options);
    match TrackingChange::parse(args, now) {
        Ok(change) => Decision::Track(change),
        Err(text) => Decision::Deny(text),
    }
}

/// Subcommands that a server answers.
fn at_server(client: &Client, command: &'static Command, args: &Args<'_>) -> Decision {
    let config = &client.rules.config;
    let one = config.keyless().filter(|target| !config.is_cluster(*target));
    match (sharing(command, args), one) {
        (Sharing::ChangesConnection, _) => Decision::Set(command.own_name()),
        (sharing, Some(target)) => {
            Decision::Forward(Forward::keyless(RouteTarget { target, slot: None }, None, sharing))
        }
        (_, None) => Decision::FanOut(FanOut::of_clients(command, args)),
    }
}
