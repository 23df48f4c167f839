//! `redis-mesh check`.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Problem};
use crate::manifest::Manifests;
use crate::render::handshake::HandshakeKey;
use crate::render::listen::ListenOverride;
use crate::render::mesh_options::MeshOptions;
use crate::render::native::DynamicModule;
use crate::render::standalone::StandaloneOptions;
use crate::render::{imports, lost_filters, mesh, standalone};
use crate::validate::options::ModuleAvailability;

use super::input::{self, Input};
use super::listen::{listen, ports};
use super::session::CliSession;

/// Arguments of `check`.
#[derive(Args)]
#[command(
    after_help = "Errors and warnings go to stderr, one on each line:\n  SEVERITY[CODE]: FILE:LINE:COLUMN: KIND NAMESPACE/NAME: FIELD: MESSAGE; REMEDY\nThe exit code is 1 if there is any error. Codes stay the same when the words change."
)]
pub struct Check {
    #[command(flatten)]
    input: Input,
    /// A target for which `render` has to succeed; repeatable [default: every target that the
    /// manifests allow]
    #[arg(long = "for", value_name = "TARGET", value_enum)]
    targets: Vec<RenderTarget>,
    /// As for `render`; repeatable
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = listen)]
    listen: Vec<ListenOverride>,
    /// As for `render envoy`
    #[arg(long, value_name = "NAME")]
    client_namespace: Option<String>,
}

/// A target of rendering. Whether proxies have the dynamic module decides the data path of a host,
/// and with it what can be refused.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RenderTarget {
    /// `render istio`
    Istio,
    /// `render istio --module`
    IstioNative,
    /// `render envoy`
    Envoy,
    /// `render envoy --module`
    EnvoyNative,
}

impl RenderTarget {
    const ALL: [RenderTarget; 4] =
        [RenderTarget::Istio, RenderTarget::IstioNative, RenderTarget::Envoy, RenderTarget::EnvoyNative];

    fn command(self) -> &'static str {
        match self {
            RenderTarget::Istio => "render istio",
            RenderTarget::IstioNative => "render istio --module",
            RenderTarget::Envoy => "render envoy",
            RenderTarget::EnvoyNative => "render envoy --module",
        }
    }

    fn module(self) -> ModuleAvailability {
        match self {
            RenderTarget::Istio => ModuleAvailability::Nobody,
            RenderTarget::IstioNative => ModuleAvailability::Sidecars,
            RenderTarget::Envoy => ModuleAvailability::Unknown,
            RenderTarget::EnvoyNative => ModuleAvailability::Envoy,
        }
    }

    /// True for the target's errors that say that the manifests are meant for another target,
    /// rather than that there is a mistake in them.
    fn is_ruled_out_by(self, code: Code) -> bool {
        match self {
            // The object asks for the module by an annotation.
            RenderTarget::Istio => code == Code::NoModule,
            RenderTarget::IstioNative => false,
            // A mesh has what an Envoy by itself lacks: addresses of headless Services, certificates,
            // and clients in several namespaces.
            RenderTarget::Envoy | RenderTarget::EnvoyNative => {
                matches!(code, Code::NoAddress | Code::NoMeshCertificates | Code::AmbiguousClients)
            }
        }
    }
}

/// A target with what rendering for it reports.
struct Outcome {
    target: RenderTarget,
    diagnostics: Diagnostics,
}

