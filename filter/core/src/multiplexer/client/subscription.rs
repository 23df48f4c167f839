//! The Pub/Sub subscriptions of a client (<https://redis.io/docs/latest/develop/pubsub/>).

use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;
use std::collections::BTreeMap;

/// A kind of subscription. A name can be subscribed to once for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubscriptionKind {
    /// A channel (SUBSCRIBE).
    Channel,
    /// A pattern of channels (PSUBSCRIBE).
    Pattern,
    /// A shard channel, which belongs to a slot of a Redis Cluster (SSUBSCRIBE).
    Shard,
}

/// A command that begins or ends subscriptions, or the confirmation that it has done so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// The kind of the subscriptions.
    pub kind: SubscriptionKind,
    /// True if the subscriptions begin, false if they end.
    pub begins: bool,
}

impl SubscriptionChange {
    /// Returns the change that a command makes; `name` is the command's name in lower case.
    pub fn of(name: &str) -> Option<SubscriptionChange> {
        let (kind, begins) = match name {
            "subscribe" => (SubscriptionKind::Channel, true),
            "psubscribe" => (SubscriptionKind::Pattern, true),
            "ssubscribe" => (SubscriptionKind::Shard, true),
            "unsubscribe" => (SubscriptionKind::Channel, false),
            "punsubscribe" => (SubscriptionKind::Pattern, false),
            "sunsubscribe" => (SubscriptionKind::Shard, false),
            _ => return None,
        };
        Some(SubscriptionChange { kind, begins })
    }

    /// Returns the command's name in lower case, as confirmations contain it.
    pub fn name(self) -> &'static str {
        match (self.kind, self.begins) {
            (SubscriptionKind::Channel, true) => "subscribe",
            (SubscriptionKind::Pattern, true) => "psubscribe",
            (SubscriptionKind::Shard, true) => "ssubscribe",
            (SubscriptionKind::Channel, false) => "unsubscribe",
            (SubscriptionKind::Pattern, false) => "punsubscribe",
            (SubscriptionKind::Shard, false) => "sunsubscribe",
        }
    }
}

/// The subscriptions of one client, which may be spread over several connections: shard channels
/// live on the nodes that serve their slots.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// The connection over which the messages of each subscription arrive.
    active: BTreeMap<(SubscriptionKind, Vec<u8>), ConnectionId>,
    /// How many of them are to shard channels.
    shard_channels: usize,
    /// The connections that this client uses for subscriptions.
    pub connections: Vec<ConnectionId>,
    /// The end of the client's reply queue when a subscription last began or ended.
    pub last_change: Sequence,
    /// The client is told of all commands (MONITOR).
    pub is_monitor: bool,
}

impl Subscriptions {
    /// Returns true if the client has no subscription.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Returns true if no subscription uses this connection.
    pub fn spares(&self, connection: ConnectionId) -> bool {
        !self.active.values().any(|used| *used == connection)
    }

    /// Returns true if anything that answers no command may come for the client.
    pub fn has_any(&self) -> bool {
        self.is_monitor || !self.is_empty()
    }

    /// Returns true if this connection has to stay open for the client.
    pub fn needs(&self, connection: ConnectionId) -> bool {
        self.connections.contains(&connection) && (self.is_monitor || !self.spares(connection))
    }

    /// Notes that a connection is closed, or isn't needed any more.
    pub fn forget_connection(&mut self, connection: ConnectionId) {
        self.connections.retain(|known| *known != connection);
    }

