//! The container image, as far as it can be checked without a container engine.

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::workspace;

use crate::chart::CHART;
use crate::yaml;

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(workspace::root().join(path)).with_context(|| format!("can't read {path}"))
}

#[test]
fn the_image_is_built_by_the_compiler_that_the_workspace_names() -> Result<()> {
    let toolchain = read("rust-toolchain.toml")?;
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).context("no channel")?;
    let line = format!("ARG RUST={}", channel.trim_matches('"'));
    ensure!(read("Containerfile")?.lines().any(|l| l == line), "the Containerfile has no line `{line}`");
    Ok(())
}

#[test]
fn the_build_sees_every_member_of_the_workspace() -> Result<()> {
    let ignored = read(".containerignore")?;
    for needed in [".cargo", "Cargo.lock", "Cargo.toml", "controller", "filter", "tests"] {
        ensure!(ignored.lines().any(|line| line == format!("!{needed}")), ".containerignore leaves out {needed}");
    }
    let members = read("Cargo.toml")?;
    let members = members.lines().find(|line| line.starts_with("members = ")).context("no members")?;
    for member in members.split('"').skip(1).step_by(2) {
        let top = member.split('/').next().unwrap_or_default();
        ensure!(ignored.lines().any(|line| line == format!("!{top}")), ".containerignore leaves out {member}");
    }
    Ok(())
}

#[test]
fn chart_and_program_have_one_version() -> Result<()> {
    let chart = yaml::file(&format!("{CHART}/Chart.yaml"))?;
    let version = env!("CARGO_PKG_VERSION");
    for field in ["version", "appVersion"] {
        ensure!(chart[field] == version, "{field} of the chart is {}, the program is {version}", chart[field]);
    }
    Ok(())
}
