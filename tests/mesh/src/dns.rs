//! The cluster's DNS server. `/etc/hosts` isn't enough: Envoy's resolver misses changes of it
//! within a second.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// The usual address of a cluster's DNS server.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const A: u16 = 1;
const IN: u16 = 1;
const NO_SUCH_NAME: u16 = 3;
/// Flags of an answer: response, authoritative, recursion available.
const FLAGS: u16 = 0x8480;
const RECURSION_DESIRED: u16 = 0x0100;
const SECONDS_TO_LIVE: u32 = 1;

/// Names, without the final dot, and their addresses.
pub type Zone = BTreeMap<String, Vec<IpAddr>>;

/// A DNS server in a thread, which runs until the program ends.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    zone: Arc<Mutex<Zone>>,
}

impl Dns {
    /// Starts a server at [`ADDRESS`], which must be an address of this network namespace.
    pub fn start() -> Result<Dns> {
        let socket = UdpSocket::bind((ADDRESS, 53)).context("can't start the cluster's DNS server")?;
        let dns = Dns::default();
        let zone = dns.zone.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..length], &zone.lock().unwrap_or_else(PoisonError::into_inner));
                // Whoever doesn't get it asks again.
                let _ = answer.map(|answer| socket.send_to(&answer, from));
            }
        });
        Ok(dns)
    }

    /// Replaces all names.
    pub fn serve(&self, zone: Zone) {
        *self.zone.lock().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// Returns the addresses of a name as a pod in this Kubernetes namespace resolves it.
    pub fn resolve(&self, name: &str, namespace: &str) -> Vec<IpAddr> {
        let zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        let searched = search(namespace).into_iter().map(|domain| format!("{name}.{domain}"));
        searched.chain([name.to_string()]).find_map(|name| zone.get(&name).cloned()).unwrap_or_default()
    }
}

/// The search domains of a pod in this namespace.
pub fn search(namespace: &str) -> [String; 3] {
    [format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()]
}

/// Returns the answer to a query with one question, or `None` if the bytes aren't a query.
fn answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let (id, flags, questions) = (word(0)?, word(2)?, word(4)?);
    if flags & 0x8000 != 0 || questions != 1 {
        return None;
    }
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let (kind, end) = (word(at)?, at + 4);
    let found = zone.get(&labels.join("."));
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    if kind == A {
        addresses.extend(found.into_iter().flatten().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        }));
    }
    let code = if found.is_some() { 0 } else { NO_SUCH_NAME };
    let mut out = Vec::new();
    for number in [id, FLAGS | flags & RECURSION_DESIRED | code, 1, addresses.len() as u16, 0, 0] {
        out.extend(number.to_be_bytes());
    }
    out.extend(query.get(12..end)?);
    for address in addresses {
        // A pointer to the question's name.
        for number in [0xc00c, A, IN] {
            out.extend(u16::to_be_bytes(number));
        }
        out.extend(SECONDS_TO_LIVE.to_be_bytes());
        out.extend(4u16.to_be_bytes());
        out.extend(address.octets());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend(label.bytes());
        }
        out.push(0);
        out.extend(kind.to_be_bytes());
        out.extend(IN.to_be_bytes());
        out
    }

    #[test]
    fn answers_what_it_knows() {
        let zone = Zone::from([("a.b".to_string(), vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()])]);
        let known = answer(&query("A.b", A), &zone).unwrap();
        assert_eq!(known[..12], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert!(known.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 0, 0, 2]));
        let other_kind = answer(&query("a.b", 28), &zone).unwrap();
        assert_eq!(other_kind[2..8], [0x85, 0x80, 0, 1, 0, 0]);
        let unknown = answer(&query("b", A), &zone).unwrap();
        assert_eq!(unknown[2..8], [0x85, 0x83, 0, 1, 0, 0]);
        for length in 0..query("a.b", A).len() {
            assert_eq!(answer(&query("a.b", A)[..length], &zone), None);
        }
    }
}
