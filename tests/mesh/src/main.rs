//! `cargo mesh`: the suite on a real Istio, or that Istio to play with.

use std::process::ExitCode;

use anyhow::Result;
use redis_mesh_mesh::mesh::{By, Mesh};
use redis_mesh_mesh::network::Network;
use redis_mesh_mesh::{interrupt, requirements, suite};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    requirements::check()?;
    let programs = Mesh::prepare()?;
    interrupt::hold();
    let mesh = Mesh::start(&programs, Network::start()?, By::Render)?;
    if std::env::args().any(|a| a == "--keep") {
        interrupt::wait();
        return Ok(ExitCode::SUCCESS);
    }
    let conclusion = suite::run(&libtest_mimic::Arguments::from_args(), mesh);
    Ok(conclusion.exit_code())
}
