//! Connections that clients share are renewed once in a while. Envoy tells nobody when a cluster loses a member, and leaves connections
//! to it alone: a pod that no service selects any more, or a master that was, might go on to be asked for ever.

use crate::multiplexer::upstream::connection::Purpose;
use crate::multiplexer::{ConnectionId, Multiplexer, Timer};
use std::time::Duration;

/// RequestPolicy long a connection serves. Nodes of a Redis Cluster are left when the cluster says so.
const AGE: Duration = Duration::from_secs(60);

impl Multiplexer {
    /// A connection has been greeted. If it was opened to take another's place, it does now: first all that goes over that one
    /// is answered, so that nothing is overtaken.
    pub(in crate::multiplexer) fn take_over(&mut self, id: ConnectionId, now: Duration) {
        let Some(carrier) = self.carriers.get(id) else { return };
        if carrier.purpose != Purpose::Shared || carrier.line.node.is_some() || carrier.is_retired {
            return;
        }
        let line = carrier.line.clone();
        self.alarms.insert((now + AGE, Timer::Renewal(id)));
        let Some(before) = self.lines.insert(line, id).filter(|before| *before != id) else { return };
        let Some(old) = self.carriers.get_mut(before) else { return };
        (old.is_retired, old.successor) = (true, Some(id));
        let is_idle = old.expected.is_empty();
        if let Some(carrier) = self.carriers.get_mut(id) {
            carrier.is_held = true;
        }
        if is_idle {
            self.drop_carrier(before);
        }
    }

    /// All that went over the connection before has been answered.
    pub(in crate::multiplexer) fn succeed(&mut self, id: ConnectionId) {
        if let Some(carrier) = self.carriers.get_mut(id) {
            carrier.release(false);
            self.announce_upstream(id);
        }
    }

    /// A connection has served for a while. One that nobody has used ends; of any other there will be a new one.
    pub(in crate::multiplexer) fn renew(&mut self, id: ConnectionId, now: Duration) {
        let Some(carrier) = self.carriers.get(id) else { return };
        if self.lines.get(&carrier.line) != Some(&id) {
            return;
        }
        let is_idle = carrier.expected.is_empty() && carrier.waiting() == 0;
        if is_idle && now.saturating_sub(carrier.progress) >= AGE {
            return self.drop_carrier(id);
        }
        let line = carrier.line.clone();
        self.alarms.insert((now + AGE, Timer::Renewal(id)));
        // Where that fails, this one goes on.
        let _ = self.open_line(line, Purpose::Shared, now);
    }
}
