//! INFO (<https://redis.io/docs/latest/commands/info/>), shown as that of one Redis.

use crate::resp::encode;

/// Returns a reply to INFO without the statement that the server is a node of a Redis Cluster.
/// Clients that believe the statement look for other nodes, and would reach those past the proxy.
///
/// The fields are Redis's `redis_mode` and `cluster_enabled` and Valkey's `server_mode`. The reply
/// is a bulk string or a verbatim string; any other is returned as it is.
pub fn standalone(reply: &[u8]) -> Vec<u8> {
    let newline = memchr::memchr(b'\n', reply);
    let text = newline.and_then(|newline| reply.get(newline + 1..reply.len().checked_sub(2)?));
    let (Some(&kind @ (b'$' | b'=')), Some(text)) = (reply.first(), text) else { return reply.to_vec() };
    let mut edited = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        edited.extend_from_slice(match line.trim_ascii_end() {
            b"redis_mode:cluster" => b"redis_mode:standalone\r\n",
            b"server_mode:cluster" => b"server_mode:standalone\r\n",
            b"cluster_enabled:1" => b"cluster_enabled:0\r\n",
            _ => line,
        });
    }
    let mut out = Vec::with_capacity(edited.len() + 16);
    encode::header(&mut out, kind, edited.len() as u64);
    out.extend_from_slice(&edited);
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The text of INFO after the change, in RESP2 and RESP3.
    fn check(text: &str, expected: &str) {
        let shown = |kind: &str, prefix: &str, text: &str| {
            format!("{kind}{}\r\n{prefix}{text}\r\n", prefix.len() + text.len()).into_bytes()
        };
        for (kind, prefix) in [("$", ""), ("=", "txt:")] {
            let reply = standalone(&shown(kind, prefix, text));
            assert_eq!(reply.escape_ascii().to_string(), shown(kind, prefix, expected).escape_ascii().to_string());
        }
    }

    #[test]
    fn redis() {
        check(
            "# Server\r\nredis_version:7.2.5\r\nredis_mode:cluster\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n",
            "# Server\r\nredis_version:7.2.5\r\nredis_mode:standalone\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n",
        );
    }

    #[test]
    fn valkey() {
        check(
            "# Server\r\nserver_name:valkey\r\nserver_mode:cluster\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n",
            "# Server\r\nserver_name:valkey\r\nserver_mode:standalone\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n",
        );
    }

    #[test]
    fn other_replies_stay() {
        let standalone_already = "# Server\r\nredis_mode:standalone\r\ncluster_enabled:0\r\nx:redis_mode\r\n";
        check(standalone_already, standalone_already);
        for reply in [&b"-ERR no\r\n"[..], b"$-1\r\n", b"$0\r\n\r\n", b"+QUEUED\r\n", b"$", b""] {
            assert_eq!(standalone(reply), reply);
        }
    }
}
