//! The workloads, one row of a table each.

use crate::kind::{Behind, Kind};
use crate::subject::CONNECTIONS;
use crate::workload::Workload;

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// GET of a key.
    Get,
    /// SET of a key.
    Set,
    /// MULTI, SET, GET, EXEC.
    Transaction,
}

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The kind of request.
    pub request: Request,
    /// The size of a value in bytes.
    pub value: usize,
    /// The number of requests that a connection has outstanding.
    pub pipeline: usize,
    /// The number of client connections.
    pub connections: usize,
    /// The Redis behind the path.
    pub behind: Behind,
    /// The paths that can serve the workload and are compared by it.
    pub kinds: &'static [Kind],
    /// The goal: the highest ratio of the native path's CPU time per request to that of
    /// `redis_proxy`.
    pub goal: Option<f64>,
    /// Whether a short run includes it.
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

/// All workloads in the order of the report.
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
    /// The words by which `--only` selects it, one of each kind.
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

    /// The name in the report.
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

    /// The keys of the workload. Each size of values has its own keys, so that all values fit into
    /// one Redis at once.
    pub fn keys(&self) -> Vec<String> {
        let keys = if self.value > 16 * KB { 16 } else { 1024 };
        (0..keys).map(|i| format!("{:05}:{:06}", self.value, i * 7919 % 1_000_000)).collect()
    }

    /// The value of all keys.
    pub fn bytes(&self) -> Vec<u8> {
        vec![b'x'; self.value]
    }

    /// The requests with their replies.
    pub fn workload(&self) -> Workload {
        let (keys, value) = (self.keys(), self.bytes());
        match self.request {
            Request::Get => Workload::get(&keys, &value),
            Request::Set => Workload::set(&keys, &value),
            Request::Transaction => Workload::transaction(&keys, &value),
        }
    }
}

/// Formats a size for the report.
pub fn size(bytes: usize) -> String {
    match bytes {
        MB.. => format!("{} MB", bytes / MB),
        KB.. => format!("{} KB", bytes / KB),
        _ => format!("{bytes} B"),
    }
}
