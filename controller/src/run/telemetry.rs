//! ControllerMetrics and logs of the controller.

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

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to write logs, to stderr.
pub fn log(format: Option<LogFormat>, level: &str) -> Result<(), String> {
    // What breaks a watch we say ourselves, once.
    let filter = EnvFilter::try_new(format!("kube_runtime::watcher=error,{level}"));
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

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, missing_docs)]
pub enum OutcomeLabel {
    success,
    error,
}

impl OutcomeLabel {
    /// Of a result.
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

/// All metrics, each named as it is written.
pub struct ControllerMetrics {
    registry: Registry,
    leader: Gauge,
    reconciles: Family<ResultLabel, Counter>,
    duration: Histogram,
    evaluated: Counter,
    resources: Family<ResourceLabel, Gauge>,
    objects: Family<KindLabel, Gauge>,
    applies: Family<KindResult, Counter>,
    deletes: Family<KindLabel, Counter>,
    status_updates: Family<ResultLabel, Counter>,
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
            applies: Family::default(),
            deletes: Family::default(),
            status_updates: Family::default(),
            watch_errors: Family::default(),
            filter_requests: Family::default(),
            memory: Gauge::default(),
            registry: Registry::default(),
        };
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version", info);
        registry.register("leader", "1 if this replica is the one that writes", metrics.leader.clone());
        registry.register("reconciles", "Passes over what has changed", metrics.reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time of a pass, from the first look at what has changed to the last status",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("evaluations", "Objects of ours that were looked at again", metrics.evaluated.clone());
        registry.register("resources", "Objects of ours", metrics.resources.clone());
        registry.register("objects", "Objects that are rendered", metrics.objects.clone());
        registry.register("applies", "Objects written", metrics.applies.clone());
        registry.register("deletes", "Objects deleted", metrics.deletes.clone());
        registry.register("status_updates", "Statuses written", metrics.status_updates.clone());
        registry.register("watch_errors", "Watches that broke, by what they watched", metrics.watch_errors.clone());
        registry.register(
            "filter_requests",
            "Answers to proxies that fetch the filter",
            metrics.filter_requests.clone(),
        );
        registry.register("resident_memory_bytes", "Resident memory of this process", metrics.memory.clone());
        ControllerMetrics { registry, ..metrics }
    }
}

impl ControllerMetrics {
    /// In the text format of OpenMetrics.
    pub fn text(&self) -> String {
        self.memory.set(resident_memory().unwrap_or_default());
        let mut text = String::new();
        // Writing to a String doesn't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Whether this replica writes.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// A pass over what has changed.
    pub fn reconciled(&self, result: OutcomeLabel, seconds: f64, evaluated: usize) {
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.duration.observe(seconds);
        self.evaluated.inc_by(evaluated as u64);
    }

    /// How many objects of ours there are.
    pub fn set_resources(&self, kind: &'static str, accepted: bool, count: usize) {
        let accepted = if accepted { "true" } else { "false" };
        self.resources.get_or_create(&ResourceLabel { kind, accepted }).set(count as i64);
    }

    /// How many objects are rendered.
    pub fn set_objects(&self, kind: &'static str, count: usize) {
        self.objects.get_or_create(&KindLabel { kind }).set(count as i64);
    }

    /// An object was written, or not.
    pub fn applied(&self, kind: &'static str, result: OutcomeLabel) {
        self.applies.get_or_create(&KindResult { kind, result }).inc();
    }

    /// An object was deleted.
    pub fn deleted(&self, kind: &'static str) {
        self.deletes.get_or_create(&KindLabel { kind }).inc();
    }

    /// A status was written, or not.
    pub fn status_written(&self, result: OutcomeLabel) {
        self.status_updates.get_or_create(&ResultLabel { result }).inc();
    }

    /// A watch broke.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&KindLabel { kind }).inc();
    }

    /// A proxy asked for the filter.
    pub fn filter_requested(&self, code: u16) {
        self.filter_requests.get_or_create(&CodeLabel { code }).inc();
    }
}

/// Resident memory in bytes, as Linux tells it (proc(5), `statm`).
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
