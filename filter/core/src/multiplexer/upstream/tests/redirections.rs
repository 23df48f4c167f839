//! What becomes of redirections.

use super::{Side, answers, endpoint, node, owner};
use crate::cluster::slot::slot;
use crate::multiplexer::ids::{ClusterId, ConnectionId};
use crate::multiplexer::upstream::discovery::NodeAccess;
use crate::multiplexer::upstream::on_timer::on_timer;
use crate::multiplexer::upstream::pending::{InFlight, PendingReply};
use crate::multiplexer::upstream::pool::SharedConnection;
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::multiplexer::upstream::redirect_gate;
use crate::wire::ReadPolicy;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

impl Side {
    /// The master of the slot of the key `a`, 15495.
    fn master_of_a(&self) -> Option<SocketAddr> {
        self.upstreams.discovery.known(&endpoint(None))?.master_of(15495)
    }
}

/// The Redis side, a Redis Cluster, and the shared connection to its master.
fn at_a_master() -> (Side, ClusterId, SharedConnection) {
    let mut side = Side::new();
    let cluster = side.cluster();
    let master = side.node(cluster, NodeAccess::Write);
    (side, cluster, master)
}

#[test]
fn a_moved_command_goes_to_the_node_that_has_the_slot() {
    let (mut side, _, master) = at_a_master();
    side.send(master, PendingReply::Command(owner(1)).into(), "GET a");
    let told = side.receive(master.id(), "-MOVED_15495_10.0.0.1:2 ");
    assert_eq!(told, ["slots have moved", "1 is redirected"]);
    let other = side.last();
    assert_eq!(side.upstreams.pool.get(other).unwrap().key.node, Some(node(2)));
    assert_eq!(side.sent(other), "*1 $4 PING *2 $3 GET $1 a ");
    assert_eq!(side.receive(other, "+x "), ["1: +x"]);
    assert_eq!(side.upstreams.pool.get(master.id()).unwrap().replay.len(), 0);
}

#[test]
fn asking_comes_before_a_command_that_is_asked_for_elsewhere() {
    let (mut side, _, master) = at_a_master();
    side.send(master, PendingReply::Command(owner(1)).into(), "GET a");
    assert_eq!(side.receive(master.id(), "-ASK_15495_10.0.0.1:2 "), ["1 is redirected"]);
    let other = side.last();
    assert_eq!(side.sent(other), "*1 $4 PING *1 $6 ASKING *2 $3 GET $1 a ");
    assert_eq!(side.receive(other, "+OK +x "), ["1: +x"]);
}

#[test]
fn a_command_whose_keys_are_on_their_way_is_retried_unless_another_one_follows_it() {
    let (mut side, _, master) = at_a_master();
    side.send(master, PendingReply::Command(owner(1)).into(), "DEL {a}1 {a}2");
    side.sent(master.id());
    assert_eq!(side.receive(master.id(), "-TRYAGAIN_x "), ["1 is redirected"]);
    assert_eq!(side.sent(master.id()), "");
    side.effects.now += Duration::from_millis(20);
    while let Some(timer) = side.effects.timers.pop(side.effects.now) {
        on_timer(&mut side.upstreams, timer, &mut side.effects);
    }
    assert_eq!(side.sent(master.id()), "*3 $3 DEL $4 {a}1 $4 {a}2 ");
    side.send(master, PendingReply::Command(owner(2)).into(), "GET {a}1");
    assert_eq!(side.receive(master.id(), "-TRYAGAIN_x "), ["1: -TRYAGAIN x"]);
}

#[test]
fn very_many_commands_whose_keys_are_on_their_way_take_no_time() {
    let (mut side, _, master) = at_a_master();
    let commands = 30_000;
    let mut slots = HashSet::new();
    for sequence in 1..=commands {
        slots.insert(slot(sequence.to_string().as_bytes()));
        let command = format!("DEL {{{sequence}}}1 {{{sequence}}}2");
        side.send(master, PendingReply::Command(owner(sequence)).into(), &command);
    }
    side.sent(master.id());
    let told = side.receive(master.id(), &"-TRYAGAIN_x ".repeat(commands as usize));
    let retried = told.iter().filter(|told| told.ends_with("is redirected")).count();
    assert_eq!((told.len(), retried, side.upstreams.retries.len()), (commands as usize, slots.len(), slots.len()));
    // The next ones that are sent are later than those that are sent again.
    side.effects.now += Duration::from_millis(20);
    while let Some(timer) = side.effects.timers.pop(side.effects.now) {
        on_timer(&mut side.upstreams, timer, &mut side.effects);
    }
    for sequence in 1..=commands {
        side.send(master, PendingReply::Command(owner(commands + sequence)).into(), &format!("GET {{{sequence}}}"));
    }
    side.sent(master.id());
    let told = side.receive(master.id(), &"-TRYAGAIN_x ".repeat(slots.len()));
    assert_eq!(told.iter().filter(|told| told.ends_with(": -TRYAGAIN x")).count(), slots.len());
    assert_eq!((told.len(), side.upstreams.retries.len()), (slots.len(), 0));
}

