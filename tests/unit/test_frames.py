"""History and tasks as DataFrames: the same columns and dtypes whatever is in the store."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from car_sched_nb import frames, when
from car_sched_nb.errors import CarError, InvalidInput, UnknownTask
from car_sched_nb.frames import asked, shown
from car_sched_nb.model import Cause, Status, Task, TaskStatus, Trigger
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import DAY, HOUR, MINUTE, MONDAY, Recorder, advance, agent, clock_at, cron, every, leap, running

TEXT = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "object"  # what either pandas takes for text by itself
INSTANT, LENGTH = "datetime64[us, UTC]", "timedelta64[us]"
HISTORY: dict[str, Any] = {
    "task_id": TEXT,
    "task": TEXT,
    "namespace": TEXT,
    "trigger": Trigger,
    "slot": TEXT,
    "attempt": "int64",
    "status": Status,
    "scheduled_at": INSTANT,
    "started_at": INSTANT,
    "finished_at": INSTANT,
    "duration": LENGTH,
    "lateness": LENGTH,
    "slots": "int64",
    "cause": Cause,
    "reason": TEXT,
    "version": "int64",
    "params": "object",
    "runner": TEXT,
    "executor": TEXT,
    "owner": TEXT,
    "answer": TEXT,
    "error": TEXT,
    "error_type": TEXT,
    "turns": "Int64",
    "tool_calls": "Int64",
    "tokens_in": "Int64",
    "tokens_out": "Int64",
    "cost": "Float64",
    "model": TEXT,
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


OTHERS: dict[str, dict[str, str]] = {
    "tasks": {
        **dict.fromkeys(["runner", "when", "namespace", "task_id"], TEXT),
        **dict.fromkeys(["next_at", "last_run_at", "created_at"], INSTANT),
        **dict.fromkeys(["run_count", "revision", "version"], "int64"),
        **dict.fromkeys(["status", "trigger"], "category"),
        "enabled": "bool",
    },
    "slots": {
        **dict.fromkeys(["task", "execution_id", "reason", "error"], TEXT),
        **dict.fromkeys(["scheduled_at", "started_at"], INSTANT),
        **dict.fromkeys(["lateness", "duration"], LENGTH),
        **dict.fromkeys(["attempts", "slots"], "int64"),
        **dict.fromkeys(["status", "cause"], "category"),
    },
    "summary": {
        **dict.fromkeys(["served", "failed", "missed", "skipped", "cancelled", "running", "tokens"], "int64"),
        **dict.fromkeys(["first_error", "last_error"], TEXT),
        **dict.fromkeys(["last_error_at", "last_success", "next_at"], INSTANT),
        "status": "category",
        "median": LENGTH,
        "cost": "float64",
    },
    "preview": {"task": TEXT, "slot": TEXT, "scheduled_at": INSTANT, "local": INSTANT, "in_minute": "int64"},
    "answers": {"task": TEXT, "scheduled_at": INSTANT},
}


@pytest.mark.anyio
@pytest.mark.parametrize("empty", [True, False], ids=["empty", "filled"])
async def test_the_dtypes_of_all_frames_are_pinned(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, empty: bool):
    monkeypatch.setattr(when, "_local_zone", lambda: "UTC")
    async with running(store, clock=clock_at()) as s:
        task = await s.add(every("1h"))
        await s.wait()
        end_us = 0 if empty else NOW + 10**10
        space = "nobody" if empty else s.namespace
        told = {
            "tasks": frames.tasks(store, space),
            "slots": frames.slots(store, [s.task(task.name)], 0, end_us, NOW),
            "summary": frames.summary(store, space, 0),
            "preview": frames.preview([] if empty else [task], NOW),
            "answers": frames.answers(store, []),
        }
    for name, frame in told.items():
        assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == OTHERS[name], name
        assert (len(frame) == 0) is (empty or name == "answers")


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
    ("given", "count"),
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
async def test_history_can_be_asked_for_in_part(a_day: SqliteStore, given: dict[str, Any], count: int):
    now_us = NOW + DAY // timedelta(microseconds=1)
    frame = frames.history(a_day, now_us=now_us, **given)
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
    ("given", "error", "said"),
    [
        ({"task": "aa"}, UnknownTask, "'a'"),
        ({"status": "compleet"}, InvalidInput, "completed"),
        ({"status": "done"}, InvalidInput, "there are"),
        ({"limit": -1}, InvalidInput, "from 0"),
        ({"since": "banana"}, CarError, "banana"),
        ({"since": MONDAY + HOUR, "until": MONDAY}, InvalidInput, "swap"),
        ({"task": "x-*"}, UnknownTask, "fits the pattern"),
        ({"task": 123}, InvalidInput, "not 123"),
        ({"task": "'; DROP TABLE tasks"}, UnknownTask, "DROP"),
        ({"status": "FAILED"}, InvalidInput, "'failed'"),
        ({"runner": "agnt"}, InvalidInput, "'agent'"),
        ({"runner": "a\ud800\0"}, InvalidInput, "there are"),
        ({"columns": ["statsu"]}, InvalidInput, "'status'"),
        ({"columns": 5}, InvalidInput, "not 5"),
        ({"limit": True}, InvalidInput, "from 0"),
        ({"limit": 1.5}, InvalidInput, "from 0"),
        ({"limit": "3"}, InvalidInput, "from 0"),
        ({"since": pd.NaT}, InvalidInput, "leave it out"),
        ({"since": np.datetime64("2026-11-23T09:00")}, InvalidInput, "pd.Timestamp('2026-11-23T09:00', tz='UTC')"),
        ({"since": float("nan")}, InvalidInput, "leave it out"),
        ({"since": "-7d"}, InvalidInput, "write '7d'"),
        ({"since": "last week"}, InvalidInput, "how long ago, 7d"),
        ({"since": 3600}, InvalidInput, "'3600s'"),
        ({"since": "1764000000"}, InvalidInput, "epoch"),
        ({"since": "7 dayz"}, InvalidInput, "write 7 days"),
        ({"since": datetime(1, 1, 1)}, InvalidInput, "years go from"),  # noqa: DTZ001 - naive, as people write
    ],
    ids=str,
)
async def test_what_cannot_be_asked_for_is_told(a_day: SqliteStore, given: dict[str, Any], error: type, said: str):
    with pytest.raises(error) as caught:
        frames.history(a_day, now_us=NOW, **given)
    assert said in str(caught.value)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(when, "_local_zone", lambda: "Europe/Berlin")


@pytest.mark.parametrize(
    "given",
    ["2026-11-23 10:00", datetime(2026, 11, 23, 10), pd.Timestamp("2026-11-23 10:00"), "monday 10:00", "1h"],  # noqa: DTZ001
    ids=repr,
)
def test_what_is_naive_is_local_time(in_berlin: None, given: Any):
    assert asked.instant(given, NOW + 3_600_000_000) == NOW


def test_a_date_is_its_first_instant_and_a_length_back_from_now(in_berlin: None):
    assert asked.instant(date(2026, 11, 23), NOW) == NOW - 10 * 3_600_000_000
    assert asked.instant(pd.Timedelta(2, "h"), NOW) == asked.instant(timedelta(hours=2), NOW) == NOW - 7_200_000_000
    assert asked.instant("2h", NOW, ahead=True) == NOW + 7_200_000_000


@pytest.mark.parametrize("kind", [str, datetime.fromisoformat, pd.Timestamp])
def test_a_time_that_comes_twice_or_never_is_said_how_it_was_read(in_berlin: None, store: SqliteStore, kind: Any):
    with pytest.warns(UserWarning, match=r"the first, 2026-10-25T02:30\+02:00; the second is 2026-10-25T02:30\+01"):
        first = asked.instant(kind("2026-10-25 02:30"), NOW)
    assert when.iso_us(first) == "2026-10-25T00:30:00Z"
    with pytest.warns(UserWarning, match="is left out in Europe/Berlin.* read as 2026-03-29T03:00.02:00") as caught:
        frames.history(store, since=kind("2026-03-29 02:30"), now_us=NOW)
    assert caught[0].filename == __file__, "it is said where it was asked"
    if kind is not str:
        second = kind("2026-10-25 02:30").replace(fold=1)
        assert asked.instant(second, NOW) == asked.instant("2026-10-25 02:30+01:00", NOW) == first + 3_600_000_000


@pytest.mark.anyio
async def test_a_history_in_a_cell_is_a_table_to_read(a_day: SqliteStore):
    whole = frames.history(a_day, namespace="n", now_us=NOW)
    whole.loc[whole.index[0], "answer"] = "<script>\n" + "long " * 99
    text, html = repr(shown.ReadableHistory(whole)), shown.ReadableHistory(whole)._repr_html_()
    assert "NaN" not in text and "NaN" not in html
    assert text.count("completed") == html.count("completed") == 25 + text.count("completed: do it")
    assert html.count("<tr") == 1 + len(whole)
    assert "&lt;script&gt;" in html and "<script>" not in html
    assert repr(shown.ReadableHistory(whole[:0])) == "no executions"
    many = shown.ReadableHistory(pd.concat([whole] * 3))
    assert repr(many).startswith("the newest 60 of 90 executions")
    assert type(many.head()) is pd.DataFrame


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


@pytest.mark.anyio
async def test_a_dictionary_that_a_body_ends_with_is_columns_too(store: SqliteStore):
    async with running(store) as s:
        await s.run_once(Task("it", "{'a': 1, 2: [True, None]}"))
        await s.run_once(Task("text", "'no {object'"))
        await s.run_once(Task("late", "import time\ntime.sleep(60)", timeout="10ms"))
        found = frames.answers(store, [s.task(name).id for name in ("it", "text")])
        assert found[["a", "2"]].to_dict("records") == [{"a": 1, "2": [True, None]}]
        assert frames.history(store, now_us=NOW, task="late")["error_type"].tolist() == ["TimedOut"]
