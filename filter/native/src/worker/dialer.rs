//! How a worker gets its upstream connections: through its dialer, which a client has to ask for.

use crate::config;
use crate::filter::dialer::{self, DialerFilter};
use crate::filter::downstream::DownstreamFilter;
use crate::filter::upstream::{self, UpstreamFilter};
use crate::filter::verdict::CalloutResult;
use redis_mesh_core::multiplexer::{Address, ConnectionId};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A worker's dialer, and the upstream connections that the multiplexer wants.
///
/// Methods that find out that connections are lost return their numbers. Envoy may call back into
/// this module while a method runs; no borrow is held across a call to Envoy.
#[derive(Default)]
pub struct Dialer {
    state: RefCell<DialerState>,
    connections: RefCell<FxHashMap<ConnectionId, Dialed>>,
    /// The dialer's callouts: one for each connection that was requested, until it ends.
    callouts: RefCell<FxHashMap<u64, ConnectionId>>,
    /// The number of the last request for a dialer.
    last_request: Cell<u64>,
}

/// The state of a worker's dialer.
#[derive(Default)]
enum DialerState {
    /// The worker has no dialer.
    #[default]
    Absent,
    /// A client's filter has asked for a dialer.
    Requested {
        /// The number of the request.
        number: u64,
        /// The filter that has asked.
        requester: Rc<DownstreamFilter>,
        /// The filter that the request has reached. It becomes the dialer when the response has
        /// come back.
        candidate: Option<Rc<DialerFilter>>,
    },
    /// The dialer opens connections.
    Ready(Rc<DialerFilter>),
}

/// An upstream connection that the multiplexer wants.
struct Dialed {
    address: Address,
    stage: DialStage,
}

/// How far an upstream connection has come.
enum DialStage {
    /// No dialer has been asked for it yet.
    Waiting,
    /// The dialer has sent the request for it.
    Requested,
    /// The request has reached its filter.
    Arrived(Rc<UpstreamFilter>),
}

impl Dialer {
    /// Opens a connection, now or when there is a dialer, which `requester` asks for.
    pub fn open(
        &self,
        id: ConnectionId,
        address: Address,
        requester: impl FnOnce() -> Option<Rc<DownstreamFilter>>,
    ) -> Vec<ConnectionId> {
        self.connections.borrow_mut().insert(id, Dialed { address, stage: DialStage::Waiting });
        match self.ready() {
            Some(dialer) => self.request(&dialer, id).into_iter().collect(),
            None => self.ask(requester),
        }
    }

    /// The dialer, if it opens connections.
    pub fn ready(&self) -> Option<Rc<DialerFilter>> {
        match &*self.state.borrow() {
            DialerState::Ready(dialer) => Some(dialer.clone()),
            DialerState::Absent | DialerState::Requested { .. } => None,
        }
    }

    /// Has `requester` ask for a dialer if connections wait for one and none has been asked for.
    /// Where it returns `None`, there is no client; the next one will be asked.
    pub fn ask(&self, requester: impl FnOnce() -> Option<Rc<DownstreamFilter>>) -> Vec<ConnectionId> {
        if !self.is_missing() {
            return Vec::new();
        }
        let Some(requester) = requester() else { return Vec::new() };
        let number = self.last_request.get() + 1;
        self.last_request.set(number);
        self.state.replace(DialerState::Requested { number, requester: requester.clone(), candidate: None });
        if requester.handle.post(&config::cluster(dialer::CLUSTER), &format!("/{number}")).is_some() {
            return Vec::new();
        }
        // Envoy may have reported the failure before, by the callout hook.
        self.answered(&requester, CalloutResult::Failed)
    }

    /// True if connections wait for a dialer and none has been asked for.
    pub fn is_missing(&self) -> bool {
        matches!(&*self.state.borrow(), DialerState::Absent)
            && self.connections.borrow().values().any(|dialed| matches!(dialed.stage, DialStage::Waiting))
    }

