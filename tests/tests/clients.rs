//! Common client libraries with their default handshakes, on all data paths and with client
//! authentication: each runs a script of everyday commands (`tests/clients`) and checks the
//! replies.

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::envoy::{Envoy, Options};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options as Server, Redis};
use redis_mesh_tests::scene::Scene;
use redis_mesh_tests::{cli, native, workspace};

/// The libraries; each has a server of its own, at `10 + i`.
const LIBRARIES: [&str; 7] = ["redis-py", "node-redis", "ioredis", "redis-rs", "go-redis", "rq", "bullmq"];

/// The credentials that clients must present: user, password. Behind the last host Redis itself
/// requires a login.
const LOGINS: [(&str, &str, &str); 3] = [("open", "", ""), ("password", "", "s3cret word"), ("user", "alice", "pa55")];

const PATHS: [&str; 3] = ["direct", "proxy", "native"];

struct Mesh {
    subnet: Subnet,
    envoy: Envoy,
}

/// Returns the address at which library `i` finds the host with login `j` on a path.
fn listens(library: usize, login: usize, path: &str) -> u8 {
    let path = PATHS.iter().position(|one| *one == path).unwrap_or_default();
    (100 + 9 * library + 3 * login + path) as u8
}

fn mesh() -> Result<&'static Mesh> {
    static MESH: OnceLock<Result<Mesh, String>> = OnceLock::new();
    let start = || -> Result<Mesh> {
        let subnet = Subnet::claim()?;
        let mut scene = Scene::on(&subnet);
        for (i, library) in LIBRARIES.iter().enumerate() {
            for (j, (login, user, password)) in LOGINS.iter().enumerate() {
                for path in PATHS {
                    let host = format!("{library}-{login}-{path}");
                    let rules = match (*user, *password) {
                        ("", "") => String::new(),
                        ("", password) => format!("settings: {{auth: {{plain: {{password: '{password}'}}}}}}"),
                        (user, password) => {
                            format!("settings: {{auth: {{plain: {{username: {user}, password: '{password}'}}}}}}")
                        }
                    };
                    scene.service(&host, listens(i, j, path), &[10 + i as u8]).rules(&host, path, &rules);
                    if *login == "user" {
                        scene.destination(&host, "auth: {plain: {username: app, password: upstream}}");
                    }
                }
            }
        }
        let module = native::build()?;
        let config = cli::render_envoy_text(scene.manifests(), &["--module", &module.to_string_lossy()])?;
        let envoy = Envoy::start_with(&config, &Options { concurrency: 2, ..Options::default() })?;
        Ok(Mesh { subnet, envoy })
    };
    MESH.get_or_init(|| start().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow!("{error}"))
}

/// Runs a library against each of its hosts. The arguments are the address, the port, the path,
/// the user, the password.
fn everyday(library: &str, paths: &[&str], run: impl Fn(&[String]) -> Result<String>) -> Result<()> {
    let mesh = mesh()?;
    let i = LIBRARIES.iter().position(|name| *name == library).context("no such library")?;
    let server = Redis::start_with(Server {
        addr: Some(mesh.subnet.redis(10 + i as u8)),
        users: vec!["app on >upstream ~* &* +@all".into()],
        ..Server::default()
    })?;
    for path in paths {
        for (j, (login, user, password)) in LOGINS.iter().enumerate() {
            server.forget()?;
            server.cmd(&["SCRIPT", "FLUSH"])?;
            let address = mesh.subnet.redis(listens(i, j, path));
            let args = [
                address.ip().to_string(),
                address.port().to_string(),
                path.to_string(),
                user.to_string(),
                password.to_string(),
            ];
            let begun = std::time::Instant::now();
            let said = run(&args).with_context(|| format!("{library} on {path}, {login}"))?;
            println!("{path}, {login}, {:.1?}: {}", begun.elapsed(), said.trim_end());
        }
    }
    // A filter that fails would have been loaded again, and its clients might have connected again
    // unnoticed.
    let log = mesh.envoy.log();
    anyhow::ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    Ok(())
}

#[test]
fn redis_py() -> Result<()> {
    let library = Library::python("everyday.py")?;
    everyday("redis-py", &PATHS, |args| library.run(args))
}

