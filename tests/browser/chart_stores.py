"""Stores with histories to look at: a usual one, and those that are hard to draw."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from car_sched_nb.model import Status, Task, Trigger
from car_sched_nb.store.sqlite import SqliteStore
from tests import years

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CHAIN = {
    "extract-orders": "",
    "extract-prices": "",
    "extract-weather": "",
    "clean": "extract-orders extract-prices",
    "join": "clean extract-weather",
    "train-model": "join",
    "report": "join",
    "mail-report": "report",
    "publish": "train-model report",
}
TOOK_S = {"extract-orders": 45, "extract-prices": 190, "clean": 62, "join": 25, "train-model": 410, "report": 34}
MOSTLY = [Status.COMPLETED] * 36 + [Status.FAILED] * 3 + [Status.TIMED_OUT, Status.CANCELLED, Status.INTERRUPTED]
HOSTILE = '<a href="javascript:alert(1)">here</a> <b>bold</b> $x^2$ & more'


def usual(path: Path) -> None:
    """A few tasks: hourly ones of two weeks, a daily one of a year, a chain, and what is coming."""
    chance, now = random.Random(7), datetime.now(UTC)
    tasks = [
        Task("load", "1", Trigger.INTERVAL, "1h"),
        Task("backup", "1", Trigger.CRON, "30 2 * * *", tz="Europe/London"),
        Task("prices", "1", Trigger.CRON, "*/20 8-17 * * 1-5", tz="Europe/London"),
        Task("totals", "1", Trigger.CRON, "0 9 * * *", tz="Europe/London"),
        Task("heartbeat", "1", Trigger.INTERVAL, "1s"),
    ]
    runs: list[dict[str, Any]] = []
    for hour in range(14 * 24):
        version = 1 + (hour > 130) + (hour > 260)
        took = timedelta(seconds=chance.lognormvariate([0, 4.2, 3.7, 4.5][version], 0.35))
        runs.append(_run(chance, "load", now - 14 * DAY + hour * HOUR, took, version=version))
    for day in range(400):
        if day not in range(150, 163):
            at = now - 400 * DAY + day * DAY
            runs.append(_run(chance, "backup", at, timedelta(minutes=chance.uniform(20, 90))))
    gap = {"status": Status.MISSED, "reason": "no_owner", "attempt": 0}
    runs.append({"task": "backup", "at": now - 250 * DAY, "until": now - 237 * DAY, "slots": 13, **gap})
    runs.append({"task": "prices", "at": now - 3 * DAY, "until": now - 1.4 * DAY, "slots": 41, **gap})
    runs += [{"task": "totals", "at": now - 3 * DAY + n * DAY, "status": Status.SKIPPED} for n in range(2)]
    runs.append({"task": "prices", "at": now - 2 * HOUR, "status": Status.RUNNING})
    runs.append({"task": "totals", "at": now, "status": Status.WAITING, "reason": "limit"})
    _store(path, [*tasks, *_chain()], [*runs, *_chain_runs(chance, now)], now)


def hard(path: Path) -> None:
    """Fifty tasks, some with names of 200 characters, hostile answers, and eleven versions."""
    chance, now = random.Random(3), datetime.now(UTC)
    names = [f"load-{n:02}" for n in range(44)]
    names += [f"{letter * 60}.with.a.name.as.long.as.is.allowed-{letter * 90}" for letter in "abcdef"]
    tasks = [Task(name, "1", Trigger.INTERVAL, f"{n + 1}h") for n, name in enumerate(names)]
    runs = [
        _run(chance, name, now - n * HOUR, timedelta(minutes=chance.expovariate(0.1)), answer=HOSTILE, version=n // 4)
        for name in names
        for n in range(44)
    ]
    width = [Task(f"shard-{n:02}-of-the-wide-level", "1", Trigger.AFTER, after="load-00") for n in range(14)]
    last = Task("merge", "1", Trigger.AFTER, after="\n".join(task.name for task in width))
    _store(path, [*tasks, *width, last], runs, now)
    opened = SqliteStore(path)
    with opened.transaction() as db:
        db.execute("UPDATE tasks SET deleted_at = 1 WHERE name IN ('shard-03-of-the-wide-level')")
    opened.close()


def many(path: Path, count: int = 10_000) -> None:
    """Ten thousand runs of twenty tasks in a week, most of them shorter than a pixel."""
    chance, now = random.Random(1), datetime.now(UTC)
    runs = [
        _run(
            chance,
            f"load-{n % 20:02}",
            now - 7 * DAY * chance.random(),
            timedelta(seconds=chance.expovariate(1 / 60)),
            answer="coffee 205.10, sugar 19.02",
        )
        for n in range(count)
    ]
    _store(path, [Task(f"load-{n:02}", "1", Trigger.INTERVAL, "1h") for n in range(20)], runs, now)


def slower(path: Path) -> None:
    """A task that takes 4 minutes, and half a year later 90; ten others that stay as they are."""
    chance, now = random.Random(5), datetime.now(UTC)
    runs = [
        _run(
            chance,
            "nightly",
            now - (180 - day) * DAY,
            timedelta(minutes=(4 + day * 0.48) * chance.uniform(0.8, 1.3)),
            version=day // 70,
        )
        for day in range(180)
    ]
    for number in range(10):
        runs += [
            _run(
                chance,
                f"load-{number}",
                now - (180 - day) * DAY,
                timedelta(minutes=(9 + number * 8) * chance.uniform(0.9, 1.1)),
            )
            for day in range(number, 180, 2)
        ]
    _store(
        path,
        [Task(name, "1", Trigger.INTERVAL, "1d") for name in dict.fromkeys(run["task"] for run in runs)],
        runs,
        now,
    )


def one(path: Path, answer: str = "hello") -> None:
    """One run of one task."""
    now = datetime.now(UTC)
    run = {"task": "hello", "at": now - HOUR, "took": timedelta(milliseconds=1.4), "answer": answer}
    _store(path, [Task("hello", "1", Trigger.INTERVAL, "1d")], [run], now)


def empty(path: Path) -> None:
    _store(path, [], [], datetime.now(UTC))


def _chain() -> list[Task]:
    return [
        Task(name, "1", Trigger.AFTER if after else Trigger.MANUAL, after=after.replace(" ", "\n"))
        for name, after in CHAIN.items()
    ]


def _chain_runs(chance: random.Random, now: datetime) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for day in range(6, 0, -1):
        for name, took_s in TOOK_S.items():
            runs.append({"task": name, "at": now - day * DAY, "took": timedelta(seconds=took_s * chance.uniform(1, 2))})
    runs.append({"task": "report", "at": now - HOUR, "status": Status.FAILED, "error": "no disk"})
    return runs


def _run(chance: random.Random, task: str, at: datetime, took: timedelta, **more: Any) -> dict[str, Any]:
    status = chance.choice(MOSTLY)
    error = "ConnectionError: orders.example.org refused it" if status is Status.FAILED else None
    return {"task": task, "at": at, "took": took, "status": status, "error": error, **more}


def _store(path: Path, tasks: list[Task], runs: list[dict[str, Any]], now: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = SqliteStore(path)
    try:
        opened.migrate()
        years.define(opened, tasks, now)
        years.write(opened, runs)
    finally:
        opened.close()
