//! What a proxy has taken, what it refuses, and what the status says of both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::workspace;

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use crate::api::{ObjectName, condition};
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::network::NODE;
use crate::operator::{Controller, Operator, controller};
use crate::witness::Witness;

/// The tests.
pub const TESTS: &[Test] = &[
    ("witness::taken", |mesh| with_witness(mesh, "Prefer", taken)),
    ("witness::refused", |mesh| with_witness(mesh, "Prefer", refused)),
    ("witness::succeeded", |mesh| with_witness(mesh, "Prefer", succeeded)),
    ("witness::halves", |mesh| with_witness(mesh, "Prefer", halves)),
    ("witness::others", |mesh| with_witness(mesh, "Prefer", others)),
    ("witness::preferred", |mesh| with_witness(mesh, "Prefer", preferred)),
    ("witness::required", |mesh| with_witness(mesh, "Require", required)),
];

/// A table that Envoy refuses for Maglev, since its size is no prime number, and which has no effect for
/// any other policy: so only together with an object that leads there through `redis_proxy`.
const TABLE: &str = "{maglev_lb_config: {table_size: 65536}}";
/// What Envoy refuses by itself.
const WRONG: &str = "{type: ORIGINAL_DST, lb_policy: MAGLEV}";

/// Somebody's EnvoyFilter that changes the cluster of redis-single.
fn envoy_filter(value: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: of-somebody, namespace: istio-system}}
spec:
  configPatches:
    - applyTo: CLUSTER
      match: {{cluster: {{service: redis-single.redis.svc.cluster.local, portNumber: 6379}}}}
      patch: {{operation: MERGE, value: {value}}}
"
    )
}

fn of_somebody() -> ObjectName {
    ObjectName::new("EnvoyFilter", "istio-system", "of-somebody")
}

/// Runs a test with a controller that has a witness.
fn with_witness(mesh: &mut Mesh, policy: &str, test: fn(&mut Mesh, &Witness) -> Result<()>) -> Result<()> {
    mesh.may_be_refused = true;
    let witness = Witness::start(mesh)?;
    let arguments = ["--witness", witness.url(), "--witness-policy", policy].map(str::to_owned).into();
    let Operator::Controller(controller) = &mut mesh.operator else { bail!("this is for the controller") };
    controller.restart_as(controller::Options { arguments, ..controller::Options::default() })?;
    let result = test(mesh, &witness);
    mesh.delete(&[of_somebody()])?;
    let log = witness.pod().sidecar()?.log();
    let said = match &mesh.operator {
        Operator::Controller(controller) => controller.log(),
        Operator::Rendered(_) => String::new(),
    };
    witness.delete()?;
    let tail =
        |text: &str| text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    result.with_context(|| format!("the witness said:\n{}\nthe controller said:\n{}", tail(&log), tail(&said)))
}

fn metric(mesh: &Mesh, name: &str) -> Result<f64> {
    let Operator::Controller(controller) = &mesh.operator else { bail!("this is for the controller") };
    controller.metric(&format!("redis_mesh_controller_{name}"))
}

/// Waits for a reason of the condition `Programmed`. Returns its status and its message.
fn wait_reason(mesh: &Mesh, name: &ObjectName, reason: &str) -> Result<(String, String)> {
    eventually(PATIENCE, || {
        let object = mesh.api().get(name)?.context("there is no such object")?;
        let programmed = condition(&object, "Programmed").context("no condition Programmed")?;
        ensure!(programmed["reason"] == reason, "Programmed is {programmed}");
        ensure!(programmed["observedGeneration"] == object["metadata"]["generation"], "{programmed} is old");
        let text = |field: &str| programmed[field].as_str().unwrap_or_default().to_string();
        Ok((text("status"), text("message")))
    })
    .with_context(|| format!("waiting for the reason {reason} of {name:?}"))
}

