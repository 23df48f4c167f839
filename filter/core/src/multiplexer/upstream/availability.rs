//! Which Redis servers can't be reached at present. They are not tried again and again: the wait
//! doubles with each failure.

use super::endpoint::UpstreamEndpoint;
use super::pool_key::PoolKey;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// The first wait before a Redis that can't be reached is tried again.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// The number of peers beyond which databases are forgotten whose waits are over: clients may name any
/// number of databases that a Redis doesn't have.
const MANY: usize = 1024;

/// A Redis, or a node of a Redis Cluster. All logins that clients present at it are one, since
/// there can be any number of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    endpoint: UpstreamEndpoint,
    node: Option<SocketAddr>,
    /// A database of it alone: a Redis may have fewer than a client of another one uses.
    database: Option<u32>,
}

impl Peer {
    /// The peer that connections to this node of an endpoint reach.
    pub fn new(endpoint: &UpstreamEndpoint, node: Option<SocketAddr>) -> Peer {
        Peer { endpoint: endpoint.of_any_login(), node, database: None }
    }

    /// True if connections to a node of this endpoint may reach the peer.
    pub fn is_node_of(&self, endpoint: &UpstreamEndpoint) -> bool {
        self.node.is_some() && self.endpoint == endpoint.of_any_login()
    }

    /// The database of a pool key at its peer.
    pub fn database(key: &PoolKey) -> Peer {
        Peer { database: Some(key.database), ..Peer::new(&key.endpoint, key.node) }
    }
}

/// Why nothing can be had from a Redis. The texts are errors for clients, without `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outage {
    /// It can't be reached, or a connection to it was lost.
    Unreachable(String),
    /// It refuses everybody, or this login.
    Refuses(String),
}

impl Outage {
    /// The error for clients, without `-`.
    pub fn text(&self) -> &str {
        match self {
            Outage::Unreachable(text) | Outage::Refuses(text) => text,
        }
    }
}

struct Backoff {
    until: Duration,
    wait: Duration,
    why: Outage,
}

/// Peers that are backed off from.
#[derive(Default)]
pub struct Availability {
    backoffs: HashMap<Peer, Backoff>,
}

impl Availability {
    /// True if nothing is backed off from, which spares the construction of a peer.
    pub fn is_all_up(&self) -> bool {
        self.backoffs.is_empty()
    }

    /// True unless the peer is backed off from.
    pub fn is_up(&self, peer: &Peer, now: Duration) -> bool {
        self.reason(peer, now).is_none()
    }

    /// Why the peer is backed off from; `None` if it isn't.
    pub fn reason(&self, peer: &Peer, now: Duration) -> Option<&Outage> {
        let backoff = self.backoffs.get(peer).filter(|backoff| backoff.until > now)?;
        Some(&backoff.why)
    }

    /// Why the peer couldn't be reached when it was tried last, whether it may be tried again by now or
    /// not; `None` if it could, or wasn't tried.
    pub fn unreached(&self, peer: &Peer) -> Option<&Outage> {
        let backoff = self.backoffs.get(peer)?;
        Some(&backoff.why).filter(|why| matches!(why, Outage::Unreachable(_)))
    }

    /// Notes that the peer can't be reached, or refuses everybody: `why` is what clients are told
    /// until it is tried again.
    pub fn back_off(&mut self, peer: Peer, why: Outage, now: Duration) {
        if self.backoffs.len() >= MANY {
            self.backoffs.retain(|peer, backoff| peer.database.is_none() || backoff.until > now);
        }
        let before = self.backoffs.get(&peer);
        let wait = before.map_or(FIRST_BACKOFF, |backoff| (backoff.wait * 2).min(LONGEST_BACKOFF));
        self.backoffs.insert(peer, Backoff { until: now + wait, wait, why });
    }

    /// Notes that the peer has answered. Returns true if it didn't before.
    pub fn succeeded(&mut self, peer: &Peer) -> bool {
        self.backoffs.remove(peer).is_some()
    }

    /// Forgets nodes of an endpoint that `is_node` says are none any more.
    pub fn retain_nodes(&mut self, endpoint: &UpstreamEndpoint, is_node: impl Fn(SocketAddr) -> bool) {
        let endpoint = endpoint.of_any_login();
        self.backoffs.retain(|peer, _| peer.endpoint != endpoint || peer.node.is_none_or(&is_node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn down() -> Outage {
        Outage::Unreachable("it is down".into())
    }

    #[test]
    fn the_wait_doubles_up_to_a_bound_and_ends_with_success() {
        let at = Duration::from_millis;
        let endpoint = UpstreamEndpoint { cluster: "c".into(), login: None, nodes: None, member: Default::default() };
        let peer = Peer::new(&endpoint, None);
        let mut availability = Availability::default();
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..8 {
            availability.back_off(peer.clone(), down(), now);
            let begun = now;
            while !availability.is_up(&peer, now) {
                assert_eq!(availability.reason(&peer, now), Some(&down()));
                now += at(10);
            }
            waits.push((now - begun).as_millis());
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        // It may be tried again, and may still not be there.
        assert_eq!(availability.unreached(&peer), Some(&down()));
        assert!(availability.succeeded(&peer) && !availability.succeeded(&peer));
        assert!(availability.is_all_up() && availability.unreached(&peer).is_none());
        availability.back_off(peer.clone(), down(), now);
        assert!(availability.is_up(&peer, now + at(50)));
    }

    #[test]
    fn databases_that_nobody_has_are_forgotten() {
        let endpoint = UpstreamEndpoint { cluster: "c".into(), login: None, nodes: None, member: Default::default() };
        let (mut availability, peer) = (Availability::default(), Peer::new(&endpoint, None));
        availability.back_off(peer.clone(), down(), Duration::ZERO);
        for database in 0..100_000 {
            let of_database = Peer { database: Some(database), ..peer.clone() };
            availability.back_off(of_database.clone(), down(), Duration::from_millis(database.into()));
            assert!(!availability.is_up(&of_database, Duration::from_millis(database.into())));
        }
        assert!(availability.backoffs.len() <= MANY + 100, "{}", availability.backoffs.len());
        assert!(availability.unreached(&peer).is_some());
    }

    #[test]
    fn nodes_that_have_left_are_forgotten() {
        let endpoint = |cluster: &str| UpstreamEndpoint {
            cluster: cluster.into(),
            login: None,
            nodes: None,
            member: Default::default(),
        };
        let node = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let mut availability = Availability::default();
        let peers = [
            Peer::new(&endpoint("a"), None),
            Peer::new(&endpoint("a"), Some(node(1))),
            Peer::new(&endpoint("a"), Some(node(2))),
            Peer::new(&endpoint("b"), Some(node(1))),
        ];
        for peer in &peers {
            availability.back_off(peer.clone(), down(), Duration::ZERO);
        }
        availability.retain_nodes(&endpoint("a"), |known| known == node(2));
        let up: Vec<bool> = peers.iter().map(|peer| availability.is_up(peer, Duration::ZERO)).collect();
        assert_eq!(up, [false, true, false, false]);
    }
}