#[test]
fn node_redis() -> Result<()> {
    let library = Library::javascript("node_redis.js")?;
    everyday("node-redis", &PATHS, |args| library.run(args))
}

#[test]
fn ioredis() -> Result<()> {
    let library = Library::javascript("ioredis.js")?;
    everyday("ioredis", &PATHS, |args| library.run(args))
}

#[test]
fn go_redis() -> Result<()> {
    match Library::go("everyday")? {
        Some(library) => everyday("go-redis", &PATHS, |args| library.run(args)),
        None => {
            workspace::progress("there is no Go on this machine: go-redis is left out");
            Ok(())
        }
    }
}

#[test]
fn redis_rs() -> Result<()> {
    everyday("redis-rs", &PATHS, |args| {
        for protocol in ["", "resp3"] {
            rust::everyday(&args[0], &args[1], &args[2], &args[3], &args[4], protocol)
                .with_context(|| format!("protocol {protocol:?}"))?;
        }
        Ok("redis-rs: all right".into())
    })
}

/// Job queues block, subscribe and run scripts without keys, which `proxy` can't serve.
#[test]
fn rq() -> Result<()> {
    let library = Library::python("jobs.py")?;
    everyday("rq", &["direct", "native"], |args| library.run(args))
}

#[test]
fn bullmq() -> Result<()> {
    let library = Library::javascript("jobs.js")?;
    everyday("bullmq", &["direct", "native"], |args| library.run(args))
}

/// The script in Rust.
mod rust {
    use std::collections::{BTreeSet, HashMap};

    use anyhow::{Result, ensure};
    use redis::{Client, Commands, Connection, RedisError, RedisResult, Script, pipe};

    const NEEDS_DIRECT: &str = "needs the direct or native data path";

    /// Runs the script with redis-rs. `protocol` is the parameter of that name in its URLs.
    pub fn everyday(host: &str, port: &str, path: &str, user: &str, password: &str, protocol: &str) -> Result<()> {
        let open = |password: &str, db: u8| {
            let login = match password {
                "" => String::new(),
                password => format!("{user}:{}@", password.replace(' ', "%20")),
            };
            let protocol = if protocol.is_empty() { String::new() } else { format!("?protocol={protocol}") };
            Client::open(format!("redis://{login}{host}:{port}/{db}{protocol}"))
        };
        let client = open(password, 0)?;
        let mut r = client.get_connection()?;
        values(&mut r)?;
        pipelines(&mut r)?;
        scripts_and_errors(&mut r)?;
        if !password.is_empty() {
            ensure!(open("wrong", 0)?.get_connection().is_err());
            ensure!(open("", 0)?.get_connection().and_then(|mut r| r.get::<_, Option<String>>("name")).is_err());
        }
        if path == "proxy" { refusals(&client, &open("", 1)?, password) } else { everything(&client) }
    }

    fn values(r: &mut Connection) -> Result<()> {
        let _: () = redis::cmd("FLUSHALL").query(r)?;
        let _: () = r.set("name", "v\u{e4}l ue")?;
        let name: String = r.get("name")?;
        let missing: Option<String> = r.get("missing")?;
        ensure!(name == "v\u{e4}l ue" && missing.is_none());
        let _: () = r.mset(&[("a", 1), ("b", 2)])?;
        let several: Vec<Option<i64>> = r.mget(&["a", "missing", "b"])?;
        ensure!(several == [Some(1), None, Some(2)]);
        let fields: i64 = redis::cmd("HSET").arg(&["hash", "f", "1", "g", "two"]).query(r)?;
        let hash: HashMap<String, String> = r.hgetall("hash")?;
        ensure!(fields == 2 && hash.len() == 2 && hash["g"] == "two");
        let length: i64 = r.rpush("list", &[1, 2, 3])?;
        let list: Vec<i64> = r.lrange("list", 0, -1)?;
        ensure!(length == 3 && list == [1, 2, 3]);
        let _: () = r.sadd("set", &["a", "b"])?;
        let set: BTreeSet<String> = r.smembers("set")?;
        ensure!(set.len() == 2);
        let _: () = r.zadd_multiple("zset", &[(1.5, "a"), (2.0, "b")])?;
        let score: Option<f64> = r.zscore("zset", "a")?;
        let none: Option<f64> = r.zscore("zset", "none")?;
        let ranked: Vec<(String, f64)> = r.zrange_withscores("zset", 0, -1)?;
        ensure!(score == Some(1.5) && none.is_none() && ranked == [("a".into(), 1.5), ("b".into(), 2.0)]);
        let id: String = r.xadd("stream", "1-1", &[("k", "v")])?;
        let entries: redis::streams::StreamRangeReply = r.xrange_all("stream")?;
        ensure!(id == "1-1" && entries.ids.len() == 1);
        let bytes: Vec<u8> = (0..1 << 20).map(|i| i as u8).collect();
        let _: () = r.set("bytes", &bytes)?;
        let back: Vec<u8> = r.get("bytes")?;
        ensure!(back == bytes);
        let found: BTreeSet<String> = r.scan_match("*st")?.collect::<RedisResult<_>>()?;
        ensure!(found == BTreeSet::from(["list".to_string()]));
        Ok(())
    }

