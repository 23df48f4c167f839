"""A plugin of pytest: tidies the server up after each test, and writes what became of each test into the file $OUTCOMES."""

import os
import tracemalloc

import pytest
import redis

server, port = os.environ["SERVER"].rsplit(":", 1)
# A connection of its own to Redis itself: whatever a test has left behind, this one is logged in.
tidier = redis.connection.Connection(host=server, port=int(port), protocol=2)
outcomes = {}
# The suite wants it for nothing that is asserted, and it takes half of the time.
tracemalloc.start = lambda *depth: None


def say(*words):
    try:
        tidier.send_command(*words)
        return tidier.read_response()
    except redis.ConnectionError:
        # Some tests kill all connections.
        tidier.disconnect()
        tidier.send_command(*words)
        return tidier.read_response()


def pytest_sessionstart(session):
    tidier.connect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    result = yield
    say("CONFIG", "SET", "requirepass", "")
    for user in say("ACL", "USERS"):
        if user != b"default":
            say("ACL", "DELUSER", user)
    say("FLUSHALL")
    return result


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        if outcomes.get(report.nodeid, "passed") == "passed":
            outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session):
    with open(os.environ["OUTCOMES"], "w") as file:
        for test, outcome in sorted(outcomes.items()):
            file.write(f"{outcome} {test}\n")
