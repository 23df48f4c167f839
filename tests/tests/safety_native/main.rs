//! The native data path while servers die, stop and move, networks lose everything, configurations change and clients vanish:
//! nobody gets another's reply, none is lost or comes twice, and what clients see is what one Redis could have told them.

mod cluster;
mod faults;
mod history;
mod load;
mod scene;
mod sessions;
mod vanishing;

use std::time::Duration;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);
