//! Requests to the API server: their time limit, their errors and what a person can do about
//! those.

use std::fmt;
use std::time::Duration;

/// The time after which a request counts as failed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The number of requests that are under way at once.
pub const CONCURRENCY: usize = 16;

/// Why a request failed.
#[derive(Debug)]
pub enum RequestError {
    /// The API server didn't answer in time.
    Timeout,
    /// The API server refused the request, or can't be reached.
    Failed(kube::Error),
}

impl RequestError {
    /// The reason in words, with what a person can do about it.
    pub fn with_remedy(&self) -> String {
        let reason = self.to_string();
        let RequestError::Failed(kube::Error::Api(status)) = self else { return reason };
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
