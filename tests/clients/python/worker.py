"""Workers of job queues, a subscriber, and what gives the workers their jobs: worker.py WHAT HOST PORT [TEXT [COUNT]].
What a job or a message says is written to the standard output."""

import os
import sys
import threading
import time

import redis

what, host, port = sys.argv[1:4]
url = f"redis://{host}:{port}/0"
library, _, does = what.rpartition("-")


def say(text):
    """Past `sys.stdout`, which some workers replace."""
    os.write(1, f"said {text}\n".encode())


def work(text):
    """The job."""
    time.sleep(0.05)
    say(text)


def celery():
    from celery import Celery

    app = Celery("worker", broker=url)
    app.conf.update(
        # A job is confirmed when it is done, so that it is delivered again if its worker loses the connection
        # in between; Redis as a broker does so after this time, in seconds.
        task_acks_late=True,
        # Of a Redis Cluster's keys, those of one transaction have to be of one slot.
        broker_transport_options={"global_keyprefix": "{celery}", "visibility_timeout": 5},
    )
    job = app.task(name="say")(work)
    args = ["worker", "--pool=threads", "--concurrency=1", "--loglevel=WARNING", "--without-mingle"]
    return lambda: app.worker_main(args), job.delay


def rq():
    import rq
    # Workers import the job by its module's name.
    from worker import work as job

    queue = rq.Queue("rq", connection=redis.Redis(host=host, port=int(port)))
    return lambda: rq.Worker([queue], connection=queue.connection).work(), lambda text: queue.enqueue(job, text)


def dramatiq():
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=url, namespace="{dramatiq}")
    dramatiq.set_broker(broker)
    job = dramatiq.actor(actor_name="say")(work)

    def run():
        dramatiq.Worker(broker, worker_threads=1).start()
        threading.Event().wait()

    return run, job.send


def huey():
    from huey import RedisHuey

    app = RedisHuey("huey", url=url)
    job = app.task(name="say")(work)
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
            time.sleep(0.2)


def greet(text):
    client = redis.Redis(host=host, port=int(port), decode_responses=True)
    assert client.set("greeting", text)
    assert client.get("greeting") == text
    pipeline = client.pipeline(transaction=False)
    assert pipeline.get("greeting").get("greeting").execute() == [text, text]
    say(text)


def main():
    if does == "hear":
        return hear()
    if does == "greet":
        return greet(sys.argv[4])
    run, give = {"celery": celery, "rq": rq, "dramatiq": dramatiq, "huey": huey}[library]()
    if does == "work":
        return run()
    for number in range(int(sys.argv[5])):
        give(f"{sys.argv[4]}-{number}")


if __name__ == "__main__":
    main()
