//! The errors by which a node of a Redis Cluster sends a client to another node, or asks it to
//! wait
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding>).

use crate::cluster::slot::SLOTS;
use crate::cluster::topology::{host_and_port, node};
use std::net::SocketAddr;

/// The reason why a node of a Redis Cluster hasn't executed a command.
///
/// The text comes from the network, and a script that a client runs can make an error with any
/// text: only the redirect gate compares the slot and the address with what is known of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// The slot belongs to the node of this address (`MOVED`). The address is absent if the error
    /// has a host name in its place.
    Moved(u16, Option<SocketAddr>),
    /// The slot is being migrated to the node of this address, and the key is there already or
    /// doesn't exist (`ASK`). The address is absent if the error has a host name in its place.
    Ask(u16, Option<SocketAddr>),
    /// The slot is being migrated, and only some of the command's keys have been (`TRYAGAIN`).
    TryAgain,
    /// The cluster doesn't serve the slot at present (`CLUSTERDOWN`).
    ClusterDown,
}

impl Redirect {
    /// The host, which may be a name, and the port in a complete reply that names a node.
    pub fn host(reply: &[u8]) -> Option<(&[u8], u16)> {
        host_and_port(reply.trim_ascii_end().split(|byte| *byte == b' ').nth(2)?)
    }

    /// Parses a complete reply; returns `None` if it isn't one of these errors. `from` is the
    /// address of the node that has replied: an error without a host means that host.
    pub fn parse(reply: &[u8], from: Option<SocketAddr>) -> Option<Redirect> {
        let mut words = reply.strip_prefix(b"-")?.trim_ascii_end().split(|byte| *byte == b' ');
        match words.next()? {
            b"TRYAGAIN" => Some(Redirect::TryAgain),
            b"CLUSTERDOWN" => Some(Redirect::ClusterDown),
            kind @ (b"MOVED" | b"ASK") => {
                let slot: u16 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
                if slot >= SLOTS {
                    return None;
                }
                let (host, port) = host_and_port(words.next()?)?;
                let address = node(host, port, from);
                Some(if kind == b"MOVED" { Redirect::Moved(slot, address) } else { Redirect::Ask(slot, address) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn errors_of_a_node() {
        let from = "10.0.0.9:7000".parse().ok();
        let parse = |text: &str| Redirect::parse(text.as_bytes(), from);
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(parse("-MOVED 3999 127.0.0.1:6381\r\n"), Some(Redirect::Moved(3999, at("127.0.0.1:6381"))));
        assert_eq!(parse("-ASK 1 ::1:6381\r\n"), Some(Redirect::Ask(1, at("[::1]:6381"))));
        assert_eq!(parse("-MOVED 1 :6381\r\n"), Some(Redirect::Moved(1, at("10.0.0.9:6381"))));
        assert_eq!(parse("-MOVED 1 redis-0.redis:6381\r\n"), Some(Redirect::Moved(1, None)));
        assert_eq!(parse("-ASK 1 ?:6381\r\n"), Some(Redirect::Ask(1, None)));
        assert_eq!(Redirect::host(b"-MOVED 1 redis-0.redis:6381\r\n"), Some((&b"redis-0.redis"[..], 6381)));
        assert_eq!(parse("-TRYAGAIN Multiple keys request during rehashing of slot\r\n"), Some(Redirect::TryAgain));
        assert_eq!(parse("-CLUSTERDOWN Hash slot not served\r\n"), Some(Redirect::ClusterDown));
        for other in
            ["-ERR x\r\n", "+MOVED 1 a:1\r\n", "-MOVED\r\n", "-MOVED x a:1\r\n", "-MOVED 1 a\r\n", "-MOVEDX 1 a:1\r\n"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn hostile_errors() {
        let from = "10.0.0.9:7000".parse().ok();
        let parse = |text: &[u8]| Redirect::parse(text, from);
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(parse(b"-MOVED +1 1.2.3.4:1\r\n"), Some(Redirect::Moved(1, at("1.2.3.4:1"))));
        // What follows the address doesn't matter, and an ASK needs a slot, too.
        assert_eq!(parse(b"-MOVED 1 1.2.3.4:1 x y\r\n"), Some(Redirect::Moved(1, at("1.2.3.4:1"))));
        assert_eq!(parse(b"-ASK 1 1.2.3.4:0\r\n"), Some(Redirect::Ask(1, at("1.2.3.4:0"))));
        assert_eq!(parse(b"-MOVED 1 ?:1\r\n"), Some(Redirect::Moved(1, None)));
        assert_eq!(Redirect::parse(b"-MOVED 1 :1\r\n", None), Some(Redirect::Moved(1, None)));
        // These are host names as far as they matter here. An IPv6 address stands without
        // brackets.
        for host in ["[::1]", "a.b", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "::1%eth0", "\0", "1.2.3.4\0"] {
            assert_eq!(parse(format!("-MOVED 1 {host}:1\r\n").as_bytes()), Some(Redirect::Moved(1, None)), "{host}");
        }
        assert_eq!(parse(b"-MOVED 1 \xff\xfe:1\r\n"), Some(Redirect::Moved(1, None)));
        for other in [
            "",
            "-",
            "-\r\n",
            "-MOVED 16384 1.2.3.4:1\r\n",
            "-ASK 16384 1.2.3.4:1\r\n",
            "-MOVED 65536 1.2.3.4:1\r\n",
            "-MOVED -1 1.2.3.4:1\r\n",
            "-MOVED \u{0}1 1.2.3.4:1\r\n",
            "-MOVED 1 1.2.3.4:\u{0}\r\n",
            "-MOVED  1 1.2.3.4:1\r\n",
            "-MOVED 1  1.2.3.4:1\r\n",
            "-MOVED 1 \r\n",
            "-MOVED 1 :\r\n",
            "-MOVED 1 1.2.3.4:65536\r\n",
            "-MOVED 1 1.2.3.4:-1\r\n",
            "-MOVED 1 1.2.3.4:1:\r\n",
            "-MOVED\t1\t1.2.3.4:1\r\n",
            "-moved 1 1.2.3.4:1\r\n",
            " -MOVED 1 1.2.3.4:1\r\n",
            "-ASK 1.2.3.4:1\r\n",
            "!22\r\nMOVED 1 1.2.3.4:1\r\n",
            "$19\r\n-MOVED 1 1.2.3.4:1\r\n",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
        // The first word decides, and nothing has to follow it.
        assert_eq!(parse(b"-TRYAGAIN"), Some(Redirect::TryAgain));
        assert_eq!(parse(b"-CLUSTERDOWN \0\xff"), Some(Redirect::ClusterDown));
        assert_eq!(parse(b"-TRYAGAINST x\r\n"), None);
    }
}
