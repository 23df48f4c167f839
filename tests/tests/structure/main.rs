//! The rules for the shape of the sources, read off the sources themselves. CONTRIBUTING.md gives
//! the reason for each rule.
//!
//! * No module of a crate imports, directly or through others, a module that imports it. The unit
//!   is the file.
//! * A file has at most 500 lines, a function at most 60 lines and five parameters, a type at most
//!   25 methods and 12 fields.
//! * A type name is defined once in the core, the native module and the controller together.
//!
//! All violations are reported at once, grouped by rule, one a line.

mod circles;
mod imports;
mod names;
mod sizes;
mod source;

use std::fmt::Write;

use redis_mesh_tests::workspace;
use source::Crate;

/// A place in the sources that breaks a rule.
pub struct Violation {
    /// The rule, as a heading.
    pub rule: &'static str,
    /// Where and how.
    pub text: String,
}

/// The crates whose inner structure is checked: a name, and the file that the compiler starts
/// from.
const CRATES: [(&str, &str); 4] = [
    ("core", "filter/core/src/lib.rs"),
    ("native", "filter/native/src/lib.rs"),
    ("wasm", "filter/wasm/src/lib.rs"),
    ("controller", "controller/src/main.rs"),
];

/// The crates that share one vocabulary.
const ONE_VOCABULARY: [&str; 3] = ["core", "native", "controller"];

#[test]
fn sources_keep_the_rules_of_the_house() {
    let crates: Vec<Crate> = CRATES.iter().map(|(name, root)| source::load(name, root, &source::on_disk)).collect();
    let mut violations: Vec<Violation> = crates.iter().flat_map(circles::check).collect();
    violations.extend(sizes::files(workspace::root()));
    violations.extend(crates.iter().flat_map(sizes::functions));
    violations.extend(crates.iter().flat_map(sizes::types));
    violations.extend(names::check(crates.iter().filter(|one| ONE_VOCABULARY.contains(&one.name.as_str()))));
    assert!(violations.is_empty(), "{}", report(&violations));
}

/// The violations as a list to work through, by rule.
fn report(violations: &[Violation]) -> String {
    let mut text = format!("{} violations of the rules for sources\n", violations.len());
    let mut rules: Vec<&str> = Vec::new();
    for violation in violations {
        if !rules.contains(&violation.rule) {
            rules.push(violation.rule);
        }
    }
    for rule in rules {
        let broken: Vec<&Violation> = violations.iter().filter(|violation| violation.rule == rule).collect();
        let _ = writeln!(text, "\n{rule} ({}):", broken.len());
        for violation in broken {
            let _ = writeln!(text, "  {}", violation.text);
        }
    }
    text
}
