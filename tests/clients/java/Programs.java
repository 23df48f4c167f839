import io.lettuce.core.RedisClient;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.redisson.Redisson;
import org.redisson.api.BatchOptions;
import org.redisson.api.RedissonClient;
import org.redisson.client.codec.StringCodec;
import org.redisson.config.Config;
import redis.clients.jedis.JedisPubSub;

/**
 * A subscriber that runs until it is ended (LIBRARY-hear), or a first SET, GET and pipeline
 * (LIBRARY-greet): Programs WHAT HOST PORT [TEXT]. Every message, or the text, goes to the standard output.
 */
public class Programs {
    static void say(String text) {
        System.out.println("said " + text);
    }

    static void same(Object expected, Object found) {
        if (!expected.equals(found)) throw new IllegalStateException(found + " instead of " + expected);
    }

    public static void main(String[] args) throws Exception {
        String host = args[1], text = args.length > 3 ? args[3] : "";
        int port = Integer.parseInt(args[2]);
        switch (args[0]) {
            case "lettuce-hear", "jedis-hear", "redisson-hear" -> hear(args[0], host, port);
            default -> {
                greet(args[0], host, port, text);
                say(text);
                System.exit(0);
            }
        }
    }

    static RedissonClient redisson(String host, int port) {
        Config config = new Config();
        config.setCodec(StringCodec.INSTANCE);
        config.useSingleServer().setAddress("redis://" + host + ":" + port)
            .setConnectionMinimumIdleSize(1).setSubscriptionConnectionMinimumIdleSize(1);
        return Redisson.create(config);
    }

    static void hear(String what, String host, int port) throws Exception {
        switch (what) {
            case "lettuce-hear" -> {
                var connection = RedisClient.create("redis://" + host + ":" + port).connectPubSub();
                connection.addListener(new RedisPubSubAdapter<String, String>() {
                    @Override
                    public void message(String channel, String message) {
                        say(message);
                    }
                });
                connection.sync().subscribe("news");
                Thread.sleep(Long.MAX_VALUE);
            }
            case "redisson-hear" -> {
                redisson(host, port).getTopic("news").addListener(String.class, (channel, message) -> say(message));
                Thread.sleep(Long.MAX_VALUE);
            }
            default -> {
                // Jedis leaves it to the application to subscribe again.
                while (true) {
                    try (var client = redis.clients.jedis.RedisClient.create(host, port)) {
                        client.subscribe(new JedisPubSub() {
                            @Override
                            public void onMessage(String channel, String message) {
                                say(message);
                            }
                        }, "news");
                    } catch (RuntimeException error) {
                        System.out.println(error);
                        Thread.sleep(200);
                    }
                }
            }
        }
    }

    static void greet(String what, String host, int port, String text) throws Exception {
        switch (what) {
            case "lettuce-greet" -> {
                var connection = RedisClient.create("redis://" + host + ":" + port).connect();
                same("OK", connection.sync().set("greeting", text));
                same(text, connection.sync().get("greeting"));
                connection.setAutoFlushCommands(false);
                var futures = List.of(connection.async().get("greeting"), connection.async().get("greeting"));
                connection.flushCommands();
                for (var future : futures) same(text, future.get(10, TimeUnit.SECONDS));
            }
            case "jedis-greet" -> {
                var client = redis.clients.jedis.RedisClient.create(host, port);
                same("OK", client.set("greeting", text));
                same(text, client.get("greeting"));
                try (var pipeline = client.pipelined()) {
                    var first = pipeline.get("greeting");
                    var second = pipeline.get("greeting");
                    pipeline.sync();
                    same(text, first.get());
                    same(text, second.get());
                }
            }
            case "redisson-greet" -> {
                var client = redisson(host, port);
                client.getBucket("greeting").set(text);
                same(text, client.getBucket("greeting").get());
                var batch = client.createBatch(BatchOptions.defaults());
                batch.getBucket("greeting").getAsync();
                batch.getBucket("greeting").getAsync();
                same(List.of(text, text), batch.execute().getResponses());
            }
            default -> throw new IllegalArgumentException(what);
        }
    }
}
