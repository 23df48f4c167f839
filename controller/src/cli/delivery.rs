//! The option `--delivery`.

use clap::ValueEnum;

/// The way in which the filter gets the rules of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuleDelivery {
    /// In one WasmPlugin for each port; in an EnvoyFilter of the host where it has the password
    /// of a Redis, or where the WasmPlugin would grow too large
    Auto,
    /// In an EnvoyFilter for each host
    PerHost,
}
