//! Errors that both machines answer, in Redis's own words where Redis has some.

/// The error of EXEC for a transaction of which a command was refused when it was queued.
pub const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// The error of EXEC with arguments, which also discards the transaction.
pub const EXEC_WITH_ARGUMENTS: &str =
    "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";

/// The error for a command, or a transaction, whose keys belong to different destinations.
pub const CROSSSLOT_DESTINATIONS: &str = "CROSSSLOT redis-mesh: keys route to different destinations";

/// The error for a command, or a transaction, whose keys belong to different slots of a Redis Cluster.
pub const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
