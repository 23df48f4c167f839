//! The statistics of the native data path in Envoy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::downstream::auth::hash_password;
use redis_mesh_core::wire::{ClientAuth, FaultKind, FilterConfig, Host, KeyMatch, Mirror};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::{native, workspace};

use crate::PATIENCE;

const HOST: &str = "redis_host=\"redis.test:6379\"";

/// Returns a sample of `/stats/prometheus`, such as `redis_mesh_a{redis_host="b"}`, or `None` if
/// there is none.
fn sample(envoy: &Envoy, name: &str) -> Result<Option<u64>> {
    let text = envoy.prometheus()?;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(found.map(str::parse).transpose()?)
}

fn of_host(envoy: &Envoy, name: &str) -> Result<u64> {
    let name = format!("redis_mesh_{name}{{{HOST}}}");
    sample(envoy, &name)?.with_context(|| format!("no {name}"))
}

/// Waits for the counts, which workers report to Envoy at intervals.
fn expect(envoy: &Envoy, expected: &[(&str, u64)]) -> Result<()> {
    let is_told = |(name, value): &(&str, u64)| of_host(envoy, name).is_ok_and(|found| found == *value);
    // Whatever isn't so by then is shown below.
    let _ = wait_until("counters", PATIENCE, || expected.iter().all(is_told));
    for (name, value) in expected {
        assert_eq!(of_host(envoy, name)?, *value, "{name}");
    }
    Ok(())
}

fn of_route(envoy: &Envoy, route: &str) -> Result<Option<u64>> {
    sample(envoy, &format!("redis_mesh_route_commands_total{{{HOST},redis_route=\"{route}\"}}"))
}

fn document(revision: u64, host: Host) -> FilterConfig {
    listener::config("redis", revision, host)
}

#[test]
fn commands_are_counted_by_host_route_and_command() -> Result<()> {
    let subnet = Subnet::claim()?;
    let (redis, copy) = (Redis::start_at(subnet.redis(21))?, Redis::start_at(subnet.redis(22))?);
    let routes = vec![route(KeyMatch::Prefix("user:".into()), 0), route(KeyMatch::Any, 0)];
    let mut host = native::host(&["one"], routes);
    host.command_stats = true;
    let salt = "00".repeat(16);
    let hash = hash_password(&[0; 16], b"right");
    host.client_auth = Some(ClientAuth { username: None, salt, password_sha256: vec![hash] });
    let mirror = native::target("copy");
    host.targets[0].mirrors = vec![Mirror {
        destination: mirror.destination,
        per_million: 1_000_000,
        exclude_read_commands: true,
        include_admin: false,
        cluster: false,
        upstream: mirror.upstream,
    }];
    host.faults = vec![
        listener::fault(FaultKind::Error, Duration::ZERO, &["llen"]),
        listener::fault(FaultKind::Delay, Duration::from_millis(30), &["ttl"]),
    ];
    let config = Config::new()
        .cluster("one.test:6379", &[redis.addr()])
        .cluster("copy.test:6379", &[copy.addr()])
        .listener("redis", subnet.redis(1), vec![native::proxy(&document(1, host))?]);
    let envoy = native::start(&config, 2)?;
    let mut client = Client::connect(subnet.redis(1))?;
    ensure!(client.line("GET x")?.is_error() && client.line("AUTH wrong")?.is_error());
    client.ok(&["AUTH", "right"])?;
    for i in 0..10 {
        client.ok(&["SET", &format!("user:{i}"), "v"])?;
    }
    let pipeline: Vec<[&str; 2]> = vec![["GET", "user:1"]; 100];
    let pipeline: Vec<Vec<&str>> = pipeline.iter().map(|command| command.to_vec()).collect();
    assert!(client.pipeline(&pipeline)?.iter().all(|reply| *reply == Reply::bulk("v")));
    assert_eq!(client.line("LLEN x")?, Reply::error("Fault Injected: Error"));
    client.ok(&["TTL", "x"])?;
    ensure!(client.line("LPUSH user:1 x")?.is_error(), "LPUSH to a string");
    // 10 SET, 100 GET, AUTH twice, and each of the others.
    let expected = [
        ("commands_total", 1 + 2 + 10 + 100 + 3),
        ("commands_unauthenticated_total", 1),
        ("client_auth_failures_total", 1),
        ("fault_errors_total", 1),
        ("fault_delays_total", 1),
        ("commands_mirrored_total", 11),
        ("commands_refused_total", 0),
        ("error_replies_total", 4),
        ("clients_cut_off_total", 0),
        ("clients_active", 1),
    ];
    expect(&envoy, &expected)?;
    wait_until("routes", PATIENCE, || of_route(&envoy, "*").is_ok_and(|n| n == Some(1)))?;
    assert_eq!([of_route(&envoy, "user:*")?, of_route(&envoy, "*")?], [Some(111), Some(1)]);
    let of = |name: &str, command: &str, more: &str| {
        let name = format!("redis_mesh_{name}{{{HOST},redis_command=\"{command}\"{more}}}");
        sample(&envoy, &name)?.with_context(|| format!("no {name}"))
    };
    wait_until("the last command", PATIENCE, || of("command_errors_total", "lpush", "").is_ok_and(|n| n == 1))?;
    assert_eq!(of("command_errors_total", "get", "")?, 1);
    // Envoy puts together what its threads have recorded every five seconds.
    wait_until("histograms", Duration::from_secs(20), || {
        of("command_duration_microseconds_count", "get", "").is_ok_and(|n| n == 101)
    })?;
    assert_eq!(of("command_duration_microseconds_count", "set", "")?, 10);
    // The delay was part of it.
    assert_eq!(of("command_duration_microseconds_bucket", "ttl", ",le=\"25000\"").unwrap_or(0), 0);
    assert_eq!(of("command_duration_microseconds_count", "ttl", "")?, 1);
    // One for commands and one for copies.
    assert_eq!(sample(&envoy, "redis_mesh_upstream_connections_active{}")?, Some(2));
    assert_eq!(sample(&envoy, "redis_mesh_upstream_connections_total{}")?, Some(2));
    assert_eq!(sample(&envoy, "redis_mesh_module_panics_total{}")?, Some(0));
    drop(client);
    wait_until("no client", PATIENCE, || of_host(&envoy, "clients_active").is_ok_and(|n| n == 0))?;
    // The names are those of the wasm filter.
    let names = envoy.stats("^wasmcustom\\.redis_mesh\\.redis_host=\\.=redis\\.test:6379;\\.;commands_total$")?;
    assert_eq!(names.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [116]);
    Ok(())
}

