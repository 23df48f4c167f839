//! The words of `exportTo`, as the schema of an API server checks them.

/// What the CEL rule of both kinds asks for.
pub const RULE: &str = "self.size() < 2 || !self.exists(one, one == '*')";
/// What an object is told that doesn't keep the rule.
pub const MESSAGE: &str = "`*` means all namespaces, so no other one can be given";
/// A namespace, `.` for the object's own, or `*` for all.
pub const EXPORT: &str = r"^(\*|\.|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
