//! Two versions of the filter and of the module under every workload, in turn.

use std::path::Path;

use anyhow::{Context, Result};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::Cluster;
use redis_mesh_tests::redis::Redis;

use crate::kind::{Artefacts, Behind, Kind};
use crate::options::Options;
use crate::samples::{Samples, Spread};
use crate::subject::{Subject, Task, measure_all};
use crate::work::{WORKS, Work};

/// A path is called slower only if the whole middle half of its ratios is above this.
pub const SLOWER: f64 = 1.03;

/// The results.
#[derive(Debug)]
pub struct Versions {
    /// A workload, a path, and the ratio of the new version's CPU time per request to the old
    /// one's.
    pub rows: Vec<(Work, Kind, Spread)>,
}

impl Versions {
    /// The geometric mean of the ratios' medians.
    pub fn mean(&self) -> f64 {
        let logarithms: f64 = self.rows.iter().map(|(.., ratio)| ratio.median.ln()).sum();
        (logarithms / self.rows.len().max(1) as f64).exp()
    }

    /// The rows that are slower.
    pub fn slower(&self) -> impl Iterator<Item = &(Work, Kind, Spread)> {
        self.rows.iter().filter(|(.., ratio)| ratio.low > SLOWER)
    }
}

/// A path in both versions.
struct Pair {
    kind: Kind,
    behind: Behind,
    versions: [Subject; 2],
}

/// Measures the version of this checkout against that of `base`, in rounds.
pub fn measure(options: &Options, redis: &Redis, filter: &Path, base: &Artefacts) -> Result<Versions> {
    let new = Artefacts::of_filter(filter);
    let kinds = |work: &Work| work.kinds.iter().copied().filter(|kind| kind.is_ours()).collect::<Vec<_>>();
    let works: Vec<&Work> = WORKS.iter().filter(|work| options.wants(work) && !kinds(work).is_empty()).collect();
    let cluster = works.iter().any(|work| work.behind == Behind::Cluster).then(Cluster::start).transpose()?;
    let mut pairs: Vec<Pair> = Vec::new();
    for work in &works {
        for kind in kinds(work) {
            if pairs.iter().any(|pair| pair.kind == kind && pair.behind == work.behind) {
                continue;
            }
            let servers = match (work.behind, &cluster) {
                (Behind::Cluster, Some(cluster)) => cluster.addrs(),
                _ => vec![redis.addr()],
            };
            let start = |artefacts: &Artefacts| -> Result<Subject> {
                let running = kind.start(artefacts, work.behind, &servers).context(kind.name())?;
                Ok(Subject::new(kind.name(), None, kind.resp3(), running))
            };
            pairs.push(Pair { kind, behind: work.behind, versions: [start(&new)?, start(base)?] });
        }
        let able = pairs.iter().find(|pair| pair.behind == work.behind).context("no path serves it")?;
        crate::fill(&mut Client::connect(able.versions[0].running.addr)?, &work.keys(), &work.bytes())?;
    }
    let mut rows = Vec::new();
    for work in works {
        let workload = work.workload();
        let task = Task {
            workload: &workload,
            connections: work.connections,
            pipeline: work.pipeline,
            duration: options.duration,
            count_at: None,
        };
        for pair in pairs.iter_mut().filter(|pair| pair.behind == work.behind && work.kinds.contains(&pair.kind)) {
            options.progress(&format!("{}: {}", work.title(), pair.kind.name()));
            let mut samples = [Samples::default(), Samples::default()];
            for round in 0..options.rounds {
                measure_all(pair.versions.iter_mut().zip(&mut samples), round, &task)?;
            }
            let [new, old] = &samples;
            rows.push((*work, pair.kind, new.cpu_ratio(old).context("no CPU time was measured")?));
        }
    }
    Ok(Versions { rows })
}
