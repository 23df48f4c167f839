//! Envoy's log.

use super::buffer::lend;
use crate::abi;

/// The level of a line in Envoy's log.
pub enum LogLevel {
    /// An event that an operator may want to know.
    Info,
    /// A danger that an operator should know of.
    Warning,
    /// A fault that an operator has to look after.
    Error,
}

/// Writes a line to Envoy's log, under the logger `dynamic_modules`. Any thread may call it.
pub fn log(level: LogLevel, message: &str) {
    let level = match level {
        LogLevel::Info => abi::INFO,
        LogLevel::Warning => abi::WARN,
        LogLevel::Error => abi::ERROR,
    };
    // SAFETY: the message outlives the call, which copies it, and Envoy's loggers are made for any
    // thread.
    unsafe { abi::envoy_dynamic_module_callback_log(level, lend(message.as_bytes())) }
}
