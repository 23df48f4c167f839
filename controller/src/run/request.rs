//! Requests to the API server: their time limit, their errors and what a person can do about
//! those.

use std::fmt;
use std::time::{Duration, Instant};

/// The time after which a request counts as failed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The number of requests that are under way at once.
pub const CONCURRENCY: usize = 16;

/// The time in a sync after which no request is begun any more. What is left is done in the next sync,
/// which knows what has changed meanwhile.
pub const SHARE: Duration = Duration::from_millis(500);

/// The cause that the API server gives for what can't be created in a namespace that is being deleted.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// Why a request failed.
#[derive(Debug)]
pub enum RequestError {
    /// The API server didn't answer in time.
    Timeout,
    /// The API server refused the request, or can't be reached.
    Failed(kube::Error),
}

impl RequestError {
    /// True if the request would have created an object in a namespace that is being deleted. Such a
    /// namespace never comes back, so there is nothing to repeat.
    pub fn is_of_deleted_namespace(&self) -> bool {
        matches!(self, RequestError::Failed(error) if is_of_deleted_namespace(error))
    }

    /// The reason in words, with what a person can do about it.
    pub fn with_remedy(&self) -> String {
        let reason = self.to_string();
        let RequestError::Failed(kube::Error::Api(status)) = self else { return reason };
        if self.is_of_deleted_namespace() {
            return "the namespace is being deleted, so nothing is created there any more".to_owned();
        }
        match status.code {
            404 => format!("{reason}; is Istio installed, and does the namespace exist?"),
            403 => format!("{reason}; grant it to the controller"),
            413 => format!("{reason}; use fewer routes"),
            _ => reason,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Timeout => f.write_str("the API server doesn't answer"),
            RequestError::Failed(kube::Error::Api(status)) => f.write_str(&status.message),
            RequestError::Failed(error) => f.write_str(&chain(error)),
        }
    }
}

/// True if a request was refused since its namespace is being deleted. The API server answers 403 as to
/// those who lack a permission, and names the cause.
pub fn is_of_deleted_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == NAMESPACE_TERMINATING)
}

/// The items up to a time. What is taken from the iterator later are the items that are left.
pub fn until<I: Iterator>(end: Instant, items: &mut I) -> impl Iterator<Item = I::Item> {
    std::iter::from_fn(move || if Instant::now() < end { items.next() } else { None })
}

/// Awaits a request, for half a minute at most.
pub async fn with_timeout<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, RequestError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(result) => result.map_err(RequestError::Failed),
        Err(_) => Err(RequestError::Timeout),
    }
}

/// Why a request was refused in words, with what a person can do about it.
pub fn with_remedy(error: kube::Error) -> String {
    RequestError::Failed(error).with_remedy()
}

/// An error together with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(causes: serde_json::Value) -> RequestError {
        let status = json!({
            "status": "Failure", "code": 403, "reason": "Forbidden", "message": "it is forbidden",
            "details": {"name": "x", "causes": causes},
        });
        RequestError::Failed(kube::Error::Api(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn what_lacks_a_permission_is_told_from_what_has_no_namespace_any_more() {
        let terminating = refusal(json!([{"reason": "NamespaceTerminating", "message": "it is being terminated"}]));
        assert!(terminating.is_of_deleted_namespace());
        let words = terminating.with_remedy();
        assert!(words.contains("the namespace is being deleted") && !words.contains("grant"), "{words}");
        for causes in [json!([]), json!([{"reason": "Other"}])] {
            let forbidden = refusal(causes);
            assert!(!forbidden.is_of_deleted_namespace());
            assert_eq!(forbidden.with_remedy(), "it is forbidden; grant it to the controller");
        }
    }
}
