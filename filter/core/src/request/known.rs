//! The rows of the command table that rule a request.

pub use crate::command::Known;
