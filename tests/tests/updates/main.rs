//! Configuration that changes while clients are connected, and updates of which only one half has
//! arrived.

mod halves;
mod load;
mod open_connections;
mod policy;
mod scene;
