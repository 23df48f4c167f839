//! A cluster in Envoy whose members change.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::wire::KeyMatch;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::{native, workspace};
use serde_json::json;

/// Sets the only member of the cluster through a file that Envoy watches.
fn has(file: &Path, member: SocketAddr) -> Result<()> {
    let address = json!({"socket_address": {"address": member.ip().to_string(), "port_value": member.port()}});
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "one",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    });
    let new = file.with_extension("new");
    std::fs::write(&new, json!({"resources": [resource]}).to_string())?;
    Ok(std::fs::rename(&new, file)?)
}

#[test]
fn a_server_that_is_no_member_any_more_is_left() -> Result<()> {
    let subnet = Subnet::claim()?;
    let (before, after) = (Redis::start_at(subnet.redis(21))?, Redis::start_at(subnet.redis(22))?);
    let file = workspace::scratch("members")?.join("endpoints.json");
    has(&file, before.addr())?;
    let filters =
        vec![native::proxy(&listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 0)])))?];
    let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
    let cluster = json!({
        "name": "one.test:6379",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"service_name": "one", "eds_config": source},
    });
    let config = Config::new().listener("redis", subnet.redis(1), filters).clusters(&[cluster]);
    let envoy = native::start(&config, 1)?;
    let mut client = Client::connect(subnet.redis(1))?;
    wait_until("a server", Duration::from_secs(20), || {
        client.line("SET k before").is_ok_and(|reply| reply == Reply::ok())
    })?;
    after.cmd(&["SET", "k", "after"])?;
    has(&file, after.addr())?;
    // Its connection to the old one is in use all the time, and Envoy would leave it to it.
    wait_until("the new server", Duration::from_secs(150), || {
        let commands = vec![vec!["GET", "k"]; 10];
        client.pipeline(&commands).is_ok_and(|replies| replies.iter().all(|reply| *reply == Reply::bulk("after")))
    })?;
    let name = redis_mesh_tests::envoy::stat_name("cluster", "one.test:6379", "upstream_cx_active");
    ensure!(envoy.stat(&name)? == Some(1));
    Ok(())
}
