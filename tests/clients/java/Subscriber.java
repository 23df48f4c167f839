import io.lettuce.core.RedisClient;
import io.lettuce.core.pubsub.RedisPubSubAdapter;

/** A subscriber that runs until it is ended: Subscriber HOST PORT. It writes every message to the standard output. */
public class Subscriber {
    public static void main(String[] args) throws Exception {
        var connection = RedisClient.create("redis://" + args[1] + ":" + args[2]).connectPubSub();
        connection.addListener(new RedisPubSubAdapter<String, String>() {
            @Override
            public void message(String channel, String message) {
                System.out.println("said " + message);
            }
        });
        connection.sync().subscribe("news");
        Thread.sleep(Long.MAX_VALUE);
    }
}
