//! What every program of the testbed does with its command line: `--help`, mistakes, and the exit
//! code.

use std::process::ExitCode;

use anyhow::Result;

/// Runs a program. `arguments` is its parsed command line, or `None` where that asks for `help`.
///
/// The exit code is 2 for a mistake in the command line and 1 for an error of the program.
pub fn main<A>(help: &str, arguments: Result<Option<A>>, run: impl FnOnce(A) -> Result<ExitCode>) -> ExitCode {
    let arguments = match arguments {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error:#}\n\n{help}");
            return ExitCode::from(2);
        }
    };
    run(arguments).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
