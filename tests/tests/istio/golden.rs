//! Files that are generated and committed: a test regenerates them, `BLESS=1` writes them anew.

use std::path::Path;

use anyhow::{Context, Result, bail};
use redis_mesh_tests::workspace;

/// Fails unless the file in the checkout has this text. If `BLESS` is set, writes the text to the
/// file.
pub fn check(path: &str, text: &str) -> Result<()> {
    let file = workspace::root().join(path);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        return std::fs::write(&file, text).with_context(|| format!("can't write {path}"));
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let different = committed.lines().zip(text.lines()).position(|(committed, now)| committed != now);
    if committed == text {
        return Ok(());
    }
    let line = different.unwrap_or_else(|| committed.lines().count().min(text.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
    bail!(
        "{path} isn't what is generated; BLESS=1 cargo test -p redis-mesh-tests --test istio writes it. Line {}:\n  {}\n  {}",
        line + 1,
        at(&committed),
        at(text)
    )
}