    fn pipelines(r: &mut Connection) -> Result<()> {
        let mut many = pipe();
        for i in 0..500 {
            many.set(format!("p{i}"), i).ignore().get(format!("p{i}"));
        }
        let values: Vec<i64> = many.query(r)?;
        ensure!(values == (0..500).collect::<Vec<_>>());
        let (sum, hash, score): (i64, HashMap<String, String>, f64) =
            pipe().atomic().set("t", 1).ignore().incr("t", 1).hgetall("hash").zscore("zset", "a").query(r)?;
        ensure!(sum == 2 && hash["f"] == "1" && score == 1.5);
        Ok(())
    }

    fn scripts_and_errors(r: &mut Connection) -> Result<()> {
        let double = Script::new("return redis.call('incrby', KEYS[1], ARGV[1]) * 2");
        let (first, second): (i64, i64) =
            (double.key("script").arg(4).invoke(r)?, double.key("script").arg(1).invoke(r)?);
        ensure!((first, second) == (8, 10));
        says("not an integer", r.incr::<_, _, i64>("name", 1))?;
        says("NOSUCHCOMMAND", redis::cmd("NOSUCHCOMMAND").arg("x").query::<()>(r))
    }

    fn everything(client: &Client) -> Result<()> {
        let (mut r, mut other) = (client.get_connection()?, client.get_connection()?);
        let mut attempts = 0;
        let (value,): (i64,) = redis::transaction(&mut r, &["watched"], |r, pipe| {
            attempts += 1;
            let value: Option<i64> = r.get("watched")?;
            if attempts == 1 {
                let _: () = other.set("watched", 10)?;
            }
            pipe.set("watched", value.unwrap_or(0) + 1).ignore().get("watched").query(r)
        })?;
        ensure!((attempts, value) == (2, 11));
        let none: Option<(String, String)> = r.blpop("queue", 0.05)?;
        let _: () = other.rpush("queue", "job")?;
        let job: Option<(String, String)> = r.blpop("queue", 5.0)?;
        ensure!(none.is_none() && job == Some(("queue".into(), "job".into())));
        let mut subscriber = r.as_pubsub();
        subscriber.subscribe("news")?;
        let heard: i64 = other.publish("news", "hello")?;
        let message: String = subscriber.get_message()?.get_payload()?;
        ensure!(heard == 1 && message == "hello");
        Ok(())
    }

    fn refusals(client: &Client, database_1: &Client, password: &str) -> Result<()> {
        let mut r = client.get_connection()?;
        says(NEEDS_DIRECT, r.blpop::<_, Option<(String, String)>>("queue", 1.0))?;
        says(NEEDS_DIRECT, redis::cmd("WATCH").arg("watched").query::<()>(&mut r))?;
        if password.is_empty() {
            ensure!(database_1.get_connection().is_err());
        }
        Ok(())
    }

    fn says<T>(text: &str, result: Result<T, RedisError>) -> Result<()> {
        match result {
            Ok(_) => anyhow::bail!("no error that says {text:?}"),
            Err(error) => {
                ensure!(format!("{error:?}{error}").contains(text), "{error:?} doesn't say {text:?}");
                Ok(())
            }
        }
    }
}
