//! Shared connections are replaced once in a while. Envoy tells nobody when a cluster loses a
//! member, and leaves connections to it alone: a pod that no service selects any more, or a master
//! that was, might go on to be asked for ever.

use super::connection::{Retirement, Stage};
use super::pool::Pool;
use super::pool_key::Purpose;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::timers::Timer;
use std::time::Duration;

/// How long a connection serves. Nodes of a Redis Cluster are left when the cluster says so.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Takes in that a connection is established. If it was opened to take another's place, it does
/// now: first everything that goes over that one is answered, so that nothing is overtaken.
pub fn established(pool: &mut Pool, id: ConnectionId, effects: &mut Effects) {
    let Some(connection) = pool.get(id) else { return };
    let is_serving = connection.retirement == Retirement::Serving;
    if connection.purpose != Purpose::Shared || connection.key.node.is_some() || !is_serving {
        return;
    }
    effects.timers.add(effects.now + MAX_AGE, Timer::MaxAge(id));
    let Some(before) = pool.make_current(id) else { return };
    if pool.get(before).is_none() {
        return;
    }
    if let Some(connection) = pool.get_mut(id) {
        connection.stage = Stage::AwaitsPredecessor;
    }
    if pool.retire(before, Some(id)) {
        pool.close(before, effects);
    }
}

/// A connection has reached its maximum age. One that nobody has used is closed; any other gets a
/// successor.
pub fn reached(pool: &mut Pool, id: ConnectionId, effects: &mut Effects) {
    let Some(connection) = pool.get(id) else { return };
    if pool.current(&connection.key) != Some(id) {
        return;
    }
    if connection.is_quiet() && effects.now.saturating_sub(connection.last_activity) >= MAX_AGE {
        return pool.close(id, effects);
    }
    let key = connection.key.clone();
    effects.timers.add(effects.now + MAX_AGE, Timer::MaxAge(id));
    // Where the successor can't be opened, this connection goes on.
    let _ = pool.open(key, Purpose::Shared, effects);
}

/// How often a connection is replaced because of what a server has said over it.
const RENEWAL: Duration = Duration::from_secs(1);

/// A server has said that it isn't any more what a connection leads to: the connection gets a
/// successor.
pub fn renew(pool: &mut Pool, id: ConnectionId, effects: &mut Effects) {
    let Some(connection) = pool.get_mut(id) else { return };
    let is_due = effects.now.saturating_sub(connection.renewed) >= RENEWAL;
    if connection.purpose != Purpose::Shared || connection.key.node.is_some() || !is_due {
        return;
    }
    connection.renewed = effects.now;
    let key = connection.key.clone();
    if pool.current(&key) == Some(id) {
        // Where the successor can't be opened, this connection goes on.
        let _ = pool.open(key, Purpose::Shared, effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
    use crate::multiplexer::upstream::pending::PendingReply;
    use crate::multiplexer::upstream::pool_key::PoolKey;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn established_connection(pool: &mut Pool, id: ConnectionId, effects: &mut Effects) {
        let connection = pool.get_mut(id).unwrap();
        connection.pending.clear();
        connection.become_ready();
        let _ = connection.send.take(Vec::new());
        established(pool, id, effects);
    }

    #[test]
    fn a_successor_waits_for_what_is_pending_over_its_predecessor() {
        let (mut pool, mut effects) = (Pool::default(), Effects::new([1; 32]));
        let key = PoolKey::new(
            UpstreamEndpoint { cluster: "c".into(), login: None, nodes: None, member: Default::default() },
            false,
        );
        let first = pool.shared(key.clone(), &mut effects).unwrap().id();
        established_connection(&mut pool, first, &mut effects);
        pool.send(first, PendingReply::Ignored.into(), &mut effects, |out| out.extend_from_slice(b"x"));
        effects.now += MAX_AGE;
        reached(&mut pool, first, &mut effects);
        assert_eq!(pool.current(&key), Some(first), "the successor isn't established");
        let ids = pool.ids();
        let second = ids.into_iter().find(|id| *id != first).unwrap();
        established_connection(&mut pool, second, &mut effects);
        assert_eq!(pool.current(&key), Some(second));
        pool.send(second, PendingReply::Ignored.into(), &mut effects, |out| out.extend_from_slice(b"y"));
        let second_sends = |pool: &mut Pool| pool.get_mut(second).unwrap().send.take(Vec::new());
        assert_eq!(second_sends(&mut pool), b"");
        pool.close(first, &mut effects);
        assert_eq!(second_sends(&mut pool), b"y");
    }

    #[test]
    fn a_connection_that_nobody_used_is_closed() {
        let (mut pool, mut effects) = (Pool::default(), Effects::new([1; 32]));
        let key = PoolKey::new(
            UpstreamEndpoint { cluster: "c".into(), login: None, nodes: None, member: Default::default() },
            false,
        );
        let first = pool.shared(key.clone(), &mut effects).unwrap().id();
        established_connection(&mut pool, first, &mut effects);
        effects.now += MAX_AGE;
        reached(&mut pool, first, &mut effects);
        assert_eq!((pool.current(&key), pool.ids()), (None, vec![]));
    }
}
