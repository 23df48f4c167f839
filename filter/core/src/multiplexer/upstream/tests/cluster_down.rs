//! Commands that a node refuses since the cluster doesn't serve them at present.

use super::{Side, answers, node, owner};
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
use crate::multiplexer::upstream::pool::SharedConnection;
use crate::multiplexer::upstream::pool_key::{PoolKey, Purpose};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const DOWN: &str = "-CLUSTERDOWN_The_cluster_is_down ";
const TOLD: &str = "-CLUSTERDOWN The cluster is down";
/// Node 1 serves all slots.
const SLOTS: &str = "*1 *3 :0 :16383 *2 $8 10.0.0.1 :1 ";
/// Node 2 does.
const ELSEWHERE: &str = "*1 *3 :0 :16383 *2 $8 10.0.0.1 :2 ";

/// A client's command of this number, at a host with an `opTimeout` of two seconds.
fn command(sequence: u64) -> InFlight {
    let patience = Patience::of(Duration::from_secs(2));
    InFlight { patience, ..PendingReply::Command(owner(sequence)).into() }
}

/// The Redis side, a Redis Cluster, and the shared connection to its master, some time later.
fn at_a_master() -> (Side, ClusterId, SharedConnection) {
    let mut side = Side::new();
    let cluster = side.cluster_with(SLOTS);
    let master = side.node(cluster, NodeAccess::Write);
    side.effects.now += Duration::from_secs(2);
    (side, cluster, master)
}

impl Side {
    /// A node that is asked says who serves the slots, and whether the cluster is in order. Returns what
    /// clients are told, after the commands have gone on that waited for that.
    fn say(&mut self, cluster: ClusterId, slots: &str, is_ok: bool) -> Vec<String> {
        self.effects.now += Duration::from_millis(400);
        on_timer(&mut self.upstreams, Timer::Discovery(cluster), &mut self.effects);
        let asked = |(id, connection): (ConnectionId, &UpstreamConnection)| {
            matches!(connection.purpose, Purpose::Discovery(_)).then_some(id)
        };
        let asked = self.upstreams.pool.iter().find_map(asked).unwrap();
        let answers = answers(slots, None);
        let answers = if is_ok { answers } else { answers.replace("$46", "$48").replace(":ok", ":fail") };
        self.receive(asked, "+PONG ");
        let told = self.receive(asked, &answers);
        let goes_on = |told: &String| told.starts_with("SlotsServed") || told == "slots have moved";
        if told.iter().any(goes_on) {
            failover::release(&mut self.upstreams, cluster, &mut self.effects);
        }
        let told = told.into_iter().filter(|told| !told.starts_with("SlotsServed") && !told.starts_with("Cluster"));
        told.chain(self.events()).collect()
    }

    /// Lets time pass, in which nobody answers.
    fn let_pass(&mut self, time: Duration) -> Vec<String> {
        self.effects.now += time;
        while let Some(timer) = self.effects.timers.pop(self.effects.now) {
            if timer == Timer::Failover {
                on_timer(&mut self.upstreams, timer, &mut self.effects);
            }
        }
        self.events()
    }
}

#[test]
fn what_a_node_refuses_is_sent_again_in_order_when_the_cluster_serves_it() {
    let (mut side, cluster, master) = at_a_master();
    side.send(master, command(1), "GET a");
    side.send(master, command(2), "INCR a");
    side.sent(master.id());
    assert_eq!(side.receive(master.id(), DOWN), ["1 is redirected"]);
    // The second one may be executed: the first one isn't sent behind it.
    assert_eq!(side.say(cluster, SLOTS, true), ["1 is redirected"]);
    assert_eq!(side.sent(master.id()), "");
    assert_eq!(side.receive(master.id(), DOWN), ["2 is redirected"]);
    assert_eq!(side.say(cluster, SLOTS, false), [""; 0]);
    assert_eq!(side.say(cluster, SLOTS, true), ["1 is redirected", "2 is redirected"]);
    assert_eq!(side.sent(master.id()), "*2 $3 GET $1 a *2 $4 INCR $1 a ");
    // The node may know it later than the others.
    assert_eq!(side.receive(master.id(), &format!("{DOWN}{DOWN}")), ["1 is redirected", "2 is redirected"]);
    assert_eq!(side.say(cluster, ELSEWHERE, true)[..3], ["slots have moved", "1 is redirected", "2 is redirected"]);
    let other = side.last();
    assert_eq!(side.upstreams.pool.get(other).unwrap().key.node, Some(node(2)));
    assert_eq!(side.sent(other), "*1 $4 PING *2 $3 GET $1 a *2 $4 INCR $1 a ");
    assert_eq!(side.receive(other, "$1 x :2 "), ["1: $1\r\nx", "2: :2"]);
    assert_eq!(side.upstreams.stranded.held(), (0, 0));
}

