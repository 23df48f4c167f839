//! The slots of a Redis Cluster and the nodes that serve them.

use super::slot::SLOTS;
use crate::maglev::xx_hash::xx_hash;
use crate::resp::value::Value;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

/// A master with its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The node that takes writes.
    pub master: SocketAddr,
    /// The nodes that may answer reads.
    pub replicas: Vec<SocketAddr>,
}

/// The topology of a Redis Cluster as one of its nodes sees it.
#[derive(Clone, Debug)]
pub struct Topology {
    shards: Vec<Shard>,
    /// For each slot the index of its shard plus one; 0: no shard serves the slot.
    owners: Vec<u16>,
    /// The cluster's current epoch, which grows with each failover and each move of a slot.
    pub epoch: u64,
    /// The node sees a majority of the masters, and all slots are served.
    pub is_ok: bool,
    /// The identifiers of the nodes.
    ids: HashSet<Box<[u8]>>,
    /// The addresses of nodes by the names that they are announced by.
    names: Vec<(Box<[u8]>, IpAddr)>,
    /// See [`Topology::slots_digest`].
    slots_digest: OnceLock<u64>,
}

/// Returns the address of a node that a node names. An empty host is that of the node `from`, which
/// names it.
pub fn node(host: &[u8], port: u16, from: Option<SocketAddr>) -> Option<SocketAddr> {
    let host = match host {
        b"" => from?.ip(),
        host => std::str::from_utf8(host).ok()?.parse::<IpAddr>().ok()?,
    };
    Some(SocketAddr::new(host, port))
}

/// Splits `HOST:PORT`, as nodes write it: an IPv6 address has no brackets.
pub fn host_and_port(endpoint: &[u8]) -> Option<(&[u8], u16)> {
    let colon = memchr::memrchr(b':', endpoint)?;
    let port = std::str::from_utf8(endpoint.get(colon + 1..)?).ok()?.parse().ok()?;
    Some((endpoint.get(..colon)?, port))
}

/// Reads the reply of the node `from` to CLUSTER NODES: the addresses of the nodes that have joined
/// and aren't known to have failed, those without slots too. Empty if it isn't understood
/// (<https://redis.io/docs/latest/commands/cluster-nodes/>).
pub fn members(nodes: &[u8], from: Option<SocketAddr>) -> HashSet<SocketAddr> {
    let Some(Value::Text(lines)) = Value::parse(nodes) else { return HashSet::new() };
    let member = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ').skip(1);
        let (endpoint, flags) = (words.next()?, words.next()?);
        let is_absent = |flag: &[u8]| matches!(flag, b"fail" | b"handshake" | b"noaddr");
        if flags.split(|byte| *byte == b',').any(is_absent) {
            return None;
        }
        // IP:PORT@BUS-PORT,NAME
        let (host, port) = host_and_port(endpoint.split(|byte| *byte == b'@').next()?)?;
        node(host, port, from)
    };
    lines.split(|byte| *byte == b'\n').filter_map(member).collect()
}

