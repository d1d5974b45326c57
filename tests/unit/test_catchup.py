"""What becomes of slots that passed: after a gap, while a run goes on, over a year, and when the clock jumps."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from car_sched_nb.clock import SystemClock
from car_sched_nb.model import Task
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HANG_S,
    HOUR,
    MINUTE,
    MONDAY,
    SECOND,
    Ear,
    Recorder,
    advance,
    clock_at,
    cron,
    every,
    leap,
    now,
    once,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def after_a_gap(store: SqliteStore, task: Task, gap: timedelta) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return the slots that ran and all rows of a task whose kernel was gone for a while after slot 0."""
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(task)
        await s.wait()
    clock.set(clock.now_us() + gap // timedelta(microseconds=1))
    recorder = Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(task)
        await s.wait()
        return recorder.slots, short(s.executions("task"))


@pytest.mark.parametrize(
    ("fields", "gap", "ran", "missed"),
    [
        ({}, 10 * HOUR, ["10"], [("missed", "1", 9)]),
        ({}, 10 * HOUR + 59 * MINUTE, ["10"], [("missed", "1", 9)]),
        ({}, HOUR, ["1"], []),
        ({}, 59 * MINUTE, [], []),
        ({"catchup": "none"}, 10 * HOUR + 30 * MINUTE, [], [("missed", "1", 10)]),
        ({"catchup": "none"}, 90 * MINUTE, [], [("missed", "1", 1)]),
        ({"catchup": "all"}, 3 * HOUR + MINUTE, ["1", "2", "3"], []),
        ({"grace": "10m"}, 10 * HOUR + 9 * MINUTE, ["10"], [("missed", "1", 9)]),
        ({"grace": "10m"}, 10 * HOUR + 11 * MINUTE, [], [("missed", "1", 10)]),
        ({"grace": "0"}, 10 * HOUR + 2 * SECOND, [], [("missed", "1", 10)]),
        ({"grace": "0"}, 10 * HOUR, ["10"], [("missed", "1", 9)]),
    ],
    ids=str,
)
async def test_after_a_restart_passed_slots_follow_catch_up_and_grace(
    store: SqliteStore, fields: dict[str, str], gap: timedelta, ran: list[str], missed: list[tuple[str, str, int]]
):
    slots, rows = await after_a_gap(store, every("1h", **fields), gap)
    assert slots == ran
    assert rows == [("completed", "0", 1), *missed, *(("completed", slot, 1) for slot in ran)]


async def test_a_daily_task_missed_by_more_than_a_day_is_not_run_late(store: SqliteStore):
    clock = clock_at(datetime(2026, 11, 23, 8, tzinfo=UTC))
    for hours, expected in ((2, ["20261123T090000Z"]), (20, ["20261123T090000Z"])):
        async with running(store, recorder := Recorder(), clock=clock) as s:
            await s.add(cron("0 9 * * *"))
            await leap(s, clock, hours * HOUR)
            assert recorder.slots == (expected if hours == 2 else [])
    clock.set(clock.now_us() + 10 * 86_400_000_000)
    async with running(store, recorder := Recorder(), clock=clock) as s:
        await s.add(cron("0 9 * * *"))
        await s.wait()
        assert len(recorder.slots) == 1
        assert short(s.executions("task"))[1] == ("missed", "20261124T090000Z", 9)


async def test_a_once_task_that_was_missed_by_an_hour_runs_late_and_by_a_week_is_missed(store: SqliteStore):
    for name, gap, expected in (("a", HOUR, "completed"), ("b", 7 * DAY, "missed")):
        clock = clock_at()
        async with running(store, clock=clock) as s:
            await s.add(once("delay 10m", name))
        clock.set(clock.now_us() + gap // timedelta(microseconds=1))
        async with running(store, clock=clock) as s:
            await s.add(once("delay 10m", name))
            await s.wait()
            assert [e.status for e in s.executions(name)] == [expected]


async def test_a_missed_row_says_why_and_when(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h", catchup="none"))
        await s.wait()
    clock.set(clock.now_us() + 5 * 3_600_000_000 + 60_000_000)
    async with running(store, clock=clock) as s:
        await s.add(every("1h", catchup="none"))
        await s.wait()
        row = s.executions("task")[-1]
        assert (row.reason, row.attempt, row.slots) == ("no_owner", 0, 5)
        assert row.scheduled_at == now(clock) - 4 * HOUR - MINUTE
        assert row.started_at is None


async def test_a_laptop_that_slept_runs_the_latest_slot_and_misses_the_others(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m"))
        await s.wait()
        await leap(s, clock, 2 * HOUR)
        assert recorder.slots == ["0", "120"]
        assert short(s.executions("task"))[1] == ("missed", "1", 119)
        assert s.executions("task")[1].reason == "asleep"


async def test_two_gaps_with_nothing_between_are_one_row_and_with_a_run_between_two(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h", grace="1m"))
        await s.wait()
        for _ in range(3):
            await leap(s, clock, 2 * HOUR + 10 * MINUTE)
        rows = [row for row in short(s.executions("task")) if row[0] == "missed"]
        assert rows == [("missed", "1", 6)]
        await advance(s, clock, HOUR)
        await leap(s, clock, 2 * HOUR)
        rows = [row for row in short(s.executions("task")) if row[0] == "missed"]
        assert len(rows) == 2


async def test_slots_that_come_while_a_run_goes_on_are_one_skipped_row(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(every("1m"))
        await recorder.begun.wait()
        for _ in range(5):
            await clock.idle()
            clock.set(clock.now_us() + 60_000_000)
            await ear.hears("gap")
        recorder.let_go()
        await s.wait()
        await advance(s, clock, MINUTE)
        assert short(s.executions("task")) == [("completed", "0", 1), ("skipped", "1", 5), ("completed", "6", 1)]
        assert s.executions("task")[1].reason == "overlap"


async def test_slots_may_overlap_when_that_is_allowed(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m", overlap="allow"))
        for k in range(1, 4):
            while len(recorder.seen) < k:
                await anyio.lowlevel.checkpoint()
            clock.set(clock.now_us() + 60_000_000)
        while len(recorder.seen) < 4:
            await anyio.lowlevel.checkpoint()
        recorder.let_go()
        await s.wait()
        assert sorted(recorder.slots) == ["0", "1", "2", "3"]


async def test_catch_up_of_all_waits_for_each_run(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m", catchup="all"))
        await recorder.begun.wait()
        clock.set(clock.now_us() + 5 * 60_000_000)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert recorder.slots == ["0"]
        recorder.let_go()
        await s.wait()
        assert recorder.slots == ["0", "1", "2", "3", "4", "5"]


async def test_catch_up_of_all_leaves_out_what_is_past_its_grace(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", catchup="all", grace="150m"))
        await s.wait()
        await leap(s, clock, timedelta(hours=5, minutes=30))
        assert recorder.slots == ["0", "3", "4", "5"]
        missed = [e for e in s.executions("task") if e.status == "missed"]
        assert [(e.slot, e.slots) for e in missed] == [("1", 2)]


async def test_every_slot_ends_in_a_row(store: SqliteStore):
    """Run, missed, skipped or paused: the numbers add up whatever happened."""
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m"))
        await advance(s, clock, 3 * MINUTE)
        await leap(s, clock, 10 * MINUTE)
        await s.pause("task")
        await leap(s, clock, 10 * MINUTE)
        await s.resume("task")
    clock.set(clock.now_us() + 10 * 60_000_000)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m"))
        await advance(s, clock, 5 * MINUTE)
        rows = s.executions("task")
        assert sum(e.slots for e in rows) == 39
        covered = sorted(int(e.slot) + k for e in rows for k in range(e.slots))
        assert covered == list(range(39))


@pytest.mark.parametrize("fields", [{"align": True}, {"first": "next"}], ids=str)
async def test_a_run_before_the_first_slot_does_not_use_it_up(store: SqliteStore, fields: dict[str, Any]):
    clock, recorder = clock_at(MONDAY + 20 * MINUTE), Recorder()
    async with running(store, recorder, clock=clock) as s:
        early = await s.run_once(every("1h", **fields))
        assert (early.trigger, early.status, early.lateness) == ("manual", "completed", timedelta(0))
        await s.arm("task")
        await advance(s, clock, HOUR)
        assert len(recorder.slots) == 2


YEAR = 365 * DAY
SCHEDULES = [
    cron("0 9 * * *", "Europe/London", "daily"),
    cron("30 1 * * *", "Europe/London", "in-the-fold"),
    cron("0 9 * * 1-5", "America/New_York", "weekdays"),
    cron("0 0 1 * *", "Asia/Kathmandu", "monthly"),
    cron("@weekly", "Australia/Lord_Howe", "weekly"),
    every("1d", "interval"),
    every("12h", "aligned", align=True),
    once("delay 100d", "once"),
]


async def test_a_year_of_mixed_schedules_serves_each_slot_once_at_its_instant():
    clock, recorder = clock_at(), Recorder()
    async with running(":memory:", recorder, clock=clock) as s:
        for task in SCHEDULES:
            await s.add(task)
        await advance(s, clock, YEAR)
        assert {e.status for e in s.executions()} == {"completed"}
        assert all(e.lateness == timedelta(0) for e in s.executions())
    assert len(set(recorder.ids)) == len(recorder.ids)
    counts = Counter(o.task for o in recorder.seen)
    assert counts["daily"] == 365
    assert (counts["interval"], counts["aligned"], counts["once"], counts["monthly"]) == (366, 730, 1, 12)
    times = {name: [o.scheduled_at for o in recorder.seen if o.task == name] for name in counts}
    london = ZoneInfo("Europe/London")
    assert {t.astimezone(london).strftime("%H:%M") for t in times["daily"]} == {"09:00"}
    assert {b - a for a, b in pairwise(times["daily"])} == {DAY, DAY + HOUR, DAY - HOUR}
    assert {b - a for a, b in pairwise(times["interval"])} == {DAY}


async def test_a_clock_that_is_put_back_runs_nothing_twice_and_goes_on(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h"))
        await advance(s, clock, 3 * HOUR)
        clock.set(clock.now_us() - 2 * 3_600_000_000)
        await advance(s, clock, 5 * HOUR)
        assert recorder.slots == ["0", "1", "2", "3", "4", "5", "6"]


async def test_a_clock_that_was_a_year_ahead_does_not_silence_a_task_for_a_year(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h"))
        await s.wait()
        await leap(s, clock, 365 * DAY)
    clock.set(clock.now_us() - 365 * 86_400_000_000)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h"))
        await advance(s, clock, 2 * HOUR)
        assert recorder.slots == ["0", "8760", "1", "2"]


async def test_the_system_clock_looks_again_before_a_far_instant(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("car_sched_nb.clock.LONGEST_SLEEP_US", 1000)
    clock = SystemClock()
    with anyio.fail_after(HANG_S):
        await clock.wait(clock.now_us() + 10**15, anyio.Event())
        await clock.wait(None, anyio.Event())
        await clock.wait(clock.now_us() - 10**15, anyio.Event())


async def test_a_gap_that_is_met_again_after_the_clock_was_set_back_keeps_all_of_its_slots(store: SqliteStore):
    for step in (0, 5, 0, 10):
        async with running(store, clock=clock_at(MONDAY + step * MINUTE)) as s:
            await s.add(every("1m", catchup="none"))
            await s.wait()
    told = [int(e.slot) + k for e in records.executions(store) for k in range(e.slots)]
    assert sorted(set(told)) == list(range(11))
