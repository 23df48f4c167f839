//! What servers say of themselves over a connection that is opened for that alone: whether they
//! speak RESP3, which version they are, and whether a login of the configuration may do what could
//! be turned against the sidecar. A server that ends connections at commands that it doesn't know
//! (twemproxy) ends none that clients use.

use super::availability::Outage;
use super::connection::UpstreamConnection;
use super::endpoint::{UpstreamAuth, UpstreamEndpoint};
use super::patience::Patience;
use super::pending::{Asked, Control, InFlight, PendingReply};
use super::pool::Pool;
use super::pool_key::{PoolKey, Purpose};
use crate::downstream::hello::ServerRelease;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::request::privileges::{self, PRIVILEGED};
use crate::resp::encode;
use crate::resp::value::Value;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer is believed before the server is asked anew. Until it has answered, the one
/// before counts.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// The same where the server doesn't know HELLO: an upgrade should be seen soon.
const REFUSAL_FRESH_FOR: Duration = Duration::from_secs(10);
/// How long nobody asks again after no answer has come.
const FAILED_FOR: Duration = Duration::from_millis(100);
/// How long a verdict about a login is believed, or its absence.
const PRIVILEGES_FRESH_FOR: Duration = Duration::from_secs(600);
/// What a server that knows no HELLO says to it, for one that only closes the connection.
const UNKNOWN: &str = "ERR unknown command 'HELLO'";

/// Which protocols a server speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// RESP3 as well as RESP2.
    Resp3(ServerRelease),
    /// RESP2 alone: this is its answer to HELLO 3, without `-`.
    Resp2(String),
}

/// What servers have said, by their endpoints without clients' credentials.
#[derive(Default)]
pub struct Introductions {
    known: HashMap<UpstreamEndpoint, Introduction>,
    /// Why nothing was answered to those who have just asked, by endpoints with clients'
    /// credentials.
    failures: HashMap<UpstreamEndpoint, (Outage, Duration)>,
}

#[derive(Default)]
struct Introduction {
    /// The connection over which the server is being asked.
    connection: Option<ConnectionId>,
    /// It has ended such a connection at HELLO, which may have been chance.
    has_closed: bool,
    spoken: Option<(Spoken, Duration)>,
    /// Which of the privileged commands the login may do, as far as it was answered.
    allowed: Vec<&'static str>,
    /// When it was asked last what the login may do.
    privileges_asked: Option<Duration>,
}

impl Introductions {
    /// Which protocols a server speaks; `None`: it is being asked, and
    /// [`Event::Introduced`](super::events::Event::Introduced) follows.
    ///
    /// # Errors
    /// It can't be reached, or refuses to answer.
    pub fn spoken(
        &mut self,
        endpoint: &UpstreamEndpoint,
        pool: &mut Pool,
        effects: &mut Effects,
    ) -> Result<Option<Spoken>, Outage> {
        let now = effects.now;
        self.failures.retain(|_, (_, at)| now.saturating_sub(*at) < FAILED_FOR);
        if let Some((outage, _)) = self.failures.get(endpoint) {
            return Err(outage.clone());
        }
        let known = self.known.entry(endpoint.of_rules()).or_default();
        let is_being_asked = known.connection.is_some();
        let Some((spoken, at)) = known.spoken.clone() else {
            if !is_being_asked {
                known.ask(endpoint, pool, effects)?;
            }
            return Ok(None);
        };
        let fresh_for = match spoken {
            Spoken::Resp3(_) => FRESH_FOR,
            Spoken::Resp2(_) => REFUSAL_FRESH_FOR,
        };
        if !is_being_asked && now.saturating_sub(at) >= fresh_for {
            // While it can't be reached, what it was counts.
            let _ = known.ask(endpoint, pool, effects);
        }
        Ok(Some(spoken))
    }

    /// A connection has been established: a server is asked about a login of the configuration,
    /// unless it was lately.
    pub fn logged_in(&mut self, endpoint: &UpstreamEndpoint, pool: &mut Pool, effects: &mut Effects) {
        if !matches!(endpoint.login, Some(UpstreamAuth::Configured(_))) {
            return;
        }
        let known = self.known.entry(endpoint.clone()).or_default();
        let is_due = |at: Duration| effects.now.saturating_sub(at) >= PRIVILEGES_FRESH_FOR;
        if known.connection.is_none() && known.privileges_asked.is_none_or(is_due) {
            // Where it can't be reached, the next connection is an occasion.
            let _ = known.ask(endpoint, pool, effects);
        }
    }

    /// A server has answered. Returns true if that was the last answer.
    pub fn answered(&mut self, connection: &UpstreamConnection, asked: Asked, reply: &[u8], now: Duration) -> bool {
        let Some(known) = self.known.get_mut(&connection.key.endpoint.of_rules()) else { return true };
        match asked {
            Asked::Hello => {
                known.spoken = Some((spoken(reply), now));
                known.has_closed = false;
            }
            Asked::DryRun(index) => {
                let name = privileges::name(index.into()).filter(|_| privileges::is_allowed(reply));
                known.allowed.extend(name);
            }
        }
        let is_last = connection.pending.is_empty();
        if is_last {
            known.connection = None;
        }
        is_last
    }

