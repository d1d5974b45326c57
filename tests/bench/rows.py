"""The rows of the table: who does what how, and how its figures read.

A pair of sizes is (a full run's, `--quick`'s). Text in place of calls says why a contestant is not measured.
"""

from __future__ import annotations

from typing import Any

from tests.bench.plan import Call, Calls, Row, call
from tests.bench.words import (
    beside_cell,
    beside_reading,
    idle_cost,
    in_seconds,
    killed,
    lateness,
    middle_and_worst,
    milliseconds,
    per_second,
    seconds_and_memory,
    times_as_long,
)

# Sizes, and stores that are filled beforehand.

N = (10_000, 200)
FEW = (2_000, 100)  # for who does some hundred a second
EARLIER = (1_000_000, 2_000)
WAITING = (10_000, 300)
MANY_WAITING = (100_000, 600)
IDLE_S = (10, 1)
TICKS = (1_000, 20)
TICKS_S = (20, 2)
CELL_S = (10, 1)
KILLS = (20, 2)

QUEUE_ONLY = "-: a queue; it plans to the minute"
SECONDS_ONLY = "-: a thread for each schedule, to the second"
NO_HISTORY = "-: keeps no history"


def waiting(n: tuple[int, int], runner: str) -> Calls:
    filled = call("fill", n=n, runner=runner)
    label = {"python": "Python bodies", "agent": "for a runner of the user's"}[runner]
    return {label: call("wait_armed", filled, store="file", n=n, seconds=IDLE_S, runner=runner)}


def with_history(kind: str) -> Call:
    n = (5_000, 100)
    before = call("fill_history", kind=kind, n=n, rows=0)
    after = call("fill_history", kind=kind, n=n, rows=EARLIER)
    return call(kind, after, call(kind, before, store="file", n=n), store="file", n=n)


def rerun(contestant: str, fill: Call) -> Calls:
    return {"": call("restart", fill, module="lives", contestant=contestant, lives=(5, 1))}


def kill(contestant: str, every_s: float = 0.1, **given: Any) -> Call:
    return call("kills", module="lives", contestant=contestant, times=KILLS, every_s=every_s, **given)


YEAR = call("fill_year", module="contestants.ours", environment="ours", rows=EARLIER)
READERS = {
    "pandas.read_sql, sqlite3": "sqlite3",
    "pandas.read_sql, SQLAlchemy": "sqlalchemy",
    "pandas.read_sql, ADBC": "adbc",
    "connectorx": "connectorx",
}
NO_FRAME = dict.fromkeys(("apscheduler3", "huey"), NO_HISTORY) | dict.fromkeys(("apscheduler4", "dbos"), "-: no frame")


def readers(function: str, **given: Any) -> Calls:
    """Return who else reads the store, a copy of which each of them finds."""
    return {
        label: call(function, YEAR, module="readers", environment="readers", how=how, **given)
        for label, how in READERS.items()
    }


def parts() -> Calls:
    return {
        label: call("read_part", YEAR, task=task, day=day, times=(9, 3))
        for label, task, day in (("a task's 20,000", "task7", False), ("a day's 2,740", "", True))
    }


