//! The report in Markdown.

use std::fmt::Write;
use std::time::Duration;

use redis_mesh_tests::figures::thousands;

use super::{BASE, Change, MAX_MEMORY, MAX_RATIO, Results, Stage, population};

/// What the suite has measured, and this benchmark doesn't.
const CONNECTIONS: &str = include_str!("connections.md");

/// Returns the whole report.
pub fn text(results: &Results) -> String {
    let mut out = String::from(
        "# What the controller costs\n\nWritten by `just scale`; `cargo mesh scale --help` tells more of it. `just scale --out docs` writes this file anew.\n\n",
    );
    // Writing to a String doesn't fail.
    let _ = ratios(&mut out, results);
    let _ = setting(&mut out);
    let _ = changes(&mut out, &results.stages);
    let _ = growth(&mut out, &results.stages);
    let _ = rendered(&mut out, &results.stages);
    let _ = bursts(&mut out, &results.stages);
    let _ = restart(&mut out, results);
    out += CONNECTIONS;
    out
}

fn ratios(out: &mut String, results: &Results) -> std::fmt::Result {
    let most = results.stages.last().map_or(0, |stage| stage.services);
    writeln!(out, "## What doesn't depend on the machine\n")?;
    writeln!(out, "| | measured | goal |\n|---|---:|---:|")?;
    for (what, ratio) in results.ratios() {
        let goal = if results.is_complete { format!("at most {MAX_RATIO}") } else { "not judged of so few".to_owned() };
        writeln!(
            out,
            "| A pass for one change of {what}, among {} : among {BASE} | {ratio:.2} | {goal} |",
            thousands(most as u64)
        )?;
    }
    let memory = results.stages.last().map_or(0.0, |stage| stage.memory.1);
    writeln!(
        out,
        "| Resident memory with {} RedisServices | {} | at most {} |",
        thousands(most as u64),
        megabytes(memory),
        megabytes(MAX_MEMORY)
    )?;
    for stage in &results.stages {
        let Some(burst) = &stage.burst else { continue };
        let (count, of) = (thousands(burst.count as u64), thousands(stage.services as u64));
        let pushes = burst.counters.pushes;
        writeln!(out, "| Pushes to a sidecar for {count} changes at once, among {of} | {pushes} | few |")?;
    }
    writeln!(out)
}

fn setting(out: &mut String) -> std::fmt::Result {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let processor = processor.trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(1).unwrap_or_default();
    writeln!(
        out,
        "A real etcd, kube-apiserver and istiod, and one pod with a sidecar, which gets the whole mesh: nothing narrows what Istio \
         sends it. {cores} cores ({processor}) for all of them together, and for whatever else the machine did: the \
         load average at the end was {load}. The controller is \
         optimised and has its defaults, a debounce of 100 ms among them. {}{} namespaces share them. Each has its Service, on port \
         6379, and an EndpointSlice with two endpoints.\n",
        population::MIX,
        format_args!(" {}", population::NAMESPACES)
    )
}

fn changes(out: &mut String, stages: &[Stage]) -> std::fmt::Result {
    writeln!(out, "## One change\n")?;
    writeln!(
        out,
        "One object is changed, and nothing else happens meanwhile; shown are medians of nine changes (with `--quick` five), and means of what is counted. *Pass* is what the \
         controller spends on it, by its histogram `redis_mesh_controller_reconcile_duration_seconds`: evaluating what the change \
         concerns, planning all objects and comparing them with what is there, and waiting for the API server to write the \
         rendered objects and the status. *Until Programmed* begins before the request that changes the object, and holds the \
         debounce. *Faults* are those of one RedisService; *routes* are a prefix more or less, to a destination that it has. \
         Pushed is what the sidecar's Envoy reads from its xDS connection until nothing more comes, and all of istiod's CPU \
         time until then.\n"
    )?;
    writeln!(
        out,
        "| RedisServices | change | pass | passes | until Programmed | controller's CPU | objects written | pushed | istiod's CPU |"
    )?;
    writeln!(out, "|---:|---|---:|---:|---:|---:|---:|---:|---:|")?;
    for stage in stages {
        for Change { what, reconcile, programmed, total, count, push } in &stage.changes {
            let count = *count as f64;
            writeln!(
                out,
                "| {} | {what} | {:.1} ms | {:.1} | {} | {:.1} ms | {:.1} | {} | {:.1} s |",
                thousands(stage.services as u64),
                reconcile * 1e3,
                total.passes / count,
                time(*programmed),
                total.cpu / count * 1e3,
                total.applies / count,
                bytes(push.pushed),
                push.istiod_cpu,
            )?;
        }
    }
    writeln!(out)
}

