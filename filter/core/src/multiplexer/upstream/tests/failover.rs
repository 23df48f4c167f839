//! Commands whose nodes can't be reached before they are sent.

use super::{Side, endpoint, node, owner};
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use crate::multiplexer::timers::Timer;
use crate::multiplexer::upstream::connection::UpstreamConnection;
use crate::multiplexer::upstream::discovery::{Missing, NodeAccess};
use crate::multiplexer::upstream::events::Event;
use crate::multiplexer::upstream::failover;
use crate::multiplexer::upstream::loss::{self, Loss};
use crate::multiplexer::upstream::on_timer::on_timer;
use crate::multiplexer::upstream::patience::Patience;
use crate::multiplexer::upstream::pending::{InFlight, PendingReply};
use crate::multiplexer::upstream::pool_key::{PoolKey, Purpose};
use crate::wire::ReadPolicy;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const TOO_LATE: &str = "-ERR redis-mesh: c can't be reached";
/// Node 1 with its replica, node 2.
const BEFORE: &str = "*1 *4 :0 :16383 *2 $8 10.0.0.1 :1 *2 $8 10.0.0.1 :2 ";
/// Node 2 has taken the place of node 1.
const AFTER: &str = "*1 *3 :0 :16383 *2 $8 10.0.0.1 :2 ";
/// Two shards, of nodes 1 and 3.
const TWO_SHARDS: &str = "*2 *3 :0 :8191 *2 $8 10.0.0.1 :1 *3 :8192 :16383 *2 $8 10.0.0.1 :3 ";
/// The same after node 2 has taken the place of node 1.
const TWO_SHARDS_AFTER: &str = "*2 *3 :0 :8191 *2 $8 10.0.0.1 :2 *3 :8192 :16383 *2 $8 10.0.0.1 :3 ";

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A client's command of this number, at a host with an `opTimeout` of one second.
fn command(sequence: u64) -> InFlight {
    InFlight { patience: Patience::of(milliseconds(1000)), ..PendingReply::Command(owner(sequence)).into() }
}

/// A part of a client's command.
fn part(sequence: u64) -> InFlight {
    InFlight { what: PendingReply::Part(owner(sequence), 0), ..command(sequence) }
}

impl Side {
    /// Ends a connection to a node that can't be reached, and the one that is made in its place.
    fn refuse(&mut self, connection: ConnectionId) {
        loss::lost(&mut self.upstreams, connection, Loss::Ended, &mut self.effects);
        for second in self.opened() {
            loss::lost(&mut self.upstreams, second, Loss::Ended, &mut self.effects);
        }
    }

    /// Sends these commands to node 1, which can't be reached.
    fn strand(&mut self, cluster: ClusterId, commands: &[(InFlight, &str)]) {
        let master = self.upstreams.node(cluster, 0, NodeAccess::Write, false, &mut self.effects).unwrap();
        for (in_flight, command) in commands {
            self.send(master, *in_flight, command);
        }
        let first = self.opened()[0];
        self.refuse(first);
    }

    /// What clients are told, after the commands have gone on that waited for that.
    fn released(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(event) = self.upstreams.next_event() {
            if let Event::SlotsMoved(cluster) | Event::NodeAnswered(cluster) | Event::SlotsServed(cluster) = event {
                failover::release(&mut self.upstreams, cluster, &mut self.effects);
            }
            told.extend(Some(event).filter(super::is_told).map(|event| super::shown(&event)));
        }
        told
    }

    /// A node tells the slots.
    fn learn(&mut self, cluster: ClusterId, slots: &str) -> Vec<String> {
        on_timer(&mut self.upstreams, Timer::Discovery(cluster), &mut self.effects);
        let asked = |(id, connection): (ConnectionId, &UpstreamConnection)| {
            matches!(connection.purpose, Purpose::Discovery(_)).then_some((id, connection.key.node))
        };
        let mut found = self.upstreams.pool.iter().find_map(asked).unwrap();
        if found.1 == Some(node(1)) {
            loss::lost(&mut self.upstreams, found.0, Loss::Ended, &mut self.effects);
            found = self.upstreams.pool.iter().find_map(asked).unwrap();
        }
        let asked = found.0;
        let bytes = |reply: &str| reply.replace(' ', "\r\n").replace('_', " ").replace('\u{1}', "_").into_bytes();
        for reply in ["+PONG ".to_owned(), super::answers(slots, None)] {
            self.deliver(asked, &bytes(&reply));
        }
        self.released()
    }

    fn deliver(&mut self, connection: ConnectionId, bytes: &[u8]) {
        use crate::multiplexer::upstream::receive;
        let mut receipt = receive::begin(&mut self.upstreams, connection, bytes, &self.effects).unwrap();
        let mut events = Vec::new();
        while let Some(event) = receive::receive(&mut self.upstreams, &mut receipt, &mut self.effects) {
            events.push(match event {
                Event::SlotsMoved(cluster) => Event::SlotsMoved(cluster),
                Event::NodeAnswered(cluster) => Event::NodeAnswered(cluster),
                Event::SlotsServed(cluster) => Event::SlotsServed(cluster),
                Event::ClusterAnswered(cluster) => Event::ClusterAnswered(cluster),
                Event::Redirected(owner) => Event::Redirected(owner),
                other => panic!("{other:?}"),
            });
        }
        receive::end(&mut self.upstreams, receipt, &mut self.effects);
        self.upstreams.pool.events.extend(events);
    }

