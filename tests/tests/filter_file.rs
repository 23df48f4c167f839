//! The sizes of the filter and the module.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::{filter, native, workspace};

/// What the wasm filter may have: a ConfigMap or an image layer carries it, and every Envoy
/// compiles it.
const FILTER: u64 = 460_000;

/// What the module may have, however it is delivered.
const MODULE: u64 = 2_000_000;

#[test]
fn the_filter_is_small() -> Result<()> {
    let bytes = std::fs::metadata(filter::build()?)?.len();
    assert!(bytes <= FILTER, "the filter has {bytes} bytes");
    Ok(())
}

#[test]
fn the_module_is_small() -> Result<()> {
    let bytes = std::fs::metadata(native::build()?)?.len();
    assert!(bytes <= MODULE, "the module has {bytes} bytes");
    Ok(())
}

#[test]
fn neither_file_names_a_directory_of_the_machine_that_built_it() -> Result<()> {
    let directories = [workspace::root().to_path_buf(), workspace::target_dir(), cargo_home()?, sysroot()?];
    for file in [filter::build()?, native::build()?] {
        let bytes = std::fs::read(&file)?;
        for directory in &directories {
            let name = directory.to_str().context("a directory's name is no text")?;
            let is_named = bytes.windows(name.len()).any(|window| window == name.as_bytes());
            ensure!(!is_named, "{} names {name}", file.display());
        }
        // Crates do have their names, so that the message of a panic says where it was.
        ensure!(bytes.windows(7).any(|window| window == b"crates/"), "{} names no crate", file.display());
    }
    Ok(())
}

/// Where Cargo keeps the sources of crates.
fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    Ok(Path::new(&std::env::var_os("HOME").context("no HOME")?).join(".cargo"))
}

/// Where the toolchain is.
fn sysroot() -> Result<PathBuf> {
    let output = Command::new("rustc").current_dir(workspace::root()).args(["--print", "sysroot"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