    /// True if the response to this client's request for a dialer hasn't come yet.
    fn is_requester(&self, downstream: &Rc<DownstreamFilter>) -> bool {
        matches!(&*self.state.borrow(), DialerState::Requested { requester, .. } if Rc::ptr_eq(requester, downstream))
    }

    /// A client has gone, and with it its request for a dialer, if it has made one.
    pub fn requester_lost(&self, downstream: &Rc<DownstreamFilter>) {
        if self.is_requester(downstream) {
            self.state.take();
        }
    }

    /// A client's request for a dialer has ended. On success the connections that have waited are
    /// requested.
    pub fn answered(&self, downstream: &Rc<DownstreamFilter>, result: CalloutResult) -> Vec<ConnectionId> {
        if !self.is_requester(downstream) {
            return Vec::new();
        }
        match (result, self.state.take()) {
            (CalloutResult::Ok, DialerState::Requested { candidate: Some(dialer), .. }) if !dialer.handle.is_gone() => {
                self.state.replace(DialerState::Ready(dialer.clone()));
                let waiting = self.ids(|stage| matches!(stage, DialStage::Waiting));
                waiting.into_iter().filter_map(|id| self.request(&dialer, id)).collect()
            }
            _ => self.lose(|stage| matches!(stage, DialStage::Waiting)),
        }
    }

    /// The request of this number for a dialer has reached a filter.
    pub fn arrived(&self, dialer: &Rc<DialerFilter>, request: u64) {
        if let DialerState::Requested { number, candidate, .. } = &mut *self.state.borrow_mut()
            && *number == request
        {
            *candidate = Some(dialer.clone());
        }
    }

    /// A connection on the listener of dialers has ended. If it was the dialer, the connections
    /// that have arrived end too and say so themselves; those that were only requested will never
    /// arrive.
    pub fn lost(&self, dialer: &Rc<DialerFilter>) -> Vec<ConnectionId> {
        if !matches!(&*self.state.borrow(), DialerState::Ready(ready) if Rc::ptr_eq(ready, dialer)) {
            return Vec::new();
        }
        self.state.take();
        self.callouts.take();
        self.lose(|stage| matches!(stage, DialStage::Requested))
    }

    /// A callout of the dialer has ended, and with it the connection.
    pub fn callout_ended(&self, callout: u64) -> Option<ConnectionId> {
        let id = self.callouts.borrow_mut().remove(&callout)?;
        self.close(id).then_some(id)
    }

    /// The request for a connection has reached its filter. Returns the connection's number and
    /// address, or `None` if the multiplexer doesn't want it any more.
    pub fn upstream_arrived(&self, upstream: &Rc<UpstreamFilter>, request: u64) -> Option<(ConnectionId, Address)> {
        let id = ConnectionId::of_number(request);
        let mut connections = self.connections.borrow_mut();
        let dialed = connections.get_mut(&id).filter(|dialed| matches!(dialed.stage, DialStage::Requested))?;
        dialed.stage = DialStage::Arrived(upstream.clone());
        Some((id, dialed.address.clone()))
    }

    /// An upstream filter's connection has ended. Returns its number if the multiplexer wants it
    /// still.
    pub fn upstream_closed(&self, upstream: &Rc<UpstreamFilter>, id: ConnectionId) -> Option<ConnectionId> {
        let is_known = self.upstream(id).is_some_and(|arrived| Rc::ptr_eq(&arrived, upstream));
        (is_known && self.close(id)).then_some(id)
    }

    /// The filter of a connection that has arrived.
    #[inline]
    pub fn upstream(&self, id: ConnectionId) -> Option<Rc<UpstreamFilter>> {
        match self.connections.borrow().get(&id) {
            Some(Dialed { stage: DialStage::Arrived(upstream), .. }) => Some(upstream.clone()),
            _ => None,
        }
    }

