//! What a node of a cluster says about a key that isn't its own
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding>).

use crate::cluster::topology::node;
use std::net::SocketAddr;

/// Why a node doesn't execute a command, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// The slot belongs to another node. Absent: to one whose address the answer doesn't tell, or by a name.
    Moved(u16, Option<SocketAddr>),
    /// This key is at another node already, while the slot is on its way there.
    Ask(Option<SocketAddr>),
    /// Only some of the command's keys are there already.
    TryAgain,
    /// The cluster doesn't serve the slot at present.
    ClusterDown,
}

impl Redirect {
    /// Reads an error reply. `from`: the node that says it, since it may leave out a host that is its own.
    pub fn parse(reply: &[u8], from: Option<SocketAddr>) -> Option<Redirect> {
        let mut words = reply.strip_prefix(b"-")?.trim_ascii_end().split(|byte| *byte == b' ');
        match words.next()? {
            b"TRYAGAIN" => Some(Redirect::TryAgain),
            b"CLUSTERDOWN" => Some(Redirect::ClusterDown),
            kind @ (b"MOVED" | b"ASK") => {
                let slot: u16 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
                let place = words.next()?;
                let colon = memchr::memrchr(b':', place)?;
                let (host, port) = (place.get(..colon)?, place.get(colon + 1..)?);
                let port: u16 = std::str::from_utf8(port).ok()?.parse().ok()?;
                let address = node(host, port, from);
                Some(if kind == b"MOVED" { Redirect::Moved(slot, address) } else { Redirect::Ask(address) })
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
        let own = "10.0.0.9:7000".parse().ok();
        let parse = |text: &str| Redirect::parse(text.as_bytes(), own);
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(parse("-MOVED 3999 127.0.0.1:6381\r\n"), Some(Redirect::Moved(3999, at("127.0.0.1:6381"))));
        assert_eq!(parse("-ASK 1 ::1:6381\r\n"), Some(Redirect::Ask(at("[::1]:6381"))));
        assert_eq!(parse("-MOVED 1 :6381\r\n"), Some(Redirect::Moved(1, at("10.0.0.9:6381"))));
        assert_eq!(parse("-MOVED 1 redis-0.redis:6381\r\n"), Some(Redirect::Moved(1, None)));
        assert_eq!(parse("-TRYAGAIN Multiple keys request during rehashing of slot\r\n"), Some(Redirect::TryAgain));
        assert_eq!(parse("-CLUSTERDOWN Hash slot not served\r\n"), Some(Redirect::ClusterDown));
        for other in
            ["-ERR x\r\n", "+MOVED 1 a:1\r\n", "-MOVED\r\n", "-MOVED x a:1\r\n", "-MOVED 1 a\r\n", "-MOVEDX 1 a:1\r\n"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