#[test]
fn a_later_command_is_never_overtaken() {
    for executed in ["$1 x ", "-WRONGTYPE_x "] {
        let (mut side, _, master) = at_a_master();
        side.send(master, command(1), "SET a 1");
        side.send(master, command(2), "GET a");
        side.receive(master.id(), DOWN);
        let told = side.receive(master.id(), executed);
        assert!(told.contains(&format!("1: {TOLD}")), "{told:?}");
    }
    // One that goes elsewhere waits behind it.
    let (mut side, _, master) = at_a_master();
    side.send(master, command(1), "SET a 1");
    side.send(master, command(2), "GET a");
    side.receive(master.id(), DOWN);
    assert_eq!(side.receive(master.id(), "-MOVED_15495_10.0.0.1:1 "), ["2 is redirected"]);
    // One without a key concerns all keys if it writes, and none if it doesn't, as one of another slot.
    for (later, is_told) in [("FLUSHALL", true), ("EVAL_RO x 0", true), ("DBSIZE", false), ("SET b 1", false)] {
        let (mut side, _, master) = at_a_master();
        side.send(master, command(1), "SET a 1");
        side.send(master, command(2), later);
        let told = side.receive(master.id(), &format!("{DOWN}+OK "));
        assert_eq!(told.contains(&format!("1: {TOLD}")), is_told, "{later}: {told:?}");
    }
    // It may have been executed.
    let (mut side, _, master) = at_a_master();
    side.send(master, command(1), "SET a 1");
    side.send(master, command(2), "SET a 2");
    side.receive(master.id(), DOWN);
    loss::lost(&mut side.upstreams, master.id(), Loss::Ended, &mut side.effects);
    let told = side.events();
    assert_eq!(told[0], format!("1: {TOLD}"));
    assert!(told[1].starts_with("2: -ERR redis-mesh: the connection"), "{told:?}");
    // What another client has sent doesn't matter.
    let (mut side, _, master) = at_a_master();
    let other = super::Owner { client: ClientId::of_number(2), sequence: 9 };
    side.send(master, command(1), "SET a 1");
    side.send(master, InFlight { what: PendingReply::Command(other), ..command(1) }, "GET a");
    assert_eq!(side.receive(master.id(), &format!("{DOWN}+x ")), ["1 is redirected", "9: +x"]);
    assert_eq!(side.upstreams.stranded.held().0, 1);
}

#[test]
fn after_its_time_a_command_is_answered_with_the_words_of_the_server() {
    let (mut side, cluster, master) = at_a_master();
    side.send(master, command(1), "GET a");
    side.receive(master.id(), "-CLUSTERDOWN_Hash_slot_not_served ");
    assert_eq!(side.let_pass(Duration::from_millis(1900)), [""; 0]);
    side.say(cluster, SLOTS, false);
    assert_eq!(side.let_pass(Duration::from_millis(200)), ["1: -CLUSTERDOWN Hash slot not served"]);
    // A transaction, too, is refused as a whole.
    let exec = InFlight { what: PendingReply::Exec(owner(2)), ..command(2) };
    side.upstreams.expect_queued(master.id(), 1, &mut side.effects);
    side.send(master, exec, "SET a 1");
    let abort = "-EXECABORT_Transaction_discarded. ";
    assert_eq!(side.receive(master.id(), &format!("+OK {DOWN}{abort}")), ["2 is redirected"]);
    assert_eq!(side.let_pass(Duration::from_millis(2100)), ["2: -EXECABORT Transaction discarded."]);
    // It isn't if the server says that it has executed it.
    side.upstreams.expect_queued(master.id(), 1, &mut side.effects);
    side.send(master, InFlight { what: PendingReply::Exec(owner(3)), ..exec }, "SET a 1");
    assert_eq!(side.receive(master.id(), &format!("+OK {DOWN}*1 +OK ")), ["3: *1\r\n+OK"]);
}

