//! `golden/NAME.in.yaml` through the command line. What comes out is compared with the files
//! beside it:
//!
//! - `.err.txt`: what `check` says on stderr, if anything; `check.rs` compares its exit code with
//!   `render`'s
//! - `.envoy.out.yaml`, `.istio.out.yaml`: what `render` writes; Envoy itself accepts the former
//! - `.envoy.err.txt`, `.istio.err.txt`: what `render` says where it ends in an error, and `check`
//!   says nothing of it or says it of another target, too
//! - `.istio-native.out.yaml`: `render istio` where sidecars may have the dynamic module, where
//!   the input has a line `# istio-native`
//! - `.native.out.yaml`, `.native.err.txt`: `render envoy` with the dynamic module, where the
//!   input has a line `# native` or `# native: --listen …`
//!
//! - `.explain.txt`: what `explain` writes for each line `# explain: --host HOST -- COMMAND` of
//!   the input
//!
//! Arguments for `render` and `check` may stand in the input: `# envoy: --listen …`. `BLESS=1` rewrites the
//! files.

// Clippy knows only the bodies of tests as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FILTER: &str = "/redis_mesh.wasm";
const MODULE: &str = "/libredis_mesh_native.so";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn redis_mesh(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_redis-mesh")).args(arguments).current_dir(directory()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The differences, so that all of them are shown at once.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare(&mut self, path: &Path, actual: &str) {
        let expected = std::fs::read_to_string(path).unwrap_or_default();
        if expected == actual {
            return;
        }
        if std::env::var_os("BLESS").is_some() {
            if actual.is_empty() {
                std::fs::remove_file(path).unwrap();
            } else {
                std::fs::write(path, actual).unwrap();
            }
            return;
        }
        let line = expected.lines().zip(actual.lines()).position(|(a, b)| a != b);
        let line = line.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
        let show = |text: &str| text.lines().nth(line).unwrap_or("(end)").chars().take(2000).collect::<String>();
        self.0.push(format!(
            "{}:{}\n  expected: {}\n    actual: {}",
            path.display(),
            line + 1,
            show(&expected),
            show(actual)
        ));
    }

    fn conclude(self) {
        assert!(self.0.is_empty(), "BLESS=1 rewrites these files:\n{}", self.0.join("\n"));
    }
}

fn cases() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".in.yaml").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

fn lines<'a>(input: &'a str, of: &'a str) -> impl Iterator<Item = &'a str> {
    input.lines().filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(of)?.strip_prefix(": "))
}

fn arguments(input: &str, of: &str) -> Vec<String> {
    lines(input, of).flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn goldens() {
    let mut differences = Differences::default();
    let [scratch, module] = ["empty.wasm", "empty.so"].map(|name| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, "").unwrap();
        path.into_os_string().into_string().unwrap()
    });
    for name in cases() {
        let input = format!("{name}.in.yaml");
        let content = std::fs::read_to_string(directory().join(&input)).unwrap();
        let file = |suffix: &str| directory().join(format!("{name}{suffix}"));
        let mut all = vec!["check", "-f", &input];
        let extra = arguments(&content, "check");
        all.extend(extra.iter().map(String::as_str));
        let check = redis_mesh(&all);
        let said = text(&check.stderr);
        assert_eq!(text(&check.stdout), "", "{name}: check writes nothing to stdout");
        differences.compare(&file(".err.txt"), &said);
        let has_errors = said.lines().any(|line| line.starts_with("error"));
        assert_eq!(check.status.code(), Some(i32::from(has_errors)), "{name}: {said}");
        let mut explained = String::new();
        for line in lines(&content, "explain") {
            let mut all = vec!["explain", "-f", &input];
            all.extend(line.split_whitespace());
            let output = redis_mesh(&all);
            explained += &format!("$ redis-mesh explain {line}\n{}{}\n", text(&output.stdout), text(&output.stderr));
        }
        differences.compare(&file(".explain.txt"), &explained);
        let is_native = content.lines().any(|line| line == "# native") || lines(&content, "native").next().is_some();
        // What is pinned to native takes the module from wherever it was built.
        let is_pinned = content.contains("data-path: native");
        let for_sidecars = content.lines().any(|line| line == "# istio-native");
        let targets = [("envoy", !is_pinned), ("istio", true), ("native", is_native), ("istio-native", for_sidecars)];
        for (target, is_there) in targets {
            if !is_there {
                continue;
            }
            let is_istio = target.starts_with("istio");
            let mut all = vec!["render", if is_istio { "istio" } else { "envoy" }, "-f", &input];
            let extra = arguments(&content, if is_istio { "istio" } else { target });
            all.extend(extra.iter().map(String::as_str));
            match target {
                "envoy" => all.extend(["--filter", &scratch]),
                "native" => all.extend(["--filter", &scratch, "--module", &module]),
                _ => all.extend(["--filter-url", "oci://registry.example.com/redis-mesh:1.0", "--show-secrets"]),
            }
            if target == "istio-native" {
                all.extend(["--module", "/etc/redis-mesh/redis_mesh-0123abcd.so"]);
            }
            let output = redis_mesh(&all);
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            if output.status.success() {
                let again = redis_mesh(&all);
                assert!(again.stdout == output.stdout, "{name}: render {target} writes something else the second time");
            } else {
                assert_eq!(output.status.code(), Some(1), "{name}: {err}");
                assert_eq!(out, "", "{name}: render {target} writes to stdout though there is an error");
            }
            let out = out.replace(&scratch, FILTER).replace(&module, MODULE);
            differences.compare(&file(&format!(".{target}.out.yaml")), &out);
            let own = if output.status.success() || has_errors { String::new() } else { err };
            differences.compare(&file(&format!(".{target}.err.txt")), &own);
        }
    }
    differences.conclude();
}

/// Envoy, with the real filter, accepts every configuration.
#[test]
fn envoy_accepts_them() {
    let envoy = redis_mesh_tests::wheel::envoy().unwrap();
    let filter = redis_mesh_tests::filter::build().unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("validated.yaml");
    let mut refused = Vec::new();
    let module = redis_mesh_tests::native::build().unwrap();
    let outputs = cases().into_iter().flat_map(|name| ["envoy", "native"].map(|target| format!("{name}.{target}")));
    for name in outputs {
        let Ok(config) = std::fs::read_to_string(directory().join(format!("{name}.out.yaml"))) else { continue };
        let config = config.replace(FILTER, filter.to_str().unwrap()).replace(MODULE, module.to_str().unwrap());
        std::fs::write(&scratch, config).unwrap();
        let output = Command::new(&envoy)
            .args(["--mode", "validate", "--log-level", "error", "-c"])
            .arg(&scratch)
            .output()
            .unwrap();
        if !output.status.success() {
            refused.push(format!("{name}: {}{}", text(&output.stdout), text(&output.stderr)));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// The definitions that are committed are those that the program prints.
#[test]
fn definitions() {
    let output = redis_mesh(&["crds"]);
    assert!(output.status.success());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../istio/crds");
    let mut differences = Differences::default();
    let printed = text(&output.stdout);
    let documents: Vec<&str> = printed.split("---\n").collect();
    assert_eq!(documents.len(), 2);
    for (name, document) in ["redisservices", "redisdestinations"].iter().zip(documents) {
        differences.compare(&directory.join(format!("{name}.yaml")), document);
    }
    differences.conclude();
}
