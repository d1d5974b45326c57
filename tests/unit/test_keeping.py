"""With history removed all the time, the same slots start as without: none twice, and none is lost."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import anyio
import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput
from car_sched_nb.store import records, retention
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import Script, clock_at, cron, every, follower, jump, once, pass_time, rest, running

TASKS = [
    every("1h", "hourly"),
    every("1h", "all", catchup="all"),
    every("1h", "none", catchup="none"),
    every("1h", "few", max_runs=4),
    every("1h", "shaky", retries=2, retry_delay="90m", overlap="queue"),
    cron("30 */2 * * *", name="cron"),
    once(name="once"),
    follower("hourly", "after"),
    follower("cron,none", "both", when="ended"),
]
PLANNED = [task.name for task in TASKS if not task.after and task.name not in ("shaky", "once")]

Step = tuple[str, str, int]


class World:
    """One life of a store in virtual time, with some retention or with none."""

    def __init__(self, keep: str) -> None:
        self.keep = keep
        self.script = Script(lambda o: o.task == "shaky" and o.attempt < 3 and int(o.slot.rpartition(".")[2]) % 3 == 0)
        self.removed = 0

    async def live(self, steps: list[Step]) -> dict[str, list[tuple[str, int]]]:
        """Take the steps and return the (slot, attempt) that began of each task, in order."""
        store, clock = SqliteStore(), clock_at()
        left = [*steps, ("pass", "", 3)]
        while left:
            async with running(store, self.script, clock=clock) as s:
                for task in TASKS:
                    await s.add(msgspec.structs.replace(task, keep=self.keep))
                await rest(s)
                while left and (step := left.pop(0))[0] != "restart":
                    await self._take(s, step)
                    await rest(s)
                    self.removed += (await s.maintain()).executions
        store.close()
        started: dict[str, list[tuple[str, int]]] = {}
        for one in self.script.seen:
            tag = one.execution_id.split(":")[1]
            slot = tag if tag in ("manual", "after") else one.slot  # a hand's are chance, and others follow it
            started.setdefault(one.task, []).append((slot, one.attempt))
        return started

    async def _take(self, s: Scheduler, step: Step) -> None:
        kind, name, count = step
        by = timedelta(hours=count, minutes=7)
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "pass": lambda: pass_time(by, s),
            "sleep": lambda: jump(by, s),
            "back": lambda: jump(-by, s),
            "pause": lambda: s.pause(name),
            "resume": lambda: s.resume(name),
            "run_now": lambda: s.run_now(name),
            "run_once": lambda: self._run_once(s, name),
            "backfill": lambda: self._backfill(s, name),
            "arm": lambda: s.arm(name),
            "disarm": lambda: s.disarm(name),
        }
        await acts[kind]()

    async def _run_once(self, s: Scheduler, name: str) -> None:
        if s.task(name).enabled:
            await s.run_once(name)

    async def _backfill(self, s: Scheduler, name: str) -> None:
        if s.task(name).enabled and not s.task(name).max_runs:
            with suppress(InvalidInput):  # of a task that the clock says is defined in the future
                await s.backfill(name)
            while s._backfills:
                await s.engine.change()


KINDS = ["pass", "sleep", "pause", "resume", "run_now", "run_once", "arm", "disarm", "restart"]
AGAIN = [*KINDS, "back", "back", "backfill", "backfill"]
"""With what a removed row can change: a slot whose gap is gone is not filled in, and has no second chance."""


def lists_of(kinds: list[str]) -> st.SearchStrategy[list[Step]]:
    """Return lives of some steps."""
    step = st.tuples(st.sampled_from(kinds), st.sampled_from(PLANNED), st.integers(1, 3))
    return st.lists(step, min_size=4, max_size=8)


def what_starts(steps: list[Step], keep: str) -> dict[str, list[tuple[str, int]]]:
    """Return what starts with a rule; a task's id, which delays hang on, is the same in every world."""
    with pytest.MonkeyPatch.context() as patch:
        ids = itertools.count()
        patch.setattr(records, "new_id", lambda: f"{next(ids):010}")
        return anyio.run(World(keep).live, steps)


FIXED = settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])


@FIXED
@given(lists_of(KINDS))
def test_the_same_slots_start_whatever_is_removed(steps: list[Step]):
    assert what_starts(steps, "2") == what_starts(steps, "")


@FIXED
@given(lists_of(AGAIN))
def test_nothing_starts_twice_though_gaps_are_filled_in_and_the_clock_is_set_back(steps: list[Step]):
    for task, started in what_starts(steps, "1").items():
        slots = [one for one in started if one[0] not in ("manual", "after")]
        assert len({*slots}) == len(slots), task


BY_HAND = [("pass", "hourly", 2), *[("run_now", "hourly", 1)] * 3, ("run_once", "hourly", 1)]


def test_without_what_is_always_kept_a_slot_starts_again(monkeypatch: pytest.MonkeyPatch):
    kept = what_starts(BY_HAND, "1")["hourly"]
    assert kept == what_starts(BY_HAND, "")["hourly"]
    monkeypatch.setattr(retention, "_GUARDS", {"nothing": "?4 = ?4"})
    assert what_starts(BY_HAND, "1")["hourly"] != kept
