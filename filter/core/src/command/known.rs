//! The rows of the command table that rule a request.

use super::key_spec::Arguments;
use super::lookup::{lookup, lookup_subcommand};
use super::row::Command;

/// A request whose command the table has.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The row of the command's name.
    pub container: &'static Command,
    /// The row of the subcommand. Where there is none, or the table doesn't have it: the same as
    /// `container`.
    pub command: &'static Command,
}

impl Known {
    /// Finds the rows by a request's first arguments; `None`: the table doesn't have the command.
    pub fn of<A: Arguments + ?Sized>(arguments: &A) -> Option<Known> {
        let container = lookup(arguments.argument(0)?)?;
        let subcommand = match container.subcommands {
            [] => None,
            _ => arguments.argument(1).and_then(|name| lookup_subcommand(container, name)),
        };
        Some(Known { container, command: subcommand.unwrap_or(container) })
    }

    /// The row that rules the request; `None`: the command is a container, and its subcommand is
    /// missing or unknown.
    pub fn row(self) -> Option<&'static Command> {
        (!self.is_bare()).then_some(self.command)
    }

    /// True if the command is a container, and its subcommand is missing or unknown.
    pub fn is_bare(self) -> bool {
        !self.command.subcommands.is_empty()
    }
}
