//! The script in Rust.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis::{Client, Commands, Connection, RedisResult, Script, Value, cmd, pipe};

const PREFIXES: [&str; 3] = ["p:", "q:", "n:"];

/// The output of the script.
#[derive(Default)]
struct Said(String);

impl Said {
    fn say(&mut self, what: &str, result: impl Debug) {
        let _ = writeln!(self.0, "{what}: {result:?}");
    }

    /// Runs commands and prints each with its result.
    fn each(&mut self, r: &mut Connection, lines: &[String]) {
        for line in lines {
            let mut words = line.split(' ');
            let mut command = cmd(words.next().unwrap_or_default());
            let result: RedisResult<Value> = command.arg(words.collect::<Vec<_>>()).query(r);
            self.say(line, result.map_err(|error| error.to_string()));
        }
    }
}

/// Opens a connection with timeouts.
fn connect(client: &Client) -> RedisResult<Connection> {
    let connection = client.get_connection()?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(connection)
}

/// Returns a key of the only slot of a prefix.
fn key(prefix: &str, name: &str) -> String {
    format!("{prefix}{{{prefix}}}{name}")
}

/// Runs the script with redis-rs and returns its output.
pub fn scenario(host: &str, port: &str, protocol: &str) -> Result<String> {
    let protocol = if protocol == "default" { String::new() } else { format!("?protocol=resp{protocol}") };
    let client = Client::open(format!("redis://{host}:{port}{protocol}"))?;
    let mut r = connect(&client)?;
    let mut said = Said::default();
    said.each(&mut r, &["PING", "ECHO words", "CLIENT SETNAME scenario", "CLIENT GETNAME"].map(String::from));
    for prefix in PREFIXES {
        values(&mut said, &mut r, prefix)?;
        transactions(&mut said, &client, prefix)?;
        waiting(&mut said, &client, prefix)?;
        scripts(&mut said, &mut r, prefix)?;
    }
    pipelines(&mut said, &mut r)?;
    subscribers(&mut said, &client, protocol.ends_with('3'))?;
    scans(&mut said, &mut r)?;
    Ok(said.0 + "end\n")
}

fn values(said: &mut Said, r: &mut Connection, prefix: &str) -> Result<()> {
    let lines = [
        "SET @a value",
        "GET @a",
        "GET @missing",
        "SET @a x NX",
        "INCRBY @n 5",
        "HSET @h f 1 g two",
        "HGETALL @h",
        "HGETALL @missing",
        "RPUSH @l 1 2 3",
        "LMOVE @l @l2 LEFT RIGHT",
        "LMPOP 2 @none @l LEFT COUNT 5",
        "SADD @s a",
        "SMEMBERS @s",
        "ZADD @z 1.5 a 2 b",
        "ZRANGE @z 0 -1 WITHSCORES",
        "ZSCORE @z a",
        "ZPOPMIN @z",
        "XADD @x 1-1 k v",
        "XREAD STREAMS @x 0",
        "XGROUP CREATE @x g 0",
        "XREADGROUP GROUP g me STREAMS @x >",
        "XREADGROUP GROUP none me STREAMS @x >",
        "GEOADD @geo 13.361389 38.115556 Palermo",
        "GEOPOS @geo Palermo none",
        "RENAME @a @b",
        "EXISTS @a @b",
        "TYPE @b",
        "INCR @b",
        "LPUSH @b 1",
        "NOSUCHCOMMAND @b",
        "GET",
    ];
    said.each(r, &lines.map(|line| line.replace('@', &key(prefix, ""))));
    let big: Vec<u8> = (0..1 << 20).map(|i| i as u8).collect();
    let _: () = r.set(key(prefix, "big"), &big)?;
    let back: Vec<u8> = r.get(key(prefix, "big"))?;
    said.say("big", back == big);
    Ok(())
}

fn transactions(said: &mut Said, client: &Client, prefix: &str) -> Result<()> {
    let (mut r, mut other) = (connect(client)?, connect(client)?);
    let (t, h, watched) = (key(prefix, "t"), key(prefix, "h"), key(prefix, "watched"));
    let replies: Value =
        pipe().atomic().set(&t, 1).incr(&t, 1).hgetall(&h).get(key(prefix, "missing")).query(&mut r)?;
    said.say("transaction", replies);
    let result: RedisResult<Value> = pipe().atomic().incr(&t, 1).incr(&h, 1).get(&t).query(&mut r);
    said.say("an error in it", result.map_err(|error| error.to_string()));
    let result: RedisResult<Value> = pipe().atomic().incr(&t, 1).cmd("SET").arg(&t).query(&mut r);
    said.say("doomed", result.map_err(|error| error.to_string()));
    for has_conflict in [false, true] {
        let mut attempts = 0;
        let replies: Value = redis::transaction(&mut r, &[&watched], |r, pipe| {
            attempts += 1;
            let value: Option<i64> = r.get(&watched)?;
            if has_conflict && attempts == 1 {
                let _: () = other.incr(&watched, 10)?;
            }
            pipe.set(&watched, value.unwrap_or(0) + 1).get(&watched).query(r)
        })?;
        said.say("watched", (has_conflict, attempts, replies));
    }
    let lines = ["WATCH @watched", "UNWATCH", "MULTI", "GET @watched", "DISCARD", "EXEC"];
    said.each(&mut r, &lines.map(|line| line.replace('@', &key(prefix, ""))));
    Ok(())
}

