//! The command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis_mesh_tests::workspace;

use crate::kind::Artefacts;
use crate::work::{WORKS, Work};

/// The text of `--help`.
pub const HELP: &str = "\
Measures requests per second, latency, and the proxy's CPU time per request on every path from a client
to Redis (direct, tcp_proxy, redis_proxy, the native module, the wasm filter before each, and twemproxy
if `nutcracker` is installed), in interleaved rounds on this machine. It also measures latency at a fixed
rate, pub/sub, memory with clients that don't read and a Redis that is stopped, the cost of many routes,
and the memory of idle connections. The report compares the results with the goals of the native path.

Usage: just bench [OPTIONS]

Options:
  --quick         Make a short run, which checks that everything works; its numbers mean little
  --rounds N      Number of rounds (21; with --quick 2). The report shows medians and minima
  --only LIST     Measure only these parts: paths, latency, fanout, memory, routes, idle; or only these
                  workloads: get, set, transaction, 64b, 4kb, 100kb, 1mb, p1, p16, p64 (pipeline), c10,
                  c50, c1000 (connections), server, cluster. Separate them by commas: get,64b,p64
  --filter FILE   Use this wasm filter instead of building one
  --against FILE  Measure another filter on the same paths in the same rounds; repeatable
  --base MODULE FILTER
                  Measure only this version against another one, whose module and filter these are
  --out DIR       Write benchmark.md and benchmark.svg to this directory (reports)
  -h, --help      Print this

Progress is shown on stderr. The numbers depend on the machine. CPU time per request, and ratios within
one run, suffer less from other load than requests per second.
";

/// The parts of a run.
pub const PARTS: [&str; 6] = ["paths", "latency", "fanout", "memory", "routes", "idle"];

/// The options; [`HELP`] describes them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the run is a short one.
    pub quick: bool,
    /// The number of rounds.
    pub rounds: usize,
    /// The duration of each load.
    pub duration: Duration,
    /// The wasm filter, if it needn't be built.
    pub filter: Option<PathBuf>,
    /// Further wasm filters.
    pub against: Vec<PathBuf>,
    /// Another version, to be measured against this one.
    pub base: Option<Artefacts>,
    /// The directory of the report.
    pub out: PathBuf,
    parts: Vec<String>,
    works: Vec<String>,
}

impl Options {
    /// Parses the command line. `None` if it asks for help.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
        let mut options = Options {
            quick: false,
            rounds: 0,
            duration: Duration::from_millis(120),
            filter: None,
            against: Vec::new(),
            base: None,
            out: workspace::root().join("reports"),
            parts: Vec::new(),
            works: Vec::new(),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "--quick" => options.quick = true,
                "--rounds" => {
                    options.rounds = value()?.parse().ok().filter(|&n| n > 0).context("--rounds: a number from 1")?;
                }
                "--only" => options.only(&value()?)?,
                "--filter" => options.filter = Some(file(value()?)?),
                "--against" => options.against.push(file(value()?)?),
                "--base" => {
                    let module = Some(file(value()?)?);
                    let filter = args.next().context("--base needs a module and a filter")?;
                    options.base = Some(Artefacts { filter: file(filter)?, module });
                }
                "--out" => options.out = value()?.into(),
                _ => bail!("what is {arg}?"),
            }
        }
        if options.quick {
            options.duration = Duration::from_millis(100);
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 2 } else { 21 };
        }
        Ok(Some(options))
    }

    fn only(&mut self, list: &str) -> Result<()> {
        let known: Vec<String> = WORKS.iter().flat_map(Work::words).collect();
        for word in list.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            if PARTS.contains(&word.as_str()) {
                self.parts.push(word);
            } else if known.contains(&word) {
                self.works.push(word);
            } else {
                bail!("--only: what is {word}?");
            }
        }
        if !self.works.is_empty() {
            self.parts.push("paths".into());
        }
        Ok(())
    }

    /// Whether a part is to be measured.
    pub fn wants_part(&self, part: &str) -> bool {
        self.base.is_none() && self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    /// Whether a workload is to be measured: for each kind of word (request, size, pipeline, …)
    /// that was given, it must match one.
    pub fn wants(&self, work: &Work) -> bool {
        if self.works.is_empty() {
            return !self.quick || work.quick;
        }
        work.words().iter().enumerate().all(|(kind, own)| {
            let of_kind = |word: &&String| WORKS.iter().any(|work| work.words()[kind] == **word);
            let mut wanted = self.works.iter().filter(of_kind).peekable();
            wanted.peek().is_none() || wanted.any(|word| word == own)
        })
    }

    /// The filters, each with the suffix of its rows' names.
    pub fn filters(&self, built: &Path) -> Vec<(String, PathBuf)> {
        let mut filters = vec![(String::new(), built.to_path_buf())];
        for file in &self.against {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            filters.push((format!(" ({stem})"), file.clone()));
        }
        filters
    }

    /// Reports progress on stderr.
    pub fn progress(&self, what: &str) {
        let _ = writeln!(std::io::stderr(), "{what} …");
    }
}

/// Returns an absolute path, because Envoy runs in a directory of its own.
fn file(path: String) -> Result<PathBuf> {
    std::fs::canonicalize(&path).with_context(|| format!("there is no {path}"))
}
