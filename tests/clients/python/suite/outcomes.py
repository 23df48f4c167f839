"""A plugin of pytest: tidies the servers up after each test, and writes what became of each test into the file $OUTCOMES."""

import os
import tracemalloc

import pytest
import redis


def connection(server):
    host, port = server.rsplit(":", 1)
    return redis.connection.Connection(host=host, port=int(port), protocol=2)


# Connections of its own to Redis itself: whatever a test has left behind, these are logged in.
tidiers = [connection(server) for server in os.environ["SERVERS"].split(",")]
outcomes = {}
# What a Redis Cluster says to those who take it for one Redis.
OF_A_CLUSTER = ["don't hash to the same slot", "in cluster mode", "in Cluster mode", "access a non local key"]
# The suite wants it for nothing that is asserted, and it takes half of the time.
tracemalloc.start = lambda *depth: None


def say(tidier, *words):
    try:
        tidier.send_command(*words)
        return tidier.read_response()
    except redis.ConnectionError:
        # Some tests kill all connections.
        tidier.disconnect()
        tidier.send_command(*words)
        return tidier.read_response()


def pytest_sessionstart(session):
    for tidier in tidiers:
        tidier.connect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    result = yield
    for tidier in tidiers:
        say(tidier, "CONFIG", "SET", "requirepass", "")
        for user in say(tidier, "ACL", "USERS"):
            if user != b"default":
                say(tidier, "ACL", "DELUSER", user)
        say(tidier, "FLUSHALL")
    return result


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        if outcomes.get(report.nodeid, "passed") == "passed":
            is_of_a_cluster = report.failed and any(words in report.longreprtext for words in OF_A_CLUSTER)
            outcomes[report.nodeid] = "denied" if is_of_a_cluster else report.outcome


def pytest_sessionfinish(session):
    with open(os.environ["OUTCOMES"], "w") as file:
        for test, outcome in sorted(outcomes.items()):
            file.write(f"{outcome} {test}\n")