#[test]
fn a_redirection_that_goes_on_and_on_ends() {
    let (mut side, _, shared) = at_a_master();
    let mut connection = shared.id();
    side.send(shared, PendingReply::Command(owner(1)).into(), "GET a");
    for hop in 0..8 {
        let told = side.receive(connection, &format!("-ASK_15495_10.0.0.1:{} ", 2 - hop % 2));
        assert_eq!(told, ["1 is redirected"], "{hop}");
        match side.opened().pop() {
            Some(opened) => {
                connection = opened;
                side.receive(connection, "+PONG ");
            }
            None => connection = if hop % 2 == 1 { shared.id() } else { connection_to(&side, 2) },
        }
        side.receive(connection, "+OK ");
    }
    let told = side.receive(connection, "-ASK_15495_10.0.0.1:2 ");
    assert_eq!(told, [NODE_TO_NODE]);
}

/// The shared connection to a node.
fn connection_to(side: &Side, port: u16) -> ConnectionId {
    let mut all = side.upstreams.pool.iter();
    all.find(|(_, connection)| connection.key.node == Some(node(port))).unwrap().0
}

const NODE_TO_NODE: &str = "1: -TRYAGAIN redis-mesh: the Redis Cluster sends the command from node to node";

/// The reply to CLUSTER NODES with a third node, which has no slots.
const MEMBERS: &str = "07c3_10.0.0.1:1@10001_myself,master_-_0_0_1_connected_0-16383\n\
    17c3_10.0.0.1:2@10002,name.example_slave_07c3_0_0_1_connected\n\
    27c3_10.0.0.1:3@10003_master_-_0_0_0_connected\n\
    37c3_10.0.0.1:4@10004_handshake_-_0_0_0_disconnected\n";

/// A command meets a redirection to a node that isn't known, and nodes are asked.
fn redirected_to_an_unknown_node(error: &str) -> (Side, ClusterId) {
    let (mut side, cluster, master) = at_a_master();
    side.effects.now += Duration::from_secs(1);
    side.send(master, PendingReply::Command(owner(1)).into(), "GET a");
    side.sent(master.id());
    assert_eq!(side.receive(master.id(), error), ["1 is redirected"]);
    assert_eq!(side.master_of_a(), Some(node(1)));
    (side, cluster)
}

#[test]
fn a_redirection_to_an_unknown_node_is_followed_when_the_others_know_it() {
    for (port, is_known) in [(3, true), (4, false), (5, false)] {
        // One without a name is known by its port alone.
        for kind in ["MOVED_15495_10.0.0.1", "ASK_15495_10.0.0.1", "ASK_15495_?"] {
            let (mut side, cluster) = redirected_to_an_unknown_node(&format!("-{kind}:{port} "));
            let asked = side.opened()[0];
            side.receive(asked, "+PONG ");
            let questions = "*1 $4 PING *2 $7 CLUSTER $4 INFO *2 $7 CLUSTER $5 SLOTS *2 $7 CLUSTER $5 NODES ";
            assert_eq!(side.sent(asked), questions);
            let told = side.receive(asked, &answers("*1 *3 :0 :16383 *2 $8 10.0.0.1 :1 ", Some(MEMBERS)));
            let first = format!("ClusterAnswered({cluster:?})");
            assert!(told.contains(&first), "{told:?}");
            redirect_gate::release(&mut side.upstreams, cluster, &mut side.effects);
            let told = side.events();
            match is_known {
                true => {
                    assert!(told.contains(&"1 is redirected".to_owned()), "{told:?}");
                    let other = side.opened().pop().unwrap();
                    assert_eq!(side.upstreams.pool.get(other).unwrap().key.node, Some(node(port)));
                }
                false => assert_eq!(told, [NODE_TO_NODE]),
            }
            assert_eq!(side.upstreams.held.held().0, 0);
        }
    }
}

#[test]
fn a_redirection_to_the_node_itself_or_for_another_slot_leads_nowhere() {
    for (error, is_held) in [
        ("-MOVED_15495_10.0.0.1:1 ", true),
        ("-MOVED_15495_:1 ", true),
        ("-MOVED_15495_name:2 ", true),
        ("-MOVED_15494_10.0.0.1:2 ", false),
        ("-ASK_0_10.0.0.1:2 ", false),
    ] {
        let (mut side, cluster, master) = at_a_master();
        side.send(master, PendingReply::Command(owner(1)).into(), "GET a");
        let told = side.receive(master.id(), error);
        if is_held {
            assert_eq!(told, ["1 is redirected"], "{error}");
            redirect_gate::release(&mut side.upstreams, cluster, &mut side.effects);
            assert_eq!(side.events(), [NODE_TO_NODE], "{error}");
        } else {
            assert_eq!(told, [NODE_TO_NODE], "{error}");
        }
        assert_eq!(side.master_of_a(), Some(node(1)), "{error}");
    }
}

