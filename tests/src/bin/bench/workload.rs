//! What is asked, over and over, and what each answer must be.

use redis_mesh_tests::client::encode;

/// Bytes that are read at once.
pub const CHUNK: usize = 256 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct Workload {
    requests: Vec<u8>,
    /// Where each request begins; and the end of the last.
    bounds: Vec<usize>,
    /// One reply, repeated so often that a chunk that begins anywhere in the first can be compared with it.
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

    /// MULTI, SET of each key in turn to this value, GET of it, EXEC: four commands that count as one request.
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

    /// How many requests there are before they begin anew.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Where the bytes of `n` requests from this one on are.
    pub fn range(&self, first: usize, n: usize) -> std::ops::Range<usize> {
        self.bounds[first]..self.bounds[first + n]
    }

    /// Bytes of requests.
    pub fn requests(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.requests[range]
    }

    /// What `n` bytes of replies must be when `at` bytes of the first have come before; at most [`CHUNK`] bytes.
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
