//! Facts that no server reports: sensible values, the data that a command needs, and invocations
//! written by hand.

use redis_mesh_tests::line::words;

use crate::docs::Documented;

/// Values by name of the argument, as one types them; `command.argument` goes first. Of several,
/// the first is taken first.
const VALUES: &[(&str, &str)] = &[
    ("value", "10 20"),
    ("setbit.value", "1"),
    ("function|restore.serialized-value", FUNCTIONS),
    ("field", "f g"),
    ("member", "m n"),
    ("member1", "m"),
    ("member2", "n"),
    ("element", "e f"),
    ("pivot", "e"),
    ("start", "0"),
    ("stop", "-1"),
    ("end", "-1"),
    ("bit", "1"),
    ("offset", "0"),
    ("encoding", "u8"),
    ("operation", "AND"),
    ("index", "0"),
    ("seconds", "1000000"),
    ("milliseconds", "1000000000"),
    ("unix-time-seconds", "33177117420"),
    ("unix-time-milliseconds", "33177117420000"),
    ("xread.milliseconds", "30"),
    ("xreadgroup.milliseconds", "30"),
    ("failover.milliseconds", "30"),
    ("pattern", "*"),
    ("scan.pattern", "@*"),
    ("scan.count", "1000"),
    ("sscan.count", "1000"),
    ("keys.pattern", "@*"),
    ("sort.pattern", "@*"),
    ("sort_ro.pattern", "@*"),
    ("by-pattern", "@*"),
    ("get-pattern", "#"),
    ("match-pattern", "@*"),
    ("timeout", "0.03"),
    ("wait.timeout", "30"),
    ("waitaof.timeout", "30"),
    ("migrate.timeout", "30"),
    ("client|pause.timeout", "1"),
    ("cluster|setslot.timeout", "30"),
    ("numreplicas", "0"),
    ("numlocal", "0"),
    ("message", "hello"),
    ("channel", "ch chh"),
    ("shardchannel", "ch chh"),
    ("script", r#""return 1""#),
    ("function-code", r##""#!lua name=other\nredis.register_function('g', function() return 1 end)""##),
    ("sha1", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db ffffffffffffffffffffffffffffffffffffffff"),
    ("function", "f"),
    ("library-name", "lib"),
    ("library-name-pattern", "lib"),
    ("arg", "a b"),
    ("protover", "3"),
    ("username", "default nobody"),
    ("acl|deluser.username", "nobody"),
    ("acl|setuser.username", "somebody"),
    ("password", "pw"),
    ("clientname", "me"),
    ("connection-name", "me"),
    ("libname", "lib"),
    ("libver", "1"),
    ("db", "1"),
    ("destination-db", "1"),
    ("ttl", "0"),
    ("serialized-value", r#""\x00\xc0\n\n\x00n\x9fWE\x0e\xaec\xbb""#),
    ("group", "group"),
    ("groupname", "group"),
    ("consumer", "consumer"),
    ("consumername", "consumer"),
    ("id", "1-1 2-2"),
    ("xadd.id", "9-9"),
    ("xread.id", "0"),
    ("xreadgroup.id", ">"),
    ("lastid", "1-1"),
    ("last-id", "9-9"),
    ("max-deleted-id", "3-3"),
    ("max_deleted_entry_id", "3-3"),
    ("entries-added", "9"),
    ("entries_added", "9"),
    ("threshold", "1"),
    ("min-idle-time", "0"),
    ("xrange.start", "-"),
    ("xrange.end", "+"),
    ("xrevrange.start", "-"),
    ("xrevrange.end", "+"),
    ("xpending.start", "-"),
    ("xpending.end", "+"),
    ("longitude", "15"),
    ("latitude", "37"),
    ("radius", "400"),
    ("width", "400"),
    ("height", "400"),
    ("num-vertices", "3"),
    ("min", "-inf"),
    ("max", "+inf"),
    ("zlexcount.min", "-"),
    ("zlexcount.max", "+"),
    ("zrangebylex.min", "-"),
    ("zrangebylex.max", "+"),
    ("zrevrangebylex.min", "-"),
    ("zrevrangebylex.max", "+"),
    ("zremrangebylex.min", "-"),
    ("zremrangebylex.max", "+"),
    ("zrangestore.min", "0"),
    ("zrangestore.max", "-1"),
    ("cursor", "0"),
    ("type", "string"),
    ("host", "127.0.0.1"),
    ("index1", "0"),
    ("index2", "1"),
    ("parameter", "maxmemory-samples"),
    ("config|set.value", "5"),
    ("section", "server"),
    ("command-name", "get set"),
    ("command", "get"),
    ("acl|dryrun.arg", "@1"),
    ("command|getkeys.arg", "@1"),
    ("command|getkeysandflags.arg", "@1"),
    ("module-name", "nothing"),
    ("category", "string"),
    ("categoryname", "string"),
    ("rule", "on"),
    ("bits", "8"),
    ("event", "command"),
    ("version", "5"),
    ("node-id", "0123456789012345678901234567890123456789"),
    ("client-id", "999999999"),
    ("path", "/nonexistent.so"),
    ("name", "nothing"),
    ("comparison-value", "10"),
    ("move.db", "1"),
    ("capability", "redirect"),
];

/// Returns the value of an argument; by default `1` or `x`.
pub fn value(command: &str, name: &str, kind: &str, nth: usize) -> Vec<u8> {
    let of = |name: &str| VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let number = if matches!(kind, "integer" | "double" | "unix-time") { "1" } else { "x" };
    let found = of(&format!("{command}.{name}")).or_else(|| of(name)).unwrap_or(number);
    let mut values = words(found).unwrap_or_default();
    values.swap_remove(nth.min(values.len().saturating_sub(1)))
}

const LIBRARY: &str = r##"FUNCTION LOAD "#!lua name=lib\nredis.register_function{function_name='f', callback=function(keys, args) return {keys, args} end, flags={'no-writes'}}""##;

/// The reply to FUNCTION DUMP with one library.
const FUNCTIONS: &str = r##""\xf5@D#!lua name=lib\nredis.register_function('f', function() return 1 end)\n\x00\xaf\xecJ\xc1\r\xc9\x0c\xa3""##;

/// The commands that prepare the server, by command or else by group.
const SETUPS: &[(&str, &str)] = &[
    ("string", "SET @1 10; SET @2 20; SET @3 30"),
    ("bitmap", "SET @1 abc; SET @2 abd; SET @3 xyz"),
    ("hash", "HSET @1 f 1 g 2 h 3"),
    ("list", "RPUSH @1 e f g; RPUSH @2 e f g; RPUSH @3 h"),
    ("set", "SADD @1 m n o; SADD @2 n o p; SADD @3 o q"),
    ("sorted-set", "ZADD @1 1 m 2 n 3 o; ZADD @2 1 m 2.5 n 4 p; ZADD @3 5 m"),
    (
        "geo",
        "GEOADD @1 13.361389 38.115556 m 15.087269 37.502669 n; GEOADD @2 13.361389 38.115556 m 15.087269 37.502669 n",
    ),
    ("hyperloglog", "PFADD @1 a b; PFADD @2 b c; PFADD @3 d"),
    (
        "stream",
        "XADD @1 1-1 f v; XADD @1 2-2 f w; XGROUP CREATE @1 group 0; XREADGROUP GROUP group consumer COUNT 1 STREAMS @1 >; \
         XADD @2 1-1 f v; XADD @2 2-2 f w; XGROUP CREATE @2 group 0",
    ),
    ("generic", "SET @1 10; SET @2 20; SET @3 30"),
    ("server", "SET @1 10; SET @2 20; SET @3 30"),
    ("scripting", "FUNCTION FLUSH; SCRIPT FLUSH; SCRIPT LOAD 'return 1'; SET @1 10; SET @2 20"),
    ("persist ttl pttl expiretime pexpiretime", "SET @1 10 EXAT 33177117420; SET @2 20; SET @3 30"),
    ("sort sort_ro", "RPUSH @1 3 1 2; RPUSH @2 2 1"),
    ("object|freq", "CONFIG SET maxmemory-policy allkeys-lfu; SET @1 10"),
    ("object|idletime", "CONFIG SET maxmemory-policy noeviction; SET @1 10"),
    ("xgroup|create", "XADD @1 1-1 f v; XADD @2 1-1 f v"),
    ("function|restore", "FUNCTION FLUSH"),
    ("restore restore-asking", "SET @2 20"),
    ("renamenx copy", "SET @1 10"),
    ("msetnx", "SET @9 10"),
    ("hpersist hexpiretime hpexpiretime httl hpttl", "HSET @1 f 1 g 2 h 3; HEXPIREAT @1 33177117420 FIELDS 2 f g"),
    ("bgsave bgrewriteaof", "%quiet"),
    ("save", "%quiet"),
    (
        "acl|deluser acl|setuser acl|getuser acl|list acl|users acl|log acl|whoami",
        "ACL DELUSER somebody; ACL LOG RESET",
    ),
    ("latency|histogram", "CONFIG RESETSTAT"),
    ("config|rewrite", ""),
];

/// Returns the commands that prepare the server for a valid invocation.
pub fn setup(command: &Documented) -> String {
    let name = command.name.as_str();
    if command.group == "scripting" && name.starts_with('f') && !named("function|load function|restore", name) {
        return format!("FUNCTION FLUSH; {LIBRARY}");
    }
    let found = SETUPS.iter().find(|(names, _)| named(names, name));
    let found = found.or_else(|| SETUPS.iter().find(|(names, _)| *names == command.group));
    found.map_or("", |(_, lines)| lines).to_owned()
}

/// Returns the commands that prepare the server for an invocation on keys of the wrong type.
pub fn wrong_type(command: &Documented) -> &'static str {
    match command.group.as_str() {
        "string" | "bitmap" | "hyperloglog" | "generic" | "server" => "RPUSH @1 x; RPUSH @2 y",
        _ => "SET @1 x; SET @2 y",
    }
}

/// Whose invocations are written by hand: command, setup, what is said. Nothing else is invoked of
/// them but what has the wrong number of arguments.
const BY_HAND: &[(&str, &str, &str)] = &[
    ("multi", "", "MULTI"),
    ("multi", "", "MULTI; MULTI"),
    ("multi", "SET @1 10", "MULTI; INCR @1; GET @1; LPUSH @1 x; DISCARD; GET @1"),
    ("exec", "SET @1 10", "MULTI; INCR @1; GET @1; LPUSH @1 x; EXEC"),
    ("exec", "", "EXEC"),
    ("exec", "", "MULTI; EXEC"),
    ("exec", "", "MULTI; NONSENSE; EXEC"),
    ("exec", "", "MULTI; GET; EXEC"),
    ("exec", "SET @1 10", "MULTI; GET @1; PING; PING hi; ECHO hi; TIME x; EXEC"),
    ("discard", "", "DISCARD"),
    ("discard", "", "MULTI; DISCARD"),
    ("watch", "SET @1 10", "WATCH @1; GET @1; MULTI; GET @1; EXEC"),
    ("watch", "SET @1 10", "WATCH @1 @2; SET @1 11; MULTI; GET @1; EXEC"),
    ("watch", "", "MULTI; WATCH @1; EXEC"),
    ("unwatch", "", "UNWATCH"),
    ("unwatch", "SET @1 10", "WATCH @1; SET @1 11; UNWATCH; MULTI; GET @1; EXEC"),
    ("unwatch", "SET @1 10", "MULTI; UNWATCH; EXEC"),
    ("quit", "", "QUIT"),
    ("reset", "", "RESET"),
    ("reset", "SET @1 10", "MULTI; RESET; GET @1"),
    ("select", "", "SELECT 0"),
    ("select", "SET @1 10", "SELECT 1; GET @1; SELECT 0; GET @1"),
    ("select", "", "SELECT 1; SET @1 11; SELECT 0; GET @1"),
    ("select", "", "SELECT 99"),
    ("select", "", "SELECT x"),
    ("select", "SET @1 10", "MULTI; SELECT 1; GET @1; EXEC; GET @1"),
    ("auth", "", "AUTH pw"),
    ("auth", "", "AUTH default pw"),
    ("auth", "", "AUTH nobody pw"),
    ("auth", "", "AUTH a b c"),
    ("hello", "", "HELLO"),
    ("hello", "", "HELLO 3"),
    ("hello", "", "HELLO 2"),
    ("hello", "", "HELLO 4"),
    ("hello", "", "HELLO x"),
    ("hello", "", "HELLO 3 SETNAME me; CLIENT GETNAME"),
    ("hello", "", "HELLO 3 AUTH nobody pw"),
    ("hello", "", "HELLO 3 nonsense"),
    ("hello", "HSET @1 f 1", "HELLO 3; HGETALL @1; HELLO 2; HGETALL @1"),
    ("client|caching", "", "CLIENT CACHING YES"),
    ("client|caching", "", "CLIENT TRACKING ON OPTIN; CLIENT CACHING YES"),
    ("client|getname", "", "CLIENT GETNAME"),
    ("client|getname", "", "CLIENT SETNAME me; CLIENT GETNAME; RESET; CLIENT GETNAME"),
    ("client|setname", "", "CLIENT SETNAME me"),
    ("client|setname", "", "CLIENT SETNAME 'a b'"),
    ("client|setname", "", "MULTI; CLIENT SETNAME me; CLIENT GETNAME; EXEC; CLIENT GETNAME"),
    ("client|tracking", "", "MULTI; CLIENT TRACKING OFF; EXEC"),
    ("client|kill", "", "CLIENT KILL 127.0.0.1:1"),
    ("client|kill", "", "CLIENT KILL ID 999999999"),
    ("client|kill", "", "CLIENT KILL ADDR 127.0.0.1:1 SKIPME YES"),
    ("client|kill", "", "CLIENT KILL USER nobody"),
    ("client|kill", "", "CLIENT KILL TYPE nonsense"),
    ("client|reply", "", "CLIENT REPLY ON"),
    ("client|reply", "", "CLIENT REPLY nonsense"),
    ("client|reply", "", "=0 CLIENT REPLY SKIP; =0 PING; PING hi"),
    ("client|reply", "", "=0 CLIENT REPLY OFF; =0 PING; CLIENT REPLY ON; PING hi"),
    ("client|tracking", "", "CLIENT TRACKING ON"),
    ("client|tracking", "", "CLIENT TRACKING OFF"),
    ("client|tracking", "SET @1 10", "CLIENT TRACKING ON; GET @1; =1/2 SET @1 11; GET @1"),
    ("client|trackinginfo", "", "CLIENT TRACKINGINFO"),
    ("client|trackinginfo", "", "CLIENT TRACKING ON BCAST PREFIX x; CLIENT TRACKINGINFO"),
    ("subscribe", "", "SUBSCRIBE ch"),
    ("subscribe", "", "=2 SUBSCRIBE ch chh; PING; =2 UNSUBSCRIBE"),
    ("subscribe", "", "SUBSCRIBE ch; GET @1; UNSUBSCRIBE ch; GET @1"),
    ("subscribe", "", "SUBSCRIBE ch; GET @1; =1/2 PUBLISH ch hello"),
    ("subscribe", "", "SUBSCRIBE ch; QUIT"),
    ("subscribe", "", "SUBSCRIBE ch; RESET; GET @1"),
    ("psubscribe", "", "PSUBSCRIBE c*"),
    ("psubscribe", "", "=2 PSUBSCRIBE c* d*; =2 PUNSUBSCRIBE"),
    ("psubscribe", "", "PSUBSCRIBE c*; =1/2 PUBLISH ch hello"),
    ("ssubscribe", "", "SSUBSCRIBE ch"),
    ("ssubscribe", "", "=2 SSUBSCRIBE ch chh; =2 SUNSUBSCRIBE"),
    ("ssubscribe", "", "SSUBSCRIBE ch; =1/2 SPUBLISH ch hello"),
    ("unsubscribe", "", "UNSUBSCRIBE"),
    ("unsubscribe", "", "UNSUBSCRIBE ch"),
    ("unsubscribe", "", "=2 SUBSCRIBE ch chh; UNSUBSCRIBE ch"),
    ("punsubscribe", "", "PUNSUBSCRIBE"),
    ("punsubscribe", "", "PUNSUBSCRIBE c*"),
    ("punsubscribe", "", "=2 PSUBSCRIBE c* d*; PUNSUBSCRIBE c*"),
    ("sunsubscribe", "", "SUNSUBSCRIBE"),
    ("sunsubscribe", "", "SUNSUBSCRIBE ch"),
    ("sunsubscribe", "", "=2 SSUBSCRIBE ch chh; SUNSUBSCRIBE ch"),
    ("replicaof", "", "REPLICAOF NO ONE"),
    ("slaveof", "", "SLAVEOF NO ONE"),
    ("command", "", "COMMAND"),
    ("debug", "", "DEBUG SLEEP 0"),
    ("debug", "SET @1 10", "DEBUG OBJECT @1"),
    ("debug", "", "DEBUG JMAP"),
    ("pfdebug", "PFADD @1 a", "PFDEBUG ENCODING @1"),
    ("pfdebug", "PFADD @1 a", "PFDEBUG DECODE @1"),
    ("pfdebug", "PFADD @1 a", "PFDEBUG nonsense @1"),
    ("lpos", "RPUSH @1 e f e", "LPOS @1 e RANK -1 COUNT 0 MAXLEN 2"),
    ("function|restore", "FUNCTION FLUSH", r#"FUNCTION RESTORE "\n\x00\xab\xcd""#),
    ("wait", "", "WAIT 1 30"),
    ("monitor", "", "MONITOR"),
    ("xread", "", "XREAD BLOCK 30 STREAMS @1 $"),
    ("blpop", "RPUSH @2 e", "BLPOP @1 @2 0.03"),
    ("bzpopmin", "ZADD @2 1 m", "BZPOPMIN @1 @2 0.03"),
];

/// Of these, other invocations are made too.
const ALSO_BY_HAND: &str = "lpos function|restore wait xread blpop bzpopmin";

/// Returns the invocations that are written by hand: setup and commands.
pub fn by_hand(command: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    BY_HAND.iter().filter(move |(name, ..)| *name == command).map(|(_, setup, session)| (*setup, *session))
}

/// Whether its valid invocations are all made by hand.
pub fn is_by_hand(command: &str) -> bool {
    by_hand(command).next().is_some() && !named(ALSO_BY_HAND, command)
}

/// What is invoked with the right number of arguments only where it is refused, and why.
const HARMFUL: &[(&str, &str)] =
    &[("shutdown", "it ends the server"), ("sync psync", "what follows isn't RESP, and it makes the server a master")];

/// What isn't invoked with the right number of arguments anywhere, and why.
const UNTRIED: &[(&str, &str)] = &[("pfselftest", "it keeps a server busy for seconds")];

/// What a server that is nothing special answers with errors only, and why.
const FAILURES: &[(&str, &str)] = &[
    ("acl|load acl|save", "there is no file"),
    ("asking clusterscan", "it is for nodes of a Redis Cluster"),
    ("failover", "there is no replica"),
    ("function|kill script|kill", "nothing is running"),
    ("latency|graph", "nothing was slow"),
    ("module|load module|loadex module|unload", "there is no module"),
];

/// Returns the reason that a command never succeeds.
pub fn failure(command: &str) -> Option<&'static str> {
    let is_of_nodes = command.starts_with("cluster|") && command != "cluster|keyslot";
    let cluster = is_of_nodes.then_some("it is for nodes of a Redis Cluster");
    let found = FAILURES.iter().find(|(names, _)| named(names, command)).map(|(_, why)| *why);
    found.or(cluster).or(harm(command)).or(untried(command))
}

/// Returns the reason that a command is invoked only on paths that refuse it.
pub fn harm(command: &str) -> Option<&'static str> {
    HARMFUL.iter().find(|(names, _)| named(names, command)).map(|(_, why)| *why)
}

/// Returns the reason that a command isn't invoked.
pub fn untried(command: &str) -> Option<&'static str> {
    UNTRIED.iter().find(|(names, _)| named(names, command)).map(|(_, why)| *why)
}

/// Whether a list of names has this one.
pub fn named(names: &str, name: &str) -> bool {
    names.split(' ').any(|known| known == name)
}
