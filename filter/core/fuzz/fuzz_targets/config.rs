//! Every document is compiled or refused, and a compiled one routes every key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_mesh_core::rewriter::config::RewriterConfig;

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let (json, key) = data.split_at(cut);
    if let Ok(config) = RewriterConfig::from_json(json) {
        config.select(Some("l"), Some("c"), Some("a"));
        for host in &config.hosts {
            host.router.find(key);
        }
    }
});
