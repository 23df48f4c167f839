//! `just bench`: the cost of each path from a client to Redis.

mod envoy_config;
mod fanout;
mod goals;
mod idle;
mod kind;
mod latency;
mod load;
mod memory;
mod open_loop;
mod options;
mod paths;
mod plot;
mod report;
mod routes;
mod running;
mod samples;
mod socket;
mod subject;
mod twemproxy;
mod versions;
mod work;
mod workload;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use options::Options;
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::redis::{self, Redis};
use redis_mesh_tests::{command_line, filter};

fn main() -> ExitCode {
    let options = Options::parse(std::env::args().skip(1));
    command_line::main(options::HELP, options, |options| run(&options).map(|()| ExitCode::SUCCESS))
}

fn run(options: &Options) -> Result<()> {
    let filter = match &options.filter {
        Some(file) => file.clone(),
        None => filter::build()?,
    };
    idle::raise_descriptors()?;
    if twemproxy::program().is_none() {
        options.progress("twemproxy (nutcracker) isn't installed: going on without it");
    }
    let redis =
        Redis::start_with(redis::Options { config: vec!["maxclients 15000".into()], ..redis::Options::default() })?;
    let mut report = report::Report::new(options, &redis, &filter)?;
    if let Some(base) = &options.base {
        report.versions = Some(versions::measure(options, &redis, &filter, base)?);
    }
    if options.base.is_none() && options.wants_part("paths") {
        report.paths = Some(paths::measure(options, &redis, &filter)?);
    }
    if options.wants_part("latency") {
        report.latency = Some(latency::measure(options, &redis, &filter)?);
    }
    if options.wants_part("fanout") {
        report.fanout = Some(fanout::measure(options, &redis, &filter)?);
    }
    if options.wants_part("memory") {
        report.memory = Some(memory::measure(options, &filter)?);
    }
    if options.wants_part("routes") {
        report.routes = Some(routes::measure(options, &redis, &filter)?);
    }
    if options.wants_part("idle") {
        report.idle = Some(idle::measure(options, &redis, &filter)?);
    }
    std::fs::create_dir_all(&options.out).with_context(|| format!("can't create {}", options.out.display()))?;
    let write = |name: &str, text: &str| {
        let path = options.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
    };
    let text = report.markdown();
    write("benchmark.md", &text)?;
    if let Some(paths) = &report.paths {
        write("benchmark.svg", &plot::svg(paths))?;
    }
    println!("{text}");
    Ok(())
}

/// Sets every key to this value.
fn fill(client: &mut Client, keys: &[String], value: &[u8]) -> Result<()> {
    for keys in keys.chunks(16) {
        let commands: Vec<u8> = keys.iter().flat_map(|key| encode(&[b"SET", key.as_bytes(), value])).collect();
        client.write(&commands)?;
        for _ in keys {
            let reply = client.read()?;
            ensure!(!reply.is_error(), "Redis can't be filled: {}", reply.text());
        }
    }
    Ok(())
}
