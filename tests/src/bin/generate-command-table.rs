//! Writes `filter/core/src/command/table.rs` anew from the pinned servers.

use anyhow::{Result, ensure};
use redis_mesh_tests::command_table::{PINNED, Server, generate, path, start_servers};

fn main() -> Result<()> {
    let servers =
        start_servers(&[])?.iter().map(|server| Server::ask(&mut server.client()?)).collect::<Result<Vec<_>>>()?;
    let found: Vec<String> = servers.iter().map(|server| format!("{} {}", server.name, server.version)).collect();
    ensure!(
        servers.len() == PINNED.len() && servers.iter().all(Server::is_pinned),
        "the table is made from {PINNED:?}; this machine has {found:?}"
    );
    std::fs::write(path(), generate(&servers)?)?;
    println!("{} is made from {}", path().display(), found.join(" and "));
    Ok(())
}
