//! Metrics and logs of the controller.

use std::io::IsTerminal;
use std::sync::atomic::AtomicU64;

use clap::ValueEnum;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

/// The format of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people to read.
    Text,
    /// One JSON object for each line.
    Json,
}

/// Starts to write logs to stderr.
pub fn log(format: Option<LogFormat>, level: &str) -> Result<(), String> {
    // The controller logs errors of watches and of requests itself, each once.
    let quiet = "kube_runtime::watcher=error,kube_client::client::builder=off";
    let filter = EnvFilter::try_new(format!("{quiet},{level}"));
    let filter = filter.map_err(|error| format!("--log-level: {error}"))?;
    let is_terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let result = match format {
        LogFormat::Text => builder.with_ansi(is_terminal).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| error.to_string())
}

/// The result of an operation as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, missing_docs)]
pub enum OutcomeLabel {
    success,
    error,
}

impl OutcomeLabel {
    /// The label of a result.
    pub fn of<T, E>(result: &Result<T, E>) -> OutcomeLabel {
        if result.is_ok() { OutcomeLabel::success } else { OutcomeLabel::error }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: OutcomeLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindResult {
    kind: &'static str,
    result: OutcomeLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    kind: &'static str,
    accepted: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

/// What the witness says of a batch, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, missing_docs)]
pub enum JudgmentLabel {
    taken,
    refused,
    unclear,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BatchLabel {
    result: JudgmentLabel,
}

/// Metrics of what the witness says.
#[derive(Default)]
struct WitnessMetrics {
    up: Gauge,
    batches: Family<BatchLabel, Counter>,
    others_refused: Gauge,
    withheld: Gauge,
}

impl WitnessMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("witness_up", "1 if the witness answers; 0 if not, or if there is none", self.up.clone());
        registry.register(
            "batches",
            "Batches of changes of which the witness has said something",
            self.batches.clone(),
        );
        registry.register(
            "refused_of_others",
            "1 while the witness refuses what others than redis-mesh have written",
            self.others_refused.clone(),
        );
        registry.register(
            "withheld_resources",
            "RedisServices and RedisDestinations that aren't in force since a proxy refuses them",
            self.withheld.clone(),
        );
    }
}

/// Metrics of requests that write.
#[derive(Default)]
struct WriteMetrics {
    applies: Family<KindResult, Counter>,
    deletes: Family<KindLabel, Counter>,
    status_updates: Family<ResultLabel, Counter>,
}

/// The metrics of the controller.
pub struct ControllerMetrics {
    registry: Registry,
    leader: Gauge,
    reconciles: Family<ResultLabel, Counter>,
    duration: Histogram,
    evaluated: Counter,
    resources: Family<ResourceLabel, Gauge>,
    objects: Family<KindLabel, Gauge>,
    writes: WriteMetrics,
    witness: WitnessMetrics,
    watch_errors: Family<KindLabel, Counter>,
    filter_requests: Family<CodeLabel, Counter>,
    memory: Gauge<u64, AtomicU64>,
}

impl Default for ControllerMetrics {
    fn default() -> ControllerMetrics {
        let mut registry = Registry::with_prefix("redis_mesh_controller");
        let metrics = ControllerMetrics {
            leader: Gauge::default(),
            reconciles: Family::default(),
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            evaluated: Counter::default(),
            resources: Family::default(),
            objects: Family::default(),
            writes: WriteMetrics::default(),
            witness: WitnessMetrics::default(),
            watch_errors: Family::default(),
            filter_requests: Family::default(),
            memory: Gauge::default(),
            registry: Registry::default(),
        };
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version", info);
        registry.register("leader", "1 if this replica is the leader, which writes", metrics.leader.clone());
        registry.register("reconciles", "Syncs", metrics.reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time of a sync, from the evaluation of changed objects to the last status",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "evaluations",
            "RedisServices and RedisDestinations that were evaluated",
            metrics.evaluated.clone(),
        );
        registry.register("resources", "RedisServices and RedisDestinations", metrics.resources.clone());
        registry.register("objects", "Rendered objects in the cluster", metrics.objects.clone());
        registry.register("applies", "Objects written", metrics.writes.applies.clone());
        registry.register("deletes", "Objects deleted", metrics.writes.deletes.clone());
        registry.register("status_updates", "Statuses written", metrics.writes.status_updates.clone());
        registry.register("watch_errors", "Failures of watches", metrics.watch_errors.clone());
        registry.register(
            "filter_requests",
            "Responses to proxies that fetch the filter",
            metrics.filter_requests.clone(),
        );
        registry.register("resident_memory_bytes", "Resident memory of this process", metrics.memory.clone());
        metrics.witness.register(&mut registry);
        ControllerMetrics { registry, ..metrics }
    }
}

impl ControllerMetrics {
    /// All metrics in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        self.memory.set(resident_memory().unwrap_or_default());
        let mut text = String::new();
        // Writing to a String doesn't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Records whether this replica is the leader.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Records a sync.
    pub fn reconciled(&self, result: OutcomeLabel, seconds: f64, evaluated: usize) {
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.duration.observe(seconds);
        self.evaluated.inc_by(evaluated as u64);
    }

    /// Sets the number of RedisServices or RedisDestinations with or without errors.
    pub fn set_resources(&self, kind: &'static str, accepted: bool, count: usize) {
        let accepted = if accepted { "true" } else { "false" };
        self.resources.get_or_create(&ResourceLabel { kind, accepted }).set(count as i64);
    }

    /// Sets the number of rendered objects of a kind.
    pub fn set_objects(&self, kind: &'static str, count: usize) {
        self.objects.get_or_create(&KindLabel { kind }).set(count as i64);
    }

    /// Records an attempt to write a rendered object.
    pub fn applied(&self, kind: &'static str, result: OutcomeLabel) {
        self.writes.applies.get_or_create(&KindResult { kind, result }).inc();
    }

    /// Records the deletion of a rendered object.
    pub fn deleted(&self, kind: &'static str) {
        self.writes.deletes.get_or_create(&KindLabel { kind }).inc();
    }

    /// Records an attempt to write a status.
    pub fn status_written(&self, result: OutcomeLabel) {
        self.writes.status_updates.get_or_create(&ResultLabel { result }).inc();
    }

    /// Records what the witness says of a batch.
    pub fn judged(&self, result: JudgmentLabel) {
        self.witness.batches.get_or_create(&BatchLabel { result }).inc();
    }

    /// Sets whether the witness answers.
    pub fn set_witness_up(&self, is_up: bool) {
        self.witness.up.set(is_up.into());
    }

    /// Sets whether the witness refuses what others have written.
    pub fn set_others_refused(&self, others_refused: bool) {
        self.witness.others_refused.set(others_refused.into());
    }

    /// Sets the number of objects that are withheld, since a proxy refuses them.
    pub fn set_withheld(&self, count: usize) {
        self.witness.withheld.set(count as i64);
    }

    /// Records a failure of a watch.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&KindLabel { kind }).inc();
    }

    /// Records a request for the filter.
    pub fn filter_requested(&self, code: u16) {
        self.filter_requests.get_or_create(&CodeLabel { code }).inc();
    }
}

/// The resident memory of the process in bytes (proc_pid_status(5), `VmRSS`).
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_as_documented() {
        let metrics = ControllerMetrics::default();
        metrics.reconciled(OutcomeLabel::success, 0.01, 3);
        metrics.applied("EnvoyFilter", OutcomeLabel::error);
        metrics.deleted("EnvoyFilter");
        metrics.set_resources("RedisService", true, 2);
        metrics.filter_requested(200);
        let text = metrics.text();
        for line in [
            r#"redis_mesh_controller_build_info{version=""#,
            r#"redis_mesh_controller_reconciles_total{result="success"} 1"#,
            r#"redis_mesh_controller_reconcile_duration_seconds_count 1"#,
            r#"redis_mesh_controller_evaluations_total 3"#,
            r#"redis_mesh_controller_applies_total{kind="EnvoyFilter",result="error"} 1"#,
            r#"redis_mesh_controller_deletes_total{kind="EnvoyFilter"} 1"#,
            r#"redis_mesh_controller_resources{kind="RedisService",accepted="true"} 2"#,
            r#"redis_mesh_controller_filter_requests_total{code="200"} 1"#,
            r#"redis_mesh_controller_leader 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
