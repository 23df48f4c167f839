//! What becomes of commands over connections on which Redis is silent.

use super::{Side, endpoint, owner};
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::patience::Patience;
use crate::multiplexer::upstream::pending::{InFlight, PendingReply};
use crate::multiplexer::upstream::pool::SharedConnection;
use crate::multiplexer::upstream::pool_key::{PoolKey, Purpose};
use crate::multiplexer::upstream::sweep::sweep;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SILENT: &str = "-ERR redis-mesh: c didn't answer in time; the command may have been executed";
const LOST: &str = "-ERR redis-mesh: the connection to c was lost; the command may have been executed";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A client's command of this number, of which Redis may be silent for so many seconds.
fn patient(sequence: u64, limit: u64) -> InFlight {
    InFlight { patience: Patience::of(seconds(limit)), ..PendingReply::Command(owner(sequence)).into() }
}

/// The Redis side with one shared connection.
fn connected() -> (Side, SharedConnection) {
    let mut side = Side::new();
    let connection = side.shared(PoolKey::new(endpoint(None), false));
    (side, connection)
}

impl Side {
    /// Lets time pass, during which nothing comes. Returns what clients are told.
    fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.effects.now + time;
        while let Some(next) = self.effects.timers.next().filter(|next| *next <= end) {
            self.effects.now = self.effects.now.max(next);
            while self.effects.timers.pop(self.effects.now).is_some() {
                sweep(&mut self.upstreams, &mut self.effects);
            }
        }
        self.effects.now = end;
        self.events()
    }

    /// The connection over which a silent Redis is asked, if it is.
    fn check(&self) -> Option<ConnectionId> {
        let mut all = self.upstreams.pool.iter();
        all.find(|(_, connection)| connection.purpose == Purpose::HealthCheck).map(|(id, _)| id)
    }
}

#[test]
fn each_command_has_its_own_patience_also_over_a_shared_connection() {
    let (mut side, connection) = connected();
    side.send(connection, patient(1, 20), "GET a");
    side.send(connection, patient(2, 1), "GET b");
    side.send(connection, patient(3, 0), "GET c");
    side.sent(connection.id());
    assert_eq!(side.wait(Duration::from_millis(500)), [""; 0]);
    // It was sent later, so its time ends later.
    side.send(connection, patient(4, 1), "GET d");
    let others = ["1 is redirected", "3 is redirected", "4 is redirected"].map(str::to_owned);
    let told = side.wait(Duration::from_millis(500));
    assert_eq!(told, [&[format!("2: {SILENT}")][..], &others].concat(), "nothing overtakes them");
    let key = PoolKey::new(endpoint(None), false);
    assert_ne!(side.upstreams.shared(key, &mut side.effects), Ok(connection), "nobody else is held up");
    assert_eq!(side.wait(Duration::from_millis(500)), [format!("4: {SILENT}")]);
    // The replies of those that were given up reach nobody.
    let told = side.receive(connection.id(), "+a +b +c +d ");
    assert_eq!(told, ["1: +a", "3: +c"]);
    side.opened();
    assert_eq!(side.closed, [connection.id()]);
}

#[test]
fn a_reply_begins_the_time_of_those_behind_it_anew() {
    let (mut side, connection) = connected();
    for sequence in 1..=4 {
        side.send(connection, patient(sequence, 1), "GET a");
    }
    for sequence in 1..=4 {
        assert_eq!(side.wait(Duration::from_millis(900)), [""; 0]);
        assert_eq!(side.receive(connection.id(), "+x "), [format!("{sequence}: +x")]);
    }
}

#[test]
fn a_connection_over_which_nobody_waits_any_more_is_given_up() {
    let (mut side, connection) = connected();
    side.send(connection, patient(1, 1), "GET a");
    assert_eq!(side.wait(seconds(1)), [format!("1: {SILENT}")]);
    side.opened();
    assert_eq!(side.closed, [connection.id()]);
}

#[test]
fn a_silent_connection_is_given_up_when_redis_answers_over_another_one() {
    for reply in ["+PONG +PONG ", "+PONG -LOADING_x ", "-NOAUTH_x "] {
        let (mut side, connection) = connected();
        side.send(connection, patient(1, 0), "GET a");
        assert_eq!(side.wait(Duration::from_millis(2999)), [""; 0]);
        assert_eq!(side.check(), None);
        assert_eq!(side.wait(Duration::from_millis(1)), [""; 0]);
        let check = side.check().unwrap();
        assert_eq!(side.sent(check), "*1 $4 PING ");
        let told = side.receive(check, reply);
        assert!(told.len() <= 1, "a refused login is told: {told:?}");
        assert_eq!(side.check(), None, "{reply}");
        assert_eq!(side.wait(Duration::from_millis(100)), [format!("1: {LOST}")], "{reply}");
        side.opened();
        assert!(side.closed.contains(&connection.id()));
    }
}