    /// Closes a connection, or turns it away when it arrives. False: there is no such connection.
    pub fn close(&self, id: ConnectionId) -> bool {
        let Some(dialed) = self.connections.borrow_mut().remove(&id) else { return false };
        if let DialStage::Arrived(upstream) = dialed.stage {
            upstream.handle.abort();
        }
        true
    }

    /// Has the dialer open a connection. Returns the connection's number if that has failed
    /// already.
    fn request(&self, dialer: &DialerFilter, id: ConnectionId) -> Option<ConnectionId> {
        self.connections.borrow_mut().get_mut(&id)?.stage = DialStage::Requested;
        match dialer.handle.post(&config::cluster(upstream::CLUSTER), &format!("/{}", id.number())) {
            Some(callout) => {
                self.callouts.borrow_mut().insert(callout, id);
                None
            }
            None => self.close(id).then_some(id),
        }
    }

    fn ids(&self, which: impl Fn(&DialStage) -> bool) -> Vec<ConnectionId> {
        let connections = self.connections.borrow();
        connections.iter().filter(|(_, dialed)| which(&dialed.stage)).map(|(id, _)| *id).collect()
    }

    fn lose(&self, which: impl Fn(&DialStage) -> bool) -> Vec<ConnectionId> {
        let mut ids = self.ids(which);
        ids.retain(|id| self.close(*id));
        ids
    }
}

