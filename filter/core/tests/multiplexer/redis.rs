//! A reference of Redis: as many commands as the tests send.

use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire;
use sha1::Digest;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A server. It executes the commands of a connection in order, as Redis does.
#[derive(Default)]
pub struct Redis {
    pub keys: BTreeMap<Vec<u8>, Vec<u8>>,
    pub password: Option<Vec<u8>>,
    /// The bodies of scripts by their hexadecimal digests. Any script appends its argument to its
    /// key.
    pub scripts: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The names of connections by their numbers.
    pub names: BTreeMap<u64, Vec<u8>>,
    /// The numbers of connections that CLIENT UNBLOCK has named, and how.
    pub unblocked: Vec<(u64, String)>,
    /// True if connections to the server fail.
    pub is_down: bool,
}

/// The server's end of a connection.
#[derive(Default)]
pub struct Connection {
    parser: Parser,
    /// Bytes of the multiplexer that haven't arrived at the server.
    pub sent: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of the server that haven't arrived at the multiplexer.
    pub output: VecDeque<u8>,
    is_authenticated: bool,
    /// What CLIENT ID answers.
    pub number: u64,
    resp3: bool,
    /// The channels and patterns to which it has subscribed.
    pub subscriptions: BTreeSet<Vec<u8>>,
    /// The commands since MULTI.
    queued: Option<Vec<Vec<Vec<u8>>>>,
}

impl Redis {
    /// Takes bytes of a connection, and executes the commands that are complete.
    pub fn serve(&mut self, connection: &mut Connection, data: &[u8]) {
        connection.input.extend_from_slice(data);
        let mut at = 0;
        while let Ok(progress) = connection.parser.parse(&connection.input[at..], &wire::Limits::default()) {
            match progress {
                Progress::Partial => break,
                Progress::Nothing(length) => at += length,
                Progress::Complete(length) => {
                    let frame = connection.parser.frame(&connection.input[at..]);
                    let args: Vec<Vec<u8>> =
                        connection.parser.args().iter().map(|span| span.of(frame).to_vec()).collect();
                    connection.parser.reset();
                    at += length;
                    let mut out = Vec::new();
                    self.answer(connection, args, &mut out);
                    connection.output.extend(out);
                }
            }
        }
        connection.input.drain(..at);
    }

