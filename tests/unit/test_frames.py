"""History and tasks as DataFrames: the same columns and dtypes whatever is in the store."""

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Any, cast

import pandas as pd
import pytest

from car_sched_nb import frames
from car_sched_nb.errors import CarError, InvalidInput, UnknownTask
from car_sched_nb.model import Cause, Status, Task, TaskStatus, Trigger
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import DAY, HOUR, MINUTE, MONDAY, Recorder, advance, agent, clock_at, cron, every, leap, running

INSTANT, LENGTH = "datetime64[us, UTC]", "timedelta64[us]"
HISTORY: dict[str, Any] = {
    "task_id": "str",
    "task": "str",
    "namespace": "str",
    "trigger": Trigger,
    "slot": "str",
    "attempt": "int64",
    "status": Status,
    "scheduled_at": INSTANT,
    "started_at": INSTANT,
    "finished_at": INSTANT,
    "duration": LENGTH,
    "lateness": LENGTH,
    "slots": "int64",
    "cause": Cause,
    "reason": "str",
    "version": "int64",
    "params": "object",
    "runner": "str",
    "executor": "str",
    "owner": "str",
    "answer": "str",
    "error": "str",
    "error_type": "str",
    "turns": "Int64",
    "tool_calls": "Int64",
    "tokens_in": "Int64",
    "tokens_out": "Int64",
    "cost": "Float64",
    "model": "str",
}
NOW = clock_at().now_us()


def check_columns(frame: pd.DataFrame) -> None:
    assert frame.index.name == "execution_id"
    assert list(frame.columns) == list(HISTORY)
    for name, kind in HISTORY.items():
        if isinstance(kind, type):
            assert isinstance(frame[name].dtype, pd.CategoricalDtype)
            assert list(frame[name].cat.categories) == [str(member) for member in cast("type[StrEnum]", kind)]
        else:
            assert str(frame[name].dtype) == kind, name


def test_an_empty_history_has_the_same_columns_and_dtypes(store: SqliteStore):
    frame = frames.history(store, now_us=NOW)
    assert len(frame) == 0
    check_columns(frame)


@pytest.mark.anyio
async def test_a_history_has_its_columns_and_dtypes_whatever_happened(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()

    async def costly(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer="a", turns=1, tool_calls=2, tokens_in=3, tokens_out=4, cost=0.5, model="m")

    async with running(store, recorder, clock=clock, owner_name="ana@laptop") as s:
        s.register("costly", costly)
        await s.add(every("1m", params={"region": "eu"}))
        await s.wait()
        await leap(s, clock, HOUR)
        check_columns(frames.history(store, now_us=clock.now_us()))
        await s.run_once(Task("costly", "x", runner="costly"))
        recorder.error = ValueError("boom")
        await s.run_once(agent("failing"))
        frame = frames.history(store, now_us=clock.now_us())
    check_columns(frame)
    assert list(frame["status"]) == ["completed", "missed", "completed", "completed", "failed"]
    missed = frame.iloc[1]
    assert (missed["slot"], missed["slots"], missed["reason"]) == ("1", 59, "asleep")
    assert pd.isna(missed["started_at"]) and pd.isna(missed["lateness"]) and pd.isna(missed["turns"])
    first = frame.iloc[0]
    assert first["scheduled_at"] == pd.Timestamp(MONDAY)
    assert first["lateness"] == pd.Timedelta(0)
    assert first["params"] == {"region": "eu"}
    assert first["owner"] == "ana@laptop"
    assert frame.iloc[3][["turns", "tool_calls", "tokens_in", "tokens_out", "cost", "model"]].tolist() == [
        1,
        2,
        3,
        4,
        0.5,
        "m",
    ]
    assert frame.iloc[4]["error_type"] == "ValueError"
    assert frame.index.is_unique


@pytest.fixture
async def a_day(store: SqliteStore) -> SqliteStore:
    """A day of two hourly tasks, one of which fails, in one namespace, and a daily one in another."""
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock, namespace="n") as s:
        await s.add(every("1h", "a"))
        await s.add(Task("b", "1 / 0", Trigger.INTERVAL, "6h"))
        await advance(s, clock, DAY)
    async with running(store, recorder, clock=clock_at(), namespace="m") as s:
        await s.add(every("1h", "a"))
        await s.wait()
    return store


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({}, 31),
        ({"namespace": "n"}, 30),
        ({"namespace": "n", "task": "a"}, 25),
        ({"task": ["a", "b"]}, 31),
        ({"status": "failed"}, 5),
        ({"status": ["failed", "completed"], "namespace": "n"}, 30),
        ({"status": "missed"}, 0),
        ({"limit": 3}, 3),
        ({"limit": 0}, 0),
        ({"since": MONDAY + 24 * HOUR, "namespace": "n"}, 2),
        ({"until": MONDAY + MINUTE, "namespace": "n"}, 2),
        ({"since": "2h", "namespace": "n", "task": "a"}, 3),
        ({"since": "2026-11-23T12:00Z", "until": "2026-11-23T13:00Z", "task": "a"}, 1),
        ({"since": MONDAY, "until": MONDAY}, 0),
    ],
    ids=str,
)
async def test_history_can_be_asked_for_in_part(a_day: SqliteStore, asked: dict[str, Any], count: int):
    now_us = NOW + DAY // timedelta(microseconds=1)
    frame = frames.history(a_day, now_us=now_us, **asked)
    check_columns(frame)
    assert len(frame) == count


