//! The section on the paths under every workload.

use std::fmt::Write as _;

use redis_mesh_tests::figures::thousands;

use crate::kind::Kind;
use crate::paths::Paths;
use crate::samples::Samples;
use crate::work::{Request, Work};

/// Writes the comparison of the native path with the others.
pub fn native(out: &mut String, paths: &Paths) {
    *out += "## The native path's CPU time per request, against others'\n\n";
    let peers = [Kind::RedisProxy, Kind::TcpProxy, Kind::Twemproxy];
    let there: Vec<Kind> = peers.into_iter().filter(|kind| paths.rows.iter().any(|row| row.kind == *kind)).collect();
    let heads: Vec<String> = there.iter().map(|peer| format!("{} : {}", Kind::Native.name(), peer.name())).collect();
    table(out, &heads, paths, |work| {
        let own = paths.samples(work, Kind::Native)?;
        Some(there.iter().map(|peer| ratio(own, paths.samples(work, *peer))).collect())
    });
}

/// Writes the comparison of the wasm filter with the proxy behind it alone.
pub fn filter(out: &mut String, paths: &Paths) {
    *out += "## Envoy's CPU time per request, with the wasm filter : without it\n\n";
    let filtered: Vec<(usize, usize)> = paths
        .rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.kind.has_filter())
        .filter_map(|(i, row)| Some((i, row.peer?)))
        .collect();
    let name = |i: usize| paths.rows[i].name.as_str();
    let heads: Vec<String> = filtered.iter().map(|&(i, peer)| format!("{} : {}", name(i), name(peer))).collect();
    table(out, &heads, paths, |work| {
        let (_, samples) = paths.results.iter().find(|(known, _)| known == work)?;
        let any = filtered.iter().any(|&(i, _)| !samples[i].is_empty());
        any.then(|| filtered.iter().map(|&(i, peer)| ratio(&samples[i], Some(&samples[peer]))).collect())
    });
}

/// Writes the number of new connections of transactions.
pub fn transactions(out: &mut String, paths: &Paths) {
    let Some((_, samples)) = paths.results.iter().find(|(work, _)| work.request == Request::Transaction) else {
        return;
    };
    *out += "## Transactions\n\n\
             `MULTI`, `SET`, `GET`, `EXEC` in one write, which count as one request above and below. New connections that Redis \
             sees per 1,000 transactions:\n\n| | |\n|---|---:|\n";
    for (row, samples) in paths.rows.iter().zip(samples) {
        if let Some(connections) = samples.connections() {
            let _ = writeln!(out, "| {} | {:.0} |", row.name, connections * 1000.0);
        }
    }
    *out += "\n";
}

/// Writes all results.
pub fn everything(out: &mut String, paths: &Paths) {
    *out += "## Every way under every work\n\n![the same as bars](benchmark.svg)\n\n";
    for (work, samples) in &paths.results {
        let _ = writeln!(
            out,
            "### {}\n\n| | requests/s | p50 µs | p99 µs | p99.9 µs | CPU µs/request | its least |\n\
             |---|---:|---:|---:|---:|---:|---:|",
            work.title()
        );
        for (row, samples) in paths.rows.iter().zip(samples).filter(|(_, samples)| !samples.is_empty()) {
            let _ = write!(out, "| {} | {} |", row.name, thousands(samples.median(|sample| sample.rate) as u64));
            for i in 0..3 {
                let _ = write!(out, " {} |", thousands(samples.median(|sample| sample.latency[i]) as u64));
            }
            let _ = match samples.cpu().zip(samples.least_cpu()) {
                Some((median, least)) => writeln!(out, " {median:.2} | {least:.2} |"),
                None => writeln!(out, " | |"),
            };
        }
        *out += "\n";
    }
}

/// Writes a table with one row for each workload for which `row` returns one.
fn table(out: &mut String, heads: &[String], paths: &Paths, row: impl Fn(&Work) -> Option<Vec<String>>) {
    let _ = writeln!(out, "| work | {} |\n|---|{}", heads.join(" | "), "---:|".repeat(heads.len()));
    for (work, _) in &paths.results {
        if let Some(cells) = row(work) {
            let _ = writeln!(out, "| {} | {} |", work.title(), cells.join(" | "));
        }
    }
    *out += "\n";
}

fn ratio(own: &Samples, peer: Option<&Samples>) -> String {
    peer.and_then(|peer| own.cpu_ratio(peer)).map(|spread| spread.ratio()).unwrap_or_default()
}
