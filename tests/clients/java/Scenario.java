import io.lettuce.core.*;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.codec.StringCodec;
import io.lettuce.core.output.StatusOutput;
import io.lettuce.core.protocol.CommandArgs;
import io.lettuce.core.protocol.ProtocolKeyword;
import io.lettuce.core.protocol.ProtocolVersion;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.Function;
import java.util.stream.Collectors;

/** A script that prints what Lettuce returns: Scenario HOST PORT PROTOCOL */
public class Scenario {
    static final List<String> PREFIXES = List.of("p:", "q:", "n:");
    static RedisClient client;

    interface Call {
        Object run() throws Exception;
    }

    static void say(String what, Object... results) {
        System.out.println(what + ": " + Arrays.deepToString(results));
    }

    static void attempt(String what, Call call) throws Exception {
        try {
            say(what, call.run());
        } catch (RedisException error) {
            say(what, error.getClass().getSimpleName() + " " + error.getMessage());
        }
    }

    /** Names of keys of one slot. */
    static Function<String, String> keys(String prefix) {
        return name -> prefix + "{" + prefix + "}" + name;
    }

    static void values(RedisCommands<String, String> r, String prefix) throws Exception {
        var k = keys(prefix);
        say("set", r.set(k.apply("a"), "väl ue"), r.get(k.apply("a")), r.get(k.apply("missing")), r.setnx(k.apply("a"), "x"));
        say("incr", r.incrby(k.apply("n"), 5), r.incrbyfloat(k.apply("n"), 0.5));
        say("hash", r.hset(k.apply("h"), new TreeMap<>(Map.of("f", "1", "g", "two"))), new TreeMap<>(r.hgetall(k.apply("h"))),
            r.hgetall(k.apply("missing")), r.hmget(k.apply("h"), "f", "none"));
        say("list", r.rpush(k.apply("l"), "1", "2", "3"), r.lrange(k.apply("l"), 0, -1),
            r.lmove(k.apply("l"), k.apply("l2"), LMoveArgs.Builder.leftRight()), r.lpop(k.apply("l"), 5));
        say("set of", r.sadd(k.apply("s"), "a", "b"), new TreeSet<>(r.smembers(k.apply("s"))), r.sismember(k.apply("s"), "a"));
        say("zset", r.zadd(k.apply("z"), 1.5, "a", 2.0, "b"), r.zscore(k.apply("z"), "a"), r.zrangeWithScores(k.apply("z"), 0, -1),
            r.zpopmin(k.apply("z")), r.zscore(k.apply("z"), "none"));
        say("stream", r.xadd(k.apply("x"), new XAddArgs().id("1-1"), "k", "v"), r.xrange(k.apply("x"), Range.unbounded()),
            r.xread(XReadArgs.Builder.count(1), XReadArgs.StreamOffset.from(k.apply("x"), "0")));
        say("group", r.xgroupCreate(XReadArgs.StreamOffset.from(k.apply("x"), "0"), "g"),
            r.xreadgroup(Consumer.from("g", "me"), XReadArgs.StreamOffset.lastConsumed(k.apply("x"))), r.xack(k.apply("x"), "g", "1-1"));
        say("geo", r.geoadd(k.apply("geo"), 13.361389, 38.115556, "Palermo"), r.geodist(k.apply("geo"), "Palermo", "Palermo", GeoArgs.Unit.m));
        say("rename", r.rename(k.apply("a"), k.apply("b")), r.exists(k.apply("a"), k.apply("b")), r.type(k.apply("b")), r.ttl(k.apply("b")));
        say("lmpop", r.lmpop(LMPopArgs.Builder.left(), k.apply("l"), k.apply("l2")));
        attempt("no integer", () -> r.incr(k.apply("b")));
        attempt("wrong type", () -> r.lpush(k.apply("b"), "1"));
        attempt("no group", () -> r.xreadgroup(Consumer.from("none", "me"), XReadArgs.StreamOffset.lastConsumed(k.apply("x"))));
        String big = "0123456789abcdef".repeat(65536);
        say("big", r.set(k.apply("big"), big), r.get(k.apply("big")).equals(big), r.strlen(k.apply("big")));
    }

