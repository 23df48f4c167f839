//! The server's end of a connection, and the commands that change its state.

use super::servers::Servers;
use super::store::{self, Args, Key, null_array};
use super::tracking::Tracker;
use redis_mesh_core::multiplexer::ConnectionId;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire;
use std::collections::BTreeSet;
use std::time::Duration;

/// A client that is blocked by BLPOP.
pub struct Blocked {
    pub number: u64,
    pub args: Args,
}

/// The server's end of a connection.
pub struct Connection {
    pub node: usize,
    parser: Parser,
    input: Vec<u8>,
    /// The bytes that the server has written and that aren't under way yet.
    pub output: Vec<u8>,
    is_authenticated: bool,
    pub resp3: bool,
    pub db: u32,
    /// The commands since MULTI, and true if one of them was refused.
    multi: Option<(Vec<Args>, bool)>,
    /// The watched keys with their versions.
    watched: Vec<(Key, u64)>,
    pub blocked: Option<Blocked>,
    pub channels: BTreeSet<Vec<u8>>,
    pub is_asking: bool,
    pub is_readonly: bool,
    /// How the connection tracks, if it does.
    pub tracker: Option<Tracker>,
    /// What the connection is told behind the reply to the present command.
    pub pushes: Vec<u8>,
    /// The multiplexer knows that it is lost.
    pub is_abandoned: bool,
}

impl Connection {
    pub fn new(node: usize, is_authenticated: bool) -> Connection {
        Connection {
            node,
            parser: Parser::default(),
            input: Vec::new(),
            output: Vec::new(),
            is_authenticated,
            resp3: false,
            db: 0,
            multi: None,
            watched: Vec::new(),
            blocked: None,
            channels: BTreeSet::new(),
            is_asking: false,
            is_readonly: false,
            tracker: None,
            pushes: Vec::new(),
            is_abandoned: false,
        }
    }

    /// Writes the confirmation of a subscription.
    fn confirm(&mut self, kind: &str, channel: Option<&[u8]>) {
        let resp3 = self.resp3;
        let count = self.channels.len() as u64;
        encode::header(&mut self.output, if resp3 { b'>' } else { b'*' }, 3);
        encode::bulk(&mut self.output, kind.as_bytes());
        match channel {
            Some(channel) => encode::bulk(&mut self.output, channel),
            None => self.output.extend_from_slice(store::null(resp3)),
        }
        encode::integer(&mut self.output, count);
    }
}

/// The number of databases of a standalone Redis.
const DATABASES: u32 = 4;

impl Servers {
    /// Takes bytes of a connection, and executes the commands that are complete.
    pub fn receive(&mut self, id: ConnectionId, data: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.input.extend_from_slice(data);
        while let Some(connection) = self.connections.get_mut(&id) {
            if connection.blocked.is_some() || connection.input.is_empty() {
                return;
            }
            match connection.parser.parse(&connection.input, &wire::Limits::default()) {
                Ok(Progress::Partial) => return,
                Ok(Progress::Complete(length)) => {
                    let frame = connection.parser.frame(&connection.input);
                    let args: Args = connection.parser.args().iter().map(|span| span.of(frame).to_vec()).collect();
                    connection.parser.reset();
                    connection.input.drain(..length);
                    self.command(id, args);
                    self.push_all();
                }
                other => panic!("{other:?} came to a Redis: {}", connection.input.escape_ascii()),
            }
        }
    }

