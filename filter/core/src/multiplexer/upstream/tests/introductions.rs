//! What servers are believed to be, and how much they may say.

use super::{Side, endpoint, owner};
use crate::downstream::hello::ServerRelease;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::availability::{Outage, Peer};
use crate::multiplexer::upstream::introduction::Spoken;
use crate::multiplexer::upstream::loss::{self, Loss};
use crate::multiplexer::upstream::pending::PendingReply;
use crate::multiplexer::upstream::pool_key::PoolKey;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

impl Side {
    fn spoken(&mut self) -> Result<Option<Spoken>, String> {
        let spoken = self.upstreams.spoken(&endpoint(None), &mut self.effects);
        spoken.map_err(|missing| format!("{missing:?}"))
    }

    /// The connection over which a server is asked, which has come as far as that.
    fn asked(&mut self) -> ConnectionId {
        let connection = self.opened().pop().unwrap();
        assert_eq!(self.sent(connection), "*1 $4 PING ");
        self.receive(connection, "+PONG ");
        assert_eq!(self.sent(connection), "*2 $5 HELLO $1 3 ");
        connection
    }

    fn lose(&mut self, connection: ConnectionId) {
        loss::lost(&mut self.upstreams, connection, Loss::Ended, &mut self.effects);
        self.events();
    }
}

#[test]
fn a_server_that_ends_connections_at_hello_twice_speaks_resp2() {
    let mut side = Side::new();
    assert_eq!(side.spoken(), Ok(None));
    let first = side.asked();
    side.lose(first);
    assert_eq!(side.spoken(), Ok(None));
    let second = side.asked();
    side.lose(second);
    assert!(matches!(side.spoken(), Ok(Some(Spoken::Resp2(_)))));
}

#[test]
fn a_server_that_has_ended_at_hello_and_cannot_be_asked_again_may_speak_resp3() {
    let mut side = Side::new();
    assert_eq!(side.spoken(), Ok(None));
    let first = side.asked();
    // It is going down: others couldn't connect either.
    let peer = Peer::new(&endpoint(None), None);
    let outage = Outage::Unreachable("ERR redis-mesh: c can't be reached".to_owned());
    side.upstreams.pool.availability.back_off(peer, outage, side.effects.now);
    side.lose(first);
    assert!(side.spoken().unwrap_err().contains("can't be reached"));
    // And comes up again.
    side.effects.now += Duration::from_secs(10);
    assert_eq!(side.spoken(), Ok(None));
    let second = side.asked();
    side.lose(second);
    assert_eq!(side.spoken(), Ok(None), "it has ended one connection of two");
    let third = side.asked();
    side.receive(third, "%0 ");
    assert_eq!(side.spoken(), Ok(Some(Spoken::Resp3(ServerRelease::default()))));
}

#[test]
fn what_a_server_says_to_the_multiplexer_is_bounded() {
    let large = format!("$1000000 {}", "x".repeat(70_000));
    let mut side = Side::new();
    let connection = side.upstreams.shared(PoolKey::new(endpoint(None), true), &mut side.effects).unwrap();
    side.send(connection, PendingReply::Command(owner(1)).into(), "GET a");
    side.opened();
    side.receive(connection.id(), &large);
    // As after any connection that doesn't come about, another one is tried.
    let again = side.opened();
    assert_eq!((side.closed.as_slice(), again.len()), (&[connection.id()][..], 1));
    assert_eq!(side.receive(again[0], &large), ["1: -ERR redis-mesh: c can't be reached"]);
    // Its introduction, too.
    let mut side = Side::new();
    assert_eq!(side.spoken(), Ok(None));
    let asked = side.asked();
    side.receive(asked, &large);
    side.opened();
    assert_eq!(side.closed, [asked]);
}
