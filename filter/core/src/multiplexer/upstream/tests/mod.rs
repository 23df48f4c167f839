//! The Redis side alone: bytes of servers in, events and bytes for servers out.

mod cluster_down;
mod failover;
mod introductions;
mod pubsub;
mod redirections;
mod silence;

use super::availability::Availability;
use super::connection::Stage;
use super::discovery::{Missing, NodeAccess};
use super::endpoint::{UpstreamAuth, UpstreamEndpoint};
use super::events::Event;
use super::loss::{self, Loss};
use super::on_timer::on_timer;
use super::pending::{Control, InFlight, Owner, PendingReply};
use super::pool::SharedConnection;
use super::pool_key::PoolKey;
use super::receive;
use super::{ConnectionRoute, Upstreams};
use crate::command::Known;
use crate::command::sharing::Shareable;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use crate::multiplexer::outbox::Output;
use crate::multiplexer::stats::StatsKey;
use crate::wire::ReadPolicy;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Upstreams, and what they have asked for.
struct Side {
    upstreams: Upstreams,
    effects: Effects,
    closed: Vec<ConnectionId>,
}

fn node(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn endpoint(login: Option<&str>) -> UpstreamEndpoint {
    let login = login.map(|login| UpstreamAuth::Configured(login.as_bytes().into()));
    UpstreamEndpoint { cluster: "c".into(), login, nodes: None, member: Default::default() }
}

fn owner(sequence: u64) -> Owner {
    Owner { client: ClientId::of_number(1), sequence }
}

fn get() -> Shareable {
    Shareable::of_one_key(Known::of(&["get", "k"][..]).unwrap().command).unwrap()
}

impl Side {
    fn new() -> Side {
        Side { upstreams: Upstreams::default(), effects: Effects::new([1; 32]), closed: Vec::new() }
    }

    /// What the server at the other end has been sent since this was asked last, with spaces for line ends.
    fn sent(&mut self, connection: ConnectionId) -> String {
        let known = self.upstreams.pool.get_mut(connection).unwrap();
        String::from_utf8(known.send.take(Vec::new())).unwrap().replace("\r\n", " ")
    }

    /// Performs the outputs: the connections that were opened, in order.
    fn opened(&mut self) -> Vec<ConnectionId> {
        let mut opened = Vec::new();
        while let Some(output) = self.effects.outbox.pop() {
            match output {
                Output::Open(id, _) => opened.push(id),
                Output::PauseUpstream(_) | Output::ResumeUpstream(_) => {}
                Output::CloseUpstream(id) => self.closed.push(id),
                _ => {}
            }
        }
        opened
    }

    /// Bytes of a server, with line ends for spaces. Returns what clients have to be told.
    fn receive(&mut self, connection: ConnectionId, reply: &str) -> Vec<String> {
        let bytes = reply.replace(' ', "\r\n").replace('_', " ").replace('\u{1}', "_").into_bytes();
        let mut told = Vec::new();
        if let Some(mut receipt) = receive::begin(&mut self.upstreams, connection, &bytes, &self.effects) {
            while let Some(event) = receive::receive(&mut self.upstreams, &mut receipt, &mut self.effects) {
                told.extend(Some(event).filter(is_told).map(|event| shown(&event)));
            }
            receive::end(&mut self.upstreams, receipt, &mut self.effects);
        }
        told.extend(self.events());
        told
    }

    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.upstreams.next_event()).filter(is_told).map(|event| shown(&event)).collect()
    }

    /// A shared connection whose handshake is complete.
    fn shared(&mut self, key: PoolKey) -> SharedConnection {
        let connection = self.upstreams.shared(key, &mut self.effects).unwrap();
        self.opened();
        self.sent(connection.id());
        assert_eq!(self.receive(connection.id(), "+PONG "), [""; 0]);
        connection
    }

    fn send(&mut self, connection: SharedConnection, in_flight: InFlight, command: &str) {
        let to = (connection, get());
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.upstreams.send(to, in_flight, &mut self.effects, |out| crate::resp::encode::command(out, &words));
    }

    /// A Redis Cluster with a master and a replica, which are asked for and known.
    fn cluster(&mut self) -> ClusterId {
        self.cluster_with("*1 *4 :0 :16383 *2 $8 10.0.0.1 :1 *2 $8 10.0.0.1 :2 ")
    }

    /// A Redis Cluster that is asked for and known by this reply to CLUSTER SLOTS.
    fn cluster_with(&mut self, slots: &str) -> ClusterId {
        let cluster = self.upstreams.discovery.cluster_of(&endpoint(None));
        let asked = self.upstreams.shard(cluster, Some(7), &mut self.effects);
        assert_eq!(asked, Err(Missing::Topology(cluster)));
        self.tell(cluster, slots);
        assert_eq!(self.upstreams.shard(cluster, Some(7), &mut self.effects), Ok(0));
        self.opened();
        cluster
    }

    /// The node that is being asked answers, for a client that waits.
    fn tell(&mut self, cluster: ClusterId, slots: &str) {
        self.upstreams.discovery.await_topology(cluster);
        let connection = self.opened()[0];
        self.receive(connection, "+PONG ");
        assert_eq!(self.sent(connection), "*1 $4 PING *2 $7 CLUSTER $4 INFO *2 $7 CLUSTER $5 SLOTS ");
        let told = self.receive(connection, &answers(slots, None));
        assert_eq!(told.last().map(String::as_str), Some(&*format!("ClusterAnswered({cluster:?})")));
    }

    /// The shared connection to a node that answers such a command.
    fn node(&mut self, cluster: ClusterId, access: NodeAccess) -> SharedConnection {
        let connection = self.upstreams.node(cluster, 0, access, false, &mut self.effects).unwrap();
        self.opened();
        self.sent(connection.id());
        self.receive(connection.id(), "+OK ");
        connection
    }

    /// The shared connection that was opened last, with a complete handshake.
    fn last(&mut self) -> ConnectionId {
        let last = self.opened().pop().unwrap();
        self.receive(last, "+PONG ");
        last
    }
}

