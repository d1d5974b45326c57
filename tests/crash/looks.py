"""Cancels that look where a body is, while the collector runs Python code and threads come and go.

`python -m tests.crash.looks LOOKS [careless]` ends when it has looked so often; careless, it leaves the collector on.
"""

import contextlib
import gc
import queue
import sys
import threading
import weakref
from collections import deque

from car_sched_nb.collector import Collector
from car_sched_nb.executors.thread import Job, ThreadPool


class Node:
    """Part of a cycle, so that the collector finds it."""

    def __init__(self) -> None:
        self.me = self


def told(_: object) -> None:
    """Take long enough that another thread comes on in the middle."""
    for _turn in range(50):
        pass


def main(looks: int) -> None:
    over, watched = threading.Event(), deque[object](maxlen=200)

    def leave_litter() -> None:
        node = Node()
        watched.append(weakref.ref(node, told))

    def litter() -> None:
        while not over.is_set():
            leave_litter()

    def start_threads() -> None:
        while not over.is_set():
            started = threading.Thread(target=int)
            started.start()
            started.join()

    ThreadPool()
    waits: queue.Queue[int] = queue.Queue()
    job = Job(waits.get, lambda: None)
    with waits.mutex:  # the body cannot get on, and is where no exception may come
        body = threading.Thread(target=job.work)
        body.start()
        while job.thread_id is None:
            pass
        others = [threading.Thread(target=target) for target in (litter, start_threads)]
        for other in others:
            other.start()
        sys.setswitchinterval(1e-6)
        gc.set_threshold(3, 2, 2)
        for look in range(looks):
            leave_litter()
            job.cancel()
            if look % 1_000 == 0:
                print(look, flush=True)
    over.set()
    for other in others:
        other.join()
    waits.put(5)
    body.join()
    assert job.result == 5, job.error


if __name__ == "__main__":
    if "careless" in sys.argv:
        Collector.stopped = lambda _: contextlib.nullcontext()  # type: ignore[method-assign, assignment, return-value]
    main(int(sys.argv[1]))
