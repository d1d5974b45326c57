"""Bodies in all kinds of states, for cancels at any moment: each tells on its witness what it did."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from car_sched_nb.errors import TaskCancelled

LOCK = threading.Lock()
QUEUE: queue.Queue[int] = queue.Queue()
QUEUE.put(0)
STREAM = io.StringIO()
HANDLER = logging.StreamHandler(STREAM)
LOGGER = logging.getLogger("tests.thread_bodies")
LOGGER.propagate = False
LOGGER.setLevel("INFO")
LOGGER.addHandler(HANDLER)
_COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 2000) SELECT sum(x) FROM c"


class Witness:
    """What one body did."""

    def __init__(self) -> None:
        self.count = 0
        """Moves as long as the work goes on."""
        self.entered = 0
        """How many guarded parts it has begun."""
        self.left = 0
        """How many of their ends have run."""
        self.seen = 0
        """How often it has met the exception."""
        self.threads: list[threading.Thread] = []


def computes(w: Witness) -> None:
    while True:
        w.count += 1


def ends_soon(w: Witness) -> None:
    for _ in range(200):
        w.count += 1


def ends_at_once(w: Witness) -> None:
    w.count += 1


def in_try(w: Witness) -> None:
    w.entered += 1
    try:
        while True:
            w.count += 1
    finally:
        w.left += 1


def in_finally(w: Witness) -> None:
    while True:
        w.entered += 1
        try:
            w.count += 1
        finally:
            w.left += 1
            for _ in range(20):
                w.count += 1


class Guard:
    """A context manager in Python."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def __enter__(self) -> None:
        """Nothing to do before."""

    def __exit__(self, *_: object) -> None:
        for _turn in range(5):
            self.witness.count += 1


def in_with(w: Witness) -> None:
    guard = Guard(w)
    while True:
        with guard:
            w.count += 1


@contextlib.contextmanager
def _guarded(w: Witness) -> Iterator[None]:
    w.entered += 1
    try:
        yield
    finally:
        w.left += 1


def in_context_manager(w: Witness) -> None:
    while True:
        with _guarded(w):
            w.count += 1


def in_generator(w: Witness) -> None:
    def numbers() -> Iterator[int]:
        w.entered += 1
        try:
            while True:
                yield 1
        finally:
            w.left += 1

    for number in numbers():
        w.count += number


def in_lock(w: Witness) -> None:
    while True:
        with LOCK:
            w.count += 1


def in_queue(w: Witness) -> None:
    while True:
        QUEUE.put(QUEUE.qsize())
        QUEUE.get()
        w.count += 1


def in_logging(w: Witness) -> None:
    while True:
        LOGGER.info("line %d", w.count)
        w.count += 1


def in_print(w: Witness) -> None:
    while True:
        print(w.count, file=STREAM)
        w.count += 1


def in_event(w: Witness) -> None:
    event = threading.Event()
    while True:
        event.wait(0.0001)
        w.count += 1


def sleeps(w: Witness) -> None:
    w.count += 1
    time.sleep(3600)


def sleeps_in_finally(w: Witness) -> None:
    w.entered += 1
    try:
        time.sleep(3600)
    finally:
        w.left += 1
        time.sleep(0.0005)
        w.count += 1


def in_c(w: Witness) -> None:
    while True:
        sum(range(5_000))
        hashlib.sha256(b"x" * 20_000).hexdigest()
        w.count += 1


def in_sqlite(w: Witness) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        while True:
            database.execute(_COUNT).fetchall()
            w.count += 1


def in_exec(w: Witness) -> None:
    exec("def f():\n    while True:\n        w.count += 1\nf()", {"w": w})


def recurses(w: Witness) -> None:
    def deeper(depth: int) -> int:
        w.count += 1
        return 1 + deeper(depth - 1) if depth else 0

    while True:
        deeper(50)


def litters(w: Witness) -> None:
    class Litter:
        """Is cleared away by Python code, whose exceptions the interpreter drops."""

        def __del__(self) -> None:
            for _ in range(30):
                w.count += 1

    while True:
        Litter()


def swallows_and_ends(w: Witness) -> None:
    try:
        while True:
            w.count += 1
    except BaseException:  # noqa: BLE001 - what it is for
        w.seen += 1
        for _ in range(50):
            w.count += 1


def turns_it_into_another(w: Witness) -> None:
    try:
        while True:
            w.count += 1
    except TaskCancelled:
        raise ValueError("another") from None


def fails_soon(w: Witness) -> None:
    for _ in range(100):
        w.count += 1
    raise KeyError(w.count)


def exits(w: Witness) -> None:
    for _ in range(100):
        w.count += 1
    raise SystemExit(w.count)


def starts_threads(w: Witness) -> None:
    go_on = True

    def count() -> None:
        while go_on:
            w.count += 1

    w.entered += 1
    try:
        w.threads.append(threading.Thread(target=count))
        w.threads[0].start()
        time.sleep(3600)
    finally:
        go_on = False
        w.left += 1


def waits(w: Witness) -> None:
    w.count += 1
    threading.Event().wait()


def waits_for_a_queue(w: Witness) -> None:
    w.count += 1
    queue.Queue[int]().get(timeout=3600)


def starts_thread_after_thread(w: Witness) -> None:
    while True:
        w.count += 1
        w.threads[:] = [threading.Thread(target=int)]
        w.threads[0].start()


BODIES: list[Callable[[Witness], Any]] = [
    computes,
    ends_soon,
    ends_at_once,
    in_try,
    in_finally,
    in_with,
    in_context_manager,
    in_generator,
    in_lock,
    in_queue,
    in_logging,
    in_print,
    in_event,
    sleeps,
    sleeps_in_finally,
    in_c,
    in_sqlite,
    in_exec,
    recurses,
    litters,
    swallows_and_ends,
    turns_it_into_another,
    fails_soon,
    exits,
    starts_threads,
    waits,
    waits_for_a_queue,
    starts_thread_after_thread,
]