#[cfg(test)]
impl Dialer {
    /// True if there is no dialer, and none is asked for; no callout is open.
    pub fn is_at_rest(&self) -> bool {
        matches!(&*self.state.borrow(), DialerState::Absent) && self.callouts.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::FilterInstance;
    use crate::standin::{self, StandinConnection};

    fn address(cluster: &str) -> Address {
        Address { cluster: cluster.into(), node: None }
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId::of_number(number)
    }

    fn downstream(connection: &StandinConnection) -> Rc<DownstreamFilter> {
        match connection.instance() {
            FilterInstance::Downstream(downstream) => downstream,
            _ => panic!("no client"),
        }
    }

    fn dialer_filter(connection: &StandinConnection) -> Rc<DialerFilter> {
        match connection.instance() {
            FilterInstance::Dialer(dialer) => dialer,
            _ => panic!("no dialer"),
        }
    }

    fn upstream_filter(connection: &StandinConnection) -> Rc<UpstreamFilter> {
        match connection.instance() {
            FilterInstance::Upstream(upstream) => upstream,
            _ => panic!("no upstream connection"),
        }
    }

    /// A client's connection, whose filter may ask for a dialer.
    fn client() -> (Rc<StandinConnection>, Rc<DownstreamFilter>) {
        let connection = standin::connect("client", standin::listener("dialer"));
        let filter = downstream(&connection);
        (connection, filter)
    }

    /// A connection on the listener of dialers.
    fn candidate() -> (Rc<StandinConnection>, Rc<DialerFilter>) {
        let connection = standin::connect("redis_anchor", standin::configure("anchor", ""));
        let filter = dialer_filter(&connection);
        (connection, filter)
    }

    /// A dialer that has been asked for by a client and has connection 1 on the way.
    fn ready(dialer: &Dialer, client: &Rc<DownstreamFilter>) -> (Rc<StandinConnection>, Rc<DialerFilter>) {
        assert!(dialer.open(id(1), address("redis"), || Some(client.clone())).is_empty());
        let (connection, filter) = candidate();
        dialer.arrived(&filter, 1);
        assert!(dialer.ready().is_none(), "the client's end would close it until the response has come back");
        assert!(dialer.answered(client, CalloutResult::Ok).is_empty());
        assert!(dialer.ready().is_some_and(|ready| Rc::ptr_eq(&ready, &filter)));
        (connection, filter)
    }

    #[test]
    fn a_connection_waits_for_a_dialer_and_arrives_once() {
        let _end = standin::begin();
        let (dialer, (_connection, client)) = (Dialer::default(), client());
        let (_dialer_connection, _filter) = ready(&dialer, &client);
        let connection = standin::connect("redis_carrier", standin::configure("carrier", ""));
        let upstream = upstream_filter(&connection);
        assert_eq!(dialer.upstream_arrived(&upstream, 2), None, "the multiplexer doesn't want that one");
        assert_eq!(dialer.upstream_arrived(&upstream, 1), Some((id(1), address("redis"))));
        assert_eq!(dialer.upstream_arrived(&upstream, 1), None, "it has arrived already");
        assert!(dialer.upstream(id(1)).is_some_and(|arrived| Rc::ptr_eq(&arrived, &upstream)));
        assert_eq!(dialer.upstream_closed(&upstream, id(1)), Some(id(1)));
        assert_eq!(dialer.upstream_closed(&upstream, id(1)), None);
    }

    #[test]
    fn without_a_client_the_next_one_is_asked() {
        let _end = standin::begin();
        let dialer = Dialer::default();
        assert!(dialer.open(id(1), address("redis"), || None).is_empty());
        assert!(dialer.is_at_rest());
        let (_connection, client) = client();
        assert!(dialer.ask(|| Some(client.clone())).is_empty());
        assert!(dialer.is_requester(&client));
        // It is asked for once.
        assert!(dialer.ask(|| panic!("a second request")).is_empty());
        dialer.requester_lost(&client);
        assert!(dialer.is_missing());
        assert!(dialer.is_at_rest());
    }

    #[test]
    fn a_failed_request_loses_the_connections_that_wait() {
        let _end = standin::begin();
        let (dialer, (_connection, client)) = (Dialer::default(), client());
        assert!(dialer.open(id(1), address("redis"), || Some(client.clone())).is_empty());
        assert_eq!(dialer.answered(&client, CalloutResult::Failed), [id(1)]);
        // The same where Envoy doesn't send the request at all.
        standin::remove_cluster("redis_anchor");
        assert_eq!(dialer.open(id(2), address("redis"), || Some(client.clone())), [id(2)]);
        standin::restore_clusters();
        assert!(dialer.is_at_rest());
    }

    #[test]
    fn a_response_without_the_request_having_arrived_is_a_failure() {
        let _end = standin::begin();
        let (dialer, (_connection, client)) = (Dialer::default(), client());
        assert!(dialer.open(id(1), address("redis"), || Some(client.clone())).is_empty());
        let (_dialer_connection, filter) = candidate();
        dialer.arrived(&filter, 7);
        assert_eq!(dialer.answered(&client, CalloutResult::Ok), [id(1)]);
    }

    #[test]
    fn the_end_of_the_dialer_loses_what_has_not_arrived() {
        let _end = standin::begin();
        let (dialer, (_connection, client)) = (Dialer::default(), client());
        let (_dialer_connection, filter) = ready(&dialer, &client);
        let connection = standin::connect("redis_carrier", standin::configure("carrier", ""));
        assert!(dialer.upstream_arrived(&upstream_filter(&connection), 1).is_some());
        assert!(dialer.open(id(2), address("redis"), || panic!("there is a dialer")).is_empty());
        let (_other_connection, other) = candidate();
        assert!(dialer.lost(&other).is_empty(), "that one isn't the dialer");
        assert_eq!(dialer.lost(&filter), [id(2)]);
        assert!(dialer.upstream(id(1)).is_some(), "it tells its end itself");
        assert!(dialer.ready().is_none());
    }

    #[test]
    fn the_end_of_a_callout_loses_its_connection() {
        let _end = standin::begin();
        let (dialer, (_connection, client)) = (Dialer::default(), client());
        let (_dialer_connection, _filter) = ready(&dialer, &client);
        let callout = *dialer.callouts.borrow().keys().next().unwrap();
        assert_eq!(dialer.callout_ended(callout), Some(id(1)));
        assert_eq!(dialer.callout_ended(callout), None);
        assert!(!dialer.close(id(1)));
    }
}