@pytest.mark.anyio
async def test_a_limit_keeps_the_newest_in_order(a_day: SqliteStore):
    everything = frames.history(a_day, namespace="n", task="a", now_us=NOW)
    assert list(frames.history(a_day, namespace="n", task="a", limit=2, now_us=NOW).index) == list(
        everything.index[-2:]
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"task": "aa"}, UnknownTask, "'a'"),
        ({"status": "compleet"}, InvalidInput, "completed"),
        ({"status": "done"}, InvalidInput, "there are"),
        ({"limit": -1}, InvalidInput, "from 0"),
        ({"since": "banana"}, CarError, "banana"),
        ({"since": MONDAY + HOUR, "until": MONDAY}, InvalidInput, "swap"),
    ],
    ids=str,
)
async def test_what_cannot_be_asked_for_is_told(a_day: SqliteStore, asked: dict[str, Any], error: type, said: str):
    with pytest.raises(error) as caught:
        frames.history(a_day, now_us=NOW, **asked)
    assert said in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("fill", [lambda s: s.add(every("1h")), lambda s: s.wait()], ids=["one", "none"])
async def test_tasks_have_their_columns_and_dtypes(store: SqliteStore, fill: Callable[[Any], Any]):
    async with running(store, clock=clock_at()) as s:
        await fill(s)
        await s.wait()
        frame = frames.tasks(store, s.namespace)
    assert frame.index.name == "name"
    expected = {"status": TaskStatus, "trigger": Trigger, "next_at": INSTANT, "run_count": "int64", "enabled": "bool"}
    for name, kind in expected.items():
        if isinstance(kind, type):
            assert list(frame[name].cat.categories) == [str(member) for member in kind]
        else:
            assert str(frame[name].dtype) == kind
    assert list(frame["when"]) in ([], ["every 1 h"], ["every 1 hour"], ["every hour"])


@pytest.mark.anyio
async def test_a_preview_shows_the_next_slots_in_utc_and_local_time(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        task = await s.add(cron("30 9 * * *", "Europe/Paris"))
        frame = frames.preview([task], NOW, 3)
        assert list(frame["slot"]) == ["20261124T083000Z", "20261125T083000Z", "20261126T083000Z"]
        assert str(frame["scheduled_at"].dtype) == INSTANT
        assert [t.strftime("%H:%M") for t in frame["local"]] == ["09:30"] * 3
        assert len(frames.preview([task], NOW, 0)) == 0
        assert len(frames.preview([await s.add(agent("by-hand"))], NOW)) == 0
        with pytest.raises(InvalidInput):
            frames.preview([task], NOW, -1)
