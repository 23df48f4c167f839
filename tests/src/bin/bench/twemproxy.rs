//! twemproxy (the program `nutcracker`), a peer that is measured if it is installed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::process::Process;
use redis_mesh_tests::{net, wheel, workspace};

/// The path of the program, if it is installed.
pub fn program() -> Option<PathBuf> {
    wheel::on_path("nutcracker").or_else(|| Some(PathBuf::from("/usr/sbin/nutcracker")).filter(|path| path.is_file()))
}

/// The version that the program reports.
pub fn version() -> Option<String> {
    let output = Command::new(program()?).arg("--version").output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split_whitespace().find_map(|word| word.strip_prefix("nutcracker-")).map(str::to_string)
}

/// Starts twemproxy with one connection to this server, as Envoy's proxies have, and waits until
/// it answers.
pub fn start(program: PathBuf, listener: SocketAddr, server: SocketAddr) -> Result<Process> {
    let dir = workspace::scratch("twemproxy")?;
    let config = dir.join("nutcracker.yml");
    std::fs::write(
        &config,
        format!(
            "bench:\n  listen: {listener}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  backlog: 1024\n  \
             server_connections: 1\n  servers:\n    - {server}:1\n"
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&config).arg("-o").arg(dir.join("nutcracker.log")).arg("-p").arg(dir.join("pid"));
    command.args(["-v", "2", "-a", "127.0.0.1", "-s", &net::free_port()?.to_string()]);
    let mut process = Process::start("twemproxy", command, &dir.join("output"))?;
    process.wait_until("answer to PING", Duration::from_secs(10), || {
        Client::connect(listener).ok()?.ok(&["PING"]).ok().map(|_| ())
    })?;
    Ok(process)
}