    fn reply(&mut self, id: ConnectionId, reply: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.output.extend_from_slice(reply);
        }
    }

    fn command(&mut self, id: ConnectionId, args: Args) {
        let name = args[0].to_ascii_lowercase();
        let connection = self.connections.get_mut(&id).unwrap();
        let node = connection.node;
        let site = &self.sites[self.nodes[node].site];
        if name == b"auth" {
            let reply: &[u8] = match site.password {
                None => b"-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n",
                Some(password) if password.as_bytes() == args[1] => {
                    connection.is_authenticated = true;
                    b"+OK\r\n"
                }
                Some(_) => b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            };
            return self.reply(id, reply);
        }
        if !connection.is_authenticated {
            return self.reply(id, b"-NOAUTH Authentication required.\r\n");
        }
        if connection.multi.is_some() && !matches!(name.as_slice(), b"exec" | b"discard" | b"multi" | b"watch") {
            let redirect = self.redirect(id, std::slice::from_ref(&args));
            let connection = self.connections.get_mut(&id).unwrap();
            let (queued, is_aborted) = connection.multi.as_mut().unwrap();
            match redirect {
                Some(error) => {
                    *is_aborted = true;
                    connection.output.extend(error);
                }
                None => {
                    queued.push(args);
                    connection.output.extend_from_slice(b"+QUEUED\r\n");
                }
            }
            return;
        }
        self.execute_at_once(id, &name, args);
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.multi.is_none()
            && name != b"asking"
        {
            connection.is_asking = false;
        }
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.multi.is_none()
            && name != b"client"
            && let Some(tracker) = &mut connection.tracker
        {
            tracker.is_caching = false;
        }
        let shard = self.nodes[node].shard;
        self.serve_blocked(shard);
    }

    /// Executes a command that isn't queued by a transaction.
    fn execute_at_once(&mut self, id: ConnectionId, name: &[u8], args: Args) {
        let connection = self.connections.get_mut(&id).unwrap();
        let node = connection.node;
        match name {
            b"hello" => {
                connection.resp3 = args[1] == b"3";
                self.reply(id, b"%1\r\n+server\r\n+redis\r\n");
            }
            b"acl" => self.reply(id, b"-NOPERM no\r\n"),
            b"select" => self.select(id, &args),
            b"ping" => self.reply(id, b"+PONG\r\n"),
            b"client" if args[1] == b"ID" => self.reply(id, b":7\r\n"),
            b"client" if matches!(args[1].as_slice(), b"TRACKING" | b"CACHING") => self.track(id, &args),
            b"client" => self.reply(id, b"+OK\r\n"),
            b"readonly" => {
                connection.is_readonly = true;
                self.reply(id, b"+OK\r\n");
            }
            b"asking" => {
                connection.is_asking = true;
                self.reply(id, b"+OK\r\n");
            }
            b"cluster" => {
                let reply = if args[1] == b"INFO" { self.cluster_info(node) } else { self.cluster_slots(node) };
                self.reply(id, &reply);
            }
            b"multi" => {
                assert!(connection.multi.is_none(), "MULTI in a transaction came to a Redis");
                connection.multi = Some((Vec::new(), false));
                self.reply(id, b"+OK\r\n");
            }
            b"exec" => self.exec(id),
            b"unwatch" => {
                connection.watched.clear();
                self.reply(id, b"+OK\r\n");
            }
            b"watch" => self.watch(id, &args),
            b"subscribe" | b"unsubscribe" => self.subscribe(id, name == b"subscribe", &args),
            b"blpop" => self.blpop(id, args),
            _ => {
                let reply =
                    self.redirect(id, std::slice::from_ref(&args)).unwrap_or_else(|| self.execute(id, &args, None));
                self.reply(id, &reply);
            }
        }
    }

    fn select(&mut self, id: ConnectionId, args: &Args) {
        let connection = self.connections.get_mut(&id).unwrap();
        let is_cluster = self.nodes[connection.node].address.is_some();
        let db: u32 = std::str::from_utf8(&args[1]).unwrap().parse().unwrap();
        let reply: &[u8] = match db {
            DATABASES.. => b"-ERR DB index is out of range\r\n",
            1.. if is_cluster => b"-ERR SELECT is not allowed in cluster mode\r\n",
            _ => {
                connection.db = db;
                b"+OK\r\n"
            }
        };
        self.reply(id, reply);
    }

    fn watch(&mut self, id: ConnectionId, args: &Args) {
        if let Some(error) = self.redirect(id, std::slice::from_ref(args)) {
            return self.reply(id, &error);
        }
        let connection = self.connections.get_mut(&id).unwrap();
        let (node, db) = (connection.node, connection.db);
        let shard = self.nodes[node].shard;
        for key in &args[1..] {
            let key = (db, key.clone());
            let version = self.shards[shard].version(&key);
            connection.watched.push((key, version));
        }
        let number = self.next(node);
        self.note(number, id, args, b"+OK\r\n", None);
        self.reply(id, b"+OK\r\n");
    }

    fn subscribe(&mut self, id: ConnectionId, begins: bool, args: &Args) {
        let connection = self.connections.get_mut(&id).unwrap();
        let node = connection.node;
        let channels = if args.len() > 1 { args[1..].to_vec() } else { connection.channels.iter().cloned().collect() };
        if channels.is_empty() {
            connection.confirm("unsubscribe", None);
        }
        for channel in &channels {
            if begins {
                connection.channels.insert(channel.clone());
            } else {
                connection.channels.remove(channel);
            }
            connection.confirm(if begins { "subscribe" } else { "unsubscribe" }, Some(channel));
        }
        let number = self.next(node);
        self.note(number, id, args, b"", None);
    }

    fn blpop(&mut self, id: ConnectionId, args: Args) {
        if let Some(error) = self.redirect(id, std::slice::from_ref(&args)) {
            return self.reply(id, &error);
        }
        let connection = self.connections.get_mut(&id).unwrap();
        let (node, db) = (connection.node, connection.db);
        let number = self.next(node);
        if let Some(reply) = self.pop(node, db, &args) {
            self.note(number, id, &args, &reply, None);
            return self.reply(id, &reply);
        }
        let seconds: f64 = std::str::from_utf8(args.last().unwrap()).unwrap().parse().unwrap();
        self.waiting += 1;
        self.alarms.push((self.now + Duration::from_secs_f64(seconds), id, self.waiting));
        let blocked = Blocked { number: self.waiting, args };
        self.connections.get_mut(&id).unwrap().blocked = Some(blocked);
    }

    fn exec(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).unwrap();
        let Some((queued, is_aborted)) = connection.multi.take() else {
            panic!("EXEC without MULTI came to a Redis");
        };
        let watched = std::mem::take(&mut connection.watched);
        let (shard, resp3) = (self.nodes[connection.node].shard, connection.resp3);
        if is_aborted {
            return self.reply(id, b"-EXECABORT Transaction discarded because of previous errors.\r\n");
        }
        if let Some(error) = self.redirect(id, &queued) {
            return self.reply(id, &error);
        }
        if watched.iter().any(|(key, version)| self.shards[shard].version(key) != *version) {
            return self.reply(id, null_array(resp3));
        }
        let transaction = self.journal.next();
        let mut out = Vec::new();
        encode::array(&mut out, queued.len());
        for args in &queued {
            out.extend(self.execute(id, args, Some(transaction)));
        }
        self.reply(id, &out);
    }
}