impl Check {
    /// Renders for each target and throws away what comes out.
    pub fn run(self, session: &mut CliSession) {
        let manifests = input::read(&self.input, session);
        let targets = if self.targets.is_empty() { &RenderTarget::ALL[..] } else { &self.targets };
        let outcomes: Vec<Outcome> = targets.iter().map(|target| self.outcome(*target, &manifests, session)).collect();
        let is_common =
            |error: &Diagnostic| outcomes.iter().all(|outcome| outcome.errors().any(|known| known == error));
        let is_ruled_out = |outcome: &&Outcome| self.targets.is_empty() && outcome.is_ruled_out(&is_common);
        let (mut ruled_out, mut allowed): (Vec<&Outcome>, Vec<&Outcome>) = outcomes.iter().partition(is_ruled_out);
        if allowed.is_empty() {
            std::mem::swap(&mut ruled_out, &mut allowed);
        }
        let mut found = Diagnostics::default();
        for diagnostic in allowed.iter().flat_map(|outcome| outcome.errors()) {
            found.push(diagnostic.clone());
        }
        let mut told: Vec<&Diagnostic> = Vec::new();
        for outcome in ruled_out {
            for error in outcome.errors().filter(|error| !is_common(error)) {
                if !told.contains(&error) && !found.iter().any(|known| known == error) {
                    told.push(error);
                    found.push(Diagnostic { problem: elsewhere(&error.problem, outcome.target), ..error.clone() });
                }
            }
        }
        for outcome in outcomes.iter().filter(|outcome| outcome.has_own_warnings()) {
            let warnings = outcome.diagnostics.iter().filter(|diagnostic| !diagnostic.is_error());
            warnings.for_each(|warning| found.push(warning.clone()));
        }
        session.diagnostics = found;
    }

    fn outcome(&self, target: RenderTarget, manifests: &Manifests, session: &CliSession) -> Outcome {
        let mut diagnostics = session.diagnostics.clone();
        let services =
            input::validate(manifests, &self.input.options(ports(&self.listen), target.module()), &mut diagnostics);
        let handshake_key = HandshakeKey::derived(&services);
        match target {
            RenderTarget::Istio | RenderTarget::IstioNative => {
                let module = DynamicModule::among_others("/redis_mesh.so".to_owned());
                let options = MeshOptions {
                    filter_url: "file:///redis_mesh.wasm".to_owned(),
                    filter_sha256: None,
                    root_namespace: "istio-system".to_owned(),
                    per_host: false,
                    ports: BTreeSet::new(),
                    listen: self.listen.clone(),
                    handshake_key,
                    module: (target == RenderTarget::IstioNative).then_some(module),
                    other_modules: BTreeSet::new(),
                    is_dual_stack: false,
                };
                mesh::build(&services, &options, 1, &mut diagnostics);
                for service in &services {
                    imports::report(service, &manifests.inventory, &options.root_namespace, &mut diagnostics);
                    lost_filters::report(service, &manifests.inventory, &options.root_namespace, &mut diagnostics);
                }
            }
            RenderTarget::Envoy | RenderTarget::EnvoyNative => {
                let options = StandaloneOptions {
                    filter: String::new(),
                    module: DynamicModule::only(String::new()),
                    listen: self.listen.clone(),
                    admin: None,
                    client_namespace: self.client_namespace.clone(),
                    revision: 1,
                    handshake_key,
                };
                standalone::build(&services, &options, &mut diagnostics);
            }
        }
        Outcome { target, diagnostics }
    }
}

impl Outcome {
    fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error())
    }

    /// True if rendering for the target fails only because the manifests are meant for another.
    /// `is_common` tells the errors that all targets have.
    fn is_ruled_out(&self, is_common: &dyn Fn(&Diagnostic) -> bool) -> bool {
        let own: Vec<&Diagnostic> = self.errors().filter(|error| !is_common(error)).collect();
        let rules_out = |error: &Diagnostic| self.target.is_ruled_out_by(error.problem.code);
        // Other errors of such an object follow from the data path that it doesn't ask for.
        let is_of_other = |error: &&Diagnostic| {
            own.iter().any(|known| rules_out(known) && known.subject == error.subject) || rules_out(error)
        };
        !own.is_empty() && own.iter().all(is_of_other)
    }

    /// False for a target whose warnings would only repeat or contradict those of others: what has
    /// no effect with the module may well have one without.
    fn has_own_warnings(&self) -> bool {
        matches!(self.target, RenderTarget::Istio | RenderTarget::Envoy)
    }
}

/// The warning that a target can't be rendered, which the manifests aren't meant for.
fn elsewhere(problem: &Problem, target: RenderTarget) -> Problem {
    let message = format!("`redis-mesh {}` would fail: [{}] {}", target.command(), problem.code, problem.message);
    Problem::new(Code::TargetRuledOut, message, problem.remedy.clone())
}
