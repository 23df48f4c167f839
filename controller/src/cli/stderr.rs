//! What the command line says beside its output.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to stderr. Whoever has stopped reading (`redis-mesh check … 2>&1 | head -1`) has
/// read what it wanted: the exit code stays what it is.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
