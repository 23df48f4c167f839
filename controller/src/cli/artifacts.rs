//! The files that redis-mesh is shipped with, and the option values that name them.

use std::path::{Path, PathBuf};

use crate::diagnostic::{Code, Diagnostics, Problem, Subject};
use crate::render::native::DynamicModule;

/// The name of the wasm filter's file, and the directory below `target` where the workspace
/// builds it.
pub const FILTER: (&str, &str) = ("redis_mesh.wasm", "wasm32-wasip1/filter");
/// The name of the dynamic module's file, and the directory below `target` where the workspace
/// builds it.
pub const MODULE: (&str, &str) = ("libredis_mesh_native.so", "module");

/// The paths where a shipped file may be: beside this program, then where the workspace builds it.
pub fn candidates((name, built): (&str, &str)) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Ok(program) = std::env::current_exe() {
        candidates.extend(program.parent().map(|directory| directory.join(name)));
    }
    let built = Path::new(built).join(name);
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        candidates.push(Path::new(&target).join(&built));
    }
    // The workspace where this program was built may still be there.
    if let Some(workspace) = Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
        candidates.push(workspace.join("target").join(&built));
    }
    candidates
}

/// The absolute path of a shipped file: the given one, else the first of [`candidates`]; none if
/// it isn't needed.
pub fn file(
    given: Option<&Path>,
    is_needed: bool,
    artifact: (&str, &str),
    option: &str,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let mut report = |message: String, remedy: String| {
        diagnostics.add(&Subject::default(), "", Problem::new(Code::MissingFile, message, remedy));
    };
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None if is_needed => candidates(artifact),
        None => return None,
    };
    let Some(found) = candidates.iter().find(|path| path.is_file()) else {
        match given {
            Some(path) => {
                report(format!("{option}: there is no file {}", path.display()), "name one that exists".to_owned());
            }
            None => {
                let recipe = option.trim_start_matches('-');
                let message = format!("{} is neither beside this program nor built in the workspace", artifact.0);
                report(message, format!("build it with `just {recipe}`, or name it with {option}"));
            }
        }
        return None;
    };
    // Envoy may be started in another directory.
    match std::path::absolute(found).map(|path| path.into_os_string().into_string()) {
        Ok(Ok(path)) => Some(path),
        _ => {
            let message = format!("{option}: the path {} is not UTF-8 text", found.display());
            report(message, "move the file".to_owned());
            None
        }
    }
}

/// Reads the path of the dynamic module in a container.
pub fn module(text: &str) -> Result<DynamicModule, String> {
    if !text.starts_with('/') {
        return Err("not an absolute path".to_owned());
    }
    Ok(DynamicModule::among_others(text.to_owned()))
}

/// Reads a SHA-256 in hexadecimal digits.
pub fn sha256(text: &str) -> Result<String, String> {
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { Ok(text.to_ascii_lowercase()) } else { Err("not 64 hexadecimal digits".to_owned()) }
}
