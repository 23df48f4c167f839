"""What people do with redis-py, on a host that is managed: everyday.py HOST PORT PATH [USER] [PASSWORD]"""

import asyncio
import faulthandler
import sys
import threading

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

# Whatever waits for ever says where.
faulthandler.dump_traceback_later(30, exit=True)

host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
user, password = (sys.argv[4:] + ["", ""])[:2]
server = {"host": host, "port": port, "socket_timeout": 10}
login = {"username": user or None, "password": password or None}
NEEDS_DIRECT = "needs the direct or native data path"


def client(**options):
    """A client with the library's default handshake."""
    return redis.Redis(**{**server, **login, **options})


def fails(error, text, call):
    """Checks that a call raises this kind of error, with this text in it."""
    try:
        result = call()
    except error as e:
        assert text in str(e), f"{e!r} doesn't say {text!r}"
    else:
        raise AssertionError(f"{result!r} instead of {error.__name__}: {text}")


def values(r):
    assert r.ping() is True
    assert r.set("name", "väl ue") is True
    assert r.get("name") == "väl ue"
    assert r.get("missing") is None
    assert r.set("name", "x", nx=True) is None
    assert r.set("name", "y", get=True) == "väl ue"
    assert r.set("short", 1, ex=1000) is True and 990 < r.ttl("short") <= 1000
    assert r.incr("count", 5) == 5 and r.incrbyfloat("count", 0.5) == 5.5
    assert r.mset({"a": 1, "b": 2, "c": 3}) is True
    assert r.mget("a", "missing", "c") == ["1", None, "3"]
    assert r.exists("a", "b", "missing") == 2 and r.delete("a", "b", "missing") == 2
    assert r.type("c") == "string" and r.rename("c", "d") is True and r.getdel("d") == "3"
    assert sorted(key for key in r.scan_iter(match="[ns]*", count=100)) == ["name", "short"]


def structures(r):
    assert r.hset("hash", mapping={"f": 1, "g": "two"}) == 2
    assert r.hgetall("hash") == {"f": "1", "g": "two"} and r.hgetall("missing") == {}
    assert r.hmget("hash", "f", "none") == ["1", None] and r.hincrby("hash", "f", 2) == 3
    assert dict(r.hscan_iter("hash")) == {"f": "3", "g": "two"}
    assert r.rpush("list", 1, 2, 3) == 3 and r.lrange("list", 0, -1) == ["1", "2", "3"]
    assert r.lpop("list") == "1" and r.lpop("missing", 2) is None and r.lmove("list", "other") == "2"
    assert r.sadd("set", "a", "b") == 2 and r.smembers("set") == {"a", "b"} and r.sismember("set", "a")
    assert r.smismember("set", ["a", "z"]) == [1, 0] and r.smembers("missing") == set()
    assert r.zadd("zset", {"a": 1.5, "b": 2}) == 2 and r.zscore("zset", "a") == 1.5 and r.zscore("zset", "z") is None
    ranked = [(member, score) for member, score in r.zrange("zset", 0, -1, withscores=True)]
    assert ranked == [("a", 1.5), ("b", 2.0)], ranked
    assert r.zrange("zset", 0, -1, desc=True) == ["b", "a"] and r.zincrby("zset", 1, "a") == 2.5
    assert [tuple(popped) for popped in r.zpopmin("zset")] == [("b", 2.0)]
    assert r.xadd("stream", {"k": "v"}, id="1-1") == "1-1" and r.xlen("stream") == 1
    assert r.xrange("stream") == [("1-1", {"k": "v"})], r.xrange("stream")
    assert r.geoadd("geo", (13.361389, 38.115556, "Palermo")) == 1
    assert abs(r.geopos("geo", "Palermo")[0][0] - 13.361389) < 1e-5 and r.geopos("geo", "none") == [None]
    assert r.setbit("bits", 7, 1) == 0 and r.bitcount("bits") == 1
    assert r.pfadd("hll", "a", "b") == 1 and r.pfcount("hll") == 2


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for i in range(500):
            pipe.set(f"p{i}", i).get(f"p{i}")
        replies = pipe.execute()
        assert replies == [x for i in range(500) for x in (True, str(i))]
        pipe.get("p1").lpush("p1", "no list").get("p2")
        replies = pipe.execute(raise_on_error=False)
        assert replies[0] == "1" and replies[2] == "2" and "WRONGTYPE" in str(replies[1]), replies
    # The default of pipeline() is a transaction.
    with r.pipeline() as pipe:
        pipe.set("t", 1).incr("t").hgetall("hash").zscore("zset", "a").get("missing").smembers("set")
        assert pipe.execute() == [True, 2, {"f": "3", "g": "two"}, 2.5, None, {"a", "b"}]
        pipe.incr("t").incr("set").get("t")
        fails(redis.ResponseError, "WRONGTYPE", pipe.execute)
    assert r.get("t") == "3"