    fn answer(&mut self, connection: &mut Connection, args: Vec<Vec<u8>>, out: &mut Vec<u8>) {
        let name = args[0].to_ascii_lowercase();
        match name.as_slice() {
            b"auth" if args.last() == self.password.as_ref() => {
                connection.is_authenticated = true;
                out.extend_from_slice(b"+OK\r\n");
            }
            b"auth" if self.password.is_none() => out.extend_from_slice(
                b"-ERR AUTH <password> called without any password configured for the default user.\r\n",
            ),
            b"auth" => out.extend_from_slice(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            _ if self.password.is_some() && !connection.is_authenticated => {
                out.extend_from_slice(b"-NOAUTH Authentication required.\r\n");
            }
            b"hello" => {
                connection.resp3 = args.get(1).is_some_and(|version| version == b"3");
                out.extend_from_slice(b"%1\r\n+version\r\n+7.4.1\r\n");
            }
            b"subscribe" | b"psubscribe" | b"unsubscribe" | b"punsubscribe" => {
                for subscription in &args[1..] {
                    match name.ends_with(b"unsubscribe") {
                        true => drop(connection.subscriptions.remove(subscription)),
                        false => drop(connection.subscriptions.insert(subscription.clone())),
                    }
                    out.push(if connection.resp3 { b'>' } else { b'*' });
                    out.extend_from_slice(b"3\r\n");
                    encode::bulk(out, &name);
                    encode::bulk(out, subscription);
                    encode::integer(out, connection.subscriptions.len() as u64);
                }
            }
            b"acl" => out.extend_from_slice(b"-NOPERM no\r\n"),
            b"ping" => out.extend_from_slice(b"+PONG\r\n"),
            b"client" => self.client(connection, &args, out),
            // No replica ever confirms, and no list gets an element.
            b"wait" | b"blpop" => {}
            b"watch" => out.extend_from_slice(b"+OK\r\n"),
            b"multi" => {
                connection.queued = Some(Vec::new());
                out.extend_from_slice(b"+OK\r\n");
            }
            b"exec" => {
                let queued = connection.queued.take().unwrap();
                encode::array(out, queued.len());
                queued.into_iter().for_each(|args| self.execute(&args, out));
            }
            _ => match &mut connection.queued {
                Some(queued) => {
                    queued.push(args);
                    out.extend_from_slice(b"+QUEUED\r\n");
                }
                None => self.execute(&args, out),
            },
        }
    }

    /// CLIENT, as far as the multiplexer uses it.
    fn client(&mut self, connection: &mut Connection, args: &[Vec<u8>], out: &mut Vec<u8>) {
        let number = |index: usize| String::from_utf8_lossy(&args[index]).parse::<u64>().unwrap();
        match args[1].as_slice() {
            b"SETNAME" => {
                if connection.number == 0 {
                    connection.number = 1 + self.names.len() as u64;
                }
                self.names.insert(connection.number, args[2].clone());
                out.extend_from_slice(b"+OK\r\n");
            }
            b"ID" => encode::integer(out, connection.number),
            b"LIST" if args[2] == b"TYPE" => encode::bulk(out, b""),
            b"KILL" => out.extend_from_slice(b":0\r\n"),
            b"LIST" => {
                let name = self.names.get(&number(3)).map(|name| String::from_utf8_lossy(name).into_owned());
                let line = name.map(|name| format!("id={} addr=a name={name} age=0\n", number(3)));
                encode::bulk(out, line.unwrap_or_default().as_bytes());
            }
            _ => {
                self.unblocked.push((number(2), String::from_utf8_lossy(&args[3]).into_owned()));
                out.extend_from_slice(b":1\r\n");
            }
        }
    }

    fn execute(&mut self, args: &[Vec<u8>], out: &mut Vec<u8>) {
        let value = |value: Option<&Vec<u8>>, out: &mut Vec<u8>| match value {
            Some(value) => encode::bulk(out, value),
            None => out.extend_from_slice(b"$-1\r\n"),
        };
        match args[0].to_ascii_lowercase().as_slice() {
            b"set" => {
                self.keys.insert(args[1].clone(), args[2].clone());
                out.extend_from_slice(b"+OK\r\n");
            }
            // Ten keys at a time.
            b"scan" => {
                let at: usize = std::str::from_utf8(&args[1]).unwrap().parse().unwrap();
                let rest = self.keys.len().saturating_sub(at);
                encode::array(out, 2);
                encode::bulk(out, if rest > 10 { at + 10 } else { 0 }.to_string().as_bytes());
                encode::array(out, rest.min(10));
                self.keys.keys().skip(at).take(10).for_each(|key| encode::bulk(out, key));
            }
            b"get" => value(self.keys.get(&args[1]), out),
            b"append" => {
                let held = self.keys.entry(args[1].clone()).or_default();
                held.extend_from_slice(&args[2]);
                encode::integer(out, held.len() as u64);
            }
            b"mset" => {
                for pair in args[1..].chunks(2) {
                    self.keys.insert(pair[0].clone(), pair[1].clone());
                }
                out.extend_from_slice(b"+OK\r\n");
            }
            b"mget" => {
                encode::array(out, args.len() - 1);
                args[1..].iter().for_each(|key| value(self.keys.get(key), out));
            }
            b"del" => {
                let gone = args[1..].iter().filter(|key| self.keys.remove(*key).is_some()).count();
                encode::integer(out, gone as u64);
            }
            b"script" if args[1].eq_ignore_ascii_case(b"load") => encode::bulk(out, &self.load(&args[2])),
            b"script" => {
                self.scripts.clear();
                out.extend_from_slice(b"+OK\r\n");
            }
            b"evalsha" if !self.scripts.contains_key(&args[1]) => {
                out.extend_from_slice(b"-NOSCRIPT No matching script. Please use EVAL.\r\n");
            }
            name @ (b"eval" | b"evalsha") => {
                if name == b"eval" {
                    self.load(&args[1]);
                }
                self.execute(&[b"append".to_vec(), args[3].clone(), args[4].clone()], out);
            }
            other => panic!("{}", other.escape_ascii()),
        }
    }

    /// Stores a script, and returns its digest.
    fn load(&mut self, body: &[u8]) -> Vec<u8> {
        let digest = sha1::Sha1::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.scripts.insert(digest.clone().into_bytes(), body.to_vec());
        digest.into_bytes()
    }
}
