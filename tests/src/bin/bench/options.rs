//! The command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis_mesh_tests::workspace;

use crate::paths::{Cell, cells};

/// What `--help` prints.
pub const HELP: &str = "\
What the filter costs: requests per second, latency, and Envoy's CPU time per request, on every way
from a client to Redis (direct, tcp_proxy, redis_proxy, the filter before each), measured in
interleaved rounds on this machine. Also: the cost of many routes, and the memory of idle connections.

Usage: just bench [OPTIONS]

Options:
  --quick         A short run that shows that everything works; its numbers mean little
  --rounds N      Rounds (21; with --quick 2). The report shows medians and minima
  --only LIST     Only these parts: paths, routes, idle; or only these loads: get, set, 64b, 4kb, p1, p16,
                  p64. Separated by commas, such as get,64b,p64
  --filter FILE   A built filter; otherwise it is built
  --against FILE  Another filter, measured on the same ways in the same rounds; may be repeated
  --out DIR       Where benchmark.md and benchmark.svg go (reports)
  -h, --help      Print this

Progress is shown on stderr. The numbers are worth what the machine is: CPU time per request, and ratios
within one run, bear company better than requests per second do.
";

/// The parts of a run.
pub const PARTS: [&str; 3] = ["paths", "routes", "idle"];

/// See [`HELP`].
#[derive(Clone, Debug)]
pub struct Options {
    /// A short run.
    pub quick: bool,
    /// Rounds of every measurement.
    pub rounds: usize,
    /// How long each load lasts.
    pub duration: Duration,
    /// A built filter.
    pub filter: Option<PathBuf>,
    /// Others.
    pub against: Vec<PathBuf>,
    /// Where the report goes.
    pub out: PathBuf,
    parts: Vec<String>,
    loads: Vec<String>,
}

impl Options {
    /// From the command line; none: help is asked for.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
        let mut options = Options {
            quick: false,
            rounds: 0,
            duration: Duration::from_millis(120),
            filter: None,
            against: Vec::new(),
            out: workspace::root().join("reports"),
            parts: Vec::new(),
            loads: Vec::new(),
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
        let known: Vec<String> = cells().iter().flat_map(Cell::words).collect();
        for word in list.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            if PARTS.contains(&word.as_str()) {
                self.parts.push(word);
            } else if known.contains(&word) {
                self.loads.push(word);
            } else {
                bail!("--only: what is {word}?");
            }
        }
        if !self.loads.is_empty() {
            self.parts.push("paths".into());
        }
        Ok(())
    }

    /// Whether a part is wanted.
    pub fn wants_part(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    /// Whether a load is wanted: of each kind of word (command, size, pipeline) one that it has, or none at all.
    pub fn wants(&self, cell: &Cell) -> bool {
        if self.loads.is_empty() {
            return !self.quick || (cell.value == 64 && cell.pipeline != 16);
        }
        let all = cells();
        (0..3).all(|kind| {
            let of_kind: Vec<&String> =
                self.loads.iter().filter(|word| all.iter().any(|cell| cell.words()[kind] == **word)).collect();
            of_kind.is_empty() || of_kind.contains(&&cell.words()[kind])
        })
    }

    /// The filters to be measured, with what to add to the names of their rows.
    pub fn filters(&self, built: &Path) -> Vec<(String, PathBuf)> {
        let mut filters = vec![(String::new(), built.to_path_buf())];
        for file in &self.against {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            filters.push((format!(" ({stem})"), file.clone()));
        }
        filters
    }

    /// Tells how far it is.
    pub fn progress(&self, what: &str) {
        let _ = writeln!(std::io::stderr(), "{what} …");
    }
}

/// Envoy runs in a directory of its own.
fn file(path: String) -> Result<PathBuf> {
    std::fs::canonicalize(&path).with_context(|| format!("there is no {path}"))
}
