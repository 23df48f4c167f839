//! The suite: tests that share one mesh.

mod captures;
mod chaos;
mod conditions;
mod delivery;
mod destination_rules;
mod discovery;
mod envoy_filters;
mod exports;
mod external;
mod gateways;
mod headless;
mod idle;
mod installations;
mod metrics;
mod mission;
mod module;
mod mtls;
mod native;
mod outages;
mod overridden;
mod permissions;
mod policies;
mod refusal;
mod revisions;
mod rotation;
mod secrets;
mod strangers;
mod succession;
mod tenants;
mod uninstall;
mod unserved;
mod updates;
mod upgrade;
mod witness;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};

use crate::mesh::{By, Mesh};
use crate::old_version::OldVersion;

/// A test: its name, and its function, which gets a mesh in its initial state.
pub type Test = (&'static str, fn(&mut Mesh) -> Result<()>);

/// The tests that every operator passes.
fn of_anybody() -> Vec<Test> {
    [
        mission::TESTS,
        metrics::TESTS,
        headless::TESTS,
        mtls::TESTS,
        native::TESTS,
        envoy_filters::TESTS,
        external::TESTS,
        gateways::TESTS,
        secrets::TESTS,
        updates::TESTS,
    ]
    .concat()
}

/// The tests that only the controller passes.
fn of_the_controller() -> Vec<Test> {
    [
        captures::TESTS,
        chaos::TESTS,
        conditions::TESTS,
        module::TESTS,
        delivery::TESTS,
        destination_rules::TESTS,
        discovery::TESTS,
        exports::TESTS,
        revisions::TESTS,
        rotation::TESTS,
        outages::TESTS,
        succession::TESTS,
        installations::TESTS,
        idle::TESTS,
        overridden::TESTS,
        permissions::TESTS,
        policies::TESTS,
        strangers::TESTS,
        tenants::TESTS,
        unserved::TESTS,
        witness::TESTS,
    ]
    .concat()
}

/// The tests that take too long for every run: only a FILTER selects them.
fn of_the_night() -> Vec<Test> {
    [policies::NATIVE_TESTS, uninstall::TESTS, upgrade::TESTS].concat()
}

/// All tests of an operator.
fn all(by: By) -> Vec<Test> {
    match by {
        By::Controller => [of_anybody(), of_the_controller(), of_the_night()].concat(),
        By::Render => of_anybody(),
    }
}

/// Returns the arguments that select tests: those that match any filter, or all if there is none.
pub fn arguments(by: By, list: bool, exact: bool, filters: &[String], mut skip: Vec<String>) -> Arguments {
    let is = |name: &str, filter: &String| if exact { name == filter } else { name.contains(filter.as_str()) };
    // libtest-mimic takes one filter; what several leave out is skipped by its whole name.
    let mut out: Vec<String> = all(by).iter().map(|(name, _)| name.to_string()).collect();
    out.retain(|name| {
        let is_long = || of_the_night().iter().any(|(long, _)| long == name);
        let wanted = filters.iter().any(|filter| is(name, filter)) || filters.is_empty() && !is_long();
        !wanted || skip.iter().any(|filter| is(name, filter))
    });
    skip = out;
    Arguments { list, exact: true, skip, test_threads: Some(1), ..Arguments::default() }
}

/// Builds and fetches what only the selected tests need, while the machine's own network is there.
pub fn prepare(by: By, arguments: &Arguments) -> Result<()> {
    let is_selected = |(name, _): &Test| by == By::Controller && !arguments.skip.iter().any(|skipped| skipped == name);
    if upgrade::TESTS.iter().any(is_selected) {
        OldVersion::build()?;
    }
    Ok(())
}

/// Prints the names of the tests.
pub fn list(by: By, arguments: &Arguments) -> ExitCode {
    let trials = all(by).into_iter().map(|(name, _)| Trial::test(name, || Ok(())));
    libtest_mimic::run(arguments, trials.collect()).exit_code()
}

/// Runs the selected tests one after the other.
pub fn run(by: By, arguments: &Arguments, mesh: Mesh) -> ExitCode {
    let mesh = Arc::new(Mutex::new(mesh));
    let trials = all(by).into_iter().map(|(name, test)| {
        let mesh = mesh.clone();
        Trial::test(name, move || {
            let mut mesh = mesh.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = mesh.client.sidecar().map(|sidecar| sidecar.log().len()).unwrap_or_default();
            let result = mesh.reset().context("making the mesh as new").and_then(|()| accepted(&mut mesh, test));
            result.map_err(|error| format!("{error:#}\n{}", report(&mesh, seen)).into())
        })
    });
    libtest_mimic::run(arguments, trials.collect()).exit_code()
}

/// Runs a test and checks that Envoy has rejected no update.
fn accepted(mesh: &mut Mesh, test: fn(&mut Mesh) -> Result<()>) -> Result<()> {
    let before = mesh.rejected()?;
    mesh.may_be_refused = false;
    test(mesh)?;
    let rejected = mesh.rejected()?;
    // An istiod that was started again counts anew.
    ensure!(rejected <= before || mesh.may_be_refused, "{} updates were rejected", rejected - before);
    Ok(())
}

/// Returns the log of the client's sidecar from an offset on, and the objects in the cluster.
fn report(mesh: &Mesh, seen: usize) -> String {
    let log = mesh.client.sidecar().map(|sidecar| sidecar.log()).unwrap_or_default();
    let said = log.get(seen..).unwrap_or_default();
    let kinds = "wasmplugins,envoyfilters,redisservices,redisdestinations";
    let objects =
        mesh.plane.kubectl(&["get", kinds, "--all-namespaces"], "").unwrap_or_else(|error| format!("{error:#}"));
    format!("\n{objects}\nthe sidecar said:\n{said}")
}