    static void pipelines(StatefulRedisConnection<String, String> connection) throws Exception {
        var async = connection.async();
        connection.setAutoFlushCommands(false);
        var replies = new ArrayList<RedisFuture<String>>();
        for (int i = 0; i < 300; i++) {
            String key = PREFIXES.get(i % 3) + "k" + i;
            replies.add(async.set(key, "" + i));
            replies.add(async.get(key));
        }
        connection.flushCommands();
        connection.setAutoFlushCommands(true);
        LettuceFutures.awaitAll(Duration.ofSeconds(20), replies.toArray(new RedisFuture[0]));
        var found = new ArrayList<String>();
        for (var reply : replies) found.add(reply.get());
        say("pipeline", found);
        var r = connection.sync();
        String[] everywhere = found.stream().filter(value -> !value.equals("OK")).limit(30).map(i -> PREFIXES.get(Integer.parseInt(i) % 3) + "k" + i)
            .toArray(String[]::new);
        say("mget", r.mget(everywhere));
        say("mset", r.mset(Arrays.stream(everywhere).collect(Collectors.toMap(key -> key, key -> "new"))), r.mget(everywhere));
        say("exists", r.exists(everywhere), r.touch(everywhere), r.unlink(Arrays.copyOf(everywhere, 10)), r.del(everywhere));
    }

    static void transactions(RedisCommands<String, String> r, String prefix) throws Exception {
        var k = keys(prefix);
        r.multi();
        r.set(k.apply("t"), "1");
        r.incr(k.apply("t"));
        r.hgetall(k.apply("h"));
        r.get(k.apply("missing"));
        r.incr(k.apply("h"));
        say("transaction", r.exec().stream().map(String::valueOf).toList());
        r.multi();
        r.incr(k.apply("t"));
        say("discard", r.discard(), r.get(k.apply("t")));
        r.multi();
        attempt("no command", () -> r.dispatch(new Unknown(), new StatusOutput<>(StringCodec.UTF8), new CommandArgs<>(StringCodec.UTF8).addKey(k.apply("t"))));
        attempt("doomed", r::exec);
        try (var other = client.connect()) {
            for (boolean hasConflict : new boolean[] {false, true}) {
                say("watch", r.watch(k.apply("watched")), r.get(k.apply("watched")));
                if (hasConflict) other.sync().set(k.apply("watched"), "changed");
                r.multi();
                r.set(k.apply("watched"), "mine");
                var result = r.exec();
                say("conflict " + hasConflict, result.wasDiscarded(), result.stream().toList(), r.get(k.apply("watched")));
            }
        }
    }

    static class Unknown implements ProtocolKeyword {
        @Override
        public byte[] getBytes() {
            return "NOSUCHCOMMAND".getBytes();
        }

        @Override
        public String toString() {
            return "NOSUCHCOMMAND";
        }
    }

    static void waiting(RedisCommands<String, String> r, String prefix) throws Exception {
        var k = keys(prefix);
        say("blpop in vain", r.blpop(0.05, k.apply("queue")));
        try (var other = client.connect()) {
            var job = other.async().blpop(10, k.apply("none"), k.apply("queue"));
            say("pushed", r.rpush(k.apply("queue"), "job"), job.get(20, TimeUnit.SECONDS));
            var moved = other.async().blmove(k.apply("queue"), k.apply("done"), LMoveArgs.Builder.leftLeft(), 10);
            say("pushed", r.rpush(k.apply("queue"), "job"), moved.get(20, TimeUnit.SECONDS));
            // What is sent behind a command that waits is answered behind it.
            var first = other.async().blpop(10, k.apply("queue"));
            var second = other.async().get(k.apply("missing"));
            say("pushed", r.rpush(k.apply("queue"), "job"), first.get(20, TimeUnit.SECONDS), second.get(20, TimeUnit.SECONDS));
        }
    }

