//! What the ways are to do: each work one row of a table.

use crate::kind::{Behind, Kind};
use crate::subject::CONNECTIONS;
use crate::workload::Workload;

/// What one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// `GET`.
    Get,
    /// `SET`.
    Set,
    /// MULTI, SET, GET, EXEC.
    Transaction,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// What one request is.
    pub request: Request,
    /// Bytes of a value.
    pub value: usize,
    /// Requests that a connection has outstanding.
    pub pipeline: usize,
    /// Client connections.
    pub connections: usize,
    /// What stands behind.
    pub behind: Behind,
    /// The ways that can do it and are compared by it.
    pub kinds: &'static [Kind],
    /// The goal: the native path's CPU time per request, against that of `redis_proxy`, at most.
    pub goal: Option<f64>,
    /// Whether a short run does it too.
    pub quick: bool,
}

const KB: usize = 1024;
const MB: usize = 1024 * KB;

const PROXIES: &[Kind] = &[Kind::Direct, Kind::TcpProxy, Kind::RedisProxy, Kind::Native, Kind::Twemproxy];
/// twemproxy has no transactions.
const TRANSACTING: &[Kind] = &[Kind::Direct, Kind::TcpProxy, Kind::RedisProxy, Kind::Native, Kind::FilterRedis];
/// `tcp_proxy` and twemproxy know nothing of a cluster's slots.
const CLUSTERED: &[Kind] = &[Kind::RedisProxy, Kind::Native];

const GET: Work = Work {
    request: Request::Get,
    value: 64,
    pipeline: 1,
    connections: CONNECTIONS,
    behind: Behind::Server,
    kinds: &Kind::ALL,
    goal: None,
    quick: false,
};
const SET: Work = Work { request: Request::Set, ..GET };
const LARGE: Work = Work { connections: 10, kinds: PROXIES, ..GET };

/// In the report's order.
pub const WORKS: &[Work] = &[
    Work { pipeline: 1, goal: Some(0.90), quick: true, ..GET },
    Work { pipeline: 16, goal: Some(0.40), ..GET },
    Work { pipeline: 64, goal: Some(0.20), quick: true, ..GET },
    Work { value: 4 * KB, pipeline: 1, ..GET },
    Work { value: 4 * KB, pipeline: 16, ..GET },
    Work { value: 4 * KB, pipeline: 64, ..GET },
    Work { pipeline: 1, ..SET },
    Work { pipeline: 16, ..SET },
    Work { pipeline: 64, quick: true, ..SET },
    Work { value: 4 * KB, pipeline: 1, ..SET },
    Work { value: 4 * KB, pipeline: 16, ..SET },
    Work { value: 4 * KB, pipeline: 64, ..SET },
    Work { request: Request::Transaction, kinds: TRANSACTING, quick: true, ..GET },
    Work { connections: 1000, kinds: PROXIES, quick: true, ..GET },
    Work { value: 100 * KB, ..LARGE },
    Work { value: MB, quick: true, ..LARGE },
    Work { request: Request::Set, value: 100 * KB, ..LARGE },
    Work { request: Request::Set, value: MB, quick: true, ..LARGE },
    Work { pipeline: 16, behind: Behind::Cluster, kinds: CLUSTERED, goal: Some(0.45), quick: true, ..GET },
];

impl Work {
    /// The words by which `--only` chooses it, each of another kind.
    pub fn words(&self) -> [String; 5] {
        let request = match self.request {
            Request::Get => "get",
            Request::Set => "set",
            Request::Transaction => "transaction",
        };
        let behind = match self.behind {
            Behind::Server => "server",
            Behind::Cluster => "cluster",
        };
        [
            request.into(),
            size(self.value).to_ascii_lowercase().replace(' ', ""),
            format!("p{}", self.pipeline),
            format!("c{}", self.connections),
            behind.into(),
        ]
    }

    /// As the report shows it.
    pub fn title(&self) -> String {
        let request = match self.request {
            Request::Get => "GET",
            Request::Set => "SET",
            Request::Transaction => "transaction",
        };
        let mut title = format!("{request} {}, pipeline {}", size(self.value), self.pipeline);
        if self.connections != CONNECTIONS {
            title += &format!(", {} connections", redis_mesh_tests::figures::thousands(self.connections as u64));
        }
        if self.behind == Behind::Cluster {
            title += ", Redis Cluster";
        }
        title
    }

    /// The keys that it asks for. Each size of values has its own, so that all values can be there at once.
    pub fn keys(&self) -> Vec<String> {
        let keys = if self.value > 16 * KB { 16 } else { 1024 };
        (0..keys).map(|i| format!("{:05}:{:06}", self.value, i * 7919 % 1_000_000)).collect()
    }

    /// The value that all its keys have.
    pub fn bytes(&self) -> Vec<u8> {
        vec![b'x'; self.value]
    }

    /// What is asked.
    pub fn workload(&self) -> Workload {
        let (keys, value) = (self.keys(), self.bytes());
        match self.request {
            Request::Get => Workload::get(&keys, &value),
            Request::Set => Workload::set(&keys, &value),
            Request::Transaction => Workload::transaction(&keys, &value),
        }
    }
}

/// A size as the report shows it.
pub fn size(bytes: usize) -> String {
    match bytes {
        MB.. => format!("{} MB", bytes / MB),
        KB.. => format!("{} KB", bytes / KB),
        _ => format!("{bytes} B"),
    }
}