/// The replies to CLUSTER INFO, SLOTS and, with `nodes`, NODES, with spaces for line ends.
fn answers(slots: &str, nodes: Option<&str>) -> String {
    let bulk = |text: &str| format!("${} {} ", text.len(), text.replace("\r\n", " "));
    // In what servers say, `receive` takes `_` for a space.
    let info = bulk("cluster\u{1}state:ok\r\ncluster\u{1}current\u{1}epoch:1\r\n");
    let nodes = nodes.map(bulk).unwrap_or_default();
    info + slots + &nodes
}

/// An event in short, with the beginning of a reply.
/// True unless it only says for how long a client has waited.
fn is_told(event: &Event<'_>) -> bool {
    !matches!(event, Event::WaitedInVain(..))
}

fn shown(event: &Event<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match event {
        Event::Piece { owner, bytes, .. } => format!("{}: {}", owner.sequence, text(bytes)),
        Event::Reply { to, reply } => {
            format!("{}: {}", to.command().map_or(0, |owner| owner.sequence), text(reply))
        }
        Event::Failed { to, outage } => {
            format!("{}: -{}", to.command().map_or(0, |owner| owner.sequence), outage.text())
        }
        Event::Truncated { owner, .. } => format!("{} is cut", owner.sequence),
        Event::Redirected(owner) => format!("{} is redirected", owner.sequence),
        Event::SlotsMoved(_) => "slots have moved".into(),
        Event::LoginRefused(_) => "the login was refused".into(),
        Event::Idle { .. } => "idle".into(),
        Event::Lost(_, lost) => format!("lost: {}", lost.outage.text()),
        Event::Closed { .. } => "closed".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn replies_are_told_by_the_commands_that_they_answer() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    side.send(connection, PendingReply::Command(owner(1)).into(), "GET a");
    side.send(connection, PendingReply::Ignored.into(), "GET b");
    side.send(connection, PendingReply::Part(owner(2), 0).into(), "GET c");
    assert_eq!(side.sent(connection.id()), "*2 $3 GET $1 a *2 $3 GET $1 b *2 $3 GET $1 c ");
    assert_eq!(side.receive(connection.id(), "$2 x"), ["1: $2\r\nx"]);
    assert_eq!(side.receive(connection.id(), "x +b +c "), ["1: x", "2: +c"]);
}

#[test]
fn commands_wait_for_the_handshake() {
    let mut side = Side::new();
    let key = PoolKey::new(endpoint(Some("AUTH")), false);
    let connection = side.upstreams.shared(key.clone(), &mut side.effects).unwrap();
    side.send(connection, PendingReply::Command(owner(1)).into(), "GET a");
    assert_eq!(side.sent(connection.id()), "AUTH");
    let told = side.receive(connection.id(), "-WRONGPASS ");
    assert_eq!(told, ["the login was refused", "1: -ERR redis-mesh: c refused the login"]);
    // It isn't tried again at once.
    let refused = Missing::Error("ERR redis-mesh: c refused the login".into());
    assert_eq!(side.upstreams.shared(key, &mut side.effects), Err(refused));
}

#[test]
fn a_connection_that_is_refused_is_tried_once_more_before_clients_hear_of_it() {
    let mut side = Side::new();
    let key = PoolKey::new(endpoint(Some("AUTH")), false);
    let first = side.upstreams.shared(key.clone(), &mut side.effects).unwrap();
    side.send(first, PendingReply::Command(owner(1)).into(), "GET a");
    side.opened();
    loss::lost(&mut side.upstreams, first.id(), Loss::Ended, &mut side.effects);
    assert_eq!(side.events(), [""; 0]);
    let second = side.opened()[0];
    assert_eq!(side.upstreams.shared(key.clone(), &mut side.effects).unwrap().id(), second);
    assert_eq!(side.sent(second), "AUTH");
    side.receive(second, "+OK ");
    assert_eq!(side.sent(second), "*2 $3 GET $1 a ");
    assert_eq!(side.receive(second, "+x "), ["1: +x"]);
    // The second time they hear.
    let mut side = Side::new();
    let first = side.upstreams.shared(key.clone(), &mut side.effects).unwrap();
    side.send(first, PendingReply::Command(owner(1)).into(), "GET a");
    side.opened();
    loss::lost(&mut side.upstreams, first.id(), Loss::Ended, &mut side.effects);
    let second = side.opened()[0];
    loss::lost(&mut side.upstreams, second, Loss::Ended, &mut side.effects);
    assert_eq!(side.events(), ["1: -ERR redis-mesh: c can't be reached"]);
    assert!(side.opened().is_empty());
    // So do they if it takes its time to fail.
    let mut side = Side::new();
    let slow = side.upstreams.shared(key, &mut side.effects).unwrap();
    side.send(slow, PendingReply::Command(owner(1)).into(), "GET a");
    side.effects.now += Duration::from_secs(1);
    loss::lost(&mut side.upstreams, slow.id(), Loss::Ended, &mut side.effects);
    assert_eq!(side.events(), ["1: -ERR redis-mesh: c can't be reached"]);
}

#[test]
fn bytes_that_answer_nothing_end_the_connection() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false)).id();
    assert_eq!(side.receive(connection, "+OK "), [""; 0]);
    side.opened();
    assert_eq!(side.closed, [connection]);
}

