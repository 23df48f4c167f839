//! The answers that a filter gives to Envoy's hooks, and gets from its callouts.

/// What Envoy does with a buffer after a filter's hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Envoy hands the buffer to the next filter.
    Continue,
    /// Envoy keeps the buffer, and the next filter waits.
    Stop,
}

/// How an HTTP callout has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalloutResult {
    /// The response has the status 200.
    Ok,
    /// The response has another status, or there is none.
    Failed,
}
