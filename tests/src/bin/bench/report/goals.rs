//! The section on the goals.

use std::fmt::Write as _;

use crate::goals::{Found, Goal};

/// Returns the section.
pub fn section(out: &mut String, goals: &[Goal]) {
    *out += "## Goals of the native path\n\n| | at most | found | |\n|---|---:|---:|---|\n";
    for goal in goals {
        let found = goal.found.as_ref().map_or_else(String::new, Found::text);
        let _ = writeln!(out, "| {} | {} | {found} | {} |", goal.what, number(goal.most), goal.verdict());
    }
    *out += "\n";
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") }
}
