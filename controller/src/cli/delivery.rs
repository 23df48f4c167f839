//! The option `--delivery`.

use clap::ValueEnum;

/// How the filter gets the rules of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuleDelivery {
    /// In one WasmPlugin for each port; by itself where it holds the password of a Redis, or where that grows too large
    Auto,
    /// Each host by itself, in an EnvoyFilter
    PerHost,
}
