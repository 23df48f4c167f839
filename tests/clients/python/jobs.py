"""RQ, which queues jobs in Redis: jobs.py HOST PORT PATH [USER] [PASSWORD]"""

import faulthandler
import math
import sys

import redis
import rq

# Whatever waits for ever says where.
faulthandler.dump_traceback_later(30, exit=True)

host, port = sys.argv[1], int(sys.argv[2])
user, password = (sys.argv[4:] + ["", ""])[:2]
r = redis.Redis(host=host, port=port, username=user or None, password=password or None)
queue = rq.Queue("work", connection=r)
jobs = [queue.enqueue("math.factorial", n) for n in range(20)]
failing = queue.enqueue("math.sqrt", -1)
assert rq.SimpleWorker([queue], connection=r).work(burst=True, logging_level="CRITICAL")
assert [job.return_value() for job in jobs] == [math.factorial(n) for n in range(20)]
assert failing.get_status(refresh=True).value == "failed" and failing.latest_result().exc_string
print(f"rq {rq.VERSION}: all right")
