//! The input and the diagnostics of a command of the command line.

use super::stderr::tell;
use crate::diagnostic::Diagnostics;
use crate::manifest::{self, ManifestSource};

/// The input of one run of the program, and the mistakes in it.
#[derive(Default)]
pub struct CliSession {
    /// The texts that were read.
    pub sources: Vec<ManifestSource>,
    /// The mistakes in them.
    pub diagnostics: Diagnostics,
}

impl CliSession {
    /// Writes all diagnostics to stderr, each with its place.
    pub fn report(&mut self) {
        manifest::locate(&self.sources, &mut self.diagnostics);
        for diagnostic in self.diagnostics.sorted() {
            tell(diagnostic);
        }
    }
}
