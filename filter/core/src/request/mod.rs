//! Decisions about a command that both machines make alike: which rows of the command table rule it, where its keys are
//! routed, and whether it is refused.

pub mod errors;
pub mod guard;
pub mod keys;
pub mod known;
