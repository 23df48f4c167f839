//! The manifests on the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::diagnostic::{Code, Diagnostics, Origin, Problem, Subject};
use crate::manifest::{self, ManifestSource, Manifests};
use crate::validate;
use crate::validate::options::{ModuleAvailability, ValidateOptions, system_clock};
use crate::validate::service::ValidatedService;

use super::session::CliSession;
use super::stderr::tell;

/// The manifests, and the meaning of names in them.
#[derive(Args)]
pub struct Input {
    /// Manifests: a file, a directory (its *.yaml, *.yml and *.json files), or - for stdin;
    /// repeatable
    ///
    /// RedisServices and RedisDestinations are read, and the objects to which they refer:
    /// Secrets, Services, EndpointSlices, ServiceEntries and DestinationRules. Objects of other
    /// kinds are skipped and counted on stderr.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    files: Vec<PathBuf>,
    /// The namespace of objects without one
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// The domain of the cluster: hosts under .svc.DOMAIN are Services and must be among the
    /// manifests, others are DNS names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
}

impl Input {
    /// The options of validation, with the ports of hosts that are no Services.
    pub fn options(&self, ports: BTreeMap<String, BTreeSet<u16>>, module: ModuleAvailability) -> ValidateOptions {
        ValidateOptions {
            cluster_domain: self.cluster_domain.clone(),
            ports,
            module,
            clock: Some(system_clock),
            ..ValidateOptions::default()
        }
    }
}

/// Reads and validates the manifests.
pub fn load(input: &Input, options: &ValidateOptions, session: &mut CliSession) -> Vec<ValidatedService> {
    let manifests = read(input, session);
    validate(&manifests, options, &mut session.diagnostics)
}

/// Reads the manifests.
pub fn read(input: &Input, session: &mut CliSession) -> Manifests {
    let CliSession { sources, diagnostics } = session;
    for path in &input.files {
        read_path(path, sources, diagnostics);
    }
    let manifests = manifest::read(sources, &input.namespace, diagnostics);
    if !manifests.skipped.is_empty() {
        let counts: Vec<_> = manifests.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        tell(format_args!("note: skipped {}", counts.join(", ")));
    }
    if manifests.services.is_empty() && manifests.destinations.is_empty() && !diagnostics.has_errors() {
        let message = "the manifests hold no RedisService and no RedisDestination";
        diagnostics.add(&Subject::default(), "", Problem::new(Code::NoObjects, message, "name files that do"));
    }
    manifests
}

/// Validates the manifests.
pub fn validate(
    manifests: &Manifests,
    options: &ValidateOptions,
    diagnostics: &mut Diagnostics,
) -> Vec<ValidatedService> {
    validate::validate(&manifests.services, &manifests.destinations, &manifests.inventory, options, diagnostics)
}

fn read_path(path: &Path, sources: &mut Vec<ManifestSource>, diagnostics: &mut Diagnostics) {
    let mut failed = |path: &Path, error: &std::io::Error| {
        let origin = Origin { file: path.display().to_string(), ..Origin::default() };
        let message = format!("can't be read: {error}");
        let problem = Problem::new(Code::UnreadableFile, message, "name a file that can be read");
        diagnostics.add(&Subject { origin, ..Subject::default() }, "", problem);
    };
    if path == Path::new("-") {
        let mut text = String::new();
        match std::io::stdin().lock().read_to_string(&mut text) {
            Ok(_) => sources.push(ManifestSource { name: "stdin".to_owned(), text }),
            Err(error) => failed(Path::new("stdin"), &error),
        }
        return;
    }
    let files = if path.is_dir() {
        match listed(path) {
            Ok(files) => files,
            Err(error) => return failed(path, &error),
        }
    } else {
        vec![path.to_owned()]
    };
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => sources.push(ManifestSource { name: file.display().to_string(), text }),
            Err(error) => failed(&file, &error),
        }
    }
}

/// The manifests of a directory, in the order of their names.
fn listed(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_manifest =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if is_manifest && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
