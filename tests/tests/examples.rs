//! The README of every example, run on real servers and compared: on the data paths that are
//! chosen without the dynamic module, and on `native`.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, anyhow};
use redis_mesh_tests::native;
use redis_mesh_tests::stage::Stage;
use redis_mesh_tests::walkthrough::{Walkthrough, examples};

/// The servers, which all examples share. An example has them for itself while it runs.
fn stage() -> Result<&'static Mutex<Stage>> {
    static STAGE: OnceLock<Result<Mutex<Stage>, String>> = OnceLock::new();
    let stage = STAGE.get_or_init(|| Stage::new().map(Mutex::new).map_err(|error| format!("{error:#}")));
    stage.as_ref().map_err(|error| anyhow!("{error}"))
}

fn perform(name: &str, module: Option<&Path>) -> Result<()> {
    let stage = stage()?.lock().unwrap_or_else(PoisonError::into_inner);
    stage.forget()?;
    let walkthrough = Walkthrough::read(name, &stage)?;
    walkthrough.check_manifests(&stage)?;
    let mut transcript = Vec::new();
    let result = walkthrough.perform(&stage, module, &mut transcript);
    println!("{}", String::from_utf8_lossy(&transcript));
    result.map(drop)
}

macro_rules! examples {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            perform($name, None)
        })*

        mod natively {
            use super::*;

            $(#[test]
            fn $test() -> Result<()> {
                perform($name, Some(&native::build()?))
            })*
        }

        #[test]
        fn every_example_has_a_test() -> Result<()> {
            let mut here = [$($name),*];
            let mut there = examples()?;
            here.sort();
            there.sort();
            assert_eq!(here.to_vec(), there);
            Ok(())
        }
    };
}

examples! {
    upstream_auth: "upstream-auth",
    client_auth: "client-auth",
    cluster: "cluster",
    prefix_routing: "prefix-routing",
    all_of_redis: "all-of-redis",
    read_write_separation: "read-write-separation",
    mirroring: "mirroring",
    fault_error: "fault-error",
    fault_delay: "fault-delay",
    external_redis: "external-redis",
    external_cluster: "external-cluster",
    tls: "tls",
}
