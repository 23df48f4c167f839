//! `redis-mesh module`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::artifacts::{MODULE, candidates};

/// Arguments of `module`.
#[derive(Args)]
pub struct CopyModule {
    /// The file to write: a path that no other version of the module has, in a volume that the
    /// sidecar mounts, too
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl CopyModule {
    /// Copies the dynamic module. It appears under its name only when it is complete.
    pub fn run(self) -> Result<(), String> {
        let found = candidates(MODULE).into_iter().find(|path| path.is_file());
        let found = found.ok_or_else(|| format!("there is no {} beside this program", MODULE.0))?;
        copy(&found, &self.to)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    std::fs::copy(from, &partial).map_err(|error| format!("{} can't be written: {error}", partial.display()))?;
    std::fs::rename(&partial, to).map_err(|error| format!("{} can't be written: {error}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_and_leaves_nothing_else() {
        let directory = std::env::temp_dir().join(format!("redis-mesh-module-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (from, to) = (directory.join("a.so"), directory.join("b.so"));
        std::fs::write(&from, "module").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"module");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
        assert!(copy(&from, &directory.join("missing/b.so")).unwrap_err().contains("can't be written"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