#[test]
fn a_script_waits_only_if_its_probe_is_refused_too() {
    let (mut side, cluster, master) = at_a_master();
    let code = |sequence| InFlight { may_run_code: true, ..command(sequence) };
    side.send(master, code(1), "EVAL x 1 a");
    side.send(master, code(2), "EVAL x 0");
    assert_eq!(side.receive(master.id(), &format!(":0 {DOWN}{DOWN}")), [format!("1: {TOLD}"), format!("2: {TOLD}")]);
    side.send(master, code(3), "EVAL x 1 a");
    side.sent(master.id());
    assert_eq!(side.receive(master.id(), &format!("{DOWN}{DOWN}")), ["3 is redirected"]);
    assert_eq!(side.say(cluster, SLOTS, true), ["3 is redirected"]);
    assert_eq!(side.sent(master.id()), "*2 $6 EXISTS $1 a *4 $4 EVAL $1 x $1 1 $1 a ");
    assert_eq!(side.receive(master.id(), ":0 +done "), ["3: +done"]);
}

#[test]
fn a_client_that_waits_over_a_connection_of_its_own_goes_on_waiting() {
    let (mut side, cluster, master) = at_a_master();
    let key = PoolKey { node: Some(node(1)), ..side.upstreams.pool.get(master.id()).unwrap().key.clone() };
    let client = owner(1).client;
    let own = side.upstreams.dedicated(client, key, false, &mut side.effects).unwrap();
    side.last();
    let blocks = |sequence| {
        let patience = Patience::of(Duration::from_secs(2)).of_waiting();
        InFlight { patience, ..command(sequence) }
    };
    let send = |side: &mut Side, in_flight| {
        side.upstreams.send_dedicated(own, in_flight, &mut side.effects, |out| {
            crate::resp::encode::command(out, &[b"BLPOP", b"a", b"0"]);
        });
    };
    send(&mut side, blocks(1));
    side.receive(own.id(), "+OK :7 ");
    // It has waited for long when the cluster goes down.
    side.effects.now += Duration::from_secs(100);
    assert_eq!(side.receive(own.id(), DOWN), ["1 is redirected", "idle"]);
    let told = side.say(cluster, SLOTS, true);
    assert!(told.len() == 2 && told[1].starts_with("RedirectedDedicated"), "{told:?}");
    // A node that goes on refusing isn't asked for ever.
    let tried = blocks(1).tried.or_now(side.effects.now - Duration::from_secs(3));
    send(&mut side, InFlight { tried, ..blocks(1) });
    let told = side.receive(own.id(), DOWN);
    assert_eq!(told[0], format!("1: {TOLD}"));
    // Whether something was watched, its client's side knows.
    let exec = InFlight { what: PendingReply::Exec(owner(2)), ..command(2) };
    side.upstreams.expect_queued(own.id(), 1, &mut side.effects);
    side.upstreams.send_dedicated(own, exec, &mut side.effects, |out| out.extend_from_slice(b"x"));
    assert_eq!(side.receive(own.id(), &format!("+OK {DOWN}-EXECABORT_x "))[..1], ["2 is redirected"]);
    let told = side.say(cluster, SLOTS, true);
    assert!(told[0] == "2 is redirected" && told[1].starts_with("RedirectedDedicated"), "{told:?}");
}

#[test]
fn a_client_that_waits_elsewhere_does_so_for_the_rest_of_its_time() {
    let (mut side, cluster, master) = at_a_master();
    let key = PoolKey { node: Some(node(1)), ..side.upstreams.pool.get(master.id()).unwrap().key.clone() };
    let own = side.upstreams.dedicated(owner(1).client, key, false, &mut side.effects).unwrap();
    side.last();
    let patience = Patience::of(Duration::from_secs(2)).of_waiting();
    side.upstreams.send_dedicated(own, InFlight { patience, ..command(1) }, &mut side.effects, |out| {
        crate::resp::encode::command(out, &[b"BLPOP", b"a", b"10"]);
    });
    side.sent(own.id());
    side.receive(own.id(), "+OK :7 ");
    for rest in ["5.600", "1.200"] {
        side.effects.now += Duration::from_secs(4);
        side.receive(own.id(), DOWN);
        side.effects.now += Duration::from_millis(400);
        on_timer(&mut side.upstreams, Timer::Discovery(cluster), &mut side.effects);
        failover::release(&mut side.upstreams, cluster, &mut side.effects);
        let sent_again = std::iter::from_fn(|| side.upstreams.next_event()).find_map(|event| match event {
            Event::RedirectedDedicated { retry, .. } => Some(*retry),
            _ => None,
        });
        side.upstreams.resend_over(own.id(), sent_again.unwrap(), false, &mut side.effects);
        assert_eq!(side.sent(own.id()), format!("*3 $5 BLPOP $1 a $5 {rest} "));
    }
}