fn waiting(said: &mut Said, client: &Client, prefix: &str) -> Result<()> {
    let (mut r, mut other) = (connect(client)?, connect(client)?);
    let queue = key(prefix, "queue");
    let none: Option<(String, String)> = r.blpop(&queue, 0.05)?;
    said.say("blpop in vain", none);
    for command in ["BLPOP @none @queue 10", "BRPOP @queue 10", "BLMOVE @queue @done LEFT RIGHT 10"] {
        let line = command.replace('@', &key(prefix, ""));
        let got = std::thread::scope(|scope| -> Result<String> {
            let mut waiter = Said::default();
            let waiting = scope.spawn(|| {
                waiter.each(&mut other, std::slice::from_ref(&line));
                waiter.0
            });
            let pushed: i64 = r.rpush(&queue, "job")?;
            ensure!(pushed == 1);
            waiting.join().map_err(|_| anyhow::anyhow!("the one who waits panicked"))
        })?;
        said.say("got", got);
    }
    Ok(())
}

fn scripts(said: &mut Said, r: &mut Connection, prefix: &str) -> Result<()> {
    let double = Script::new("return {redis.call('incrby', KEYS[1], ARGV[1]) * 2, KEYS[1] == KEYS[2]}");
    let (script, x) = (key(prefix, "script"), key(prefix, "x"));
    let first: Value = double.key(&script).key(&x).arg(4).invoke(r)?;
    let second: Value = double.key(&script).key(&script).arg(1).invoke(r)?;
    said.say("evalsha", (first, second));
    let lines = [
        "EVALSHA 0000000000000000000000000000000000000000 1 @a",
        "EVAL return{ARGV[1],7,false} 0 x",
        "EVAL error 1 @a",
    ];
    said.each(r, &lines.map(|line| line.replace('@', &key(prefix, ""))));
    let pipelined: Value = pipe().load_script(&double).invoke_script(double.key(&script).key(&x).arg(1)).query(r)?;
    said.say("in a pipeline", pipelined);
    Ok(())
}

fn pipelines(said: &mut Said, r: &mut Connection) -> Result<()> {
    let mut many = pipe();
    for i in 0..300 {
        let key = format!("{}k{i}", PREFIXES[i % 3]);
        many.set(&key, i).get(&key);
    }
    let replies: Vec<Value> = many.query(r)?;
    said.say("pipeline", replies);
    let everywhere: Vec<String> = (0..30).map(|i| format!("{}k{i}", PREFIXES[i % 3])).collect();
    let values: Vec<Option<i64>> = r.mget(&everywhere)?;
    said.say("mget", values);
    let pairs: Vec<(&String, &str)> = everywhere.iter().map(|key| (key, "new")).collect();
    let set: Value = r.mset(&pairs)?;
    let values: BTreeSet<String> = r.mget(&everywhere)?;
    said.say("mset", (set, values));
    let counts: [i64; 3] = [r.exists(&everywhere)?, r.unlink(&everywhere[10..])?, r.del(&everywhere)?];
    said.say("exists", counts);
    Ok(())
}

fn subscribers(said: &mut Said, client: &Client, is_resp3: bool) -> Result<()> {
    let (mut r, mut other) = (connect(client)?, connect(client)?);
    if is_resp3 {
        // What is pushed comes beside the replies of the same connection, which publishes itself.
        let (sender, pushed) = std::sync::mpsc::channel();
        r.set_push_sender(sender);
        r.subscribe_resp3("news")?;
        let heard: i64 = r.publish("news", "own")?;
        let value: Option<i64> = r.get("n:missing")?;
        let all: Vec<String> = pushed.try_iter().map(|push| format!("{:?} {:?}", push.kind, push.data)).collect();
        said.say("pushed", (heard, value, all));
        return Ok(());
    }
    let mut subscriber = r.as_pubsub();
    // One by one: redis-rs waits for the first answer of each command only.
    subscriber.subscribe("news")?;
    subscriber.subscribe("p:news")?;
    subscriber.psubscribe("ne*")?;
    let heard: [i64; 3] =
        [other.publish("news", "hello")?, other.publish("p:news", "hi")?, other.publish("nobody", "x")?];
    said.say("published", heard);
    let mut messages = BTreeSet::new();
    for _ in 0..3 {
        let message = subscriber.get_message()?;
        messages.insert(format!(
            "{} {} {}",
            message.get_channel_name(),
            message.get_payload::<String>()?,
            message.from_pattern()
        ));
    }
    said.say("heard", messages);
    subscriber.unsubscribe("news")?;
    let heard: i64 = other.publish("news", "again")?;
    said.say("by the pattern only", (heard, subscriber.get_message()?.from_pattern()));
    Ok(())
}

fn scans(said: &mut Said, r: &mut Connection) -> Result<()> {
    let _: () = cmd("FLUSHALL").query(r)?;
    for i in 0..200 {
        let _: () = r.set(format!("{}scan{i}", PREFIXES[i % 3]), i)?;
    }
    for i in 0..50 {
        let _: () = r.hset("p:hash", format!("f{i}"), i)?;
    }
    let found: BTreeSet<String> = r.scan()?.collect::<RedisResult<_>>()?;
    said.say("scan", found);
    let found: BTreeSet<String> = r.scan_match("q:*1*")?.collect::<RedisResult<_>>()?;
    said.say("scan match", found);
    let found: BTreeSet<(String, i64)> = r.hscan("p:hash")?.collect::<RedisResult<_>>()?;
    said.say("hscan", found);
    let keys: BTreeSet<String> = r.keys("n:scan1?")?;
    let size: i64 = cmd("DBSIZE").query(r)?;
    said.say("keys", (keys, size));
    Ok(())
}