    static void subscribers(RedisCommands<String, String> r) throws Exception {
        var heard = new LinkedBlockingQueue<String>();
        try (var subscriber = client.connectPubSub()) {
            subscriber.addListener(new RedisPubSubAdapter<>() {
                @Override
                public void message(String channel, String message) {
                    heard.add(channel + " " + message);
                }

                @Override
                public void message(String pattern, String channel, String message) {
                    heard.add(pattern + " " + channel + " " + message);
                }

                @Override
                public void subscribed(String channel, long count) {
                    heard.add("+" + channel);
                }

                @Override
                public void unsubscribed(String channel, long count) {
                    heard.add("-" + channel);
                }
            });
            subscriber.sync().subscribe("news", "p:news");
            subscriber.sync().psubscribe("ne*");
            say("subscribed", heard.poll(20, TimeUnit.SECONDS), heard.poll(20, TimeUnit.SECONDS));
            say("published", r.publish("news", "hello"), r.publish("p:news", "hi"), r.publish("nobody", "x"));
            var messages = new TreeSet<String>();
            for (int i = 0; i < 3; i++) messages.add(heard.poll(20, TimeUnit.SECONDS));
            say("heard", messages);
            // A subscriber may publish where the protocol lets it.
            attempt("publishes itself", () -> subscriber.sync().publish("p:news", "own") + heard.poll(20, TimeUnit.SECONDS));
            say("ping", subscriber.sync().ping());
            subscriber.sync().unsubscribe("news", "p:news");
            say("unsubscribed", heard.poll(20, TimeUnit.SECONDS), heard.poll(20, TimeUnit.SECONDS));
        }
    }

    static void scripts(RedisCommands<String, String> r, String prefix) throws Exception {
        var k = keys(prefix);
        String[] both = {k.apply("script"), k.apply("x")};
        String script = "return {redis.call('incrby', KEYS[1], ARGV[1]) * 2, KEYS[1] == KEYS[2]}";
        String sha = r.scriptLoad(script);
        say("sha", sha, r.digest(script).equals(sha), r.scriptExists(sha, "0".repeat(40)));
        say("evalsha", (Object) r.evalsha(sha, ScriptOutputType.MULTI, both, "4"), r.eval(script, ScriptOutputType.MULTI, both, "1"));
        attempt("no script", () -> r.evalsha("0".repeat(40), ScriptOutputType.VALUE, both));
        attempt("my words", () -> r.eval("return redis.error_reply('ERR my words')", ScriptOutputType.VALUE, both));
        say("without keys", (Object) r.eval("return {ARGV[1], 7, false}", ScriptOutputType.MULTI, new String[0], "x"));
    }

    static void scans(RedisCommands<String, String> r) {
        say("flushall", r.flushall());
        for (int i = 0; i < 200; i++) r.set(PREFIXES.get(i % 3) + "scan" + i, "" + i);
        for (int i = 0; i < 50; i++) r.hset("p:hash", "f" + i, "" + i);
        var found = new TreeSet<String>();
        ScanIterator.scan(r, ScanArgs.Builder.limit(20)).forEachRemaining(found::add);
        say("scan", found);
        found.clear();
        ScanIterator.scan(r, ScanArgs.Builder.matches("q:*1*")).forEachRemaining(found::add);
        say("scan match", found);
        found.clear();
        ScanIterator.hscan(r, "p:hash").forEachRemaining(pair -> found.add(pair.toString()));
        say("hscan", found);
        say("keys", r.keys("*").size(), new TreeSet<>(r.keys("n:scan1?")), r.dbsize(), r.randomkey() != null);
    }

    public static void main(String[] args) throws Exception {
        var uri = RedisURI.builder().withHost(args[0]).withPort(Integer.parseInt(args[1])).withTimeout(Duration.ofSeconds(20)).build();
        client = RedisClient.create(uri);
        var options = ClientOptions.builder().autoReconnect(false);
        if (!args[2].equals("default")) options.protocolVersion(args[2].equals("2") ? ProtocolVersion.RESP2 : ProtocolVersion.RESP3);
        client.setOptions(options.build());
        var connection = client.connect();
        var r = connection.sync();
        say("ping", r.ping(), r.echo("words"), r.clientSetname("scenario"), r.clientGetname());
        for (String prefix : PREFIXES) {
            values(r, prefix);
            transactions(r, prefix);
            waiting(r, prefix);
            scripts(r, prefix);
        }
        pipelines(connection);
        subscribers(r);
        scans(r);
        connection.close();
        System.out.println("end");
        client.shutdown(Duration.ZERO, Duration.ofSeconds(2));
    }
}