#[test]
fn a_command_of_several_keys_is_not_asked_for_elsewhere_behind_what_follows_it() {
    for (command, later, is_followed) in [
        ("DEL {a}1 {a}2", "GET {a}1", true),
        ("DEL {a}1 {a}2", "GET b", false),
        ("DEL {a}1 {a}1", "GET {a}1", false),
        ("GET {a}1", "GET {a}1", false),
    ] {
        let (mut side, _, master) = at_a_master();
        side.send(master, PendingReply::Command(owner(1)).into(), command);
        side.send(master, PendingReply::Command(owner(2)).into(), later);
        let told = side.receive(master.id(), "-ASK_15495_10.0.0.1:2 ");
        let expected = if is_followed { NODE_TO_NODE } else { "1 is redirected" };
        assert_eq!(told, [expected], "{command}, {later}");
    }
}

#[test]
fn what_a_script_says_is_no_redirection() {
    for error in [
        "-MOVED_15495_10.0.0.1:2 ",
        "-ASK_15495_10.0.0.1:2 ",
        "-ASK_15495_10.9.9.9:6379 ",
        "-TRYAGAIN_x ",
        "-CLUSTERDOWN_x ",
        "-MOVED_1_10.0.0.1:2 ",
    ] {
        let (mut side, _, master) = at_a_master();
        let code = InFlight { may_run_code: true, ..PendingReply::Command(owner(1)).into() };
        side.send(master, code, "EVAL x 1 a");
        assert_eq!(side.sent(master.id()), "*2 $6 EXISTS $1 a *4 $4 EVAL $1 x $1 1 $1 a ");
        let reply = error.trim_end().replace('_', " ");
        // The node serves the key, so the words are the script's.
        assert_eq!(side.receive(master.id(), &format!(":0 {error}")), [format!("1: {reply}")]);
        assert!(side.opened().is_empty(), "{error}");
        assert_eq!(side.master_of_a(), Some(node(1)), "{error}");
        // The next command's probe isn't this one's.
        side.send(master, code, "EVAL x 0");
        assert_eq!(side.sent(master.id()), "*3 $4 EVAL $1 x $1 0 ");
        assert_eq!(side.receive(master.id(), error), [format!("1: {reply}")]);
    }
}

#[test]
fn a_script_follows_a_redirection_that_its_probe_has_met() {
    let (mut side, _, master) = at_a_master();
    let code = InFlight { may_run_code: true, ..PendingReply::Command(owner(1)).into() };
    side.send(master, code, "EVAL x 2 a {a}b");
    assert_eq!(side.sent(master.id()), "*3 $6 EXISTS $1 a $4 {a}b *5 $4 EVAL $1 x $1 2 $1 a $4 {a}b ");
    let ask = "-ASK_15495_10.0.0.1:2 ";
    assert_eq!(side.receive(master.id(), &format!("{ask}{ask}")), ["1 is redirected"]);
    let other = side.last();
    let sent = "*1 $4 PING *1 $6 ASKING *3 $6 EXISTS $1 a $4 {a}b *1 $6 ASKING *5 $4 EVAL $1 x $1 2 $1 a $4 {a}b ";
    assert_eq!(side.sent(other), sent);
    assert_eq!(side.receive(other, "+OK :2 +OK +done "), ["1: +done"]);
}

#[test]
fn a_read_that_a_replica_cannot_answer_now_goes_to_the_master() {
    for error in ["-LOADING_Redis_is_loading ", "-MASTERDOWN_Link_with_MASTER_is_down "] {
        let mut side = Side::new();
        let cluster = side.cluster();
        let replica = side.node(cluster, NodeAccess::Read(ReadPolicy::PreferReplica));
        let read = InFlight { reads: Some(ReadPolicy::Master), ..PendingReply::Command(owner(1)).into() };
        side.send(replica, read, "GET a");
        assert_eq!(side.receive(replica.id(), error), ["1 is redirected"], "{error}");
        let master = side.opened()[0];
        assert_eq!(side.upstreams.pool.get(master).unwrap().key.node, Some(node(1)));
        side.receive(master, "+PONG ");
        assert_eq!(side.receive(master, "+x "), ["1: +x"]);
        // The next read doesn't go to the replica.
        let next = side.node(cluster, NodeAccess::Read(ReadPolicy::PreferReplica));
        assert_eq!(next.id(), master);
        // What a script says is the client's.
        let script = InFlight { may_run_code: true, ..PendingReply::Command(owner(2)).into() };
        side.send(replica, script, "EVAL_RO s 0");
        let told = side.receive(replica.id(), error);
        assert!(told.len() == 1 && told[0].starts_with("2: -"), "{told:?}");
    }
}

#[test]
fn a_server_that_has_lost_its_role_is_looked_for_over_a_new_connection() {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    side.effects.now += Duration::from_secs(5);
    for sequence in 1..=3 {
        side.send(connection, PendingReply::Command(owner(sequence)).into(), "SET a b");
    }
    let told = side.receive(connection.id(), &"-READONLY_x ".repeat(3));
    assert_eq!(told, ["1: -READONLY x", "2: -READONLY x", "3: -READONLY x"]);
    let successors = side.opened();
    assert_eq!(successors.len(), 1, "one for all");
    side.receive(successors[0], "+PONG ");
    assert_eq!(
        side.upstreams.shared(PoolKey::new(endpoint(None), false), &mut side.effects).unwrap().id(),
        successors[0]
    );
}
