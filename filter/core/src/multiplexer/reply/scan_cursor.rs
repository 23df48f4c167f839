//! The cursors of a SCAN over several servers. Each names one of the servers, and has the cursor of
//! that server: <https://redis.io/docs/latest/commands/scan/>.
//!
//! Servers are numbered in their order, so a cursor is worth nothing after they have changed: keys of
//! a server, or of a slot that has moved, would be missed and nobody told. The numbers therefore begin
//! at one that follows from all the servers. A cursor from before a change has a number that no server
//! has, but for a chance of one in 16,383 for each server.

use crate::maglev::xx_hash::xx_hash;

/// The number of low bits of a cursor that name a server. The bits above them hold the cursor of that
/// server: 50 bits. Redis needs as many as its table of keys has, and 14 more for the slot as a node of
/// a Redis Cluster.
const SERVER_BITS: u32 = 14;
/// Servers are numbered from 1, since a cursor of 0 ends a SCAN.
const NUMBERS: u64 = (1 << SERVER_BITS) - 1;

/// The cursor that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCursor(u64);

impl ClientCursor {
    /// Reads a cursor; `None` if it isn't one.
    pub fn parse(text: &[u8]) -> Option<ClientCursor> {
        std::str::from_utf8(text).ok()?.parse().ok().map(ClientCursor)
    }
}

/// The servers that are asked one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScannedServers {
    count: u64,
    digest: u64,
}

/// The server that is asked, and the cursor that it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanPosition {
    servers: ScannedServers,
    /// The index of the server.
    pub server: usize,
    /// Its cursor.
    pub cursor: u64,
}

impl ScannedServers {
    /// Returns so many servers, of which these bytes tell all that cursors depend on.
    pub fn new(count: usize, described: &[u8]) -> ScannedServers {
        ScannedServers { count: count as u64, digest: xx_hash(described, 0) % NUMBERS }
    }

    /// Returns where a client's cursor stands; `None` if it isn't of these servers.
    pub fn position(self, ClientCursor(cursor): ClientCursor) -> Option<ScanPosition> {
        let number = cursor & NUMBERS;
        let server = match (cursor, number) {
            (0, _) => 0,
            (_, 0) => return None,
            (_, number) => (number - 1 + NUMBERS - self.digest) % NUMBERS,
        };
        let is_known = cursor == 0 || server < self.count;
        is_known.then_some(ScanPosition { servers: self, server: server as usize, cursor: cursor >> SERVER_BITS })
    }
}

impl ScanPosition {
    /// Returns the client's next cursor, given that of the server; `None` if there is no room for it.
    pub fn next(self, cursor: u64) -> Option<u64> {
        let ScannedServers { count, digest } = self.servers;
        let server = self.server as u64 + u64::from(cursor == 0);
        if cursor == 0 && server >= count {
            return Some(0);
        }
        let fits = cursor >> (u64::BITS - SERVER_BITS) == 0 && count <= NUMBERS;
        fits.then_some(cursor << SERVER_BITS | (1 + (digest + server) % NUMBERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn cursor(number: u64) -> ClientCursor {
        ClientCursor::parse(number.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn cursors_are_numbers() {
        assert_eq!(ClientCursor::parse(b"18446744073709551615"), Some(ClientCursor(u64::MAX)));
        for text in ["x", "", "-1", "18446744073709551616", " 1"] {
            assert_eq!(ClientCursor::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn each_server_is_asked_until_it_has_told_all() {
        for described in (0..200_u32).map(u32::to_le_bytes) {
            let servers = ScannedServers::new(3, &described);
            let (mut at, mut asked) = (servers.position(cursor(0)).unwrap(), Vec::new());
            for told in [7, u64::MAX >> SERVER_BITS, 0, 0, 1, 0] {
                asked.push((at.server, at.cursor));
                let next = at.next(told).unwrap();
                assert!(next != 0 || asked.len() == 6);
                at = servers.position(cursor(next)).unwrap();
            }
            assert_eq!(asked, [(0, 0), (0, 7), (0, u64::MAX >> SERVER_BITS), (1, 0), (2, 0), (2, 1)]);
        }
        let one = ScannedServers::new(1, b"").position(cursor(0)).unwrap();
        assert_eq!((one.next(0), one.next(1 << 50)), (Some(0), None));
        let very_many = ScannedServers::new(1 << SERVER_BITS, b"").position(cursor(0)).unwrap();
        assert_eq!(very_many.next(0), None);
    }

    #[test]
    fn a_cursor_is_of_the_servers_that_it_was_given_for() {
        let cursors = |servers: ScannedServers| {
            let next = |server| ScanPosition { servers, server, cursor: 0 }.next(1).unwrap();
            (0..3).map(next).map(cursor).collect::<Vec<_>>()
        };
        let all: Vec<ScannedServers> = (0..100_u32).map(|of| ScannedServers::new(3, &of.to_le_bytes())).collect();
        let mut taken = 0;
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))).filter(|(a, b)| a != b) {
            taken += cursors(*a).into_iter().filter(|cursor| b.position(*cursor).is_some()).count();
        }
        // Of 29,700, by chance.
        assert!(taken < 20, "{taken}");
        // What isn't of several servers.
        assert_eq!(all[0].position(cursor(1 << SERVER_BITS)), None);
    }
}
