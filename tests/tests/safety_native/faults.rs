//! A Redis that loses no acknowledged write, and faults between it and Envoy.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::listener::Config;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::relay::Relay;
use serde_json::Value;

use crate::load::Load;
use crate::scene::{Scene, Setup};

/// Settings by which acknowledged writes are on disk.
pub fn forgets_nothing() -> Vec<String> {
    ["appendonly yes", "appendfsync always"].map(str::to_owned).to_vec()
}

#[test]
fn what_clients_see_is_what_one_redis_could_have_told() -> Result<()> {
    let subnet = Subnet::claim()?;
    let options = Options { addr: Some(subnet.redis(21)), config: forgets_nothing(), ..Options::default() };
    let mut redis = Redis::start_with(options)?;
    let relay = Relay::start(subnet.redis(31), redis.addr())?;
    let config: Value = serde_json::from_str(&Config::new().cluster("one.test:6379", &[relay.addr()]).text())?;
    let mut scene = Scene::start(subnet, config["static_resources"]["clusters"][0].clone(), &Setup::default())?;
    let load = Load::run(scene.addr(), 12, |load| {
        load.wait_served(1000)?;
        for round in 0..2 {
            // It stops, for shorter and for longer than it may take.
            for pause in [100, 700] {
                redis.pause()?;
                std::thread::sleep(Duration::from_millis(pause));
                redis.resume()?;
                load.wait_served(1000)?;
            }
            // The network loses everything, and then delivers what has waited; or the connections
            // break.
            relay.darken();
            std::thread::sleep(Duration::from_millis(600));
            relay.lighten();
            load.wait_served(1000)?;
            relay.cut();
            load.wait_served(1000)?;
            scene.push_listener()?;
            load.wait_served(300)?;
            scene.push_cluster()?;
            load.wait_served(300)?;
            if round == 0 {
                redis.kill();
                std::thread::sleep(Duration::from_millis(200));
                redis.restart()?;
                load.wait_served(1000)?;
            }
        }
        Ok(())
    })?;
    let numbers = load.history.numbers();
    ensure!(numbers.done > 10_000 && numbers.unknown > 0 && numbers.refused > 0, "{numbers:?}");
    ensure!(load.reconnected() == 0, "{} connections of clients ended", load.reconnected());
    load.history.check()?;
    scene.check_is_empty()
}

/// All filters of the module are replaced, as by a new version of it: dialers and upstream
/// connections end, and so do clients of the old listener.
#[test]
fn all_that_the_module_hangs_on_is_replaced_under_load() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let config: Value = serde_json::from_str(&Config::new().cluster("one.test:6379", &[redis.addr()]).text())?;
    let setup = Setup { drain: 1, ..Setup::default() };
    let mut scene = Scene::start(subnet, config["static_resources"]["clusters"][0].clone(), &setup)?;
    let load = Load::run(scene.addr(), 12, |load| {
        load.wait_served(1000)?;
        for _ in 0..2 {
            scene.push_internal_clusters()?;
            load.wait_served(500)?;
            scene.push_internal_listeners()?;
            // Connections of the old ones end.
            std::thread::sleep(Duration::from_millis(1500));
            load.wait_served(500)?;
            scene.push_listener()?;
            std::thread::sleep(Duration::from_millis(1500));
            load.wait_served(500)?;
        }
        Ok(())
    })?;
    ensure!(load.reconnected() > 0, "no client has met a new listener");
    load.history.check()?;
    scene.check_is_empty()
}
