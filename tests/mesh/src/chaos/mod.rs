//! Random changes under load, by a seed.
//!
//! Every Redis answers with its own name. What may be answered follows from the objects: each change makes
//! another [`behaviour`] possible for a host, and when all changes have arrived everything else is
//! impossible. Clients hold every answer against that.

pub mod behaviour;
pub mod change;
pub mod clients;
pub mod dice;
pub mod objects;
pub mod run;
pub mod settled;
pub mod world;
