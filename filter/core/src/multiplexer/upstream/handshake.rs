//! What a connection begins with. Nothing of a client is sent before the handshake is complete, so
//! a connection that never came about has executed nothing, and a login that is refused stops
//! nobody half-way.

use super::endpoint::UpstreamEndpoint;
use super::pool_key::PoolKey;
use crate::downstream::auth::has_no_password;
use crate::resp::{encode, error_text};

/// A command of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeStep {
    /// AUTH.
    Login,
    /// HELLO 3.
    Hello,
    /// SELECT.
    Select,
    /// READONLY.
    Readonly,
    /// PING, where nothing else has to be sent.
    Ping,
}

/// Why nothing can be had over a connection.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The error for clients, without `-`.
    pub text: String,
    /// Another connection to this Redis would be refused alike, so that there is no use in trying
    /// at once.
    pub is_general: bool,
    /// It is about the login, or the lack of one.
    pub concerns_login: bool,
    /// It is about the database.
    pub concerns_database: bool,
}

/// What a server says to a connection, whatever it is asked, before it closes it.
const GREETINGS: [&[u8]; 2] = [b"ERR max number of clients", b"DENIED "];

/// What Redis answers to a command of a client that hasn't logged in.
const NOAUTH: &str = "NOAUTH Authentication required.";

/// Appends the commands of a connection's handshake to `out`, and returns them in order.
pub fn begin(key: &PoolKey, out: &mut Vec<u8>) -> Vec<HandshakeStep> {
    let mut steps = Vec::new();
    if let Some(login) = key.endpoint.login_command() {
        out.extend_from_slice(login);
        steps.push(HandshakeStep::Login);
    }
    if key.resp3 {
        encode::command(out, &[b"HELLO", b"3"]);
        steps.push(HandshakeStep::Hello);
    }
    if key.database != 0 {
        encode::command(out, &[b"SELECT", key.database.to_string().as_bytes()]);
        steps.push(HandshakeStep::Select);
    }
    if key.readonly {
        encode::command(out, &[b"READONLY"]);
        steps.push(HandshakeStep::Readonly);
    }
    if steps.is_empty() {
        encode::command(out, &[b"PING"]);
        steps.push(HandshakeStep::Ping);
    }
    steps
}

/// Returns why the reply to a step makes the connection useless; `None` if it doesn't.
pub fn refusal(step: HandshakeStep, endpoint: &UpstreamEndpoint, reply: &[u8]) -> Option<Refusal> {
    let error = reply.strip_prefix(b"-")?;
    let cluster = endpoint.shown();
    let is_clients_login = endpoint.is_clients();
    let as_said = || error_text(reply).into_owned();
    if GREETINGS.iter().any(|greeting| error.starts_with(greeting)) {
        return Some(Refusal { text: as_said(), is_general: true, concerns_login: false, concerns_database: false });
    }
    let (text, is_general) = match step {
        // A Redis that has no password lets everybody in.
        HandshakeStep::Login if has_no_password(reply) => return None,
        // Nothing follows from it for other clients' logins.
        HandshakeStep::Login if is_clients_login => (as_said(), false),
        HandshakeStep::Login => (format!("ERR redis-mesh: {cluster} refused the login"), true),
        HandshakeStep::Hello | HandshakeStep::Ping if error.starts_with(b"NOAUTH") => {
            let text = match is_clients_login {
                true => NOAUTH.to_owned(),
                false => format!("ERR redis-mesh: {cluster} asks for a password, and none is configured"),
            };
            (text, true)
        }
        HandshakeStep::Hello => (format!("ERR redis-mesh: {cluster} doesn't speak RESP3; use RESP2"), false),
        // In Redis's words, since the client has asked for the database.
        HandshakeStep::Select => (as_said(), false),
        // A Redis that isn't a node of a cluster any more, one that loads its data, a user who may
        // not PING: the replies to commands tell more.
        HandshakeStep::Readonly | HandshakeStep::Ping => return None,
    };
    let concerns_database = step == HandshakeStep::Select;
    Some(Refusal { text, is_general, concerns_login: is_general, concerns_database })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::upstream::endpoint::UpstreamAuth;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn endpoint(login: Option<UpstreamAuth>) -> UpstreamEndpoint {
        UpstreamEndpoint { cluster: "c".into(), login, nodes: None, member: Default::default() }
    }

    #[test]
    fn a_handshake_has_what_its_key_asks_for() {
        let check = |key: PoolKey, expected: &str| {
            let mut out = Vec::new();
            let steps = begin(&key, &mut out);
            assert_eq!(format!("{steps:?} {}", String::from_utf8_lossy(&out).replace("\r\n", " ")), expected);
        };
        let key = PoolKey::new(endpoint(None), false);
        check(key.clone(), "[Ping] *1 $4 PING ");
        let login = UpstreamAuth::Configured(b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n"[..].into());
        check(
            PoolKey { endpoint: endpoint(Some(login)), resp3: true, database: 5, readonly: true, ..key },
            "[Login, Hello, Select, Readonly] *2 $4 AUTH $1 p *2 $5 HELLO $1 3 *2 $6 SELECT $1 5 *1 $8 READONLY ",
        );
    }

    #[test]
    fn refusals() {
        let ours = endpoint(Some(UpstreamAuth::Configured(b"x"[..].into())));
        let clients = endpoint(Some(UpstreamAuth::none_yet()));
        let check = |step, endpoint: &UpstreamEndpoint, reply: &str, expected: Option<(&str, bool)>| {
            let found = refusal(step, endpoint, reply.as_bytes());
            let found = found.as_ref().map(|refusal| (refusal.text.as_str(), refusal.is_general));
            assert_eq!(found, expected, "{step:?} {reply}");
        };
        check(HandshakeStep::Login, &ours, "+OK\r\n", None);
        check(HandshakeStep::Login, &ours, "-WRONGPASS x\r\n", Some(("ERR redis-mesh: c refused the login", true)));
        check(HandshakeStep::Login, &clients, "-WRONGPASS x\r\n", Some(("WRONGPASS x", false)));
        check(HandshakeStep::Login, &ours, "-ERR Client sent AUTH, but no password is set\r\n", None);
        check(HandshakeStep::Ping, &clients, "-NOAUTH x\r\n", Some((NOAUTH, true)));
        let asks = "ERR redis-mesh: c asks for a password, and none is configured";
        check(HandshakeStep::Ping, &endpoint(None), "-NOAUTH x\r\n", Some((asks, true)));
        check(HandshakeStep::Ping, &ours, "-LOADING x\r\n", None);
        for step in [HandshakeStep::Ping, HandshakeStep::Login] {
            let greeting = "ERR max number of clients reached";
            check(step, &ours, &format!("-{greeting}\r\n"), Some((greeting, true)));
            check(step, &ours, "-DENIED x\r\n", Some(("DENIED x", true)));
        }
        check(HandshakeStep::Readonly, &ours, "-ERR x\r\n", None);
        check(
            HandshakeStep::Select,
            &ours,
            "-ERR DB index is out of range\r\n",
            Some(("ERR DB index is out of range", false)),
        );
        let resp2 = "ERR redis-mesh: c doesn't speak RESP3; use RESP2";
        check(HandshakeStep::Hello, &ours, "-ERR unknown command\r\n", Some((resp2, false)));
    }
}
