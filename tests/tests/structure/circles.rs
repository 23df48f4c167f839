//! Circles of imports between the files of a crate.

use std::collections::BTreeMap;

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::Violation;
use crate::imports::{Edge, edges};
use crate::source::Crate;

const RULE: &str = "imports go in circles";

/// Reports each circle of a crate: its files, then each import that is part of it.
pub fn check(crate_: &Crate) -> Vec<Violation> {
    let edges = edges(crate_);
    let mut violations = Vec::new();
    for circle in circles(crate_.files.len(), &edges) {
        let files = circle.iter().map(|file| crate_.shown(*file)).collect::<Vec<_>>().join(", ");
        let mut text = format!("{}: a circle of {} files: {files}", crate_.name, circle.len());
        // The first place for each pair of files stands for all.
        let mut pairs: BTreeMap<(usize, usize), (&Edge, usize)> = BTreeMap::new();
        for edge in edges.iter().filter(|edge| circle.contains(&edge.from) && circle.contains(&edge.to)) {
            pairs.entry((edge.from, edge.to)).or_insert((edge, 0)).1 += 1;
        }
        for (edge, count) in pairs.values() {
            let others = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            let (from, to) = (crate_.shown(edge.from), crate_.shown(edge.to));
            text += &format!("\n    {from}:{}: needs {to} (`{}`{others})", edge.line, edge.path);
        }
        violations.push(Violation { rule: RULE, text });
    }
    violations
}

/// The sets of files that need each other.
fn circles(files: usize, edges: &[Edge]) -> Vec<Vec<usize>> {
    let mut graph: DiGraph<(), ()> = DiGraph::with_capacity(files, edges.len());
    for _ in 0..files {
        graph.add_node(());
    }
    for edge in edges {
        graph.update_edge(NodeIndex::new(edge.from), NodeIndex::new(edge.to), ());
    }
    let components = tarjan_scc(&graph).into_iter().filter(|component| component.len() > 1);
    let mut circles: Vec<Vec<usize>> = components
        .map(|component| {
            let mut files: Vec<usize> = component.into_iter().map(NodeIndex::index).collect();
            files.sort_unstable();
            files
        })
        .collect();
    circles.sort();
    circles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::in_memory;

    /// The circles of a crate that is given as `(file, text)`.
    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        check(&in_memory(files)).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn two_files_that_import_each_other_are_a_circle() {
        let circles = circles_of(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B;\npub struct A(B);"),
            ("b.rs", "pub struct B;\nimpl B {\n fn a() { let _ = std::mem::size_of::<super::a::A>(); }\n}"),
        ]);
        let lines: Vec<&str> = circles.iter().flat_map(|circle| circle.lines()).collect();
        let expected = [
            "it: a circle of 2 files: a.rs, b.rs",
            "    a.rs:1: needs b.rs (`crate::b::B` and 1 more)",
            "    b.rs:3: needs a.rs (`super::a::A`)",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_path_in_a_macro_and_one_through_an_imported_module_count() {
        let circles = circles_of(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b;\npub fn f() -> u8 { b::g() }"),
            ("b.rs", "pub fn g() -> u8 { assert_eq!(crate::a::f(), 1); 1 }"),
        ]);
        assert_eq!(circles.len(), 1);
    }

    #[test]
    fn what_a_parent_declares_or_hands_on_is_no_import_of_the_parent() {
        let circles = circles_of(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod b; mod c; pub use b::B;"),
            ("a/b.rs", "pub struct B;"),
            ("a/c.rs", "use super::B;\nuse super::b;\npub fn c() -> (B, b::B) { (B, b::B) }"),
        ]);
        assert_eq!(circles, [""; 0]);
    }

    #[test]
    fn a_child_that_needs_what_its_parent_defines_is_a_circle_if_the_parent_uses_the_child() {
        let circles = circles_of(&[
            ("lib.rs", "mod a;"),
            ("a.rs", "mod b;\nstruct A;\nfn f() { b::g(&A) }"),
            ("a/b.rs", "pub fn g(_: &super::A) {}"),
        ]);
        assert_eq!(circles.len(), 1);
    }

    #[test]
    fn tests_may_import_anything() {
        let circles = circles_of(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }"),
            ("b.rs", "use crate::a::A;\npub struct B(A);"),
        ]);
        assert_eq!(circles, [""; 0]);
    }
}
