//! What a client has subscribed to (<https://redis.io/docs/latest/develop/pubsub/>).

use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use crate::resp::value::Value;
use std::collections::BTreeMap;

/// The kinds of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubscriptionKind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

/// A command that begins or ends subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// Of what.
    pub kind: SubscriptionKind,
    /// They begin.
    pub begins: bool,
}

impl SubscriptionChange {
    /// By a command's name in lower case.
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

    /// The command's name.
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

/// A client's subscriptions.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// By which connection each is kept.
    kept: BTreeMap<(SubscriptionKind, Vec<u8>), ConnectionId>,
    /// Connections for them.
    pub connections: Vec<ConnectionId>,
    /// The end of the client's reply queue when subscriptions last began or ended.
    pub last_change: Sequence,
    /// The client is told of all commands (MONITOR).
    pub is_monitor: bool,
}

impl Subscriptions {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// True if a connection keeps none.
    pub fn spares(&self, carrier: ConnectionId) -> bool {
        !self.kept.values().any(|kept| *kept == carrier)
    }

    /// True if anything that answers no command may come for the client.
    pub fn has_any(&self) -> bool {
        self.is_monitor || !self.is_empty()
    }

    /// True if a connection has to stay open for them.
    pub fn needs(&self, connection: ConnectionId) -> bool {
        self.connections.contains(&connection) && (self.is_monitor || !self.spares(connection))
    }

    /// A connection is closed, or not needed any more.
    pub fn forget_connection(&mut self, connection: ConnectionId) {
        self.connections.retain(|known| *known != connection);
    }

    /// What there is of a kind.
    pub fn names(&self, kind: SubscriptionKind) -> Vec<Vec<u8>> {
        self.kept.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Which connection keeps one.
    pub fn connection(&self, kind: SubscriptionKind, name: &[u8]) -> Option<ConnectionId> {
        self.kept.get(&(kind, name.to_vec())).copied()
    }

    /// As many as Redis counts for such a command: channels and patterns together.
    fn count(&self, kind: SubscriptionKind) -> u64 {
        let counts = |of: &SubscriptionKind| (*of == SubscriptionKind::Shard) == (kind == SubscriptionKind::Shard);
        self.kept.keys().filter(|(of, _)| counts(of)).count() as u64
    }

    /// Takes in that a subscription has begun or ended. What the client is told: in which Redis counts what this connection of
    /// several has.
    pub fn confirm(
        &mut self,
        change: SubscriptionChange,
        name: Option<&[u8]>,
        carrier: Option<ConnectionId>,
        resp3: bool,
    ) -> Vec<u8> {
        if let Some(name) = name {
            let key = (change.kind, name.to_vec());
            match carrier.filter(|_| change.begins) {
                Some(carrier) => drop(self.kept.insert(key, carrier)),
                None => drop(self.kept.remove(&key)),
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

/// What comes over a connection on which a client has subscribed.
#[derive(Debug)]
pub enum PubSubFrame<'a> {
    /// A subscription has begun or ended.
    Confirmed(SubscriptionChange, Option<&'a [u8]>),
    /// Something published, or another push.
    Push,
    /// A reply.
    Reply,
}

impl<'a> PubSubFrame<'a> {
    /// What a whole frame is.
    pub fn of(frame: &'a [u8], resp3: bool) -> PubSubFrame<'a> {
        let other = if resp3 { PubSubFrame::Push } else { PubSubFrame::Reply };
        if frame.first() != Some(if resp3 { &b'>' } else { &b'*' }) {
            return PubSubFrame::Reply;
        }
        // Only the first word of what may be large.
        let mut elements = crate::resp::elements::Elements::of_push(frame);
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

    #[test]
    fn what_arrives() {
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
        assert_eq!(show(">2 $10 invalidate *1 $1 a "), "push");
        assert_eq!(show("*2 $4 pong $0  "), "reply");
        assert_eq!(show("$1 a "), "reply");
        assert_eq!(show("-ERR x "), "reply");
    }

    #[test]
    fn counts() {
        let mut all = Subscriptions::default();
        let carrier = Some(ConnectionId::of_number(1));
        let mut confirm = |name: &str, of: Option<&str>| {
            let reply = all.confirm(SubscriptionChange::of(name).unwrap(), of.map(str::as_bytes), carrier, false);
            String::from_utf8_lossy(&reply).replace("\r\n", " ")
        };
        assert_eq!(confirm("subscribe", Some("a")), "*3 $9 subscribe $1 a :1 ");
        assert_eq!(confirm("psubscribe", Some("a")), "*3 $10 psubscribe $1 a :2 ");
        assert_eq!(confirm("ssubscribe", Some("a")), "*3 $10 ssubscribe $1 a :1 ");
        assert_eq!(confirm("subscribe", Some("a")), "*3 $9 subscribe $1 a :2 ");
        assert_eq!(confirm("unsubscribe", Some("a")), "*3 $11 unsubscribe $1 a :1 ");
        assert_eq!(confirm("unsubscribe", None), "*3 $11 unsubscribe $-1 :1 ");
        assert_eq!((all.names(SubscriptionKind::Pattern), all.spares(ConnectionId::of_number(1))), (vec![b"a".to_vec()], false));
    }
}
