//! The sections on memory: for peers that don't read, and of idle connections.

use std::fmt::Write as _;

use redis_mesh_tests::figures::thousands;

use crate::idle::Idle;
use crate::memory::{LARGE, Memory, SENT};
use crate::work::size;

/// Returns the section on peers that don't read.
pub fn section(out: &mut String, memory: &Memory) {
    let _ = writeln!(
        out,
        "## Memory for others\n\n\
         *Unread*: one client asks {} times for a value of {} and reads nothing until all is still; then it reads everything. \
         *Redis stands still* (SIGSTOP): one client sends `SET`s of {}, {} in all, as long as something is taken. Shown is by \
         how much the resident memory of the proxy's process grew at most.\n\n\
         | | unread, MB | Redis stands still, MB | of what was sent it took, MB |\n|---|---:|---:|---:|",
        thousands(memory.gets as u64),
        size(LARGE),
        size(SENT),
        size(memory.sets * SENT),
    );
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    for row in &memory.rows {
        let (unread, stopped, taken) = (megabytes(row.unread), megabytes(row.stopped), megabytes(row.taken));
        let _ = writeln!(out, "| {} | {unread} | {stopped} | {taken} |", row.kind.name());
    }
    *out += "\n";
}

/// Returns the section on idle connections.
pub fn idle(out: &mut String, idle: &Idle) {
    let _ = writeln!(
        out,
        "## Idle connections\n\n\
         {} connections that each did one `PING`. Allocated is by Envoy's `/memory`, which doesn't count the memory of the \
         filter's VM nor that of the module; resident counts everything, in whole pages.\n\n\
         | | allocated, bytes each | resident, bytes each | more than {} |\n|---|---:|---:|---:|",
        thousands(idle.connections as u64),
        idle.rows.first().map_or("", |row| row.kind.name()),
    );
    for row in &idle.rows {
        let Some(first) = idle.rows.first() else { continue };
        let allocated = row.allocated.map(|allocated| format!("{allocated:.0}")).unwrap_or_default();
        let more = row.resident - first.resident;
        let _ = writeln!(out, "| {} | {allocated} | {:.0} | {more:.0} |", row.kind.name(), row.resident);
    }
    *out += "\n";
}
