//! The command table: name, arity and flags of every Redis command, where its keys are, how
//! Envoy's redis_proxy routes it, and what its reply looks like in RESP3.
//!
//! The facts are rows of `table.rs`, which is generated from real servers; the few facts that no
//! server reports are kept by hand beside the generator. The other modules only read rows.

mod args;
mod attributes;
mod bits;
pub mod blocking;
mod describe;
pub mod glob;
mod grammar;
mod key_spec;
mod keys;
mod known;
mod lookup;
pub mod mirroring;
mod reply;
mod reply_shape;
mod row;
pub mod script;
pub mod sharing;
mod table;

pub use args::{Args, canonical, each_command};
pub use attributes::{Categories, Flags, Tips};
pub use describe::{Protocol, describe};
pub use grammar::Patterns;
pub use key_spec::{
    Arguments, Begin, Extract, Find, Key, KeyAccess, KeyCountError, KeyFlags, KeySpec, Keys, KeysError,
};
pub use keys::{each_key, each_of_slot};
pub use known::Known;
pub use lookup::{all, first_slot, lookup, lookup_subcommand};
pub use reply::{Reply, When};
use row::row;
pub use row::{Command, KeySpecs, Proxy, Split};
