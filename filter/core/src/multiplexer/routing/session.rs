//! What a client says of itself: who it is, what it is called, in which protocol and database.

use crate::command::Args;
use crate::command::Command;
use crate::downstream::auth;
use crate::downstream::hello::{self, Hello};
use crate::multiplexer::client::{Client, ReplyMode, Wait};
use crate::multiplexer::execute::login::{self, PresentedLogin};
use crate::multiplexer::routing::decide::{Decision, Over, bulk, number, ok, shown};
use crate::multiplexer::routing::fan_out::FanOut;
use crate::multiplexer::routing::target::{Edit, RouteTarget};
use crate::multiplexer::{ClientId, Multiplexer};
use crate::resp::encode;
use crate::stats::Stat;

impl Multiplexer {
    /// AUTH.
    pub(in crate::multiplexer) fn log_in(&mut self, client: &mut Client, args: &Args<'_>) -> Result<(), String> {
        let (username, password) = match args.count {
            2 => (None, args.get(1)),
            3 => (Some(args.get(1)), args.get(2)),
            _ => return Err("ERR syntax error".into()),
        };
        self.check(client, username, password)
    }

    fn check(&mut self, client: &mut Client, username: Option<&[u8]>, password: &[u8]) -> Result<(), String> {
        let Some(text) = auth::refusal(client.config.client_auth.as_ref(), username, password) else {
            client.is_authenticated |= client.config.client_auth.is_some();
            return Ok(());
        };
        self.count(client, Stat::AuthFailures);
        Err(text.into())
    }

    /// HELLO.
    pub(in crate::multiplexer) fn hello(&mut self, id: ClientId, client: &mut Client, args: &Args<'_>) -> Decision {
        let Hello { resp3, credentials, name } = match Hello::parse(args) {
            Ok(hello) => hello,
            Err(text) => return Decision::Deny(text),
        };
        let presented = credentials.filter(|_| client.config.passes_auth);
        if let Some((username, password)) = credentials
            && presented.is_none()
            && self.check(client, Some(username), password).is_err()
        {
            return Decision::Deny(auth::WRONGPASS.into());
        }
        let resp3 = resp3.unwrap_or(client.resp3);
        if !client.may_command() {
            self.count(client, Stat::Unauthenticated);
            return Decision::Deny(hello::NOAUTH.into());
        }
        if client.resp3 != resp3 && (client.own.is_some_and(|own| own.is_special) || !client.subscriptions.is_empty()) {
            // What its own connections push is written in the protocol that they were opened with.
            return Decision::Refuse("ERR redis-mesh: HELLO can't change the protocol of a client that has subscriptions or CLIENT TRACKING; RESET first".into());
        }
        if let Some(name) = name {
            if !is_name(name) {
                return Decision::Deny(BAD_NAME.into());
            }
            if presented.is_none() {
                client.name = name.to_vec();
            }
        }
        let reply = hello::reply(resp3, number_of(id));
        if let Some((username, password)) = presented {
            let name = name.map(<[u8]>::to_vec);
            let hello = Some(login::HelloChange { resp3, name, reply });
            return Decision::Present(PresentedLogin { hello, ..PresentedLogin::new(&[username, password]) });
        }
        if client.resp3 != resp3 {
            client.resp3 = resp3;
            // Each protocol has connections of its own, and nothing overtakes what went over those of the other.
            client.unlink();
            client.waits_for = Some(Wait::Answers);
        }
        Decision::Answer(reply)
    }
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// SELECT.
pub(in crate::multiplexer) fn select(client: &Client, args: &Args<'_>) -> Decision {
    let index = std::str::from_utf8(args.get(1)).ok().and_then(|text| text.parse::<i32>().ok());
    match index.map(u32::try_from) {
        None => Decision::Deny("ERR value is not an integer or out of range".into()),
        Some(Err(_)) => Decision::Deny("ERR DB index is out of range".into()),
        Some(Ok(index)) if index == client.database => ok(),
        Some(Ok(0)) => Decision::Select(0),
        Some(Ok(_)) if client.config.targets.iter().any(|target| target.is_cluster) => {
            Decision::Deny("ERR SELECT is not allowed in cluster mode".into())
        }
        Some(Ok(_)) if client.own.is_some_and(|own| own.is_special) => {
            Decision::Refuse("ERR redis-mesh: SELECT isn't served to a client that has CLIENT TRACKING".into())
        }
        Some(Ok(index)) => Decision::Select(index),
    }
}

/// CLIENT and its subcommands.
pub(in crate::multiplexer) fn client_command(
    id: ClientId,
    client: &mut Client,
    command: &'static Command,
    args: &Args<'_>,
) -> Decision {
    let refuse = |why: &str| Decision::Refuse(format!("ERR redis-mesh: {} {why}", shown(command)));
    let is_special = client.own.is_some_and(|own| own.is_special);
    let one = client.config.keyless().filter(|target| !client.config.is_cluster(*target));
    // What is said to one server, over a connection whose state it concerns.
    let forward = |over: Over| match one {
        Some(target) => {
            Decision::Forward { place: RouteTarget { target, slot: None }, route: None, edits: Vec::new(), over }
        }
        None => refuse("is served only where all routes lead to one Redis that is no Redis Cluster"),
    };
    match command.own_name() {
        "id" => Decision::Answer(number(number_of(id))),
        "getname" if client.name.is_empty() => {
            Decision::Answer(if client.resp3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() })
        }
        "getname" => Decision::Answer(bulk(&client.name)),
        "setname" if !is_name(args.get(2)) => Decision::Deny(BAD_NAME.into()),
        "setname" => {
            client.name = args.get(2).to_vec();
            ok()
        }
        "setinfo" => set_info(args),
        "reply" => {
            let mode = args.get(2).to_ascii_lowercase();
            client.hearing = match (mode.as_slice(), client.hearing) {
                (b"on", _) => ReplyMode::On,
                (b"off", _) | (b"skip", ReplyMode::Off) => ReplyMode::Off,
                (b"skip", _) => ReplyMode::Skip,
                _ => return Decision::Deny("ERR syntax error".into()),
            };
            ok()
        }
        "info" => {
            let mut out = Vec::new();
            encode::text(&mut out, client.resp3, &client_line(id, client));
            Decision::Answer(out)
        }
        "tracking" if (3..args.count).any(|index| args.get(index).eq_ignore_ascii_case(b"redirect")) => {
            refuse("REDIRECT isn't served: the numbers of connections are not those of Redis; use RESP3")
        }
        "tracking" => match prefixes(client, args) {
            Some(prefixes) => match forward(Over::Special) {
                Decision::Forward { place, route, over, .. } => {
                    Decision::Forward { place, route, edits: prefixes, over }
                }
                other => other,
            },
            None => refuse("can't serve a PREFIX of which a route removes more"),
        },
        "no-evict" | "no-touch" => forward(Over::Special),
        "caching" if !is_special => Decision::Deny(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
                .into(),
        ),
        "unblock" => refuse("isn't served: the numbers of connections are not those of Redis"),
        // Clients track only where there is one server.
        "getredir" if one.is_none() => Decision::Answer(b":-1\r\n".to_vec()),
        "trackinginfo" if one.is_none() => Decision::Answer(not_tracking(client.resp3)),
        "kill" if one.is_none() => {
            let names_id = (2..args.count).step_by(2).any(|index| args.get(index).eq_ignore_ascii_case(b"id"));
            match names_id && args.count > 3 {
                true => refuse("by ID isn't served where there are several servers: each has numbers of its own"),
                false => Decision::FanOut(FanOut::kill(command, args)),
            }
        }
        "list" | "pause" | "unpause" if one.is_none() => Decision::FanOut(FanOut::of_clients(command)),
        _ => forward(Over::Shared),
    }
}

