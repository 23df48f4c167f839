//! The section about two versions.

use std::fmt::Write;

use crate::versions::{SLOWER, Versions};

/// Appends the section.
pub fn section(out: &mut String, versions: &Versions) {
    out.push_str("## This version's CPU time per request, against the version it is compared with\n\n");
    let slower: Vec<String> =
        versions.slower().map(|(work, kind, _)| format!("{}, {}", work.title(), kind.name())).collect();
    let slower = if slower.is_empty() { "none".into() } else { slower.join("; ") };
    let _ = writeln!(
        out,
        "Geometric mean of all rows: **{:.3}**. Rows whose whole middle half is above {SLOWER}: {slower}.\n",
        versions.mean()
    );
    out.push_str("| work | path | new : old |\n|---|---|---:|\n");
    for (work, kind, ratio) in &versions.rows {
        let _ = writeln!(out, "| {} | {} | {} |", work.title(), kind.name(), ratio.ratio());
    }
    out.push('\n');
}
