//! HTTP requests to Envoy's admin port, to `kubectl proxy` and to what serves metrics, one a
//! connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use ureq::Agent;

/// The largest body that is read, in bytes: far more than Envoy's configuration takes.
const MAX_BODY: u64 = 256 << 20;

/// An HTTP request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method; GET by default.
    pub method: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// The `Content-Type`; an empty one isn't sent.
    pub content_type: &'a str,
    /// The body; GET and DELETE have none.
    pub body: &'a [u8],
    /// How long the response may take to begin, and its body to arrive.
    pub patience: Duration,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Request { method: "GET", path: "/", content_type: "", body: &[], patience: Duration::from_secs(30) }
    }
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code, such as 200.
    pub status: u16,
    /// The body; bytes that aren't UTF-8 are replaced.
    pub body: String,
}

/// Sends a request over a connection of its own and reads the whole response, whatever its status.
pub fn request(addr: SocketAddr, request: &Request<'_>) -> Result<Response> {
    let Request { method, path, content_type, body, patience } = *request;
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        // Addresses of this machine, whatever the environment says of proxies.
        .proxy(None)
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(patience))
        .timeout_recv_body(Some(patience))
        .build()
        .into();
    let mut head = ureq::http::Request::builder().method(method).uri(format!("http://{addr}{path}"));
    if !content_type.is_empty() {
        head = head.header("Content-Type", content_type);
    }
    let mut response = match method {
        "GET" | "DELETE" => agent.run(head.body(())?)?,
        _ => agent.run(head.body(body)?)?,
    };
    // A body may be a file of bytes, such as the filter.
    let body = response.body_mut().with_config().limit(MAX_BODY).read_to_vec()?;
    Ok(Response { status: response.status().as_u16(), body: String::from_utf8_lossy(&body).into_owned() })
}

/// Returns the sum of a metric over its labels in Prometheus' text format, or 0 if there is no
/// such metric.
pub fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    lines.filter(is_of).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
