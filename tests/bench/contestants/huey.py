"""huey: SqliteHuey (its defaults: WAL, FULL) or MemoryHuey, a consumer of threads; results are kept and read."""

from __future__ import annotations

import time
from importlib import metadata
from typing import Any

from huey import MemoryHuey, SqliteHuey

from tests.bench.figures import HAND_WAIT_S, STORE, Figures, multiply, rate


def version() -> str:
    return metadata.version("huey")


def queue_on(store: str) -> Any:
    return MemoryHuey("bench") if store == "memory" else SqliteHuey("bench", filename=STORE)


def executions(store: str, n: int, workers: int) -> Figures:
    """Time n tasks from the first enqueueing to the last result; the consumer looks every 1 to 10 ms."""
    queue = queue_on(store)
    noop = queue.task()(lambda: 1)
    consumer = queue.create_consumer(
        workers=workers, worker_type="thread", initial_delay=0.001, max_delay=0.01, periodic=False
    )
    consumer.start()
    began = time.perf_counter()
    results = [noop() for _ in range(n)]
    done = sum(
        result.get(blocking=True, backoff=1, max_delay=0.002, timeout=HAND_WAIT_S, preserve=True) for result in results
    )
    return rate(done, n, time.perf_counter() - began)


def fill_history(rows: int) -> Figures:
    executions("file", 1, 1)
    multiply("kv", rows, {"key": "'earlier' || copies.n"})
    return {"rows": rows}
