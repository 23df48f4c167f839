//! The rows of the command table that rule a request.

use crate::command::{self, Args, Command};

/// A command that the table knows.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    /// The row of its name.
    pub(crate) container: &'static Command,
    /// The row of its subcommand, if it has one, else the same.
    pub(crate) command: &'static Command,
}

impl Known {
    pub(crate) fn of(args: &Args<'_>) -> Option<Known> {
        let container = command::lookup(args.get(0))?;
        let subcommand = match container.subcommands {
            [] => None,
            _ => command::lookup_subcommand(container, args.get(1)),
        };
        Some(Known { container, command: subcommand.unwrap_or(container) })
    }
}
