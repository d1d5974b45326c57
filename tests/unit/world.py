"""What the unit tests of the engine share: a runner that notes what it did, and time that is told to pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
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

HANG_S = 15
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
        self.error: BaseException | None = None
        self._go = anyio.Event()
        if not held:
            self._go.set()

    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        self.seen.append(runtime.occurrence)
        self.prompts.append(prompt)
        self.begun.set()
        try:
            await self._go.wait()
        except BaseException:
            self.interrupted += 1
            raise
        if self.error is not None:
            raise self.error
        return AgentOutput(name=spec.name, answer=f"completed: {prompt}", turns=1, tool_calls=0)

    def let_go(self) -> None:
        """Let what runs end."""
        self._go.set()

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
