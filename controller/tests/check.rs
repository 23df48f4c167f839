//! `check` and `render` over the inputs of the goldens, over manifests with one mistake each
//! (`cases/mistakes/`), and over common ways of running Redis (`cases/situations/`).
//!
//! For a target that is named, `check` ends as `render` does. Without one, it fails where `render`
//! would for any target that the manifests allow.

// Clippy knows only the bodies of tests as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The targets, and the codes of errors that say that manifests aren't meant for them.
const TARGETS: [(&str, &[&str]); 4] = [
    ("istio", &["no-module"]),
    ("istio-native", &[]),
    ("envoy", &["no-address", "no-mesh-certificates", "ambiguous-clients"]),
    ("envoy-native", &["no-address", "no-mesh-certificates", "ambiguous-clients"]),
];

fn entries(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn inputs() -> Vec<PathBuf> {
    let goldens = entries("golden").into_iter().filter(|path| path.to_str().unwrap().ends_with(".in.yaml"));
    goldens.chain(entries("cases/mistakes")).chain(entries("cases/situations")).collect()
}

fn run(arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_redis-mesh")).args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// The codes of the errors in a command's output.
fn errors(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("error[")?.split_once(']')).map(|(code, _)| code).collect()
}

#[test]
fn check_fails_where_render_does() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty.file");
    std::fs::write(&scratch, "").unwrap();
    let file = scratch.to_str().unwrap();
    for input in inputs() {
        let input = input.to_str().unwrap();
        let outcomes = TARGETS.map(|(target, other)| {
            let mut render = vec!["render", target.trim_end_matches("-native"), "-f", input];
            let options: &[&str] = match target {
                "istio" => &["--filter-url", "file:///f.wasm"],
                "istio-native" => &["--filter-url", "file:///f.wasm", "--module", "/m.so"],
                "envoy" => &["--filter", file],
                _ => &["--filter", file, "--module", file],
            };
            render.extend(options);
            let (rendered, said) = run(&render);
            let mut codes = errors(&said);
            // Without the module, an object that is pinned to native has errors of other paths, too.
            if target == "istio" && codes.contains(&"no-module") {
                codes.retain(|code| *code != "read-policies-differ");
            }
            // A host that is pinned to native takes the module from wherever it was built.
            let fails = rendered != 0 && codes != ["missing-file"];
            (fails, codes.iter().all(|code| other.contains(code)))
        });
        // What all targets refuse is mostly refused before they differ.
        let all_fail = outcomes.iter().all(|(fails, _)| *fails);
        for ((target, _), (fails, _)) in TARGETS.iter().zip(outcomes).take(if all_fail { 1 } else { 4 }) {
            let (checked, found) = run(&["check", "-f", input, "--for", target]);
            assert_eq!(checked, i32::from(fails), "{input}: check --for {target}: {found}");
        }
        let is_allowed = |(fails, is_ruled_out): &(bool, bool)| !(*fails && *is_ruled_out);
        let fails = outcomes.iter().any(|outcome| outcome.0 && is_allowed(outcome)) || !outcomes.iter().any(is_allowed);
        let (checked, found) = run(&["check", "-f", input]);
        assert_eq!(checked, i32::from(fails), "{input}: {outcomes:?}: {found}");
        assert_eq!(!errors(&found).is_empty(), fails, "{input}: {found}");
    }
}
