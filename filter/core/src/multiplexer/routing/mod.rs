//! Where a command goes: what is decided about it, by its keys or by its name.

pub mod decide;
pub mod decision;
pub mod fan_out;
pub mod keyless;
pub mod session;
pub mod target;
