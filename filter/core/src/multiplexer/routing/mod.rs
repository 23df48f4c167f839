//! Where a command goes: what is decided about it, by its keys or by its name.

pub(in crate::multiplexer) mod decide;
pub(in crate::multiplexer) mod fan_out;
pub(in crate::multiplexer) mod session;
pub(in crate::multiplexer) mod target;
