//! HELLO (<https://redis.io/docs/latest/commands/hello/>), for the machines that answer it
//! themselves.

use crate::command::Args;
use crate::resp::encode;

/// The version that HELLO and INFO report where no Redis is asked: the oldest whose commands the
/// command table has in full.
pub const REDIS_VERSION: &str = "7.0.15";

/// The longest name or version of a server that clients are told.
const LONGEST: usize = 64;

/// What HELLO says of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRelease {
    name: String,
    version: String,
}

impl Default for ServerRelease {
    /// That of no server.
    fn default() -> ServerRelease {
        ServerRelease { name: "redis".into(), version: REDIS_VERSION.into() }
    }
}

impl ServerRelease {
    /// Takes over the name that a server has given, if it is one.
    pub fn set_name(&mut self, name: &[u8]) {
        set(&mut self.name, name);
    }

    /// Takes over the version that a server has given, if it is one.
    pub fn set_version(&mut self, version: &[u8]) {
        set(&mut self.version, version);
    }
}

fn set(to: &mut String, text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text)
        && (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        text.clone_into(to);
    }
}

/// Redis's error for HELLO without AUTH from a client that has to log in.
pub const NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";

/// The arguments of `HELLO [version [AUTH user password] [SETNAME name]]`.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// True: the client asks for RESP3; false: for RESP2; `None`: the protocol stays.
    pub resp3: Option<bool>,
    /// User name and password.
    pub credentials: Option<(&'a [u8], &'a [u8])>,
    /// The name that the client gives itself.
    pub name: Option<&'a [u8]>,
}

impl<'a> Hello<'a> {
    /// Reads a command whose first argument is HELLO.
    ///
    /// # Errors
    /// Redis's answer to arguments that are wrong.
    pub fn parse(args: &Args<'a>) -> Result<Hello<'a>, String> {
        let resp3 = match args.get(1) {
            _ if args.count == 1 => None,
            b"2" => Some(false),
            b"3" => Some(true),
            other if other.is_empty() || !other.iter().all(u8::is_ascii_digit) => {
                return Err("ERR Protocol version is not an integer or out of range".into());
            }
            _ => return Err("NOPROTO unsupported protocol version".into()),
        };
        let mut hello = Hello { resp3, credentials: None, name: None };
        let mut i = 2;
        while i < args.count {
            let option = args.get(i);
            if option.eq_ignore_ascii_case(b"auth") && i + 2 < args.count {
                hello.credentials = Some((args.get(i + 1), args.get(i + 2)));
                i += 3;
            } else if option.eq_ignore_ascii_case(b"setname") && i + 1 < args.count {
                hello.name = Some(args.get(i + 1));
                i += 2;
            } else {
                return Err(format!("ERR Syntax error in HELLO option '{}'", args.quoted(i)));
            }
        }
        Ok(hello)
    }
}

/// Returns the reply to HELLO, with what is known of the server.
pub fn reply(resp3: bool, connection: u64, server: &ServerRelease) -> Vec<u8> {
    let mut out = Vec::new();
    if resp3 {
        encode::header(&mut out, b'%', 7);
    } else {
        encode::array(&mut out, 14);
    }
    for (field, value) in [("server", &server.name), ("version", &server.version)] {
        encode::bulk(&mut out, field.as_bytes());
        encode::bulk(&mut out, value.as_bytes());
    }
    encode::bulk(&mut out, b"proto");
    encode::integer(&mut out, if resp3 { 3 } else { 2 });
    encode::bulk(&mut out, b"id");
    encode::integer(&mut out, connection);
    // However many servers there are, the client sees one Redis.
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        encode::bulk(&mut out, field.as_bytes());
        encode::bulk(&mut out, value.as_bytes());
    }
    encode::bulk(&mut out, b"modules");
    encode::array(&mut out, 0);
    out
}
