"""A script that prints what redis-py returns: scenario.py HOST PORT PROTOCOL"""

import faulthandler
import sys
import threading

import redis

# Whatever waits for ever says where.
faulthandler.dump_traceback_later(50, exit=True)

host, port, protocol = sys.argv[1], int(sys.argv[2]), sys.argv[3]
options = {} if protocol == "default" else {"protocol": int(protocol)}
PREFIXES = ["p:", "q:", "n:"]


def client():
    return redis.Redis(host=host, port=port, decode_responses=True, socket_timeout=20, **options)


def say(what, result):
    if isinstance(result, set):
        result = sorted(result)
    print(f"{what}: {result!r}")


def attempt(what, call):
    try:
        say(what, call())
    except redis.RedisError as error:
        say(what, f"{type(error).__name__} {error}")


def values(r, prefix):
    # All of one slot.
    k = lambda name: f"{prefix}{{{prefix}}}{name}"
    say("set", r.set(k("a"), "väl ue"))
    say("get", [r.get(k("a")), r.get(k("missing"))])
    say("set nx", r.set(k("a"), "x", nx=True))
    say("incr", [r.incr(k("n"), 5), r.incrbyfloat(k("n"), 0.5)])
    say("hash", [r.hset(k("h"), mapping={"f": 1, "g": "two"}), r.hgetall(k("h")), r.hgetall(k("missing"))])
    say("list", [r.rpush(k("l"), 1, 2, 3), r.lrange(k("l"), 0, -1), r.lmove(k("l"), k("l2")), r.lpop(k("l"), 5)])
    say("set of", [r.sadd(k("s"), "a", "b"), sorted(r.smembers(k("s"))), r.sismember(k("s"), "a")])
    say("zset", [r.zadd(k("z"), {"a": 1.5, "b": 2}), r.zscore(k("z"), "a"), r.zrange(k("z"), 0, -1, withscores=True)])
    say("zpop", [r.zpopmin(k("z")), r.zpopmax(k("missing"))])
    say("stream", [r.xadd(k("x"), {"k": "v"}, id="1-1"), r.xrange(k("x")), r.xread({k("x"): "0"}, count=1)])
    say("group", [r.xgroup_create(k("x"), "g", id="0"), r.xreadgroup("g", "me", {k("x"): ">"}), r.xack(k("x"), "g", "1-1")])
    say("geo", [r.geoadd(k("geo"), (13.361389, 38.115556, "Palermo")), r.geopos(k("geo"), "Palermo", "none")])
    say("rename", [r.rename(k("a"), k("b")), r.exists(k("a"), k("b")), r.type(k("b")), r.ttl(k("b"))])
    say("lmpop", [r.rpush(k("l3"), "x", "y"), r.lmpop(2, k("l2"), k("l3"), direction="LEFT")])
    attempt("no integer", lambda: r.incr(k("b")))
    attempt("wrong type", lambda: r.lpush(k("b"), 1))
    attempt("no group", lambda: r.xreadgroup("none", "me", {k("x"): ">"}))
    big = "0123456789abcdef" * 65536
    say("big", [r.set(k("big"), big), r.get(k("big")) == big, r.strlen(k("big"))])
    say("big in a list", [r.rpush(k("bigs"), big, big), [len(item) for item in r.lrange(k("bigs"), 0, -1)]])


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for i in range(300):
            prefix = PREFIXES[i % 3]
            pipe.set(f"{prefix}k{i}", i).get(f"{prefix}k{i}")
        replies = pipe.execute()
        say("pipeline", [len(replies), replies == [x for i in range(300) for x in (True, str(i))]])
        for i in range(300):
            pipe.append(f"{PREFIXES[i % 3]}k{i % 7}", i)
        say("appended", pipe.execute())
        pipe.get("p:k1").lpush("n:k5", "no list").get("n:k2")
        say("an error amid", [str(reply) for reply in pipe.execute(raise_on_error=False)])
    everywhere = [f"{PREFIXES[i % 3]}k{i}" for i in range(30)]
    say("mget", r.mget(everywhere + ["p:missing"]))
    say("mset", [r.mset({key: "new" for key in everywhere}), set(r.mget(everywhere))])
    say("exists", [r.exists(*everywhere), r.touch(*everywhere), r.unlink(*everywhere[:10]), r.delete(*everywhere)])


