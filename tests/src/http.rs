//! One HTTP request a connection: enough for Envoy's admin port and `kubectl proxy`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// GET by default.
    pub method: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// `Content-Type`; empty: none.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// How long to wait for more of the answer.
    pub patience: Duration,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Request { method: "GET", path: "/", content_type: "", body: &[], patience: Duration::from_secs(30) }
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks and reads the whole answer.
pub fn request(addr: SocketAddr, request: &Request<'_>) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(request.patience))?;
    let Request { method, path, content_type, body, .. } = request;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    if !content_type.is_empty() {
        head += &format!("Content-Type: {content_type}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body)? } else { body.to_vec() };
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok(Response { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// The sum of a metric over its labels in Prometheus' text format; 0 where there is none.
pub fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    lines.filter(is_of).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

fn unchunk(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").context("a chunk without a length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line])?.trim(), 16)?;
        if length == 0 {
            return Ok(out);
        }
        out.extend_from_slice(body.get(line + 2..line + 2 + length).context("a chunk is cut off")?);
        body = body.get(line + 4 + length..).context("a chunk is cut off")?;
    }
}
