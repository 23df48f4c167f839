//! What both machines decide alike about a command: which row of the table rules it, and whether it is refused.

pub mod errors;
pub mod guard;
pub mod known;
