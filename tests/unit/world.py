"""What the unit tests of the engine share: a runner that notes what it did, and time that is told to pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel

from car_sched_nb.clock import VirtualClock
from car_sched_nb.engine.events import Event
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Execution, Task, Trigger, to_us
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Occurrence, Runtime
from car_sched_nb.store.sqlite import SqliteStore

HANG_S = 60
"""Seconds after which a test gives up; nothing passes or fails by being quicker."""

MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Recorder:
    """An `AgentRunner` that notes its occurrences; while `held` it does not end before it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.seen: list[Occurrence] = []
        self.prompts: list[str] = []
        self.begun = anyio.Event()
        self.interrupted = 0
        self.inside = 0
        """How many are held now."""
        self.error: BaseException | None = None
        self._go = anyio.Event()
        if not held:
            self._go.set()

    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        self.seen.append(runtime.occurrence)
        self.prompts.append(prompt)
        self.begun.set()
        go = self._go
        held = not go.is_set()
        self.inside += held
        try:
            await go.wait()
        except BaseException:
            self.interrupted += 1
            raise
        finally:
            self.inside -= held
        if self.error is not None:
            raise self.error
        return AgentOutput(name=spec.name, answer=f"completed: {prompt}", turns=1, tool_calls=0)

    def let_go(self) -> None:
        """Let what runs end."""
        self._go.set()

    def step(self) -> None:
        """Let what runs end, and hold what begins after it."""
        self._go.set()
        self.hold()

    def hold(self) -> None:
        """Keep from now on what starts."""
        self._go = anyio.Event()
        self.begun = anyio.Event()

    @property
    def slots(self) -> list[str]:
        """The slots that began, in order."""
        return [occurrence.slot for occurrence in self.seen]

    @property
    def ids(self) -> list[str]:
        """The executions that began, in order."""
        return [occurrence.execution_id for occurrence in self.seen]


class Ear:
    """Hears the events of a scheduler from when it was made, and waits for one of a kind."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.events: list[Event] = []
        self._more = anyio.Event()
        scheduler.listen(self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def hears(self, kind: str) -> Event:
        """Return the oldest event of a kind that was not asked for yet, or wait for one."""
        while True:
            for event in self.events:
                if event.kind == kind:
                    self.events.remove(event)
                    return event
            self._more = anyio.Event()
            await self._more.wait()


def agent(name: str = "task", trigger: Trigger = Trigger.MANUAL, schedule: str = "", **fields: Any) -> Task:
    """Return a task that the recorder runs."""
    return Task(name, fields.pop("prompt", "do it"), trigger, schedule, runner="agent", **fields)


def every(schedule: str, name: str = "task", **fields: Any) -> Task:
    """Return an interval task that the recorder runs."""
    return agent(name, Trigger.INTERVAL, schedule, **fields)


def once(schedule: str = "", name: str = "task", **fields: Any) -> Task:
    """Return a `once` task that the recorder runs."""
    return agent(name, Trigger.ONCE, schedule, **fields)


def cron(schedule: str, tz: str = "UTC", name: str = "task", **fields: Any) -> Task:
    """Return a cron task that the recorder runs."""
    return agent(name, Trigger.CRON, schedule, tz=tz, **fields)


def clock_at(instant: datetime = MONDAY) -> VirtualClock:
    """Return a clock that stands at an instant."""
    return VirtualClock(to_us(instant))


def now(clock: VirtualClock) -> datetime:
    """Return a clock's instant."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock.now_us())


async def advance(scheduler: Scheduler, clock: VirtualClock, by: timedelta) -> None:
    """Let time pass, stopping at each fire on the way until its work has ended."""
    end_us = clock.now_us() + by // timedelta(microseconds=1)
    while (fire_us := await _next_us(scheduler, clock)) is not None and fire_us <= end_us:
        clock.set(fire_us)
    await leap(scheduler, clock, timedelta(microseconds=end_us - clock.now_us()))


