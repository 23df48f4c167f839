//! The sets of names that servers report for a command: flags, ACL categories and hints.

use super::bits::bits;

bits! {
    /// A command's flags, as servers report them.
    Flags(u32) {
        WRITE = "write",
        READONLY = "readonly",
        DENYOOM = "denyoom",
        ADMIN = "admin",
        PUBSUB = "pubsub",
        NOSCRIPT = "noscript",
        BLOCKING = "blocking",
        LOADING = "loading",
        STALE = "stale",
        SKIP_MONITOR = "skip_monitor",
        /// Valkey 8 and later call it `skip_commandlog`.
        SKIP_SLOWLOG = "skip_slowlog",
        ASKING = "asking",
        FAST = "fast",
        NO_AUTH = "no_auth",
        NO_MANDATORY_KEYS = "no_mandatory_keys",
        NO_ASYNC_LOADING = "no_async_loading",
        NO_MULTI = "no_multi",
        MOVABLEKEYS = "movablekeys",
        ALLOW_BUSY = "allow_busy",
        /// Kept by hand, since no server reports it: the command may change data or reach other
        /// clients although it has no write flag (scripts, functions, PUBLISH), or loads code that
        /// may (SCRIPT LOAD).
        MAY_REPLICATE = "may_replicate",
    }
}

bits! {
    /// A command's ACL categories.
    Categories(u32) {
        KEYSPACE = "keyspace",
        READ = "read",
        WRITE = "write",
        SET = "set",
        SORTEDSET = "sortedset",
        LIST = "list",
        HASH = "hash",
        STRING = "string",
        BITMAP = "bitmap",
        HYPERLOGLOG = "hyperloglog",
        GEO = "geo",
        STREAM = "stream",
        PUBSUB = "pubsub",
        ADMIN = "admin",
        FAST = "fast",
        SLOW = "slow",
        BLOCKING = "blocking",
        DANGEROUS = "dangerous",
        CONNECTION = "connection",
        TRANSACTION = "transaction",
        SCRIPTING = "scripting",
    }
}

bits! {
    /// Hints for clients and proxies, as servers report them.
    Tips(u16) {
        NONDETERMINISTIC_OUTPUT = "nondeterministic_output",
        NONDETERMINISTIC_OUTPUT_ORDER = "nondeterministic_output_order",
        REQUEST_ALL_NODES = "request_policy:all_nodes",
        REQUEST_ALL_SHARDS = "request_policy:all_shards",
        REQUEST_MULTI_SHARD = "request_policy:multi_shard",
        REQUEST_SPECIAL = "request_policy:special",
        RESPONSE_ONE_SUCCEEDED = "response_policy:one_succeeded",
        RESPONSE_ALL_SUCCEEDED = "response_policy:all_succeeded",
        RESPONSE_AGG_LOGICAL_AND = "response_policy:agg_logical_and",
        RESPONSE_AGG_MIN = "response_policy:agg_min",
        RESPONSE_AGG_SUM = "response_policy:agg_sum",
        RESPONSE_SPECIAL = "response_policy:special",
    }
}