fn growth(out: &mut String, stages: &[Stage]) -> std::fmt::Result {
    writeln!(out, "## Many at once\n")?;
    writeln!(
        out,
        "From each size to the next, by eight writers. *Written* is how long the API server took to take the new objects, \
         RedisDestinations among them; *programmed* is the time from the first of them until the status of the last says so. \
         The controller's memory is read after all changes at that size: resident, as `redis_mesh_controller_resident_memory_bytes` \
         and the kernel tell it, and the highest so far.\n"
    )?;
    writeln!(
        out,
        "| RedisServices | added | written | programmed | passes | objects written | statuses written | controller's CPU | memory by its metric | by the kernel | highest |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for stage in stages {
        let (own, kernel, highest) = stage.memory;
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {:.2} s | {} | {} | {} |",
            thousands(stage.services as u64),
            thousands(stage.added as u64),
            time(stage.written),
            time(stage.programmed),
            stage.growth.passes,
            thousands(stage.growth.applies as u64),
            thousands(stage.growth.statuses as u64),
            stage.growth.cpu,
            megabytes(own),
            megabytes(kernel),
            megabytes(highest),
        )?;
    }
    writeln!(out)
}

fn rendered(out: &mut String, stages: &[Stage]) -> std::fmt::Result {
    writeln!(out, "## What is rendered, and what it weighs\n")?;
    writeln!(
        out,
        "Objects as JSON. A WasmPlugin that would pass 256 KiB gives way to an EnvoyFilter for each host. The sidecar's part is that \
         of a sidecar that gets every Service; Istio's `Sidecar` and `exportTo` narrow it.\n"
    )?;
    writeln!(
        out,
        "| RedisServices | WasmPlugins | largest | EnvoyFilters | largest | all | pushed to the sidecar while they came | pushes | its `/config_dump` |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for stage in stages {
        let (plugins, filters) = (stage.wasm_plugins, stage.envoy_filters);
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            thousands(stage.services as u64),
            thousands(plugins.0 as u64),
            bytes(plugins.2 as f64),
            thousands(filters.0 as u64),
            bytes(filters.2 as f64),
            bytes((plugins.1 + filters.1) as f64),
            bytes(stage.growth.pushed),
            stage.growth.pushes,
            bytes(stage.config_dump as f64),
        )?;
    }
    writeln!(out)
}

fn bursts(out: &mut String, stages: &[Stage]) -> std::fmt::Result {
    writeln!(out, "## A burst\n")?;
    writeln!(
        out,
        "Each change is that of another RedisService's faults. Triggers are what istiod counts as a reason to push \
         (`pilot_push_triggers`), pushes are those to the sidecar, of every type (`pilot_xds_pushes`).\n"
    )?;
    writeln!(
        out,
        "| RedisServices | changes | written | programmed | passes | objects written | statuses written | istiod's triggers | pushes | pushed | controller's CPU | istiod's CPU |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for stage in stages {
        let Some(burst) = &stage.burst else { continue };
        let counters = &burst.counters;
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.2} s | {:.1} s |",
            thousands(stage.services as u64),
            thousands(burst.count as u64),
            time(burst.written),
            time(burst.programmed),
            counters.passes,
            thousands(counters.applies as u64),
            thousands(counters.statuses as u64),
            counters.triggers,
            counters.pushes,
            bytes(counters.pushed),
            counters.cpu,
            counters.istiod_cpu,
        )?;
    }
    writeln!(out)
}

fn restart(out: &mut String, results: &Results) -> std::fmt::Result {
    let restart = &results.restart;
    writeln!(out, "## A controller that begins\n")?;
    writeln!(
        out,
        "With {} RedisServices there, from the start of its process until the end of its first pass: {}, {:.2} s of CPU time, {} \
         resident ({} at the highest). It wrote {} objects and {} statuses.",
        thousands(results.stages.last().map_or(0, |stage| stage.services as u64)),
        time(restart.took),
        restart.cpu,
        megabytes(restart.memory.1),
        megabytes(restart.memory.2),
        restart.applies.abs(),
        restart.statuses.abs(),
    )
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

fn bytes(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0} B"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n => format!("{:.1} MB", n / 1e6),
    }
}

fn megabytes(n: f64) -> String {
    format!("{:.0} MB", n / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_written_for_people() {
        assert_eq!([0.0, 999.0, 1_500.0, 2e6].map(bytes), ["0 B", "999 B", "1.5 kB", "2.0 MB"]);
        assert_eq!([Duration::from_millis(20), Duration::from_millis(1_250)].map(time), ["20 ms", "1.2 s"]);
    }
}
