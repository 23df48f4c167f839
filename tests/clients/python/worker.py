"""Workers of job queues and a subscriber, which run until they are ended, and what gives the workers their
jobs: worker.py WHAT HOST PORT [TEXT]. What a job or a message says is written to the standard output."""

import os
import sys
import threading

import redis

what, host, port = sys.argv[1:4]
url = f"redis://{host}:{port}/0"
library, _, does = what.rpartition("-")


def say(text):
    """The job. Past `sys.stdout`, which some workers replace."""
    os.write(1, f"said {text}\n".encode())


def celery():
    from celery import Celery

    app = Celery("worker", broker=url)
    # Of a Redis Cluster's keys, those of one transaction have to be of one slot.
    app.conf.update(broker_transport_options={"global_keyprefix": "{celery}"})
    job = app.task(name="say")(say)
    work = ["worker", "--pool=threads", "--concurrency=1", "--loglevel=WARNING", "--without-mingle"]
    return lambda: app.worker_main(work), job.delay


def rq():
    import rq
    # Workers import the job by its module's name.
    from worker import say as job

    queue = rq.Queue("rq", connection=redis.Redis(host=host, port=int(port)))
    return lambda: rq.Worker([queue], connection=queue.connection).work(), lambda text: queue.enqueue(job, text)


def dramatiq():
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=url, namespace="{dramatiq}")
    dramatiq.set_broker(broker)
    job = dramatiq.actor(say)

    def work():
        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()
        threading.Event().wait()

    return work, job.send


def huey():
    from huey import RedisHuey

    app = RedisHuey("huey", url=url)
    job = app.task(name="say")(say)
    return lambda: app.create_consumer(workers=1).run(), job


def hear():
    subscriber = redis.Redis(host=host, port=int(port), decode_responses=True).pubsub()
    subscriber.subscribe("news")
    while True:
        try:
            for message in subscriber.listen():
                if message["type"] == "message":
                    say(message["data"])
        except redis.ConnectionError as error:
            print(f"{error!r}", flush=True)


if __name__ == "__main__":
    if what == "redis-py-hear":
        hear()
    else:
        work, give = {"celery": celery, "rq": rq, "dramatiq": dramatiq, "huey": huey}[library]()
        if does == "work":
            work()
        else:
            give(sys.argv[4])