    /// The address of the last connection that was opened, and what is sent over it.
    fn sent_to_the_last(&mut self) -> (Option<std::net::SocketAddr>, String) {
        let last = self.opened().pop().unwrap();
        self.sent(last);
        self.receive(last, "+PONG ");
        (self.upstreams.pool.get(last).unwrap().key.node, self.sent(last))
    }

    /// Lets time pass, in which nodes that are tried can't be reached. Returns what clients are told.
    fn pass(&mut self, time: Duration) -> Vec<String> {
        let (end, mut told) = (self.effects.now + time, Vec::new());
        while let Some(next) = self.effects.timers.next().filter(|next| *next <= end) {
            self.effects.now = self.effects.now.max(next);
            while let Some(timer) = self.effects.timers.pop(self.effects.now) {
                on_timer(&mut self.upstreams, timer, &mut self.effects);
            }
            for connection in self.opened() {
                self.refuse(connection);
            }
            told.extend(self.released());
        }
        self.effects.now = end;
        told
    }
}

/// The Redis side and a Redis Cluster, some time later.
fn before(slots: &str) -> (Side, ClusterId) {
    let mut side = Side::new();
    let cluster = side.cluster_with(slots);
    side.effects.now += Duration::from_secs(2);
    (side, cluster)
}

#[test]
fn a_command_that_its_node_never_got_goes_to_the_one_that_takes_its_place() {
    let (mut side, cluster) = before(BEFORE);
    side.strand(cluster, &[(command(1), "GET a"), (command(2), "INCR b")]);
    assert_eq!(side.released(), ["1 is redirected", "2 is redirected"]);
    // A command that comes meanwhile waits, too, before it is sent.
    let missing = side.upstreams.node(cluster, 0, NodeAccess::Write, false, &mut side.effects);
    let unreached = Missing::Unreached(cluster, TOO_LATE[1..].into());
    assert_eq!(missing, Err(unreached));
    // So does one of a client that is to have a connection of its own, since it doesn't read.
    let key = PoolKey { node: Some(node(1)), ..PoolKey::new(endpoint(None), false) };
    let missing = side.upstreams.separate(owner(1).client, key, &mut side.effects);
    assert!(matches!(missing, Err(Missing::Unreached(of, _)) if of == cluster), "{missing:?}");
    side.effects.now += milliseconds(60);
    // As long as nobody has taken the place, they wait.
    assert_eq!(side.learn(cluster, BEFORE), ["SlotsServed(0.0)", "1 is redirected", "2 is redirected"]);
    assert_eq!(side.upstreams.stranded.held().0, 2);
    side.effects.now += milliseconds(300);
    assert_eq!(side.learn(cluster, AFTER)[..2], ["slots have moved", "1 is redirected"]);
    assert_eq!(side.sent_to_the_last(), (Some(node(2)), "*2 $3 GET $1 a *2 $4 INCR $1 b ".into()));
    assert_eq!(side.upstreams.stranded.held(), (0, 0));
}

#[test]
fn a_node_that_answers_again_gets_what_has_waited() {
    let (mut side, cluster) = before(BEFORE);
    side.strand(cluster, &[(command(1), "GET a")]);
    side.released();
    side.effects.now += milliseconds(60);
    // It is tried over a connection that carries nothing yet.
    on_timer(&mut side.upstreams, Timer::Discovery(cluster), &mut side.effects);
    let tried = side.opened();
    let to_node_1 = |id: &ConnectionId| side.upstreams.pool.get(*id).unwrap().key.node == Some(node(1));
    let tried = tried.into_iter().find(to_node_1).unwrap();
    assert_eq!(side.sent(tried), "*1 $4 PING ");
    let missing = side.upstreams.node(cluster, 0, NodeAccess::Write, false, &mut side.effects);
    assert!(matches!(missing, Err(Missing::Unreached(..))), "{missing:?}");
    side.deliver(tried, b"+PONG\r\n");
    assert_eq!(side.released(), ["NodeAnswered(0.0)", "1 is redirected"]);
    assert_eq!(side.sent(tried), "*2 $3 GET $1 a ");
    let found = side.upstreams.node(cluster, 0, NodeAccess::Write, false, &mut side.effects).unwrap();
    assert_eq!(found.id(), tried);
}