/// `Programmed` comes after the witness and soon, and the marker shows which batch it was.
fn taken(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{}", redis_cluster()))?;
    wait_reason(mesh, &single("RedisDestination"), "Programmed")?;
    let mut before = witness.marker()?;
    for password in ["first", "second", "third"] {
        let begin = Instant::now();
        mesh.apply(&CLIENT_AUTH.replace("testredis123!", password))?;
        wait_reason(mesh, &single("RedisService"), "Programmed")?;
        let taken = begin.elapsed();
        // Another sidecar got it in the same push.
        eventually(Duration::from_secs(1), || session(mesh, "redis-single", &[(&format!("auth {password}"), "OK")]))?;
        workspace::progress(&format!("programmed after {taken:.2?}, in a sidecar after {:.2?}", begin.elapsed()));
        ensure!(taken < Duration::from_secs(3), "Programmed after {taken:?}");
        let now = witness.marker()?;
        ensure!(now["batch"] != before["batch"] && now["content"] != before["content"], "{before} {now}");
        before = now;
    }
    ensure!(metric(mesh, "witness_up")? == 1.0, "the metric says that the witness is away");
    ensure!(metric(mesh, "batches_total")? >= 4.0, "no batches are counted");
    let (status, _) = wait_reason(mesh, &single("RedisService"), "Programmed")?;
    ensure!(status == "True", "{status}");
    Ok(())
}

fn cluster_service() -> ObjectName {
    ObjectName::new("RedisService", "redis", "redis-cluster")
}

/// The rules of redis-cluster before the ones that are refused.
const BEFORE: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: redis-cluster, namespace: redis}
spec:
  host: [redis-cluster.redis.svc.cluster.local]
  settings: {auth: {plain: {password: before}}}
";

/// Applies rules that are taken, and what makes later ones refused that need no more than them.
fn prepare(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{}---\n{BEFORE}", redis_cluster()))?;
    wait_reason(mesh, &cluster_service(), "Programmed")?;
    mesh.apply(&envoy_filter(TABLE))?;
    // The controller looks every two seconds while nothing is on its way, and has to have seen this: later
    // the witness is away.
    std::thread::sleep(Duration::from_secs(5));
    ensure!(witness.pod().sidecar()?.rejected()? == 0, "Envoy refuses it before there is a reason");
    Ok(())
}

/// Applies rules that are refused, together with some that aren't.
fn apply_refused(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    mesh.apply(&format!("{PREFIX_ROUTING}---\n{CLIENT_AUTH}"))?;
    eventually(PATIENCE, || {
        ensure!(witness.pod().sidecar()?.rejected()? > 0, "Envoy refuses nothing");
        Ok(())
    })
}

/// Waits until the rules that are refused are told, and the others are in force. Returns what is told.
fn wait_told(mesh: &Mesh) -> Result<String> {
    let (status, message) = wait_reason(mesh, &cluster_service(), "Rejected")?;
    ensure!(status == "False", "{status} {message}");
    for name in [single("RedisService"), single("RedisDestination")] {
        let (status, _) = wait_reason(mesh, &name, "Programmed")?;
        ensure!(status == "True", "{name:?}: {status}");
    }
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    soon(mesh, "redis-cluster", &[("get a", "(error) NOAUTH Authentication required."), ("auth before", "OK")])?;
    Ok(message)
}

/// Starts a pod that waits, since Envoy refuses something, until this is done. Returns the time from then until it
/// is ready.
fn wait_ready(mesh: &Mesh, correct: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (waiting, back) = std::thread::scope(|scope| -> Result<_> {
        let pod = scope.spawn(|| mesh.pod("waiting", "redis", "waiting", 71, true));
        std::thread::sleep(Duration::from_secs(6));
        ensure!(!pod.is_finished(), "the pod doesn't wait");
        let corrected = correct();
        let begin = Instant::now();
        let pod = pod.join().map_err(|_| anyhow::anyhow!("the pod panicked"))??;
        corrected?;
        Ok((pod, begin.elapsed()))
    })?;
    waiting.delete()?;
    Ok(back)
}