#[test]
fn a_connection_that_was_only_slow_is_kept() {
    let (mut side, connection) = connected();
    side.send(connection, patient(1, 0), "GET a");
    side.wait(seconds(3));
    let check = side.check().unwrap();
    side.receive(check, "+PONG +PONG ");
    assert_eq!(side.receive(connection.id(), "+x "), ["1: +x"]);
    side.send(connection, patient(2, 0), "GET a");
    assert_eq!(side.wait(seconds(1)), [""; 0]);
    assert_eq!(side.receive(connection.id(), "+y "), ["2: +y"]);
}

#[test]
fn a_command_that_waits_waits() {
    let (mut side, connection) = connected();
    let waiting = InFlight { patience: Patience::UNLIMITED.of_waiting(), ..PendingReply::Command(owner(1)).into() };
    side.send(connection, waiting, "BLPOP a 0");
    assert_eq!(side.wait(seconds(3600)), [""; 0]);
    assert_eq!(side.check(), None);
    assert_eq!(side.receive(connection.id(), "+x "), ["1: +x"]);
}

#[test]
fn a_script_goes_on_while_redis_says_that_it_is_busy() {
    let (mut side, connection) = connected();
    let script = InFlight { may_run_code: true, ..patient(1, 5) };
    side.send(connection, script, "EVAL x 0");
    side.send(connection, patient(2, 5), "GET a");
    let mut told = side.wait(seconds(3));
    let check = side.check().unwrap();
    // Redis answers when the script has run for five seconds.
    told.extend(side.wait(seconds(2)));
    assert_eq!(told, [format!("2: {SILENT}"), "1 is redirected".into()]);
    side.receive(check, "-BUSY_x -BUSY_x ");
    for _ in 0..60 {
        assert_eq!(side.wait(Duration::from_millis(500)), [""; 0]);
        if let Some(check) = side.check() {
            side.receive(check, "-BUSY_x -BUSY_x ");
        }
    }
    // What comes meanwhile goes over another connection.
    let other = side.upstreams.shared(PoolKey::new(endpoint(None), false), &mut side.effects).unwrap();
    assert_ne!(other, connection);
    assert_eq!(side.receive(connection.id(), "+x +y "), ["1: +x"]);
    side.opened();
    assert!(side.closed.contains(&connection.id()));
}

#[test]
fn a_handshake_that_is_not_answered_ends_in_time() {
    let mut side = Side::new();
    let connection = side.upstreams.shared(PoolKey::new(endpoint(None), false), &mut side.effects).unwrap();
    side.send(connection, patient(1, 5), "GET a");
    let waiting = InFlight { patience: Patience::UNLIMITED.of_waiting(), ..PendingReply::Command(owner(2)).into() };
    side.send(connection, waiting, "BLPOP a 0");
    let error = "-ERR redis-mesh: c can't be reached";
    assert_eq!(side.wait(seconds(5)), [format!("1: {error}")]);
    assert_eq!(side.wait(seconds(5)), [format!("2: {error}")]);
}

#[test]
fn what_was_given_up_before_it_was_sent_is_not_sent() {
    let mut side = Side::new();
    let key = PoolKey { node: Some(super::node(1)), ..PoolKey::new(endpoint(None), false) };
    let connection = side.upstreams.shared(key, &mut side.effects).unwrap();
    side.send(connection, patient(1, 9), "GET a");
    side.upstreams.expect_queued(connection.id(), 1, &mut side.effects);
    let exec = InFlight { patience: Patience::of(seconds(1)), ..PendingReply::Exec(owner(2)).into() };
    side.send(connection, exec, "MULTI INCR EXEC");
    side.send(connection, InFlight { may_run_code: true, ..patient(3, 1) }, "EVAL s 1 k");
    side.send(connection, patient(4, 9), "GET b");
    let told = side.wait(seconds(3));
    let abort = "-EXECABORT redis-mesh: nothing was executed, since c can't be reached";
    assert_eq!(told, [format!("2: {abort}"), "3: -ERR redis-mesh: c can't be reached".to_owned()]);
    side.sent(connection.id());
    side.receive(connection.id(), "+PONG ");
    assert_eq!(side.sent(connection.id()), "*2 $3 GET $1 a *2 $3 GET $1 b ");
    assert_eq!(side.upstreams.pool.get(connection.id()).unwrap().replay.len(), 40);
    assert_eq!(side.receive(connection.id(), "+x +y "), ["1: +x", "4: +y"]);
}