#[test]
fn counting_goes_on_through_new_configurations() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let listeners = |revision: u64, prefix: &str| -> Result<Config> {
        let routes = vec![route(KeyMatch::Prefix(prefix.into()), 0), route(KeyMatch::Any, 0)];
        let filters = vec![native::proxy(&document(revision, native::host(&["one"], routes)))?];
        Ok(Config::new().listener("redis", subnet.redis(1), filters))
    };
    let file = workspace::scratch("listeners")?.join("listeners.json");
    listeners(1, "old:")?.write_listeners(&file)?;
    let clusters = Config::new().cluster("one.test:6379", &[redis.addr()]);
    let envoy = native::start_with(&clusters.text_with_listeners_in(&file), 1)?;
    let mut old = Client::connect(subnet.redis(1))?;
    old.ok(&["SET", "old:x", "1"])?;
    listeners(2, "new:")?.write_listeners(&file)?;
    wait_until("revision 2", PATIENCE, || envoy.log().contains("redis-mesh: redis revision 2"))?;
    let mut new = Client::connect(subnet.redis(1))?;
    for client in [&mut old, &mut new] {
        client.ok(&["SET", "new:x", "1"])?;
        client.ok(&["SET", "old:x", "1"])?;
    }
    expect(&envoy, &[("commands_total", 5)])?;
    wait_until("routes", PATIENCE, || of_route(&envoy, "*").is_ok_and(|n| n == Some(2)))?;
    assert_eq!([of_route(&envoy, "new:*")?, of_route(&envoy, "*")?], [Some(2), Some(2)]);
    assert_eq!(of_host(&envoy, "clients_active")?, 2);
    drop((old, new));
    wait_until("no client", PATIENCE, || of_host(&envoy, "clients_active").is_ok_and(|n| n == 0))?;
    Ok(())
}

#[test]
fn who_does_not_read_is_cut_off_and_counted() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let mut host =
        native::host(&["one", "closed"], vec![route(KeyMatch::Prefix("closed:".into()), 1), route(KeyMatch::Any, 0)]);
    host.targets[1].upstream.as_mut().context("no upstream")?.login =
        Some(redis_mesh_core::wire::UpstreamLogin { username: None, password: "wrong".into() });
    let closed = Redis::start_with(Options {
        addr: Some(subnet.redis(22)),
        password: Some("another".into()),
        ..Options::default()
    })?;
    let config = Config::new()
        .cluster("one.test:6379", &[redis.addr()])
        .cluster("closed.test:6379", &[closed.addr()])
        .listener("redis", subnet.redis(1), vec![native::proxy(&document(1, host))?]);
    let envoy = native::start(&config, 1)?;
    let mut slow = Client::connect(subnet.redis(1))?;
    slow.send(&["SUBSCRIBE", "channel"])?;
    slow.read()?;
    let (mut publisher, message) = (Client::connect(subnet.redis(1))?, "x".repeat(1_000_000));
    wait_until("the slow one cut off", PATIENCE, || {
        let sent = publisher.cmd(&["PUBLISH", "channel", &message]);
        sent.is_ok() && of_host(&envoy, "clients_cut_off_total").is_ok_and(|n| n == 1)
    })?;
    ensure!(publisher.line("GET closed:x")?.is_error());
    publisher.write(b"*1\r\n!\r\n")?;
    ensure!(publisher.read()?.is_error(), "what isn't RESP");
    expect(&envoy, &[("upstream_login_failures_total", 1), ("protocol_errors_total", 1)])?;
    wait_until("no client", PATIENCE, || of_host(&envoy, "clients_active").is_ok_and(|n| n == 0))?;
    Ok(())
}
