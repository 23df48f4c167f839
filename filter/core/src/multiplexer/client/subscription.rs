//! The Pub/Sub subscriptions of a client (<https://redis.io/docs/latest/develop/pubsub/>).

use super::source::{MovingChannel, SubscriptionSource};
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use std::collections::{BTreeMap, BTreeSet};

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
/// live on the nodes that serve their slots, and each server tells of its own keys.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// Where the messages of each subscription come from.
    active: BTreeMap<(SubscriptionKind, Vec<u8>), SubscriptionSource>,
    /// How many of them are to shard channels.
    shard_channels: usize,
    /// The subscriptions that are kept at several servers, by their names there.
    at_servers: BTreeMap<(SubscriptionKind, Vec<u8>), BTreeSet<Vec<u8>>>,
    /// The command that several servers have to confirm.
    joint: Option<JointChange>,
    /// The shard channels that move.
    moving: BTreeSet<Vec<u8>>,
    /// Servers have changed while they couldn't be told apart.
    pub is_stale: bool,
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
        !self.active.values().any(|source| source.uses(connection))
            && !self.joint.as_ref().is_some_and(|joint| joint.uses(connection))
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

    /// Returns where the messages of a subscription come from.
    pub fn source(&self, kind: SubscriptionKind, name: &[u8]) -> Option<&SubscriptionSource> {
        self.active.get(&(kind, name.to_vec()))
    }

    /// Returns true if subscriptions are kept at several servers.
    pub fn has_several(&self) -> bool {
        !self.at_servers.is_empty()
    }

    /// Returns the names of the subscriptions that are kept at several servers under a name.
    pub fn of_server_name(&self, kind: SubscriptionKind, name: &[u8]) -> Option<&BTreeSet<Vec<u8>>> {
        self.at_servers.get(&(kind, name.to_vec()))
    }

    /// Returns the subscriptions that are kept at several servers.
    pub fn of_several(&self) -> Vec<(SubscriptionKind, Vec<u8>)> {
        let all = self.at_servers.iter();
        all.flat_map(|((kind, _), names)| names.iter().map(|name| (*kind, name.clone()))).collect()
    }

    /// Returns true if a subscription is kept under this name at the server of a connection, besides
    /// others.
    pub fn is_kept_at(&self, connection: ConnectionId, kind: SubscriptionKind, server_name: &[u8]) -> bool {
        let uses = |name: &Vec<u8>| match self.source(kind, name) {
            Some(SubscriptionSource::Several(servers)) => servers.uses(connection),
            Some(SubscriptionSource::One(_) | SubscriptionSource::Moving(_)) | None => false,
        };
        self.of_server_name(kind, server_name).is_some_and(|names| names.iter().any(uses))
    }

    /// Notes that nothing more is taken of a subscription that several servers keep.
    pub fn silence(&mut self, kind: SubscriptionKind, name: &[u8]) {
        let Some(SubscriptionSource::Several(servers)) = self.active.get(&(kind, name.to_vec())) else { return };
        let at_server = (kind, servers.name.clone());
        if let Some(names) = self.at_servers.get_mut(&at_server) {
            names.remove(name);
            if names.is_empty() {
                self.at_servers.remove(&at_server);
            }
        }
    }

    /// Notes where the messages of a subscription come from; `None`: the subscription has ended.
    pub fn set_source(&mut self, kind: SubscriptionKind, name: &[u8], source: Option<SubscriptionSource>) {
        let key = (kind, name.to_vec());
        self.silence(kind, name);
        let (is_new, is_known) = (source.is_some(), self.active.contains_key(&key));
        if kind == SubscriptionKind::Shard {
            self.shard_channels = self.shard_channels + usize::from(is_new) - usize::from(is_known);
            self.moving.remove(name);
        }
        match source {
            Some(source) => {
                if let SubscriptionSource::Several(servers) = &source {
                    let names = self.at_servers.entry((kind, servers.name.clone())).or_default();
                    names.insert(name.to_vec());
                }
                if let SubscriptionSource::Moving(_) = source {
                    self.moving.insert(name.to_vec());
                }
                self.active.insert(key, source);
            }
            None => drop(self.active.remove(&key)),
        }
    }

    /// Returns true if shard channels move.
    pub fn has_moving(&self) -> bool {
        !self.moving.is_empty()
    }

    /// Returns the shard channels that move.
    pub fn moving(&self) -> Vec<(Vec<u8>, MovingChannel)> {
        let of = |name: &Vec<u8>| match self.source(SubscriptionKind::Shard, name)? {
            SubscriptionSource::Moving(moving) => Some((name.clone(), *moving)),
            SubscriptionSource::One(_) | SubscriptionSource::Several(_) => None,
        };
        self.moving.iter().filter_map(of).collect()
    }

    /// Notes that the shard channels that were asked for over a connection aren't kept there. Returns
    /// true if there were such.
    pub fn has_not_moved_to(&mut self, connection: ConnectionId) -> bool {
        let mut is_any = false;
        for (name, moving) in self.moving() {
            if moving.at == Some(connection) {
                let source = SubscriptionSource::Moving(MovingChannel { at: None, ..moving });
                self.set_source(SubscriptionKind::Shard, &name, Some(source));
                is_any = true;
            }
        }
        is_any
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

    /// Notes that a subscription has begun, with where its messages come from, or has ended, and
    /// returns the confirmation for the client. `name` is absent if the client has ended all
    /// subscriptions of a kind and had none.
    ///
    /// The server's own confirmation would contain the number of subscriptions of one connection,
    /// which is wrong for a client that uses several.
    pub fn confirm(
        &mut self,
        change: SubscriptionChange,
        name: Option<&[u8]>,
        source: Option<SubscriptionSource>,
        resp3: bool,
    ) -> Vec<u8> {
        if let Some(name) = name {
            self.set_source(change.kind, name, source.filter(|_| change.begins));
        }
        self.confirmation(change, name, resp3)
    }

    /// Returns the confirmation of a change that was noted.
    fn confirmation(&self, change: SubscriptionChange, name: Option<&[u8]>, resp3: bool) -> Vec<u8> {
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

    /// Notes a command that several servers have to confirm.
    pub fn begin_joint(&mut self, joint: JointChange) {
        self.joint = Some(joint);
    }

    /// Returns the place in the reply queue of the command that several servers have to confirm.
    pub fn joint(&self) -> Option<Sequence> {
        self.joint.as_ref().map(|joint| joint.sequence)
    }

    /// Notes that a server has answered the command that several servers have to confirm, with this
    /// error if it has refused.
    pub fn answer_joint(&mut self, error: Option<&[u8]>) {
        if let Some(joint) = &mut self.joint {
            joint.left = joint.left.saturating_sub(1);
            if joint.error.is_none() {
                joint.error = error.map(<[u8]>::to_vec);
            }
        }
    }

    /// Returns what the client is told of the command that several servers had to confirm, when all
    /// have answered, with the sources of subscriptions that didn't come about, since a server has
    /// refused.
    pub fn finish_joint(&mut self, resp3: bool) -> Option<FinishedChange> {
        let JointChange { sequence, change, names, error, .. } = self.joint.take_if(|joint| joint.left == 0)?;
        if let Some(reply) = error {
            let undone = names.into_iter().filter_map(|(_, source)| source).collect();
            return Some(FinishedChange { sequence, change, reply, undone });
        }
        let mut reply = Vec::new();
        for (name, source) in names {
            let is_there = change.begins && source.is_none();
            reply.append(&mut match is_there {
                true => self.confirmation(change, Some(&name), resp3),
                false => self.confirm(change, Some(&name), source, resp3),
            });
        }
        Some(FinishedChange { sequence, change, reply, undone: Vec::new() })
    }
}

/// A command that begins or ends subscriptions, which several servers have to confirm. The client
/// gets the confirmations of all names when they have.
#[derive(Debug)]
pub struct JointChange {
    /// Its place in the client's reply queue.
    pub sequence: Sequence,
    /// What it changes.
    pub change: SubscriptionChange,
    /// The names, each with where its messages will come from; without that, nothing changes if the
    /// subscription begins, since it is there.
    pub names: Vec<(Vec<u8>, Option<SubscriptionSource>)>,
    /// How many confirmations of servers are to come.
    pub left: usize,
    /// What the first server answered that has refused.
    pub error: Option<Vec<u8>>,
}

impl JointChange {
    /// Returns true if a connection is to stay open for it.
    pub fn uses(&self, connection: ConnectionId) -> bool {
        self.names.iter().filter_map(|(_, source)| source.as_ref()).any(|source| source.uses(connection))
    }
}

/// A command that several servers had to confirm, and have answered.
#[derive(Debug)]
pub struct FinishedChange {
    /// Its place in the client's reply queue.
    pub sequence: Sequence,
    /// What it was to change.
    pub change: SubscriptionChange,
    /// What the client is told.
    pub reply: Vec<u8>,
    /// The sources of subscriptions that servers may keep and that the client doesn't have.
    pub undone: Vec<SubscriptionSource>,
}

#[cfg(test)]
mod tests {
    use super::super::source::SeveralServers;
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
                let source = Some(SubscriptionSource::One(connection));
                last = subscriptions.confirm(change(command), Some(name.as_bytes()), source, false);
            }
            assert!(last.ends_with(format!(":{count}\r\n").as_bytes()), "{}", last.escape_ascii());
        }
        assert!(!subscriptions.is_empty(), "the shard channels are left");
    }

    #[test]
    fn confirmations_count_all_subscriptions_of_the_client() {
        let mut all = Subscriptions::default();
        let source = Some(SubscriptionSource::One(ConnectionId::of_number(1)));
        let mut confirm = |name: &str, of: Option<&str>| {
            let reply = all.confirm(change(name), of.map(str::as_bytes), source.clone(), false);
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

    fn kept_at(name: &str, published: &[ConnectionId], notified: &[ConnectionId]) -> SubscriptionSource {
        let servers = SeveralServers {
            name: name.as_bytes().to_vec(),
            published: published.to_vec(),
            notified: notified.to_vec(),
        };
        SubscriptionSource::Several(Box::new(servers))
    }

    #[test]
    fn a_client_is_told_when_all_servers_have_confirmed() {
        let mut all = Subscriptions::default();
        let [one, two] = [1, 2].map(ConnectionId::of_number);
        let names = || {
            let source = kept_at("__key*", &[], &[one, two]);
            vec![(b"__keye*".to_vec(), Some(source)), (b"c*".to_vec(), Some(SubscriptionSource::One(one)))]
        };
        let joint = |change, names, left| JointChange { sequence: 7, change, names, left, error: None };
        all.begin_joint(joint(change("psubscribe"), names(), 3));
        assert!(all.joint() == Some(7) && !all.spares(one) && !all.spares(two) && all.is_empty());
        for _ in 0..2 {
            all.answer_joint(None);
            assert!(all.finish_joint(false).is_none());
        }
        all.answer_joint(None);
        let finished = all.finish_joint(false).unwrap();
        let told = String::from_utf8(finished.reply).unwrap().replace("\r\n", " ");
        assert_eq!(told, "*3 $10 psubscribe $7 __keye* :1 *3 $10 psubscribe $2 c* :2 ");
        let pattern = SubscriptionKind::Pattern;
        assert!(all.has_several() && all.is_kept_at(two, pattern, b"__key*") && !all.is_kept_at(two, pattern, b"c*"));
        assert_eq!(all.of_several(), [(pattern, b"__keye*".to_vec())]);
        // The same name again changes nothing; a name that ends is silent at once.
        all.begin_joint(joint(change("psubscribe"), vec![(b"__keye*".to_vec(), None)], 0));
        assert!(all.finish_joint(true).unwrap().reply.ends_with(b":2\r\n") && all.has_several());
        all.silence(pattern, b"__keye*");
        assert!(!all.has_several() && all.names(pattern).len() == 2 && !all.spares(two));
        all.begin_joint(joint(change("punsubscribe"), vec![(b"__keye*".to_vec(), None)], 0));
        assert!(all.finish_joint(true).unwrap().reply.ends_with(b":1\r\n") && all.spares(two));
        // One server refuses, and others may have begun it.
        all.begin_joint(joint(change("psubscribe"), names(), 2));
        all.answer_joint(Some(b"-NOPERM\r\n"));
        all.answer_joint(None);
        let refused = all.finish_joint(false).unwrap();
        assert_eq!((refused.reply.as_slice(), refused.undone.len()), (&b"-NOPERM\r\n"[..], 2));
        assert!(!all.has_several() && all.joint().is_none());
    }

    #[test]
    fn a_shard_channel_that_moves_stays_the_clients() {
        let mut all = Subscriptions::default();
        let [one, two] = [1, 2].map(ConnectionId::of_number);
        let shard = SubscriptionKind::Shard;
        drop(all.confirm(change("ssubscribe"), Some(b"c"), Some(SubscriptionSource::One(one)), false));
        let moving = |at| Some(SubscriptionSource::Moving(MovingChannel { attempts: 1, at }));
        all.set_source(shard, b"c", moving(Some(two)));
        assert!(all.has_moving() && all.spares(one) && all.spares(two) && !all.is_empty());
        assert!(!all.has_not_moved_to(one) && all.has_not_moved_to(two) && !all.has_not_moved_to(two));
        assert_eq!(all.moving(), [(b"c".to_vec(), MovingChannel { attempts: 1, at: None })]);
        all.set_source(shard, b"c", Some(SubscriptionSource::One(two)));
        assert!(!all.has_moving() && !all.spares(two));
        all.set_source(shard, b"c", moving(None));
        let told = all.confirm(change("sunsubscribe"), Some(b"c"), None, false);
        assert!(told.ends_with(b":0\r\n") && !all.has_moving() && all.is_empty());
    }

    #[test]
    fn confirmations_are_pushes_in_resp3() {
        let mut all = Subscriptions::default();
        let mut confirm = |name: &str, of: Option<&[u8]>| {
            let source = Some(SubscriptionSource::One(ConnectionId::of_number(1)));
            let reply = all.confirm(change(name), of, source, true);
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
        let mut confirm = |name: &str, of: &str, connection: Option<ConnectionId>| {
            drop(all.confirm(change(name), Some(of.as_bytes()), connection.map(SubscriptionSource::One), false));
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
        let source = SubscriptionSource::One(two);
        drop(all.confirm(change("subscribe"), Some(b"c"), Some(source.clone()), false));
        assert_eq!(all.source(SubscriptionKind::Channel, b"c"), Some(&source));
        assert_eq!(all.source(SubscriptionKind::Pattern, b"c"), None);
        assert!(!all.is_empty());
    }
}
