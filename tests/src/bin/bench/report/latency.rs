//! The section on latency at a fixed rate.

use std::fmt::Write as _;

use redis_mesh_tests::figures::thousands;

use crate::latency::{Latency, SHARE};
use crate::subject::CONNECTIONS;

/// Returns the section.
pub fn section(out: &mut String, latency: &Latency) {
    let _ = writeln!(
        out,
        "## Latency at a fixed rate\n\n\
         {} `GET`s of 64 B per second on {CONNECTIONS} connections in turn: {:.0} % of what the slowest can do. A request is due \
         at a fixed time, whatever has become of those before it, and its latency begins then: a stall counts for all \
         requests that were due meanwhile. {} rounds of {} ms in turn; medians of the rounds, and in parentheses the least. \
         *late* is by how much the load itself has sent too late, which is part of the latency: \
         where it is nearly as much, the machine was measured rather than the proxy.\n\n\
         | | p50 µs | p99 µs | p99.9 µs | late: p50 | p99 | p99.9 | CPU µs/request |\n|---|---:|---:|---:|---:|---:|---:|---:|",
        thousands(latency.rate as u64),
        SHARE * 100.0,
        latency.rounds,
        latency.duration.as_millis(),
    );
    let micros = |value: f64| thousands(value as u64);
    for row in &latency.rows {
        let _ = write!(out, "| {} |", row.name);
        for (median, least) in row.latency.iter().zip(row.least) {
            let _ = write!(out, " {} ({}) |", micros(*median), micros(least));
        }
        for late in row.late {
            let _ = write!(out, " {} |", micros(late));
        }
        let cpu = row.cpu.map(|cpu| format!("{cpu:.2}")).unwrap_or_default();
        let _ = writeln!(out, " {cpu} |");
    }
    *out += "\n";
}