impl Topology {
    /// Reads the replies of the node `from` to CLUSTER INFO and CLUSTER SLOTS.
    ///
    /// # Errors
    /// The reason why the replies can't be used, for a message.
    pub fn parse(info: &[u8], slots: &[u8], from: Option<SocketAddr>) -> Result<Topology, String> {
        let said = |reply: &[u8]| match Value::parse(reply) {
            Some(Value::Error(text)) => format!("it says: {}", String::from_utf8_lossy(text)),
            _ => "its answer isn't understood".to_owned(),
        };
        let info = match Value::parse(info) {
            Some(Value::Text(info)) => info,
            // A login with the least that client libraries need may not ask that.
            Some(Value::Error(text)) if text.starts_with(b"NOPERM") => b"cluster_state:ok\r\n",
            _ => return Err(format!("CLUSTER INFO: {}", said(info))),
        };
        let field = |name: &str| {
            let lines = info.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
            lines.filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":")).next()
        };
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        let mut topology = Topology {
            shards: Vec::new(),
            owners: vec![0; usize::from(SLOTS)],
            epoch: field("cluster_current_epoch").and_then(number).unwrap_or(0),
            is_ok: field("cluster_state") == Some(b"ok"),
            ids: HashSet::new(),
            names: Vec::new(),
            slots_digest: OnceLock::new(),
        };
        let value = Value::parse(slots);
        let Some(ranges) = value.as_ref().and_then(Value::array) else {
            return Err(format!("CLUSTER SLOTS: {}", said(slots)));
        };
        for range in ranges {
            if topology.add(range.array().unwrap_or_default(), from).is_none() {
                return Err(
                    "CLUSTER SLOTS: an entry isn't understood, or names its nodes by names instead of IP addresses"
                        .to_owned(),
                );
            }
        }
        if topology.shards.is_empty() {
            return Err("CLUSTER SLOTS: no slot is served by anybody".to_owned());
        }
        Ok(topology)
    }

    fn add(&mut self, range: &[Value<'_>], from: Option<SocketAddr>) -> Option<()> {
        let [first, last, master, replicas @ ..] = range else { return None };
        let (first, last) = (usize::try_from(first.integer()?).ok()?, usize::try_from(last.integer()?).ok()?);
        if first > last {
            return None;
        }
        let master = self.address(master, from)?;
        // A replica without an address has just failed, or the node hasn't heard of it yet.
        let replicas: Vec<SocketAddr> = replicas.iter().filter_map(|replica| self.address(replica, from)).collect();
        let index = match self.shards.iter().position(|shard| shard.master == master) {
            Some(known) => known,
            None => {
                self.shards.push(Shard { master, replicas });
                self.shards.len() - 1
            }
        };
        self.owners.get_mut(first..=last)?.fill(index as u16 + 1);
        Some(())
    }

    /// Reads a node in CLUSTER SLOTS: its preferred endpoint, port, identifier and, from Redis 7 on,
    /// its other names.
    fn address(&mut self, entry: &Value<'_>, from: Option<SocketAddr>) -> Option<SocketAddr> {
        let [host, port, more @ ..] = entry.array()? else { return None };
        let port = u16::try_from(port.integer()?).ok()?;
        self.ids.extend(more.first().and_then(Value::text).map(Box::from));
        let host = match host {
            Value::Null => &b""[..],
            host => host.text()?,
        };
        // No endpoint, or none yet: that may be the node itself, or any other one.
        let is_nameless = matches!(host, b"" | b"?");
        if let Some(address) = node(host, port, None).filter(|_| !is_nameless) {
            return Some(address);
        }
        let Some(address) = more.get(1).and_then(|names| announced_ip(names, port)) else {
            return from.filter(|from| is_nameless && from.port() == port);
        };
        if !is_nameless && !self.names.iter().any(|(name, _)| **name == *host) {
            self.names.push((host.into(), address.ip()));
        }
        Some(address)
    }

    /// The address of the node that is announced by this name.
    pub fn address_of(&self, name: &[u8], port: u16) -> Option<SocketAddr> {
        let (_, ip) = self.names.iter().find(|(known, _)| **known == *name)?;
        Some(SocketAddr::new(*ip, port))
    }

    /// True if this is another cluster than `other`, by its nodes' identifiers, rather than what has
    /// become of it.
    pub fn is_another(&self, other: &Topology) -> bool {
        !self.ids.is_empty() && !other.ids.is_empty() && self.ids.is_disjoint(&other.ids)
    }

    /// Returns the index of the shard that serves a slot.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).and_then(|owner| usize::from(*owner).checked_sub(1))
    }

    /// Returns the master of the shard that serves a slot.
    pub fn master(&self, slot: u16) -> Option<SocketAddr> {
        self.shards.get(self.owner(slot)?).map(|shard| shard.master)
    }

    /// A slot that a master serves.
    pub fn slot_of(&self, master: SocketAddr) -> Option<u16> {
        (0..SLOTS).find(|slot| self.master(*slot) == Some(master))
    }

    /// True if some slot has another master in `other`.
    pub fn leads_elsewhere(&self, other: &Topology) -> bool {
        (0..SLOTS).any(|slot| self.master(slot) != other.master(slot))
    }

    /// Returns a number that follows from which masters have which slots, and from nothing else.
    pub fn slots_digest(&self) -> u64 {
        *self.slots_digest.get_or_init(|| {
            let mut runs = String::new();
            for (slot, pair) in self.owners.windows(2).enumerate() {
                if let [owner, next] = pair
                    && (slot == 0 || owner != next)
                {
                    let master = |slot: usize| self.master(slot as u16);
                    runs += &format!("{:?} {slot} {:?}\n", master(slot), master(slot + 1));
                }
            }
            xx_hash(runs.as_bytes(), 0)
        })
    }

    /// Returns all shards.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.shards.iter().flat_map(|shard| std::iter::once(shard.master).chain(shard.replicas.iter().copied()))
    }

    /// Notes a redirection: another node serves a slot.
    pub fn move_slot(&mut self, slot: u16, to: SocketAddr) {
        let known = self.shards.iter().position(|shard| shard.master == to);
        let index = known.unwrap_or_else(|| {
            // A promoted replica takes the place of its master.
            let owner = self.owner(slot);
            if let Some((index, shard)) = owner.and_then(|index| Some((index, self.shards.get_mut(index)?)))
                && let Some(replica) = shard.replicas.iter_mut().find(|replica| **replica == to)
            {
                *replica = std::mem::replace(&mut shard.master, to);
                return index;
            }
            self.shards.push(Shard { master: to, replicas: Vec::new() });
            self.shards.len() - 1
        });
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = index as u16 + 1;
        }
        self.slots_digest = OnceLock::new();
    }
}

