//! The section on many routes.

use std::fmt::Write as _;

use redis_mesh_tests::figures::thousands;

use crate::routes::Routes;

/// Returns the section.
pub fn section(out: &mut String, routes: &Routes) {
    *out += "## Many routes\n\n\
             `GET` 64 B, pipeline 64, of 10,000 keys that the routes share evenly. The routes lead to ten targets (one route: \
             to one), whose tags are ten routes of `redis_proxy`; except in the last rows these lead to one cluster, so that \
             the rows differ in routing alone.\n\n\
             | | CPU µs/request | its least | against its peer | requests/s |\n|---|---:|---:|---|---:|\n";
    for row in &routes.rows {
        let cpu = row.samples.cpu().zip(row.samples.least_cpu());
        let (median, least) = cpu.unwrap_or_default();
        let against = row
            .peer
            .map(|peer| &routes.rows[peer])
            .and_then(|peer| Some(format!("{} × {}", row.samples.cpu_ratio(&peer.samples)?.ratio(), peer.name)));
        let _ = writeln!(
            out,
            "| {} | {median:.2} | {least:.2} | {} | {} |",
            row.name,
            against.unwrap_or_default(),
            thousands(row.samples.median(|sample| sample.rate) as u64)
        );
    }
    *out += "\nThe configuration is read by the VM of each worker and, when it is new, twice more by the main thread. Envoy \
             compiles the filter once.\n\n\
             | routes | document | on_configure of a worker | compilation | Envoy's resident memory |\n\
             |---:|---:|---:|---:|---:|\n";
    for configuration in &routes.configurations {
        let _ = writeln!(
            out,
            "| {} | {} B | {:.2} ms | {:.0} ms | {:.1} MiB |",
            thousands(configuration.routes as u64),
            thousands(configuration.bytes as u64),
            configuration.milliseconds,
            configuration.compile,
            configuration.memory as f64 / (1 << 20) as f64
        );
    }
    *out += "\n";
}