def scripts(r):
    double = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1]) * 2")
    assert double(keys=["script"], args=[4]) == 8
    assert double(keys=["script"], args=[1]) == 10
    assert r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v") == ["k", "v"]
    fails(redis.ResponseError, "my words", lambda: r.eval("return redis.error_reply('ERR my words')", 1, "k"))
    if path != "proxy":
        assert r.eval("return 7", 0) == 7
        with r.pipeline() as pipe:
            double(keys=["script"], args=[1], client=pipe)
            assert pipe.execute() == [12]


def errors(r):
    r.set("text", "x")
    fails(redis.ResponseError, "not an integer", lambda: r.incr("text"))
    fails(redis.ResponseError, "WRONGTYPE", lambda: r.lpush("text", 1))
    # Where somebody else holds the credentials, what is unknown is not permitted.
    fails(redis.ResponseError, "NOSUCHCOMMAND", lambda: r.execute_command("NOSUCHCOMMAND", "x"))
    assert r.get("text") == "x"


def binary():
    r = client(decode_responses=False)
    everything = bytes(range(256)) * 4096
    assert r.set(b"\x00\r\n\xff", everything) is True
    assert r.get(b"\x00\r\n\xff") == everything
    assert r.hset("raw", b"\x80", b"") == 1 and r.hgetall("raw") == {b"\x80": b""}
    r.close()


def threads():
    pool = redis.ConnectionPool(**server, **login, decode_responses=True)
    wrong = []

    def work(number):
        try:
            r = redis.Redis(connection_pool=pool)
            for i in range(100):
                assert r.set(f"thread{number}", i) and r.get(f"thread{number}") == str(i)
        except BaseException as e:
            wrong.append(e)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong
    pool.disconnect()


async def concurrently():
    r = redis.asyncio.Redis(host=host, port=port, decode_responses=True, **login)
    await r.set("async", 0)
    await asyncio.gather(*(r.incr("async") for _ in range(50)))
    assert await r.get("async") == "50"
    async with r.pipeline() as pipe:
        assert await pipe.incr("async").get("async").execute() == [51, "51"]
    await r.aclose()


def connection(r):
    named = client(client_name="everyday", decode_responses=True)
    assert named.client_getname() == "everyday" and isinstance(named.client_id(), int)
    assert named.info("server")["redis_version"]
    assert named.echo("words") == "words" and named.time()[0] > 1_600_000_000
    named.close()
    old = client(protocol=2, decode_responses=True)
    assert old.hgetall("hash") == {"f": "3", "g": "two"} and old.zscore("zset", "a") == 2.5
    old.close()
    if password:
        once = Retry(NoBackoff(), 0)
        wrong = redis.Redis(**server, username=user or None, password="wrong", retry=once)
        fails(redis.AuthenticationError, "invalid", wrong.ping)
        fails(redis.AuthenticationError, "", redis.Redis(**server, retry=once).ping)


def everything(r):
    """What is not on `proxy`."""
    for number in range(2):
        with r.pipeline() as pipe:
            pipe.watch("watched")
            if number:
                r.set("watched", "changed")
            pipe.multi()
            pipe.set("watched", "mine")
            if number:
                fails(redis.WatchError, "", pipe.execute)
            else:
                assert pipe.execute() == [True]
    assert r.transaction(lambda pipe: pipe.multi() or pipe.incr("together"), "together") == [1]

    subscriber = r.pubsub()
    subscriber.subscribe("news")
    subscriber.psubscribe("ne*")
    assert [subscriber.get_message(timeout=5)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
    assert r.publish("news", "hello") == 2
    messages = {subscriber.get_message(timeout=5)["type"] for _ in range(2)}
    assert messages == {"message", "pmessage"}
    subscriber.unsubscribe()
    subscriber.punsubscribe()
    subscriber.close()

    assert r.blpop("queue", timeout=0.05) is None
    got = []
    waiter = threading.Thread(target=lambda: got.append(r.blpop("queue", timeout=5)))
    waiter.start()
    r.rpush("queue", "job")
    waiter.join()
    assert [tuple(job) for job in got] == [("queue", "job")], got
    r.xgroup_create("stream", "group", id="0")
    assert "1-1" in str(r.xreadgroup("group", "me", {"stream": ">"})) and r.xack("stream", "group", "1-1") == 1
    assert r.xinfo_stream("stream")["length"] == 1
    with r.lock("lock", timeout=5):
        assert r.exists("lock")
    assert not r.exists("lock")
    other = client(db=1, decode_responses=True)
    assert other.get("name") is None
    other.close()


def refusals(r):
    """What `proxy` can't do it says."""
    fails(redis.ResponseError, NEEDS_DIRECT, lambda: r.blpop("queue", timeout=1))
    with r.pipeline() as pipe:
        fails(redis.ResponseError, NEEDS_DIRECT, lambda: pipe.watch("watched"))
    fails(redis.ResponseError, NEEDS_DIRECT, client(db=1).ping)
    fails(redis.ResponseError, NEEDS_DIRECT, lambda: r.execute_command("SPUBLISH", "news", "x"))
    assert r.publish("news", "hello") == 0


r = client(decode_responses=True)
for part in [values, structures, pipelines, scripts, errors, connection]:
    part(r)
binary()
threads()
asyncio.run(concurrently())
(refusals if path == "proxy" else everything)(r)
r.close()
print(f"redis-py {redis.__version__}: all right")
