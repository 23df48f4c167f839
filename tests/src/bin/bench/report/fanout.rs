//! The section on pub/sub.

use std::fmt::Write as _;

use redis_mesh_tests::figures::thousands;

use crate::fanout::{BURST, Fanout, MESSAGE, SUBSCRIBERS};

/// Returns the section.
pub fn section(out: &mut String, fanout: &Fanout) {
    let _ = writeln!(
        out,
        "## Pub/sub\n\n\
         {SUBSCRIBERS} subscribers of one channel get every message of {MESSAGE} B; {BURST} are published at once, to Redis itself, and the \
         next when all have been read. Counted are messages as subscribers get them. `redis_proxy` and twemproxy know no \
         SUBSCRIBE.\n\n\
         | | messages/s | CPU µs/message | CPU : tcp_proxy |\n|---|---:|---:|---:|"
    );
    let first = fanout.rows.first().map(|(_, samples)| samples);
    for (kind, samples) in &fanout.rows {
        let cpu = samples.cpu().map(|cpu| format!("{cpu:.3}")).unwrap_or_default();
        let ratio = first.and_then(|first| samples.cpu_ratio(first)).map(|ratio| ratio.ratio()).unwrap_or_default();
        let rate = thousands(samples.median(|sample| sample.rate) as u64);
        let _ = writeln!(out, "| {} | {rate} | {cpu} | {ratio} |", kind.name());
    }
    *out += "\n";
}