#[test]
fn what_was_pending_over_a_lost_connection_fails() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    side.send(connection, PendingReply::Command(owner(1)).into(), "GET a");
    side.send(connection, PendingReply::Command(owner(2)).into(), "GET b");
    assert_eq!(side.receive(connection.id(), "$9 half"), ["1: $9\r\nhalf"]);
    loss::lost(&mut side.upstreams, connection.id(), Loss::Ended, &mut side.effects);
    let error = "-ERR redis-mesh: the connection to c was lost; the command may have been executed";
    assert_eq!(side.events(), ["1 is cut".to_owned(), format!("2: {error}")]);
}

#[test]
fn reads_over_a_lost_connection_are_sent_again() {
    let mut side = Side::new();
    let key = PoolKey::new(endpoint(None), false);
    let connection = side.shared(key.clone());
    let of = |client, sequence| {
        let owner = Owner { client: ClientId::of_number(client), sequence };
        InFlight { reads: Some(ReadPolicy::Master), ..PendingReply::Command(owner).into() }
    };
    side.send(connection, of(2, 4), "GET a");
    side.send(connection, of(3, 5), "GET b");
    side.send(connection, of(4, 6), "GET c");
    // What may have been executed by the write isn't read in its place, and code may do anything.
    side.send(connection, InFlight { reads: None, ..of(3, 7) }, "SET b x");
    side.send(connection, InFlight { may_run_code: true, ..of(5, 8) }, "EVAL_RO code 0");
    side.send(connection, of(3, 9), "GET d");
    let lose = |side: &mut Side, id, loss| loss::lost(&mut side.upstreams, id, loss, &mut side.effects);
    side.opened();
    lose(&mut side, connection.id(), Loss::Ended);
    let error = "-ERR redis-mesh: the connection to c was lost; the command may have been executed";
    assert_eq!(side.events(), [5, 7, 8].map(|sequence| format!("{sequence}: {error}")));
    let second = side.opened()[0];
    let read = |key| format!("*2 $3 GET $1 {key} ");
    assert_eq!(side.sent(second), "*1 $4 PING ");
    assert_eq!(side.receive(second, "+PONG "), [""; 0]);
    assert_eq!(side.sent(second), ["a", "c", "d"].map(read).concat());
    // One of them may be why connections end.
    lose(&mut side, second, Loss::Ended);
    assert_eq!(side.events(), [format!("4: {error}")]);
    let third = side.opened()[0];
    assert_eq!(side.receive(third, "+PONG $1 x $1 y "), ["6: $1\r\nx", "9: $1\r\ny"]);
    assert!(side.upstreams.pool.get(third).unwrap().pending.is_empty());
}

