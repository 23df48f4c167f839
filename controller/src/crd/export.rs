//! The words of `exportTo`, as the schema of an API server checks them.

/// A namespace, `.` for the object's own, or `*` for all.
pub const EXPORT: &str = r"^(\*|\.|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