#[test]
fn a_slot_that_nobody_serves_is_waited_for() {
    let mut side = Side::new();
    let cluster = side.cluster_with("*1 *3 :0 :8191 *2 $8 10.0.0.1 :1 ");
    let unserved = Missing::Unserved(cluster, "CLUSTERDOWN Hash slot not served".into());
    assert_eq!(side.upstreams.shard(cluster, Some(9000), &mut side.effects), Err(unserved));
}

#[test]
fn how_much_waits_is_bounded() {
    let (mut side, _, master) = at_a_master();
    let value = "x".repeat(16 * 1024 * 1024);
    for sequence in 1..=5 {
        side.send(master, command(sequence), &format!("SET a {value}"));
    }
    side.sent(master.id());
    let told = side.receive(master.id(), &DOWN.repeat(5));
    assert_eq!(told[2..], ["3 is redirected".to_owned(), format!("4: {TOLD}"), format!("5: {TOLD}")]);
    // What a server is told of a client concerns this server, and none refuses it so.
    side.send(master, InFlight { what: PendingReply::Part(owner(7), 0), ..command(7) }, "CLIENT TRACKING ON");
    assert_eq!(side.receive(master.id(), DOWN), [format!("7: {TOLD}")]);
    // So is what a server may say.
    side.send(master, command(6), "GET a");
    let long = format!("-CLUSTERDOWN {}\r\n", "x".repeat(2000));
    let bytes = long.as_bytes();
    let mut receipt = super::receive::begin(&mut side.upstreams, master.id(), bytes, &side.effects).unwrap();
    let event = super::receive::receive(&mut side.upstreams, &mut receipt, &mut side.effects);
    assert!(matches!(event, Some(Event::Reply { .. })), "{event:?}");
}

#[test]
fn of_very_many_clients_that_wait_only_the_one_that_goes_is_looked_at() {
    let (mut side, _, master) = at_a_master();
    let clients = 20_000;
    for number in 1..=clients {
        let owner = super::Owner { client: ClientId::of_number(number), sequence: 1 };
        side.send(master, InFlight { what: PendingReply::Command(owner), ..command(1) }, "GET a");
    }
    side.sent(master.id());
    side.receive(master.id(), &DOWN.repeat(clients as usize));
    assert_eq!(side.upstreams.stranded.held().0, clients as usize);
    side.upstreams.stranded.looked_at.set(0);
    for number in 1..=clients {
        failover::client_gone(&mut side.upstreams, ClientId::of_number(number));
    }
    assert_eq!(side.upstreams.stranded.held(), (0, 0));
    assert_eq!(side.upstreams.stranded.looked_at.get(), clients as usize);
}

#[test]
fn what_was_sent_elsewhere_does_not_come_back_behind_a_later_command() {
    const SHARDS: &str = "*2 *3 :0 :8191 *2 $8 10.0.0.1 :1 *3 :8192 :16383 *2 $8 10.0.0.1 :2 ";
    const MOVED: &str = "-MOVED_3300_10.0.0.1:2 ";
    let refuse = |side: &mut Side| {
        // It is tried a second time at once.
        for _ in 0..2 {
            for opened in side.opened() {
                loss::lost(&mut side.upstreams, opened, Loss::Ended, &mut side.effects);
            }
        }
    };
    for is_executed in [false, true] {
        let mut side = Side::new();
        let cluster = side.cluster_with(SHARDS);
        let first = side.node(cluster, NodeAccess::Write);
        side.effects.now += Duration::from_secs(2);
        side.send(first, command(1), "DEL {b}x");
        side.send(first, command(2), "INCR {b}x");
        side.sent(first.id());
        // Node 1 sends the command to node 2, which can't be reached, and then has the slot after all.
        side.receive(first.id(), MOVED);
        refuse(&mut side);
        side.say(cluster, SHARDS, true);
        assert_eq!((side.sent(first.id()), side.upstreams.stranded.held().0), (String::new(), 1));
        if is_executed {
            let told = side.receive(first.id(), ":1 ");
            assert_eq!(told, ["2: :1", "1: -ERR redis-mesh: c can't be reached"]);
            continue;
        }
        side.receive(first.id(), MOVED);
        refuse(&mut side);
        side.say(cluster, SHARDS, true);
        assert_eq!(side.sent(first.id()), "*2 $3 DEL $4 {b}x *2 $4 INCR $4 {b}x ");
    }
}