def transactions(r, prefix):
    k = lambda name: f"{prefix}{{{prefix}}}{name}"
    with r.pipeline() as pipe:
        pipe.set(k("t"), 1).incr(k("t")).hgetall(k("h")).get(k("missing")).zadd(k("tz"), {"a": 1})
        say("transaction", pipe.execute())
        pipe.incr(k("t")).incr(k("h")).get(k("t"))
        say("an error in it", [str(reply) for reply in pipe.execute(raise_on_error=False)])
        pipe.incr(k("t")).execute_command("SET", k("t"))
        attempt("discarded", pipe.execute)
    other = client()
    for has_conflict in [False, True]:
        with r.pipeline() as pipe:
            pipe.watch(k("watched"))
            say("while watching", pipe.get(k("watched")))
            if has_conflict:
                other.set(k("watched"), "changed")
            pipe.multi()
            pipe.set(k("watched"), "mine").get(k("watched"))
            attempt(f"watched, conflict {has_conflict}", pipe.execute)
    say("callable", r.transaction(lambda pipe: pipe.multi() or pipe.incr(k("together")), k("together")))
    other.close()


def waiting(r, prefix):
    k = lambda name: f"{prefix}{{{prefix}}}{name}"
    say("blpop in vain", r.blpop(k("queue"), timeout=0.05))
    for command in [lambda c: c.blpop([k("none"), k("queue")], timeout=10), lambda c: c.blmove(k("queue"), k("done"), 10)]:
        got, other = [], client()
        waiter = threading.Thread(target=lambda: got.append(command(other)))
        waiter.start()
        say("pushed", r.rpush(k("queue"), "job"))
        waiter.join()
        say("got", got)
        other.close()


def subscribers(r):
    subscriber = r.pubsub()
    subscriber.subscribe("news", "p:news")
    subscriber.psubscribe("ne*")
    say("subscribed", [subscriber.get_message(timeout=10) for _ in range(3)])
    say("published", [r.publish("news", "hello"), r.publish("p:news", "hi"), r.publish("nobody", "x")])
    messages = [subscriber.get_message(timeout=10) for _ in range(3)]
    say("heard", sorted(str(message) for message in messages))
    subscriber.ping()
    say("ping", subscriber.get_message(timeout=10))
    # By name: without one, Redis's order is by chance.
    subscriber.unsubscribe("news", "p:news")
    subscriber.punsubscribe()
    say("unsubscribed", [subscriber.get_message(timeout=10) for _ in range(3)])
    subscriber.close()


def scripts(r, prefix):
    k = lambda name: f"{prefix}{{{prefix}}}{name}"
    double = r.register_script("return {redis.call('incrby', KEYS[1], ARGV[1]) * 2, KEYS[1] == KEYS[2]}")
    say("evalsha", [double(keys=[k("script"), k("x")], args=[4]), double(keys=[k("script")] * 2, args=[1])])
    with r.pipeline() as pipe:
        double(keys=[k("script"), k("x")], args=[1], client=pipe)
        say("in a transaction", pipe.execute())
    say("sha", [double.sha, r.script_exists(double.sha, "0" * 40)])
    attempt("my words", lambda: r.eval("return redis.error_reply('ERR my words')", 1, k("a")))
    attempt("no script", lambda: r.evalsha("0" * 40, 1, k("a")))
    say("without keys", r.eval("return {ARGV[1], 7, false}", 0, "x"))


def scans(r):
    say("flushall", r.flushall())
    for i in range(200):
        r.set(f"{PREFIXES[i % 3]}scan{i}", i)
    r.hset("p:hash", mapping={f"f{i}": i for i in range(50)})
    say("scan", sorted(r.scan_iter(count=20)))
    say("scan match", sorted(r.scan_iter(match="q:*1*", count=50)))
    say("scan type", sorted(r.scan_iter(_type="hash")))
    say("hscan", sorted(r.hscan_iter("p:hash")))
    say("keys", [len(r.keys("*")), sorted(r.keys("n:scan1?")), r.dbsize(), r.randomkey() is not None])


def connection(r):
    say("ping", [r.ping(), r.echo("words")])
    named = redis.Redis(host=host, port=port, client_name="scenario", decode_responses=True, **options)
    say("name", [named.client_getname(), named.client_setname("other"), named.client_getname()])
    info = named.client_info()
    say("info", [info["name"], info["resp"]])
    named.close()
    attempt("unknown", lambda: r.execute_command("NOSUCHCOMMAND", "x"))
    attempt("too few", lambda: r.execute_command("GET"))


r = client()
connection(r)
for prefix in PREFIXES:
    for part in [values, transactions, waiting, scripts]:
        part(r, prefix)
pipelines(r)
subscribers(r)
scans(r)
r.close()
print("end")
