//! What a shell sees: exit codes, both streams, and that secrets stay out of them.

// Clippy knows only the bodies of tests as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-mesh"));
    command.args(arguments);
    command
}

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child =
        command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn wrong_usage_is_2() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["frobnicate"],
        &["check"],
        &["render", "istio", "-f", "x"],
        &["render", "envoy", "-f", "x", "--listen", "nonsense"],
        &["render", "envoy", "-f", "x", "--admin", "9901"],
        &["render", "istio", "-f", "x", "--filter-url", "x", "--filter-sha256", "abc"],
    ];
    for arguments in wrong {
        let output = command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert_ne!(text(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn help_is_there_for_every_command() {
    for arguments in
        [&["--help"][..], &["check", "--help"], &["render", "envoy", "--help"], &["render", "istio", "--help"]]
    {
        let output = command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.len() > 500, "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let output = command(&["check", "-f", "/nonexistent/a.yaml", "-f", "/nonexistent/b.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("/nonexistent/a.yaml: can't be read") && said.contains("/nonexistent/b.yaml"), "{said}");
    let output = with_input(&["check", "-f", "-"], "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no RedisService"), "{}", text(&output.stderr));
}

#[test]
fn stdin_and_directories_are_read_as_files_are() {
    let file = golden("mission-2-client-auth.in.yaml");
    let content = std::fs::read_to_string(&file).unwrap();
    let render = |input: &str| {
        vec!["render", "istio", "--filter-url", "file:///f.wasm", "-f", input]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let run = |input: &str, stdin: &str| {
        let arguments = render(input);
        let output = with_input(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), stdin);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manifests");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    for (index, document) in content.split("---\n").enumerate() {
        std::fs::write(directory.join(format!("{index}.yaml")), document).unwrap();
    }
    std::fs::write(directory.join("README.md"), "not: [a manifest").unwrap();
    let expected = run(file.to_str().unwrap(), "");
    assert_eq!(run("-", &content), expected);
    assert_eq!(run(directory.to_str().unwrap(), ""), expected);
}

#[test]
fn secrets_show_only_where_asked_for() {
    let secrets = ["hunter2", "hunter3", "s3cret-key"];
    let input = "apiVersion: v1
kind: Service
metadata: {name: r, namespace: d}
spec: {clusterIP: 10.0.0.1, ports: [{port: 6379}]}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: d}
stringData: {password: hunter2}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: r, namespace: d}
spec:
  host: r
  trafficPolicy: {connectionPool: {redis: {auth: {secret: {name: s}}}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: r, namespace: d, annotations: {redis-mesh.io/data-path: PATH}}
spec:
  host: [r]
  settings: {auth: {plain: {password: hunter3}}}
";
    for path in ["direct", "proxy"] {
        let input = input.replace("PATH", path);
        let istio = ["render", "istio", "-f", "-", "--filter-url", "file:///f.wasm", "--handshake-key", "s3cret-key"];
        let shown = with_input(&[&istio[..], &["--show-secrets"]].concat(), &input);
        assert!(text(&shown.stdout).contains("hunter2"), "{}", text(&shown.stderr));
        let hidden = with_input(&istio, &input);
        assert!(text(&hidden.stdout).contains("[redacted]"));
        assert!(text(&hidden.stderr).contains("--show-secrets"));
        let handshake = text(&shown.stdout)
            .lines()
            .find_map(|line| line.trim().strip_prefix("- inline_string: ").map(str::to_owned));
        assert_eq!(handshake.is_some(), path == "proxy");
        let explained = with_input(&["explain", "-f", "-", "--host", "r", "--", "GET", "a"], &input);
        assert!(explained.status.success());
        let broken = with_input(
            &["check", "-f", "-"],
            &input.replace("hunter3", "[hunter3]").replace("name: s}}", "name: s, passwordField: x}}"),
        );
        assert_eq!(broken.status.code(), Some(1));
        for output in [hidden, explained, broken] {
            let all = text(&output.stdout) + &text(&output.stderr);
            for secret in secrets.iter().copied().chain(handshake.as_deref()) {
                assert!(!all.contains(secret), "{secret} in {all}");
            }
        }
    }
}

#[test]
fn whoever_stops_reading_changes_nothing() {
    let file = golden("error-values.in.yaml");
    let mut child = command(&["check", "-f", file.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1), "a mistake in the manifests, and no panic");
}
