//! The native data path while servers die, stop and move, networks lose everything, configurations
//! change and clients vanish: no client gets another's reply, none is lost or duplicated, and the
//! histories of clients are those of a single Redis.

mod cluster;
mod faults;
mod history;
mod load;
mod scene;
mod sessions;
mod vanishing;

use std::time::Duration;

/// The time that a condition may take.
const PATIENCE: Duration = Duration::from_secs(30);
