//! Requests that are sent over and over, and the expected reply of each.

use redis_mesh_tests::client::encode;

/// The number of bytes that are read at once.
pub const CHUNK: usize = 256 * 1024;

/// Requests with the reply that each must get.
#[derive(Debug)]
pub struct Workload {
    requests: Vec<u8>,
    /// The offset of each request, and the end of the last one.
    bounds: Vec<usize>,
    /// The reply, repeated so that a chunk from any offset in the first one can be compared.
    replies: Vec<u8>,
    reply: usize,
}

impl Workload {
    /// GET of each key in turn; all of them hold this value.
    pub fn get(keys: &[String], value: &[u8]) -> Workload {
        Workload::new(keys.iter().map(|key| encode(&["GET", key])), &bulk(value))
    }

    /// SET of each key in turn to this value.
    pub fn set(keys: &[String], value: &[u8]) -> Workload {
        Workload::new(keys.iter().map(|key| encode(&[b"SET", key.as_bytes(), value])), b"+OK\r\n")
    }

    /// MULTI, SET of each key in turn to this value, GET of it, EXEC: four commands that count as
    /// one request.
    pub fn transaction(keys: &[String], value: &[u8]) -> Workload {
        let request = |key: &String| {
            let set = encode(&[b"SET", key.as_bytes(), value]);
            [encode(&["MULTI"]), set, encode(&["GET", key]), encode(&["EXEC"])].concat()
        };
        let reply = [b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n".as_slice(), &bulk(value)].concat();
        Workload::new(keys.iter().map(request), &reply)
    }

    fn new(requests: impl Iterator<Item = Vec<u8>>, reply: &[u8]) -> Workload {
        let mut all = Vec::new();
        let mut bounds = vec![0];
        for request in requests {
            all.extend_from_slice(&request);
            bounds.push(all.len());
        }
        Workload { requests: all, bounds, replies: reply.repeat(CHUNK / reply.len() + 2), reply: reply.len() }
    }

    /// The number of requests before they repeat.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The range of the bytes of `n` requests from this one on.
    pub fn range(&self, first: usize, n: usize) -> std::ops::Range<usize> {
        self.bounds[first]..self.bounds[first + n]
    }

    /// The bytes of a range of requests.
    pub fn requests(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.requests[range]
    }

    /// The expected `n` bytes of replies after `at` bytes of the first one; at most [`CHUNK`]
    /// bytes.
    pub fn expected(&self, at: usize, n: usize) -> &[u8] {
        &self.replies[at..at + n]
    }

    /// The length of a reply.
    pub fn reply_len(&self) -> usize {
        self.reply
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}
