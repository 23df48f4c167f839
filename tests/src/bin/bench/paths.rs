//! Every path from a client to Redis, under every workload.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::Cluster;
use redis_mesh_tests::redis::Redis;

use crate::kind::{Artefacts, Behind, Kind};
use crate::options::Options;
use crate::samples::Samples;
use crate::subject::{Subject, Task, measure_all};
use crate::work::{Request, WORKS, Work};

/// The results.
#[derive(Debug)]
pub struct Paths {
    /// The paths.
    pub rows: Vec<Row>,
    /// The samples of each path for each workload. A path that can't serve a workload has none.
    pub results: Vec<(Work, Vec<Samples>)>,
}

/// A path with the Redis behind it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name of the row.
    pub name: String,
    /// The row with which this one is compared.
    pub peer: Option<usize>,
    /// The path.
    pub kind: Kind,
    /// The Redis behind the path.
    pub behind: Behind,
    /// Whether the filter is one of `--against`.
    pub other: bool,
}

/// Measures in rounds. Each round has every workload on every path that can serve it.
pub fn measure(options: &Options, redis: &Redis, filter_file: &Path) -> Result<Paths> {
    let works: Vec<Work> = WORKS.iter().filter(|work| options.wants(work)).copied().collect();
    let (mut rows, mut subjects) = start(options, &works, Behind::Server, &[redis.addr()], filter_file)?;
    let cluster = works.iter().any(|work| work.behind == Behind::Cluster).then(Cluster::start).transpose()?;
    if let Some(cluster) = &cluster {
        let (more, running) = start(options, &works, Behind::Cluster, &cluster.addrs(), filter_file)?;
        let first = rows.len();
        rows.extend(more.into_iter().map(|row| Row { peer: row.peer.map(|peer| first + peer), ..row }));
        subjects.extend(running);
    }
    let does = |work: &Work, row: &Row| row.behind == work.behind && work.kinds.contains(&row.kind);
    let mut workloads = Vec::new();
    for work in &works {
        // Somebody who can do it fills what stands behind.
        let way = rows.iter().position(|row| does(work, row)).context("nobody can do it")?;
        crate::fill(&mut Client::connect(subjects[way].running.addr)?, &work.keys(), &work.bytes())?;
        workloads.push(work.workload());
    }
    let mut results: Vec<(Work, Vec<Samples>)> =
        works.into_iter().map(|work| (work, vec![Samples::default(); rows.len()])).collect();
    for round in 0..options.rounds {
        for ((work, samples), workload) in results.iter_mut().zip(&workloads) {
            options.progress(&format!("round {} of {}: {}", round + 1, options.rounds, work.title()));
            let task = Task {
                workload,
                connections: work.connections,
                pipeline: work.pipeline,
                duration: options.duration,
                count_at: (work.request == Request::Transaction).then_some(redis),
            };
            let able = subjects.iter_mut().zip(samples).zip(&rows).filter(|(_, row)| does(work, row));
            measure_all(able.map(|(pair, _)| pair), round, &task)?;
        }
    }
    Ok(Paths { rows, results })
}

fn start(
    options: &Options,
    works: &[Work],
    behind: Behind,
    servers: &[SocketAddr],
    filter_file: &Path,
) -> Result<(Vec<Row>, Vec<Subject>)> {
    let wanted =
        |kind: &Kind| kind.is_there() && works.iter().any(|work| work.behind == behind && work.kinds.contains(kind));
    let (mut rows, mut subjects): (Vec<Row>, Vec<Subject>) = (Vec::new(), Vec::new());
    for (mark, file) in &options.filters(filter_file) {
        let other = !mark.is_empty();
        let artefacts = Artefacts::of_filter(file);
        for kind in Kind::ALL.into_iter().filter(wanted).filter(|kind| kind.has_filter() || !other) {
            let name = format!("{}{mark}", kind.name());
            let peer = kind.peer().and_then(|peer| rows.iter().position(|row| row.kind == peer));
            let running = kind.start(&artefacts, behind, servers).with_context(|| format!("starting {name}"))?;
            subjects.push(Subject::new(&name, peer, kind.resp3(), running));
            rows.push(Row { name, peer, kind, behind, other });
        }
    }
    Ok((rows, subjects))
}

impl Paths {
    /// The samples of a path under a workload.
    pub fn samples(&self, work: &Work, kind: Kind) -> Option<&Samples> {
        let (_, samples) = self.results.iter().find(|(known, _)| known == work)?;
        let own = |(row, samples): &(&Row, &Samples)| row.kind == kind && !row.other && !samples.is_empty();
        self.rows.iter().zip(samples).find(own).map(|(_, samples)| samples)
    }
}