/// What Envoy refuses goes back, so that a pod that waits becomes ready; the object from which it
/// came is told, and the others are applied.
fn refused(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    prepare(mesh, witness)?;
    // While the witness is away, what is refused stays, and a pod that starts waits.
    witness.set_away(true);
    apply_refused(mesh, witness)?;
    let back = wait_ready(mesh, || {
        witness.set_away(false);
        Ok(())
    })?;
    workspace::progress(&format!("the pod that waited was ready {back:.2?} after the witness had come back"));
    ensure!(back < Duration::from_secs(5), "the pod was ready after {back:?}");
    let message = wait_told(mesh)?;
    ensure!(message.contains("outbound|6379||redis-single.redis"), "{message}");
    let events = mesh.plane.kubectl(&["-n", "redis", "describe", "rsvc", "redis-cluster"], "")?;
    ensure!(events.contains("Rejected"), "no Event:\n{events}");
    ensure!(metric(mesh, "withheld_resources")? == 1.0, "not one object is withheld");

    // Another leader leaves it as it is.
    let counted = witness.pod().sidecar()?.rejected()?;
    let Operator::Controller(controller) = &mut mesh.operator else { bail!("this is for the controller") };
    controller.kill();
    controller.restart()?;
    wait_reason(mesh, &single("RedisService"), "Programmed")?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(witness.pod().sidecar()?.rejected()? == counted, "another leader applies it again");
    wait_reason(mesh, &cluster_service(), "Rejected")?;
    soon(mesh, "redis-cluster", &[("get a", "(error) NOAUTH Authentication required."), ("auth before", "OK")])?;

    // Another object, and the same one when it says something else.
    mesh.apply(&CLIENT_AUTH.replace("testredis123!", "another"))?;
    wait_reason(mesh, &single("RedisService"), "Programmed")?;
    mesh.apply(&BEFORE.replace("password: before", "password: after"))?;
    wait_reason(mesh, &cluster_service(), "Programmed")?;
    soon(mesh, "redis-cluster", &[("auth after", "OK")])?;
    ensure!(metric(mesh, "withheld_resources")? == 0.0, "objects are still withheld");
    Ok(())
}

/// A replica that takes over from one that was killed after it had written what Envoy refuses brings back what
/// was there before.
fn succeeded(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    prepare(mesh, witness)?;
    let way = witness.another_way()?;
    let options = controller::Options {
        name: "redis-mesh-1".into(),
        port: 8081,
        // That is written into all objects, and would be a change of its own.
        advertise: Some(format!("http://{NODE}:8080")),
        arguments: ["--witness", way.url()].map(str::to_owned).into(),
        ..controller::Options::default()
    };
    let second = Controller::start(&mesh.plane, options)?;
    let result = take_over(mesh, witness, &second);
    let log = second.log();
    drop(second);
    result.with_context(|| format!("the second replica said:\n{log}"))
}

fn take_over(mesh: &mut Mesh, witness: &Witness, second: &Controller) -> Result<()> {
    witness.set_away(true);
    apply_refused(mesh, witness)?;
    let journal = ObjectName::new("Secret", controller::NAMESPACE, "redis-mesh-undo");
    ensure!(mesh.api().get(&journal)?.is_some(), "what was there before isn't stored");
    let Operator::Controller(first) = &mut mesh.operator else { bail!("this is for the controller") };
    first.kill();
    let back = wait_ready(mesh, || {
        // Its Lease has to expire.
        eventually(Duration::from_secs(30), || {
            ensure!(second.metric("redis_mesh_controller_leader")? == 1.0, "the second replica doesn't lead");
            Ok(())
        })
    })?;
    workspace::progress(&format!("the pod that waited was ready {back:.2?} after another replica had begun to lead"));
    ensure!(back < Duration::from_secs(8), "the pod was ready after {back:?}");
    let message = wait_told(mesh)?;
    ensure!(message.contains("outbound|6379||redis-single.redis"), "{message}");
    eventually(PATIENCE, || {
        ensure!(mesh.api().get(&journal)?.is_none(), "what was there before is still stored");
        Ok(())
    })?;
    // The object says something else.
    mesh.apply(&BEFORE.replace("password: before", "password: after"))?;
    wait_reason(mesh, &cluster_service(), "Programmed")?;
    soon(mesh, "redis-cluster", &[("auth after", "OK")])
}