/// What is to be removed from the prefixes that CLIENT TRACKING names; none: keys of several prefixes would have to be told of.
fn prefixes(client: &Client, args: &Args<'_>) -> Option<Vec<Edit>> {
    let config = &client.config;
    let mut edits = Vec::new();
    for index in (4..args.count).filter(|index| args.get(index - 1).eq_ignore_ascii_case(b"prefix")) {
        let prefix = args.get(index);
        let removed = config.routes.iter().filter_map(|route| route.removed_prefix.as_deref());
        if removed.into_iter().any(|removed| removed.len() > prefix.len() && removed.starts_with(prefix)) {
            return None;
        }
        if let Some((matched, _)) = config.route(prefix).filter(|(_, route)| route.remove_prefix) {
            edits.push((index, matched.prefix as usize));
        }
    }
    Some(edits)
}

/// CLIENT TRACKINGINFO of a client that doesn't track.
fn not_tracking(resp3: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode::header(&mut out, if resp3 { b'%' } else { b'*' }, if resp3 { 3 } else { 6 });
    encode::bulk(&mut out, b"flags");
    encode::header(&mut out, if resp3 { b'~' } else { b'*' }, 1);
    encode::bulk(&mut out, b"off");
    encode::bulk(&mut out, b"redirect");
    out.extend_from_slice(b":-1\r\n");
    encode::bulk(&mut out, b"prefixes");
    encode::array(&mut out, 0);
    out
}

/// A client's number. No connection of a server has one that large, so nobody ends a stranger's by it; and it is exact where numbers
/// are doubles.
fn number_of(id: ClientId) -> u64 {
    (1 << 52) + id.number()
}

/// CLIENT SETINFO.
fn set_info(args: &Args<'_>) -> Decision {
    let attribute = args.get(2).to_ascii_lowercase();
    match attribute.as_slice() {
        b"lib-name" | b"lib-ver" if is_name(args.get(3)) => ok(),
        b"lib-name" | b"lib-ver" => Decision::Deny(format!(
            "ERR {} cannot contain spaces, newlines or special characters.",
            String::from_utf8_lossy(&attribute)
        )),
        _ => Decision::Deny(format!("ERR Unrecognized option '{}'", args.quoted(2))),
    }
}

/// A client's line in CLIENT INFO, with those fields that this side knows.
fn client_line(id: ClientId, client: &Client) -> String {
    let multi = client.transaction.as_ref().map_or(-1, |transaction| transaction.len() as i64);
    let count = |kind| client.subscriptions.names(kind).len();
    use crate::multiplexer::client::subscription::SubscriptionKind;
    format!(
        "id={} addr=0.0.0.0:0 laddr=0.0.0.0:0 name={} db={} sub={} psub={} ssub={} multi={multi} cmd=client|info user=default resp={}\n",
        number_of(id),
        String::from_utf8_lossy(&client.name),
        client.database,
        count(SubscriptionKind::Channel),
        count(SubscriptionKind::Pattern),
        count(SubscriptionKind::Shard),
        if client.resp3 { 3 } else { 2 },
    )
}