    /// Returns the names of all subscriptions of a kind, in bytewise order.
    pub fn names(&self, kind: SubscriptionKind) -> Vec<Vec<u8>> {
        self.active.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Returns the number of subscriptions of a kind.
    pub fn number_of(&self, kind: SubscriptionKind) -> usize {
        self.active.keys().filter(|(of, _)| *of == kind).count()
    }

    /// Returns the connection that a subscription uses.
    pub fn connection(&self, kind: SubscriptionKind, name: &[u8]) -> Option<ConnectionId> {
        self.active.get(&(kind, name.to_vec())).copied()
    }

    /// Returns the number of subscriptions that Redis reports when one of this kind changes:
    /// channels and patterns count together, shard channels for themselves.
    fn count(&self, kind: SubscriptionKind) -> u64 {
        let count = match kind {
            SubscriptionKind::Shard => self.shard_channels,
            SubscriptionKind::Channel | SubscriptionKind::Pattern => self.active.len() - self.shard_channels,
        };
        count as u64
    }

    /// Notes that a subscription has begun over `connection`, or has ended, and returns the
    /// confirmation for the client. `name` is absent if the client has ended all subscriptions
    /// of a kind and had none.
    ///
    /// The server's own confirmation would contain the number of subscriptions of one connection,
    /// which is wrong for a client that uses several.
    pub fn confirm(
        &mut self,
        change: SubscriptionChange,
        name: Option<&[u8]>,
        connection: Option<ConnectionId>,
        resp3: bool,
    ) -> Vec<u8> {
        if let Some(name) = name {
            let key = (change.kind, name.to_vec());
            let is_shard = change.kind == SubscriptionKind::Shard;
            match connection.filter(|_| change.begins) {
                Some(connection) => {
                    let is_new = self.active.insert(key, connection).is_none();
                    self.shard_channels += usize::from(is_new && is_shard);
                }
                None => {
                    let is_gone = self.active.remove(&key).is_some();
                    self.shard_channels -= usize::from(is_gone && is_shard);
                }
            }
        }
        let mut out = Vec::new();
        encode::header(&mut out, if resp3 { b'>' } else { b'*' }, 3);
        encode::bulk(&mut out, change.name().as_bytes());
        match name {
            Some(name) => encode::bulk(&mut out, name),
            None => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        }
        encode::integer(&mut out, self.count(change.kind));
        out
    }
}

/// The kinds of frames that arrive over a connection on which a client has subscribed.
#[derive(Debug)]
pub enum PubSubFrame<'a> {
    /// The confirmation that the subscription of this name has begun or ended.
    Confirmed(SubscriptionChange, Option<&'a [u8]>),
    /// A published message, or in RESP3 another push.
    Push,
    /// The reply to a command.
    Reply,
}

impl<'a> PubSubFrame<'a> {
    /// Returns the kind of a complete frame. In RESP2 a message and a confirmation are arrays
    /// like other replies; their first element tells them apart.
    pub fn of(frame: &'a [u8], resp3: bool) -> PubSubFrame<'a> {
        let other = if resp3 { PubSubFrame::Push } else { PubSubFrame::Reply };
        if frame.first() != Some(if resp3 { &b'>' } else { &b'*' }) {
            return PubSubFrame::Reply;
        }
        // A message may be large, so only the elements that decide are parsed.
        let mut elements = Elements::of_push(frame);
        let Some(Value::Text(kind)) = elements.next().and_then(Value::parse) else { return other };
        let change = std::str::from_utf8(kind).ok().and_then(SubscriptionChange::of);
        match change {
            Some(change) => PubSubFrame::Confirmed(change, elements.next().and_then(|name| Value::parse(name)?.text())),
            None if matches!(kind, b"message" | b"pmessage" | b"smessage") => PubSubFrame::Push,
            None => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const COMMANDS: [&str; 6] =
        ["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"];

    fn change(name: &str) -> SubscriptionChange {
        SubscriptionChange::of(name).unwrap()
    }

    #[test]
    fn commands_are_known_by_their_names() {
        for name in COMMANDS {
            assert_eq!(change(name).name(), name);
            assert_eq!(change(name).begins, !name.contains("un"));
        }
        for other in ["SUBSCRIBE", "subscribe ", "publish", "message", ""] {
            assert!(SubscriptionChange::of(other).is_none(), "{other}");
        }
    }

    /// With work for each channel that grows with the number of channels, this takes minutes.
    #[test]
    fn very_many_channels_take_no_time() {
        let (mut subscriptions, connection) = (Subscriptions::default(), ConnectionId::of_number(1));
        let channels = 60_000u64;
        for (command, count) in [("subscribe", channels), ("ssubscribe", channels), ("unsubscribe", 0)] {
            let mut last = Vec::new();
            for number in 0..channels {
                let name = number.to_string();
                last = subscriptions.confirm(change(command), Some(name.as_bytes()), Some(connection), false);
            }
            assert!(last.ends_with(format!(":{count}\r\n").as_bytes()), "{}", last.escape_ascii());
        }
        assert!(!subscriptions.is_empty(), "the shard channels are left");
    }

    #[test]
    fn frames_have_kinds() {
        let show = |frame: &str| match PubSubFrame::of(frame.replace(' ', "\r\n").as_bytes(), frame.starts_with('>')) {
            PubSubFrame::Confirmed(change, name) => {
                format!("{} {:?}", change.name(), name.map(<[u8]>::escape_ascii).map(|name| name.to_string()))
            }
            PubSubFrame::Push => "push".to_owned(),
            PubSubFrame::Reply => "reply".to_owned(),
        };
        assert_eq!(show("*3 $9 subscribe $1 a :1 "), "subscribe Some(\"a\")");
        assert_eq!(show(">3 $12 sunsubscribe $-1 :0 "), "sunsubscribe None");
        assert_eq!(show("*3 $7 message $1 a $1 x "), "push");
        assert_eq!(show("*4 $8 pmessage $1 * $1 a $1 x "), "push");
        assert_eq!(show(">3 $8 smessage $1 a $1 x "), "push");
        assert_eq!(show(">2 $10 invalidate *1 $1 a "), "push");
        assert_eq!(show("*2 $4 pong $0  "), "reply");
        assert_eq!(show("*2 $9 SUBSCRIBE $1 a "), "reply");
        assert_eq!(show("$1 a "), "reply");
        assert_eq!(show("-ERR x "), "reply");
    }

    #[test]
    fn incomplete_frames_have_a_kind_too() {
        assert!(matches!(PubSubFrame::of(b"", false), PubSubFrame::Reply));
        assert!(matches!(PubSubFrame::of(b"", true), PubSubFrame::Reply));
        assert!(matches!(PubSubFrame::of(b"*0\r\n", false), PubSubFrame::Reply));
        assert!(matches!(PubSubFrame::of(b">0\r\n", true), PubSubFrame::Push));
        assert!(matches!(PubSubFrame::of(b">1\r\n:1\r\n", true), PubSubFrame::Push));
        assert!(matches!(PubSubFrame::of(b">1\r\n$2\r\n\xff\xfe\r\n", true), PubSubFrame::Push));
        // An array isn't a push in RESP3.
        assert!(matches!(PubSubFrame::of(b"*1\r\n$7\r\nmessage\r\n", true), PubSubFrame::Reply));
        let confirmed = PubSubFrame::of(b"*1\r\n$9\r\nsubscribe\r\n", false);
        assert!(matches!(confirmed, PubSubFrame::Confirmed(SubscriptionChange { begins: true, .. }, None)));
    }

    #[test]
    fn confirmations_count_all_subscriptions_of_the_client() {
        let mut all = Subscriptions::default();
        let connection = Some(ConnectionId::of_number(1));
        let mut confirm = |name: &str, of: Option<&str>| {
            let reply = all.confirm(change(name), of.map(str::as_bytes), connection, false);
            String::from_utf8_lossy(&reply).replace("\r\n", " ")
        };
        assert_eq!(confirm("subscribe", Some("a")), "*3 $9 subscribe $1 a :1 ");
        assert_eq!(confirm("psubscribe", Some("a")), "*3 $10 psubscribe $1 a :2 ");
        assert_eq!(confirm("ssubscribe", Some("a")), "*3 $10 ssubscribe $1 a :1 ");
        assert_eq!(confirm("subscribe", Some("a")), "*3 $9 subscribe $1 a :2 ");
        assert_eq!(confirm("unsubscribe", Some("a")), "*3 $11 unsubscribe $1 a :1 ");
        assert_eq!(confirm("unsubscribe", None), "*3 $11 unsubscribe $-1 :1 ");
        assert_eq!(
            (all.names(SubscriptionKind::Pattern), all.spares(ConnectionId::of_number(1))),
            (vec![b"a".to_vec()], false)
        );
    }

    #[test]
    fn confirmations_are_pushes_in_resp3() {
        let mut all = Subscriptions::default();
        let mut confirm = |name: &str, of: Option<&[u8]>| {
            let reply = all.confirm(change(name), of, Some(ConnectionId::of_number(1)), true);
            String::from_utf8_lossy(&reply).replace("\r\n", " ")
        };
        assert_eq!(confirm("sunsubscribe", None), ">3 $12 sunsubscribe _ :0 ");
        assert_eq!(confirm("ssubscribe", Some(b"a b")), ">3 $10 ssubscribe $3 a b :1 ");
        // A name that wasn't subscribed to is confirmed all the same.
        assert_eq!(confirm("sunsubscribe", Some(b"")), ">3 $12 sunsubscribe $0  :1 ");
    }

    #[test]
    fn each_subscription_uses_one_connection() {
        let mut all = Subscriptions::default();
        let (one, two) = (ConnectionId::of_number(1), ConnectionId::of_number(2));
        let mut confirm = |name: &str, of: &str, connection| {
            drop(all.confirm(change(name), Some(of.as_bytes()), connection, false));
            let shards = all.names(SubscriptionKind::Shard).concat();
            (String::from_utf8(shards).unwrap(), all.spares(one), all.spares(two))
        };
        assert_eq!(confirm("ssubscribe", "b", Some(one)), ("b".into(), false, true));
        assert_eq!(confirm("ssubscribe", "a", Some(two)), ("ab".into(), false, false));
        // The slot of `b` has moved, and the client has subscribed again.
        assert_eq!(confirm("ssubscribe", "b", Some(two)), ("ab".into(), true, false));
        // Without a connection there is no subscription.
        assert_eq!(confirm("ssubscribe", "b", None), ("a".into(), true, false));
        assert_eq!(confirm("sunsubscribe", "a", Some(one)), ("".into(), true, true));
        assert!(all.is_empty());
        drop(all.confirm(change("subscribe"), Some(b"c"), Some(two), false));
        assert_eq!(all.connection(SubscriptionKind::Channel, b"c"), Some(two));
        assert_eq!(all.connection(SubscriptionKind::Pattern, b"c"), None);
        assert!(!all.is_empty());
    }
}