/// The `ip` among the other names of a node.
fn announced_ip(names: &Value<'_>, port: u16) -> Option<SocketAddr> {
    let mut pairs = names.array()?.chunks_exact(2);
    pairs.find_map(|pair| (pair.first()?.text()? == b"ip").then(|| node(pair.get(1)?.text()?, port, None))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const INFO: &[u8] = b"$43\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n\r\n";

    fn parse(slots: &str) -> Result<Topology, String> {
        Topology::parse(INFO, slots.replace(' ', "\r\n").as_bytes(), "10.0.0.9:7001".parse().ok())
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn slots_and_their_nodes() {
        let topology = parse(
            "*3 *4 :0 :99 *3 $8 10.0.0.1 :7000 $1 a *3 $8 10.0.0.2 :7000 $1 b *3 :100 :199 *2 $0  :7001 *3 :200 :200 *4 $7 redis-3 :7000 $1 c *2 $2 ip $8 10.0.0.3 ",
        )
        .unwrap();
        assert_eq!((topology.epoch, topology.is_ok), (7, true));
        let masters: Vec<SocketAddr> = topology.shards().iter().map(|shard| shard.master).collect();
        assert_eq!(masters, [at("10.0.0.1:7000"), at("10.0.0.9:7001"), at("10.0.0.3:7000")]);
        assert_eq!(topology.shards()[0].replicas, [at("10.0.0.2:7000")]);
        assert_eq!([0, 99, 100, 200, 201].map(|slot| topology.owner(slot)), [Some(0), Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn nodes_that_announce_no_address() {
        let ip = |ip: &str| format!("*2 $2 ip ${} {ip} ", ip.len());
        let of = |host: &str, port: u16, id: &str, ip: &str| format!("*4 {host}:{port} ${} {id} {ip}", id.len());
        // As with `cluster-preferred-endpoint-type unknown-endpoint`: each has another address.
        let slots = format!(
            "*2 *3 :0 :9 {}*3 :10 :19 {}",
            of("$-1 ", 7001, "a", &ip("10.0.0.1")),
            of("$1 ? ", 7001, "b", &ip("10.0.0.2"))
        );
        let topology = parse(&slots).unwrap();
        assert_eq!([topology.master(0), topology.master(10)], [Some(at("10.0.0.1:7001")), Some(at("10.0.0.2:7001"))]);
        // Without an address anywhere, only the node that was asked is known.
        let alone = parse(&format!("*1 *3 :0 :9 {}", of("$-1 ", 7001, "a", "*0 "))).unwrap();
        assert_eq!(alone.master(0), Some(at("10.0.0.9:7001")));
        assert!(parse(&format!("*1 *3 :0 :9 {}", of("$-1 ", 7002, "a", "*0 "))).is_err());
        // Names are kept for redirections.
        let named = parse(&format!("*1 *3 :0 :9 {}", of("$1 n ", 7001, "c", &ip("10.0.0.3")))).unwrap();
        assert_eq!(named.address_of(b"n", 7005), Some(at("10.0.0.3:7005")));
        assert_eq!(named.address_of(b"m", 7005), None);
        assert!(named.is_another(&topology) && !named.is_another(&named));
    }

    #[test]
    fn slots_that_move() {
        let mut topology =
            parse("*2 *4 :0 :99 *2 $8 10.0.0.1 :1 *2 $8 10.0.0.2 :1 *3 :100 :199 *2 $8 10.0.0.3 :1 ").unwrap();
        topology.move_slot(5, at("10.0.0.3:1"));
        assert_eq!(topology.owner(5), Some(1));
        topology.move_slot(6, at("10.0.0.2:1"));
        assert_eq!((topology.owner(6), topology.shards()[0].master), (Some(0), at("10.0.0.2:1")));
        assert_eq!(topology.shards()[0].replicas, [at("10.0.0.1:1")]);
        topology.move_slot(7, at("10.0.0.4:1"));
        assert_eq!((topology.owner(7), topology.nodes().count()), (Some(2), 4));
    }

    #[test]
    fn a_digest_tells_who_has_which_slots() {
        let of = |slots: &str| parse(slots).unwrap();
        let (a, b) = ("*2 $8 10.0.0.1 :1 ", "*2 $8 10.0.0.2 :1 ");
        let first = of(&format!("*2 *3 :0 :99 {a}*3 :100 :199 {b}"));
        // Whoever tells it, and in which pieces.
        let same = of(&format!("*3 *3 :150 :199 {b}*4 :0 :99 {a}*2 $8 10.0.0.3 :1 *3 :100 :149 {b}"));
        assert_eq!(first.slots_digest(), same.slots_digest());
        for other in [
            format!("*2 *3 :0 :98 {a}*3 :99 :199 {b}"),
            format!("*2 *3 :0 :99 {b}*3 :100 :199 {a}"),
            format!("*2 *3 :0 :99 {a}*3 :101 :199 {b}"),
            format!("*1 *3 :0 :199 {a}"),
        ] {
            assert_ne!(first.slots_digest(), of(&other).slots_digest(), "{other}");
        }
        let mut moved = first.clone();
        moved.move_slot(0, at("10.0.0.2:1"));
        assert_ne!(first.slots_digest(), moved.slots_digest());
        moved.move_slot(0, at("10.0.0.1:1"));
        assert_eq!(first.slots_digest(), moved.slots_digest());
        // A replica in its master's place.
        let mut promoted = same.clone();
        promoted.move_slot(0, at("10.0.0.3:1"));
        assert_ne!(same.slots_digest(), promoted.slots_digest());
    }

    #[test]
    fn what_is_no_topology() {
        assert!(parse("*0 ").unwrap_err().contains("no slot"));
        let refused = Topology::parse(INFO, b"-ERR This instance has cluster support disabled\r\n", None);
        assert!(refused.unwrap_err().contains("cluster support"));
        for bad in [
            "+OK ",
            "*1 *3 :0 :99999 *2 $8 10.0.0.1 :1 ",
            "*1 *3 :0 :9 *2 $1 x :1 ",
            "*1 *2 :0 :1 ",
            "*1 *3 :5 :4 *2 $8 10.0.0.1 :1 ",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(Topology::parse(b"+OK\r\n", b"*0\r\n", None).is_err());
        assert!(Topology::parse(INFO, b"-NOPERM x\r\n", None).unwrap_err().contains("NOPERM x"));
        // Who serves which slots is enough.
        let slots = b"*1\r\n*3\r\n:0\r\n:9\r\n*2\r\n$8\r\n10.0.0.1\r\n:1\r\n";
        let restricted = Topology::parse(b"-NOPERM x\r\n", slots, None).unwrap();
        assert_eq!((restricted.epoch, restricted.is_ok), (0, true));
    }
}
