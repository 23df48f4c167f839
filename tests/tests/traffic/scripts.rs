//! Scripts before a Redis Cluster on the data path `proxy`, where redis_proxy takes an error that a
//! script makes up for a redirection.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::cluster::slot::slot;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

use crate::mesh;

const BY_DEFAULT: u8 = 180;
const ALLOWED: u8 = 181;

pub fn manifests(scene: &mut Scene<'_>) {
    for (host, listens, settings) in
        [("scripts-by-default", BY_DEFAULT, ""), ("scripts-allowed", ALLOWED, "settings: {scripts: Allow}, ")]
    {
        let rules = format!("{settings}redis: [{{route: {{host: redis-cluster}}}}]");
        scene.service(host, listens, &[31]).rules(host, "auto", &rules);
    }
}

#[test]
fn scripts_are_refused_unless_they_are_allowed() -> Result<()> {
    let mesh = mesh()?;
    let mut client = mesh.client_at(BY_DEFAULT)?;
    for line in ["EVAL 'return 1' 1 k", "EVALSHA x 1 k", "EVAL_RO 'return 1' 1 k", "FCALL f 1 k", "SCRIPT LOAD x"] {
        let told = client.line(line)?;
        ensure!(told.text().ends_with("settings.scripts: Allow of the RedisService would permit it"), "{line}: {told}");
    }
    ensure!(client.line("SET {scripts} v")? == Reply::ok());
    let allowed = mesh.client_at(ALLOWED)?.line("EVAL 'return 7' 1 k")?;
    ensure!(allowed == Reply::Integer(7), "{allowed}");
    Ok(())
}

#[test]
fn an_address_that_a_script_names_is_not_connected_to() -> Result<()> {
    let mesh = mesh()?;
    let attacker = TcpListener::bind("127.0.0.1:0")?;
    attacker.set_nonblocking(true)?;
    let (slot, address) = (slot(b"{scripts}x"), attacker.local_addr()?);
    for kind in ["MOVED", "ASK"] {
        let error = format!("{kind} {slot} {address}");
        let told =
            mesh.client_at(ALLOWED)?.cmd(&["EVAL", "return redis.error_reply(ARGV[1])", "1", "{scripts}x", &error])?;
        ensure!(told.is_error(), "{told}");
    }
    std::thread::sleep(Duration::from_millis(200));
    ensure!(attacker.accept().is_err(), "redis_proxy has connected to an address that a script named");
    Ok(())
}