async def leap(scheduler: Scheduler, clock: VirtualClock, by: timedelta) -> None:
    """Put the clock forward at once, as a laptop that slept does, and wait until what is due has ended."""
    clock.set(clock.now_us() + by // timedelta(microseconds=1))
    await _next_us(scheduler, clock)


async def _next_us(scheduler: Scheduler, clock: VirtualClock) -> int | None:
    """Return the next instant that the engine waits for, when nothing is due any more."""
    heap = scheduler.engine._heap
    await anyio.lowlevel.checkpoint()
    await scheduler.wait()
    while heap and heap[0][0] <= clock.now_us():
        await anyio.lowlevel.checkpoint()
        await scheduler.wait()
    return heap[0][0] if heap else None


@asynccontextmanager
async def running(
    store: str | SqliteStore, recorder: Recorder | None = None, **options: Any
) -> AsyncIterator[Scheduler]:
    """Enter a scheduler whose `agent` is the recorder, and fail when the test hangs."""
    with anyio.fail_after(HANG_S):
        async with Scheduler(store, runner=recorder or Recorder(), **options) as scheduler:
            yield scheduler


def short(executions: list[Execution]) -> list[tuple[str, str, int]]:
    """Return (status, slot, slots) of each execution."""
    return [(str(e.status), e.slot, e.slots) for e in executions]


# Policies: what waits for an instant is at rest, though it is in progress


class Script(Recorder):
    """A recorder whose runs fail as long as `fails` says so of their occurrence."""

    def __init__(self, fails: Callable[[Occurrence], bool] | bool = False, *, held: bool = False) -> None:
        super().__init__(held=held)
        self.fails = fails

    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        output = await super().run(spec, prompt, runtime, mailbox)
        if self.fails is True or (callable(self.fails) and self.fails(runtime.occurrence)):
            raise RuntimeError("it failed, as told")
        return output


def follower(after: str, name: str = "task", **fields: Any) -> Task:
    """Return a task that follows others and that the recorder runs."""
    return agent(name, Trigger.AFTER, after=after.replace(",", "\n"), **fields)


async def rest(*schedulers: Scheduler) -> None:
    """Return when nothing more happens unless time passes or somebody acts: bodies that are held count as at rest."""
    calm = 0
    while calm < 2:
        await anyio.sleep(0.001)  # a spin would keep the writer's thread from the interpreter
        calm = 0 if any(map(_stirs, schedulers)) else calm + 1


def _stirs(scheduler: Scheduler) -> bool:
    engine, live = scheduler.engine, scheduler.live()
    due = any(at_us <= scheduler.clock.now_us() and item.entry == entry for at_us, entry, item in engine._heap)
    if engine.settling or due or any(run.starting or run.finish is not None for run in live):
        return True
    return len([run for run in live if run.working]) != sum(
        getattr(getattr(runner, "_given", None), "inside", 0) for runner in scheduler.runners.values()
    )


async def come_true(what: Callable[[], object]) -> None:
    """Return when something holds that no event of this scheduler tells: a body's doing, or another scheduler's."""
    while not what():  # noqa: ASYNC110 - see above
        await anyio.sleep(0.001)


async def pass_time(by: timedelta, *schedulers: Scheduler) -> None:
    """Let time pass, at rest at each instant on the way that one of the schedulers waits for."""
    end_us = schedulers[0].clock.now_us() + by // timedelta(microseconds=1)
    await rest(*schedulers)
    while (at_us := min(map(_next_instant, schedulers))) <= end_us:
        await jump(timedelta(microseconds=at_us - schedulers[0].clock.now_us()), *schedulers)
    await jump(timedelta(microseconds=end_us - schedulers[0].clock.now_us()), *schedulers)


async def jump(by: timedelta, *schedulers: Scheduler) -> None:
    """Put the clocks forward at once, as a machine that slept does, until all is at rest; each has its own clock."""
    for scheduler in schedulers:
        assert isinstance(scheduler.clock, VirtualClock)
        scheduler.clock.set(scheduler.clock.now_us() + by // timedelta(microseconds=1))
    await rest(*schedulers)


def _next_instant(scheduler: Scheduler) -> int:
    """Return the next instant in a scheduler's heap that still counts."""
    now_us = scheduler.clock.now_us()
    return min(
        (at for at, entry, item in scheduler.engine._heap if item.entry == entry and at > now_us), default=1 << 62
    )


def attempts(executions: list[Execution]) -> list[tuple[str, int, str]]:
    """Return (slot, attempt, status) of each execution."""
    return [(e.slot, e.attempt, str(e.status)) for e in executions]