#[test]
fn reads_are_not_sent_again_to_a_server_that_is_silent_or_behind_what_waits() {
    let mut side = Side::new();
    let key = PoolKey::new(endpoint(None), false);
    let read = |sequence| InFlight { reads: Some(ReadPolicy::Master), ..PendingReply::Command(owner(sequence)).into() };
    let connection = side.shared(key.clone());
    side.send(connection, read(1), "GET a");
    loss::lost(&mut side.upstreams, connection.id(), Loss::Silent, &mut side.effects);
    assert_eq!(side.events().len(), 1);
    // What has been sent since goes over another connection.
    let connection = side.shared(key.clone());
    side.send(connection, read(2), "GET a");
    side.upstreams.set_aside(connection.id());
    side.events();
    let successor = side.upstreams.shared(key, &mut side.effects).unwrap();
    side.send(successor, PendingReply::Command(owner(3)).into(), "SET a x");
    loss::lost(&mut side.upstreams, connection.id(), Loss::Dead, &mut side.effects);
    let told = side.events();
    assert!(told.len() == 1 && told[0].starts_with("2: -ERR"), "{told:?}");
}

#[test]
fn a_read_whose_replica_is_lost_goes_to_the_master() {
    let mut side = Side::new();
    let cluster = side.cluster();
    let replica = side.node(cluster, NodeAccess::Read(ReadPolicy::Replica));
    let read = InFlight { reads: Some(ReadPolicy::Master), ..PendingReply::Command(owner(1)).into() };
    side.send(replica, read, "GET a");
    side.send(replica, PendingReply::Command(owner(2)).into(), "SET a b");
    loss::lost(&mut side.upstreams, replica.id(), Loss::Ended, &mut side.effects);
    assert_eq!(side.events().len(), 1, "only what isn't a read fails");
    let master = side.last();
    assert_eq!(side.upstreams.pool.get(master).unwrap().key.node, Some(node(1)));
    assert_eq!(side.sent(master), "*1 $4 PING *2 $3 GET $1 a ");
}