    /// Which commands a login of the configuration may execute that could be turned against its
    /// owner; `None`: it wasn't asked.
    pub fn allowed(&self, endpoint: &UpstreamEndpoint) -> Option<&[&'static str]> {
        let known = self.known.get(endpoint).filter(|known| known.privileges_asked.is_some())?;
        Some(&known.allowed)
    }

    /// A connection over which a server was asked is gone before all was answered; `has_ended`: the
    /// server has ended it.
    pub fn connection_lost(
        &mut self,
        id: ConnectionId,
        connection: &UpstreamConnection,
        (has_ended, outage): (bool, Outage),
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let endpoint = &connection.key.endpoint;
        let Some(known) = self.known.get_mut(&endpoint.of_rules()).filter(|known| known.connection == Some(id)) else {
            return;
        };
        known.connection = None;
        let hello = PendingReply::Control(Control::Introduction(Asked::Hello));
        let was_asked = connection.pending.iter().any(|in_flight| in_flight.what == hello);
        let mut outage = outage;
        if connection.is_established() && has_ended && was_asked {
            if known.has_closed {
                known.spoken = Some((Spoken::Resp2(UNKNOWN.to_owned()), effects.now));
                return;
            }
            known.has_closed = true;
            match known.ask(endpoint, pool, effects) {
                Ok(()) => return,
                // Whether that was chance isn't known: it may have been the end of the server.
                Err(unreachable) => (known.has_closed, outage) = (false, unreachable),
            }
        }
        if known.spoken.is_none() {
            self.failures.insert(endpoint.clone(), (outage, effects.now));
        }
    }

    /// A server has refused HELLO over another connection: it is asked anew.
    pub fn forget(&mut self, endpoint: &UpstreamEndpoint) {
        if let Some(known) = self.known.get_mut(&endpoint.of_rules()) {
            known.spoken = None;
        }
    }

    /// Forgets endpoints that aren't wanted any more.
    pub fn retain(&mut self, is_wanted: impl Fn(&UpstreamEndpoint) -> bool) {
        self.known.retain(|endpoint, known| known.connection.is_some() || is_wanted(endpoint));
    }

    /// The endpoints that have been asked, or are being asked.
    pub fn endpoints(&self) -> HashSet<UpstreamEndpoint> {
        self.known.keys().cloned().collect()
    }
}

impl Introduction {
    fn ask(&mut self, endpoint: &UpstreamEndpoint, pool: &mut Pool, effects: &mut Effects) -> Result<(), Outage> {
        let id = pool.open(PoolKey::new(endpoint.clone(), false), Purpose::Introduction, effects)?;
        self.connection = Some(id);
        let ask = |asked, words: &[&[u8]], pool: &mut Pool, effects: &mut Effects| {
            let what = PendingReply::Control(Control::Introduction(asked));
            let in_flight = InFlight { patience: Patience::of(ANSWER_TIMEOUT), ..what.into() };
            pool.send(id, in_flight, effects, |out| encode::command(out, words));
        };
        if let Some(user) = configured_user(endpoint).filter(|_| !self.has_closed) {
            self.allowed.clear();
            for (index, command) in (0..).zip(PRIVILEGED) {
                ask(Asked::DryRun(index), &privileges::question(&user, command), pool, effects);
            }
            self.privileges_asked = Some(effects.now);
        }
        // HELLO comes last: whoever ends connections at it has answered the others.
        ask(Asked::Hello, &[b"HELLO", b"3"], pool, effects);
        Ok(())
    }
}

/// The user as whom the configuration logs in.
fn configured_user(endpoint: &UpstreamEndpoint) -> Option<Vec<u8>> {
    let Some(UpstreamAuth::Configured(login)) = &endpoint.login else { return None };
    let words = Value::parse(login)?;
    match words.array()? {
        [_, user, _] => Some(user.text()?.to_vec()),
        _ => Some(b"default".to_vec()),
    }
}

/// What the reply to HELLO 3 says.
fn spoken(reply: &[u8]) -> Spoken {
    if let Some(error) = reply.strip_prefix(b"-") {
        let text = error.strip_suffix(b"\r\n").unwrap_or(error);
        return Spoken::Resp2(String::from_utf8_lossy(text).into_owned());
    }
    let mut release = ServerRelease::default();
    let fields = Value::parse(reply);
    for pair in fields.as_ref().and_then(Value::array).unwrap_or_default().chunks_exact(2) {
        match pair {
            [Value::Text(b"server"), Value::Text(name)] => release.set_name(name),
            [Value::Text(b"version"), Value::Text(version)] => release.set_version(version),
            _ => {}
        }
    }
    Spoken::Resp3(release)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_server_says_what_it_speaks() {
        let resp3 = |name: &str, version: &str| {
            let mut release = ServerRelease::default();
            release.set_name(name.as_bytes());
            release.set_version(version.as_bytes());
            Spoken::Resp3(release)
        };
        let hello = b"%3\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.0.1\r\n$7\r\nmodules\r\n*0\r\n";
        assert_eq!(spoken(hello), resp3("valkey", "8.0.1"));
        assert_eq!(spoken(b"%0\r\n"), Spoken::Resp3(ServerRelease::default()));
        assert_eq!(spoken(b"%1\r\n$7\r\nversion\r\n$3\r\n1\n2\r\n"), Spoken::Resp3(ServerRelease::default()));
        assert_eq!(spoken(b"-ERR unknown command `HELLO`\r\n"), Spoken::Resp2("ERR unknown command `HELLO`".into()));
    }
}
