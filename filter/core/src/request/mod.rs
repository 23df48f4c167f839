//! Decisions about a command that both machines make alike: which rows of the command table rule
//! it, where its keys are routed, and whether it is refused.

pub mod errors;
pub mod guard;
pub mod keys;
pub mod privileges;

/// True if a client that hasn't logged in may send the command of this name, in lower case; empty:
/// a command that the command table doesn't have.
pub fn needs_no_login(name: &str) -> bool {
    matches!(name, "auth" | "hello" | "reset" | "quit")
}