#[test]
fn nodes_are_asked_before_a_client_hears_that_none_may_answer() {
    let mut side = Side::new();
    let cluster = side.cluster_with("*1 *3 :0 :8191 *2 $8 10.0.0.1 :1 ");
    let read = NodeAccess::Read(ReadPolicy::Replica);
    let replica = |side: &mut Side| side.upstreams.node(cluster, 0, read, false, &mut side.effects);
    let owner = |side: &mut Side| side.upstreams.shard(cluster, Some(9000), &mut side.effects);
    let refused = "ERR redis-mesh: c has no replica for this key, and the read policy is REPLICA";
    let unserved = "CLUSTERDOWN Hash slot not served";
    assert_eq!(replica(&mut side), Err(Missing::Error(refused.into())));
    assert_eq!(owner(&mut side), Err(Missing::Unserved(cluster, unserved.into())));
    // What is known is old; meanwhile a replica may have joined.
    side.effects.now += Duration::from_secs(1);
    assert_eq!(replica(&mut side), Err(Missing::Topology(cluster)));
    assert_eq!(owner(&mut side), Err(Missing::Topology(cluster)));
    side.tell(cluster, "*1 *4 :0 :16383 *2 $8 10.0.0.1 :1 *2 $8 10.0.0.1 :2 ");
    assert!(replica(&mut side).is_ok());
    assert_eq!(owner(&mut side), Ok(0));
}

#[test]
fn copies_over_a_connection_that_is_closed_are_counted() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    let host = StatsKey::of_number(7);
    for what in [PendingReply::Copy(host), PendingReply::Command(owner(1)), PendingReply::CopiedExec(host)] {
        side.send(connection, what.into(), "SET a b");
    }
    side.send(connection, InFlight { is_mirrored: true, ..PendingReply::Exec(owner(2)).into() }, "EXEC");
    // The client for whom it is alone from now on goes away.
    let own = side.upstreams.pool.take_over(connection.id(), owner(1).client).unwrap();
    side.upstreams.pool.close(own.id(), &mut side.effects);
    let copies = "Copies(7.0, Dropped, 1)".to_owned();
    assert_eq!(side.events(), ["closed".to_owned(), copies.clone(), copies, format!("ExecAbandoned({:?})", owner(2))]);
}

#[test]
fn what_logins_of_clients_have_brought_is_forgotten() {
    let mut side = Side::new();
    let configured = side.cluster();
    let of = |login: usize| UpstreamEndpoint {
        login: Some(UpstreamAuth::Presented(format!("AUTH{login}").into_bytes().into())),
        ..endpoint(None)
    };
    let mut last = configured;
    for login in 0..200 {
        side.upstreams.pool.availability = Availability::default();
        let cluster = side.upstreams.discovery.cluster_of(&of(login));
        assert_eq!(side.upstreams.shard_count(cluster, &mut side.effects), Err(Missing::Topology(cluster)));
        side.upstreams.discovery.await_topology(cluster);
        let connection = side.opened()[0];
        if login % 2 == 0 {
            side.receive(connection, "+OK ");
            side.receive(connection, &answers("*1 *3 :0 :16383 *2 $8 10.0.0.1 :1 ", None));
            last = cluster;
        } else {
            loss::lost(&mut side.upstreams, connection, Loss::Ended, &mut side.effects);
            assert_eq!(side.events(), [format!("ClusterAnswered({cluster:?})")]);
        }
    }
    let node = side.upstreams.node(last, 0, NodeAccess::Write, false, &mut side.effects).unwrap();
    side.opened();
    side.sent(node.id());
    side.receive(node.id(), "+OK ");
    assert_eq!(side.upstreams.discovery.clusters.len(), 201);
    let later = |side: &mut Side, seconds| {
        for _ in 0..seconds {
            side.effects.now += Duration::from_secs(1);
            while let Some(timer) = side.effects.timers.pop(side.effects.now) {
                on_timer(&mut side.upstreams, timer, &mut side.effects);
            }
            for asked in side.opened() {
                loss::lost(&mut side.upstreams, asked, Loss::Ended, &mut side.effects);
            }
            side.events();
        }
    };
    later(&mut side, 25);
    // Over one of them a connection leads, which others may come to use.
    assert_eq!(side.upstreams.discovery.clusters.len(), 2);
    assert!(side.upstreams.discovery.clusters.get(last).is_some() && side.upstreams.pool.get(node.id()).is_some());
    later(&mut side, 60);
    assert!(side.upstreams.pool.get(node.id()).is_none());
    assert!(
        side.upstreams.discovery.clusters.get(configured).is_some()
            && side.upstreams.discovery.clusters.get(last).is_none()
    );
    // Rules lead elsewhere.
    side.upstreams.discovery.retire_unused(&HashSet::new(), &mut side.effects);
    later(&mut side, 25);
    assert_eq!(side.upstreams.discovery.clusters.len(), 0);
}

