"""Several schedulers on one store: in one object or on one file, each follows what the others do."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_sched_nb.clock import VirtualClock
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.store.owners import alive, reconcile
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import HANG_S, Ear, Recorder, agent, clock_at, every, running

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]


@pytest.fixture(params=["one object", "one file"])
def place(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], Any]]:
    """What each of several schedulers is given as its store."""
    if request.param == "one file":
        yield lambda: str(path)
    else:
        store = SqliteStore(path)
        store.migrate()
        yield lambda: store
        store.close()


@asynccontextmanager
async def two(
    place: Callable[[], Any], one: Recorder, other: Recorder, *clocks: VirtualClock | None
) -> AsyncIterator[tuple[Scheduler, Scheduler]]:
    """Enter two schedulers, each with a clock of its own."""
    first, second = clocks or (None, None)
    async with running(place(), one, clock=first) as a, Scheduler(place(), runner=other, clock=second) as b:
        yield a, b


async def until(find: Callable[[], Any]) -> Any:
    """Return what `find` returns, once that is something."""
    with anyio.fail_after(HANG_S):
        while not (found := find()):  # noqa: ASYNC110 - the other scheduler brings it about
            await anyio.sleep(0.01)
    return found


async def test_two_that_plan_one_task_start_each_slot_once(place: Callable[[], Any]):
    one, other, clocks = Recorder(), Recorder(), (clock_at(), clock_at())
    async with two(place, one, other, *clocks) as (a, b):
        await a.add(every("1m"))
        await b.add(every("1m"))
        for slot in range(1, 21):
            for clock in clocks:
                clock.set(clock.now_us() + 60_000_000)
            await until(partial(lambda slot: sum(e.slots for e in a.executions("task")) > slot, slot))
            await a.wait()
            await b.wait()
        assert len(set(one.slots + other.slots)) == len(one.slots + other.slots) > 10
        assert a.executions("task") == b.executions("task")
        # A slot that comes while the other's run goes on is skipped, by one of the two.
        told = [slot for e in a.executions("task") for slot in range(int(e.slot), int(e.slot) + e.slots)]
        assert sorted(told) == list(range(21))


async def test_one_cancels_what_the_other_runs(place: Callable[[], Any]):
    one, other = Recorder(held=True), Recorder()
    async with two(place, one, other) as (a, b):
        await a.add(agent())
        await a.run_now("task")
        await one.begun.wait()
        assert [str(e.status) for e in b.executions("task")] == ["running"]
        assert await b.cancel("task") == 1
        assert one.interrupted == 1
        assert [str(e.status) for e in b.executions("task")] == ["cancelled"]


async def test_a_task_that_one_changes_is_disarmed_in_the_other(place: Callable[[], Any]):
    one, other = Recorder(), Recorder()
    async with two(place, one, other) as (a, b):
        await a.add(every("1h", first="next"))
        ear = Ear(a)
        await b.add(every("2h", first="next"))
        told = await ear.hears("disarmed")
        assert "changed or deleted elsewhere; run its cell to arm it here" in told.text
        assert not a.engine.armed
        assert b.engine.armed


async def test_a_pause_a_resume_and_a_delete_reach_the_other_at_its_next_looks(
    place: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    one, other = Recorder(), Recorder()
    async with two(place, one, other) as (a, b):
        task = await a.add(every("1h", first="next"))
        await until(lambda: a._neighbours._others)  # it has seen that it is not alone
        looks = looks_of(a, monkeypatch)
        for change, noticed in (
            (b.pause, lambda: not a.engine.armed[task.id].task.enabled),
            (b.resume, lambda: a.engine.armed[task.id].task.enabled),
            (b.delete, lambda: task.id not in a.engine.armed),
        ):
            await change("task")
            looks.clear()
            await until(noticed)
            assert len(looks) <= 3  # of four in a second


def looks_of(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return what grows by one each time that a scheduler looks whether somebody else has written."""
    looks: list[bool] = []
    changed = scheduler._neighbours._changed

    def counted() -> bool:
        looks.append(changed())
        return looks[-1]

    monkeypatch.setattr(scheduler._neighbours, "_changed", counted)
    return looks


async def test_a_pause_elsewhere_keeps_the_next_slot_from_starting_at_once(place: Callable[[], Any]):
    one, other, clock = Recorder(), Recorder(), clock_at()
    async with two(place, one, other, clock, clock_at()) as (a, b):
        await a.add(every("1m"))
        await a.wait()
        await b.pause("task")
        clock.set(clock.now_us() + 60_000_000)  # before it can have noticed
        await anyio.sleep(0.05)
        assert one.slots == ["0"]
        assert other.slots == []


async def test_what_one_that_leaves_had_waiting_is_taken_over_by_the_other(place: Callable[[], Any]):
    one, other, clock = Recorder(), Recorder(), clock_at()
    one.error = ValueError("no")
    async with running(place(), other, clock=clock) as b:
        async with Scheduler(place(), runner=one, clock=clock_at()) as a:
            ear = Ear(a)
            await a.add(every("1h", retries=1, retry_delay="1m"))
            await ear.hears("finished")
            await b.arm("task")
        await until(lambda: b.live("task"))
        clock.set(clock.now_us() + 180_000_000)
        await until(lambda: other.seen)
        await b.wait()
        assert [(e.attempt, str(e.status)) for e in b.executions("task")] == [(1, "failed"), (2, "completed")]
        assert len(other.seen) == 1


async def test_an_owner_that_was_taken_for_dead_is_reconciled_when_it_really_is(path: Path):
    recorder = Recorder(held=True)
    async with running(str(path), recorder) as a:
        lock = path.parent / "car.db.d" / f"{a.owner}.lock"
        lock.rename(lock.with_suffix(".away"))  # somebody cleans up what is not theirs
        watching = SqliteStore(path)
        assert not alive(watching, a.owner)
        reconcile(watching, a.clock.now_us())
        await a.add(agent())
        await a.run_now("task")
        await recorder.begun.wait()
        assert [str(e.status) for e in a.executions("task")] == ["running"]
        assert len(reconcile(watching, a.clock.now_us())) == 1  # nothing stays running for ever
        watching.close()
        recorder.let_go()
        await a.wait()
        assert [str(e.status) for e in a.executions("task")] == ["interrupted"]


async def test_an_error_in_looking_at_the_others_ends_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    one, other = Recorder(), Recorder()
    async with two(lambda: str(path), one, other) as (a, b):
        await a.add(agent())
        await until(lambda: a._neighbours._others)
        folder = path.parent / "car.db.d"
        folder.rename(path.parent / "elsewhere")
        folder.write_text("in the way of every lock")
        looks = looks_of(a, monkeypatch)
        await until(lambda: len(looks) > 2)
        folder.unlink()
        (path.parent / "elsewhere").rename(folder)
        assert (await a.run_once("task")).status == "completed"
        await b.run_once("task")
    assert len(one.seen) == len(other.seen) == 1