ROWS = (
    Row(
        "durable",
        "**Durable no-op executions/s**: claimed or enqueued, run, end stored "
        "(APScheduler 3 stores no end); SQLite with its default, a sync at each commit",
        ">= 9,000; 10x the best peer",
        per_second,
        "per_s",
        {
            "ours": {
                "slots due together": call("due_slots", store="file", n=N),
                "the same, Python bodies in threads": call("due_slots", store="file", n=N, runner="python"),
                "`run_now`, 100 callers": call("by_hand", store="file", n=N),
            },
            "floor": {"one by one": call("grouped", n=FEW, group=1), "by 100": call("grouped", n=N, group=100)},
            "apscheduler3": {
                "defaults": call("executions", store="file", n=FEW),
                "WAL": call("executions", store="wal", n=FEW),
            },
            "apscheduler4": {
                "defaults": call("executions", store="file", n=(300, 20)),
                "WAL": call("executions", store="wal", n=(300, 20)),
            },
            "huey": {
                "1 worker": call("executions", store="file", n=FEW, workers=1),
                "4 workers": call("executions", store="file", n=FEW, workers=4),
            },
            "dbos": {
                "one caller": call("executions", store="file", n=(500, 20), callers=1),
                "WAL, 100 callers": call("executions", store="wal", n=(500, 100), callers=100),
            },
        },
        more_is_better=True,
        compared=True,
    ),
    Row(
        "memory",
        "**No-op executions/s in memory** (APScheduler 3 keeps no results)",
        ">= 20,000",
        per_second,
        "per_s",
        {
            "ours": {
                "slots due together": call("due_slots", store="memory", n=N),
                "the same, Python bodies in threads": call("due_slots", store="memory", n=N, runner="python"),
                "`run_now`, 100 callers": call("by_hand", store="memory", n=N),
            },
            "floor": {"": call("in_memory", n=N)},
            "apscheduler3": {"": call("executions", store="memory", n=N)},
            "apscheduler4": {"": call("executions", store="memory", n=(3_000, 100))},
            "huey": {
                "1 worker": call("executions", store="memory", n=N, workers=1),
                "4 workers": call("executions", store="memory", n=N, workers=4),
            },
            "dbos": "-: stores all it does",
        },
        more_is_better=True,
    ),
    Row(
        "admission",
        "**Time for durable executions with 1,000,000 earlier rows**, of that with none; "
        "ours: 5,000, and the rows belong to the tasks that run",
        "<= 1.2x",
        times_as_long,
        "ratio",
        {
            "ours": {"slots due together": with_history("due_slots"), "`run_now`": with_history("by_hand")},
            "floor": {
                "by 100": call(
                    "grouped",
                    call("fill_history", rows=EARLIER),
                    call("grouped", n=N, group=100),
                    n=N,
                    group=100,
                )
            },
            "apscheduler3": NO_HISTORY,
            "apscheduler4": {
                "results": call(
                    "executions",
                    call("fill_history", rows=EARLIER),
                    call("executions", store="file", n=(300, 20)),
                    store="file",
                    n=(300, 20),
                )
            },
            "huey": {
                "results": call(
                    "executions",
                    call("fill_history", rows=EARLIER),
                    call("executions", store="file", n=FEW, workers=1),
                    store="file",
                    n=FEW,
                    workers=1,
                )
            },
            "dbos": {
                "workflows": call(
                    "executions",
                    call("fill_history", rows=EARLIER),
                    call("executions", store="file", n=(500, 20), callers=1),
                    store="file",
                    n=(500, 20),
                    callers=1,
                )
            },
        },
    ),
    Row(
        "idle",
        "**10,000 idle tasks**: resident memory each, processor's time; ours is stored in SQLite and armed",
        "<= 1 kB, 0 %",
        idle_cost,
        "bytes_each",
        {
            "ours": {
                **waiting(WAITING, "python"),
                **waiting(WAITING, "agent"),
                "store in memory": call("wait_armed", store="memory", n=WAITING, seconds=IDLE_S),
            },
            "floor": {"in memory": call("wait_armed", n=WAITING, seconds=IDLE_S)},
            "apscheduler3": {
                "in memory": call("wait_armed", store="memory", n=WAITING, seconds=IDLE_S),
                "SQLite, holds none": call(
                    "wait_armed", call("fill", n=WAITING), store="file", n=WAITING, seconds=IDLE_S
                ),
            },
            "apscheduler4": {"in memory": call("wait_armed", n=WAITING, seconds=IDLE_S)},
            "huey": QUEUE_ONLY,
            "dbos": SECONDS_ONLY,
        },
    ),
    Row(
        "idle100k",
        "**100,000 idle tasks**: the same",
        "<= 1 kB, 0 %",
        idle_cost,
        "bytes_each",
        {
            "ours": {**waiting(MANY_WAITING, "python"), **waiting(MANY_WAITING, "agent")},
            "floor": {"in memory": call("wait_armed", n=MANY_WAITING, seconds=IDLE_S)},
            "apscheduler3": {"in memory": call("wait_armed", store="memory", n=MANY_WAITING, seconds=IDLE_S)},
            "apscheduler4": "-: adding them takes too long",
            "huey": QUEUE_ONLY,
            "dbos": SECONDS_ONLY,
        },
    ),
    Row(
        "aligned",
        "**1,000 tasks on every full second, SQLite**, 20 s: p50 / p99 from the planned instant to the body's begin",
        "p99 <= 50 ms, none missed",
        lateness,
        "p99_ms",
        {
            "ours": {
                "async function": call("aligned", store="file", n=TICKS, seconds=TICKS_S),
                "Python bodies in threads": call("aligned", store="file", n=TICKS, seconds=TICKS_S, runner="python"),
            },
            "floor": {"grouped claims": call("aligned", store="file", n=TICKS, seconds=TICKS_S)},
            "apscheduler3": {
                "defaults": call("aligned", store="file", n=TICKS, seconds=TICKS_S),
                "WAL": call("aligned", store="wal", n=TICKS, seconds=TICKS_S),
            },
            "apscheduler4": {
                "defaults": call("aligned", store="file", n=TICKS, seconds=TICKS_S, adding_s=(60, 10)),
                "WAL": call("aligned", store="wal", n=TICKS, seconds=TICKS_S, adding_s=(40, 10)),
            },
            "huey": QUEUE_ONLY,
            "dbos": {"10 tasks, a thread each": call("aligned", n=10, seconds=TICKS_S)},
        },
        compared=True,
    ),
    Row(
        "aligned-memory",
        "**The same in memory**",
        "",
        lateness,
        "p99_ms",
        {
            "ours": {
                "async function": call("aligned", store="memory", n=TICKS, seconds=TICKS_S),
                "Python bodies in threads": call("aligned", store="memory", n=TICKS, seconds=TICKS_S, runner="python"),
            },
            "floor": {"": call("aligned", store="memory", n=TICKS, seconds=TICKS_S)},
            "apscheduler3": {"": call("aligned", store="memory", n=TICKS, seconds=TICKS_S)},
            "apscheduler4": {"": call("aligned", store="memory", n=TICKS, seconds=TICKS_S, adding_s=(20, 5))},
            "huey": QUEUE_ONLY,
            "dbos": "-: stores all it does",
        },
        compared=True,
    ),
    Row(
        "cell",
        "**100 executions/s beside a cell of pure Python**: p50 / p99 from the planned instant to the body's begin, "
        "and what it costs the cell; SQLite unless said",
        "p99 <= 100 ms, <= 8 %",
        beside_cell,
        "p99_ms",
        {
            "ours": {
                "Python bodies in threads": call("beside", store="file", seconds=CELL_S, runner="python"),
                "async function": call("beside", store="file", seconds=CELL_S, runner="agent"),
                "async function, in memory": call("beside", store="memory", seconds=CELL_S, runner="agent"),
            },
            "floor": {"claims one by one": call("beside", seconds=CELL_S)},
            "apscheduler3": {
                "in memory": call("beside", store="memory", seconds=CELL_S),
                "WAL": call("beside", store="wal", seconds=CELL_S),
            },
            "apscheduler4": {
                "in memory": call("beside", store="memory", seconds=CELL_S),
                "WAL": call("beside", store="wal", seconds=CELL_S),
            },
            "huey": QUEUE_ONLY,
            "dbos": SECONDS_ONLY,
        },
    ),
    Row(
        "restart",
        "**Interpreter to first fire**, 10,000 tasks stored in SQLite (APScheduler 4: 2,000)",
        "<= 0.5 s",
        in_seconds,
        "s",
        {
            "ours": rerun("ours", call("fill_first", n=WAITING)),
            "floor": rerun("floor", call("fill_first", n=WAITING)),
            "apscheduler3": rerun("apscheduler3", call("fill_first", n=WAITING)),
            "apscheduler4": rerun("apscheduler4", call("fill_first", n=(2_000, 50))),
            "huey": QUEUE_ONLY,
            "dbos": SECONDS_ONLY,
        },
        compared=True,
    ),
    Row(
        "file",
        "**File saved -> body started**, in a kernel: p50 / p99",
        "p99 <= 80 ms",
        lateness,
        "p99_ms",
        {
            "ours": {"": call("file_to_start", module="kernels", who="car_sched_nb", times=(30, 3))},
            "floor": {
                "watchfiles, its defaults": call("file_to_start", module="kernels", who="watchfiles", times=(30, 3))
            },
            **dict.fromkeys(("apscheduler3", "apscheduler4", "huey", "dbos"), "-: watches no files"),
        },
    ),
    Row(
        "blocked",
        "**Every second while a cell sleeps for 10 s**, in a kernel: lateness, p50 / worst",
        "",
        middle_and_worst,
        "max_ms",
        {
            "ours": {"shell": call("blocked", module="kernels", who="car_sched_nb", seconds=(10, 3))},
            "floor": {
                "asyncio task on the kernel's loop": call("blocked", module="kernels", who="asyncio", seconds=(10, 3))
            },
            **dict.fromkeys(("apscheduler3", "apscheduler4", "huey", "dbos"), "-: see the row beside a cell"),
        },
    ),
    Row(
        "load",
        "**`%load_ext`** in a fresh kernel",
        "<= 250 ms",
        milliseconds,
        "ms",
        {
            "ours": {"": call("load", module="kernels", extension="car_sched_nb", times=(7, 1))},
            "floor": {"autoreload": call("load", module="kernels", extension="autoreload", times=(7, 1))},
            **dict.fromkeys(("apscheduler3", "apscheduler4", "huey", "dbos"), "-: no extension"),
        },
    ),
    Row(
        "kill",
        "**20 x kill -9**, a slot every 100 ms that works for 30 ms: started twice / never started / "
        "of these without a row that says so",
        "0 twice, 0 without a row",
        killed,
        "twice",
        {
            "ours": {"catch-up all": kill("ours", catchup="all"), "defaults": kill("ours", catchup="latest")},
            "floor": "-: promises nothing",
            "apscheduler3": {"every slot kept": kill("apscheduler3")},
            "apscheduler4": {"every slot kept": kill("apscheduler4")},
            "huey": QUEUE_ONLY,
            "dbos": {"a slot every second, backfill": kill("dbos", every_s=1, life_s=[3, 6])},
        },
    ),
    Row(
        "cancel",
        "**Cancel of a running job**, until it has stopped: p50 / worst",
        "<= 100 ms",
        middle_and_worst,
        "p50_ms",
        {
            "ours": {
                "coroutine": call("cancel", kind="loop", times=(20, 2)),
                "thread that computes": call("cancel", kind="thread", times=(20, 2)),
                "shell": call("cancel", kind="shell", times=(20, 2)),
            },
            "floor": {"asyncio task": call("cancel", times=(20, 2))},
            "apscheduler3": "no",
            "apscheduler4": "no",
            "huey": "no: only what has not started",
            "dbos": {"at its next step": call("cancel", times=(20, 2))},
        },
    ),
    Row(
        "history",
        "**1,000,000 executions as a DataFrame** of 29 columns: time, and memory at the peak; the floor, other readers "
        "of a copy, leaves the values as they are stored",
        "<= 1.5 s, <= 450 MB",
        seconds_and_memory,
        "s",
        {
            "ours": {
                "`car.history()`": call("read_year", YEAR),
                "asked again, nothing new": call("read_year", YEAR, again=True),
            },
            "floor": readers("whole"),
            **NO_FRAME,
        },
    ),
    Row(
        "slice",
        "**A part of these**, p50 / worst; the floor: a task's 20,000",
        "<= 50 ms",
        middle_and_worst,
        "p50_ms",
        {"ours": parts(), "floor": readers("part", times=(9, 3)), **NO_FRAME},
    ),
    Row(
        "reading",
        "**100 executions/s while all 1,000,000 are read again and again**: p50 / p99 from the planned instant to the "
        "body's begin",
        "as alone",
        beside_reading,
        "p99_ms",
        {
            "ours": {
                "alone": call("beside_reading", YEAR, how="", seconds=CELL_S),
                "beside `car.history()`": call("beside_reading", YEAR, how="ours", seconds=CELL_S),
            },
            "floor": {
                "ours, beside pandas.read_sql of a copy": call(
                    "beside_reading", YEAR, module="contestants.ours", how="sqlite3", seconds=CELL_S
                )
            },
            **NO_FRAME,
        },
    ),
)