#[test]
fn a_transaction_whose_multi_is_refused_is_no_transaction() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    side.upstreams.expect_queued(connection.id(), 1, &mut side.effects);
    let to = (connection, Shareable::of_transaction());
    let exec = PendingReply::Exec(owner(1)).into();
    side.upstreams.send(to, exec, &mut side.effects, |out| out.extend_from_slice(b"x"));
    let told = side.receive(connection.id(), "-NOPERM_m +OK -ERR_EXEC_without_MULTI ");
    let error = "ERR redis-mesh: MULTI was refused (NOPERM m); the commands may have been executed one by one";
    assert_eq!(told, [format!("1: -{error}")]);
    // The next one is a transaction again.
    side.upstreams.expect_queued(connection.id(), 1, &mut side.effects);
    side.upstreams.send(to, exec, &mut side.effects, |out| out.extend_from_slice(b"x"));
    assert_eq!(side.receive(connection.id(), "+OK +QUEUED *1 +x "), ["1: *1\r\n+x"]);
}

#[test]
fn a_refused_command_of_the_multiplexers_own_has_consequences() {
    let mut side = Side::new();
    let key = PoolKey::new(endpoint(None), false);
    let mut dedicated = || {
        let client = ClientId::of_number(1);
        let connection = side.upstreams.dedicated(client, key.clone(), false, &mut side.effects).unwrap();
        side.upstreams.pool.get_mut(connection.id()).unwrap().pending.clear();
        side.upstreams.pool.get_mut(connection.id()).unwrap().become_ready();
        connection
    };
    let (unwatching, speaking) = (dedicated(), dedicated());
    side.upstreams.control(unwatching, Control::Unwatch, &mut side.effects, &[b"UNWATCH"]);
    assert_eq!(side.receive(unwatching.id(), "-NOPERM "), ["idle"]);
    side.upstreams.release(unwatching.id(), &mut side.effects);
    assert!(side.upstreams.pool.get(unwatching.id()).is_none(), "it goes on watching, so nobody else may have it");
    side.events();
    side.upstreams.control(speaking, Control::Hello, &mut side.effects, &[b"HELLO", b"3"]);
    let told = side.receive(speaking.id(), "-NOPROTO ");
    assert_eq!(told.first().map(String::as_str), Some("closed"), "{told:?}");
    assert_eq!(ConnectionRoute::Dedicated(speaking).id(), speaking.id());
}

#[test]
fn a_script_that_a_server_has_lost_is_told() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    let named = InFlight { names_scripts: true, ..PendingReply::Command(owner(1)).into() };
    side.send(connection, named, "EVALSHA x 0");
    side.upstreams.pool.get_mut(connection.id()).unwrap().memory.scripts.insert([7; 20]);
    let told = side.receive(connection.id(), "-NOSCRIPT_No_matching_script. ");
    assert_eq!(told, ["1: -NOSCRIPT No matching script."]);
    let known = side.upstreams.pool.get(connection.id()).unwrap();
    assert!(known.memory.scripts.is_empty(), "the script is loaded before it is named the next time");
    assert!(matches!(known.stage, Stage::Ready));
}