#[test]
fn the_time_of_a_command_counts_from_its_first_try() {
    let (mut side, cluster) = before(BEFORE);
    side.strand(cluster, &[(command(1), "GET a"), (InFlight { patience: Patience::UNLIMITED, ..command(2) }, "GET b")]);
    side.released();
    // Nodes are tried again and again, over few connections.
    assert_eq!(side.pass(milliseconds(999)), [""; 0]);
    assert_eq!(side.pass(milliseconds(101)), [format!("1: {TOO_LATE}")]);
    // It comes back, and is lost before the command is sent.
    side.effects.now += milliseconds(1000);
    let peer = crate::multiplexer::upstream::availability::Peer::new(&endpoint(None), Some(node(1)));
    side.upstreams.pool.availability.succeeded(&peer);
    failover::release(&mut side.upstreams, cluster, &mut side.effects);
    let again = side.opened().pop().unwrap();
    side.refuse(again);
    assert_eq!(side.released(), ["2 is redirected", "2 is redirected"]);
    // Without a limit it waits for five seconds.
    assert_eq!(side.pass(milliseconds(2899)), [""; 0]);
    assert_eq!(side.pass(milliseconds(101)), [format!("2: {TOO_LATE}")]);
    assert!(!side.upstreams.discovery.known(&endpoint(None)).unwrap().is_failover_awaited(side.effects.now));
}

#[test]
fn a_command_without_a_key_goes_to_any_node_and_a_part_to_that_of_its_shard() {
    let (mut side, cluster) = before(TWO_SHARDS);
    let exec = InFlight { what: PendingReply::Exec(owner(4)), ..command(4) };
    side.strand(
        cluster,
        &[(command(1), "PUBLISH c m"), (part(2), "DBSIZE"), (part(3), "SCAN 7"), (exec, "SET {b}x v")],
    );
    let told = side.released();
    // Another server knows nothing of a cursor.
    assert_eq!(
        told,
        ["1 is redirected".to_owned(), "2 is redirected".into(), format!("3: {TOO_LATE}"), "4 is redirected".into()]
    );
    assert_eq!(side.sent_to_the_last(), (Some(node(3)), "*3 $7 PUBLISH $1 c $1 m ".into()));
    side.effects.now += milliseconds(60);
    side.learn(cluster, TWO_SHARDS_AFTER);
    let (to, sent) = side.sent_to_the_last();
    assert_eq!((to, sent.as_str()), (Some(node(2)), "*1 $6 DBSIZE *3 $3 SET $4 {b}x $1 v "));
}

#[test]
fn a_read_that_another_node_may_answer_goes_there_at_once() {
    let (mut side, cluster) = before(BEFORE);
    let read = InFlight { reads: Some(ReadPolicy::PreferMaster), ..command(1) };
    side.strand(cluster, &[(read, "GET a"), (command(2), "DEL a")]);
    assert_eq!(side.released(), ["1 is redirected", "2 is redirected"]);
    let replica = side.opened().pop().unwrap();
    assert_eq!(side.sent(replica), "*1 $8 READONLY ");
    // New ones go there, too, also when the master is about to be tried again.
    for _ in 0..2 {
        let access = NodeAccess::Read(ReadPolicy::PreferMaster);
        let found = side.upstreams.node(cluster, 0, access, false, &mut side.effects).unwrap();
        assert_eq!(found.id(), replica);
        side.effects.now += Duration::from_secs(3);
    }
}

#[test]
fn what_a_client_has_left_behind_is_dropped() {
    let (mut side, cluster) = before(BEFORE);
    side.strand(cluster, &[(command(1), "SET a 1")]);
    assert_eq!(side.upstreams.stranded.held(), (1, 27));
    let client = owner(1).client;
    assert_eq!(side.upstreams.stranded.clients(), [client].into());
    failover::client_gone(&mut side.upstreams, ClientId::of_number(99));
    assert_eq!(side.upstreams.stranded.held().0, 1);
    failover::client_gone(&mut side.upstreams, client);
    assert_eq!(side.upstreams.stranded.held(), (0, 0));
    side.released();
    side.effects.now += milliseconds(60);
    assert_eq!(side.learn(cluster, AFTER)[..1], ["slots have moved"]);
    let goes_there = |(_, connection): (ConnectionId, &UpstreamConnection)| {
        connection.purpose == Purpose::Shared && connection.key.node == Some(node(2))
    };
    assert!(!side.upstreams.pool.iter().any(goes_there));
}

#[test]
fn while_a_node_does_not_answer_the_handshake_others_are_asked() {
    let (mut side, cluster) = before(BEFORE);
    let master = side.upstreams.node(cluster, 0, NodeAccess::Write, false, &mut side.effects).unwrap();
    side.send(master, InFlight { patience: Patience::of(milliseconds(9000)), ..command(1) }, "INCR a");
    side.opened();
    side.effects.now += milliseconds(501);
    while let Some(timer) = side.effects.timers.pop(side.effects.now) {
        on_timer(&mut side.upstreams, timer, &mut side.effects);
    }
    assert!(side.upstreams.discovery.known(&endpoint(None)).unwrap().is_failover_awaited(side.effects.now));
    side.effects.now += milliseconds(60);
    let told = side.learn(cluster, AFTER);
    assert!(told.contains(&"1 is redirected".into()), "{told:?}");
    assert_eq!(side.sent_to_the_last(), (Some(node(2)), "*2 $4 INCR $1 a ".into()));
}
