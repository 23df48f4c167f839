//! Durations, as both kinds write them.

/// Go's duration syntax, in which Istio's and Aeraki's durations are written.
pub const DURATION: &str =
    r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))*$";
