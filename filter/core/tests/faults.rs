//! Faults of routes that commands over several servers get.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::multiplexer::config::ListenerConfig;
use redis_mesh_core::multiplexer::{Multiplexer, Output};
use redis_mesh_core::resp::encode;
use serde_json::json;
use std::time::Duration;

/// The reply of the multiplexer itself to a command whose arguments are separated by spaces; `None`:
/// it goes to Redis.
fn reply(line: &str) -> Option<String> {
    let fault = json!([{"type": "error", "perMillion": 1_000_000, "commands": ["del", "mget", "eval", "dbsize"]}]);
    let document = json!({"name": "n", "revision": 1, "hosts": [{
        "host": "h:6379", "path": "native",
        "targets": [{"destination": "c:6379", "cluster": true, "upstream": {"cluster": "c"}}],
        "routes": [{"match": {"prefix": "quiet:"}, "target": 0}, {"match": "any", "target": 0, "faults": fault}],
    }]});
    let config = ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host;
    let mut multiplexer = Multiplexer::new([1; 32]);
    let client = multiplexer.open(config);
    let mut request = Vec::new();
    encode::command(&mut request, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    multiplexer.read(client, &request, Duration::from_secs(1));
    while let Some(output) = multiplexer.poll() {
        match output {
            Output::Write(id) => return Some(String::from_utf8_lossy(&multiplexer.take_downstream(id)).into_owned()),
            Output::Open(..) => return None,
            _ => {}
        }
    }
    None
}

#[test]
fn commands_over_several_slots_get_the_faults_of_their_routes() {
    let fault = Some("-Fault Injected: Error\r\n".to_owned());
    for line in ["DEL a", "DEL a b", "MGET a b", "MGET quiet:a a", "EVAL x 1 a", "EVAL x 0", "DBSIZE"] {
        assert_eq!(reply(line), fault, "{line}");
    }
    for line in ["DEL quiet:a", "DEL quiet:a quiet:b", "MSET a 1 b 2", "EVAL_RO x 0"] {
        assert_eq!(reply(line), None, "{line}");
    }
}