/// Where nothing tells from which object a refusal came, it is searched by halves.
fn halves(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    prepare(mesh, witness)?;
    witness.set_mute(true);
    let begin = Instant::now();
    apply_refused(mesh, witness)?;
    let message = wait_told(mesh)?;
    workspace::progress(&format!("found after {:.2?}: {message}", begin.elapsed()));
    ensure!(message.starts_with("a proxy refuses what follows from this object; "), "{message}");
    ensure!(metric(mesh, "withheld_resources")? == 1.0, "not one object is withheld");
    Ok(())
}

/// What others have written, and Envoy refuses, is nobody's fault here.
fn others(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    wait_reason(mesh, &single("RedisDestination"), "Programmed")?;
    let before = witness.pod().sidecar()?.rejected()?;
    mesh.apply(&envoy_filter(WRONG))?;
    eventually(PATIENCE, || {
        ensure!(witness.pod().sidecar()?.rejected()? > before, "Envoy refuses nothing");
        ensure!(metric(mesh, "refused_of_others")? == 1.0, "the metric doesn't say so");
        Ok(())
    })?;
    mesh.apply(CLIENT_AUTH)?;
    let (status, message) = wait_reason(mesh, &single("RedisService"), "Applied")?;
    ensure!(status == "True" && message.contains("others"), "{status} {message}");
    soon(mesh, "redis-single", &[("auth testredis123!", "OK")])?;
    mesh.delete(&[of_somebody()])?;
    wait_reason(mesh, &single("RedisService"), "Programmed")?;

    // The same, written at the same time as an object: it is taken back, and applied again.
    mesh.apply(&format!("{}---\n{}", envoy_filter(WRONG), CLIENT_AUTH.replace("testredis123!", "another")))?;
    let (status, _) = wait_reason(mesh, &single("RedisService"), "Applied")?;
    ensure!(status == "True", "{status}");
    soon(mesh, "redis-single", &[("auth another", "OK")])?;
    mesh.delete(&[of_somebody()])?;
    wait_reason(mesh, &single("RedisService"), "Programmed")?;
    Ok(())
}

/// A witness that is away is waited for, and passed over.
fn preferred(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    wait_reason(mesh, &single("RedisDestination"), "Programmed")?;
    witness.set_away(true);
    mesh.apply(CLIENT_AUTH)?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK")])?;
    let (status, _) = wait_reason(mesh, &single("RedisService"), "Pending")?;
    ensure!(status == "Unknown", "{status}");
    let (status, message) = wait_reason(mesh, &single("RedisService"), "Applied")?;
    ensure!(status == "True" && message.contains("witness"), "{status} {message}");
    witness.set_away(false);
    wait_reason(mesh, &single("RedisService"), "Programmed")?;
    Ok(())
}

/// Where the witness is required, nothing is applied while it is away.
fn required(mesh: &mut Mesh, witness: &Witness) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    wait_reason(mesh, &single("RedisDestination"), "Programmed")?;
    witness.set_away(true);
    // It looks every two seconds while nothing is waited for.
    eventually(PATIENCE, || {
        ensure!(metric(mesh, "witness_up")? == 0.0, "the witness isn't missed");
        Ok(())
    })?;
    mesh.apply(CLIENT_AUTH)?;
    let (status, message) = wait_reason(mesh, &single("RedisService"), "Pending")?;
    ensure!(status == "Unknown" && message.contains("not written"), "{status} {message}");
    session(mesh, "redis-single", &[("set a a", "OK")]).context("it is in force")?;
    witness.set_away(false);
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK")])
}
