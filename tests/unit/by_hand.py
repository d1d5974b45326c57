"""Kernels driven by hand from a synchronous test: one loop, no threads, and no time but what is told to pass.

Everything is deterministic: the same calls lead to the same turns of the loop, in this process and in any other.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import anyio
import anyio.lowlevel
import anyio.to_thread

from car_sched_nb.engine import scheduler as engine_scheduler
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import CarError, SchedulerClosed
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store import owners
from car_sched_nb.store import writer as store_writer
from car_sched_nb.store.ops import Op
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer

SECOND_US = 1_000_000


MOST_TURNS = 5_000
"""Turns of the loop after which what goes on is taken to go on for ever."""


class Restless(AssertionError):
    """Something goes on that should have come to rest."""


class _Idle(selectors.SelectSelector):
    """Stops its loop where it would wait."""

    stop: Callable[[], None]
    turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.turns += 1
        if timeout is None or timeout > 0 or self.turns > MOST_TURNS:
            self.stop()
        return []


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is moved."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)
        self._idle.stop = self.stop
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def until_idle(self) -> None:
        """Run until nothing happens any more unless time passes."""
        self._idle.turns = 0
        self.run_forever()
        if self._idle.turns > MOST_TURNS:
            raise Restless("it goes on for ever though no time passes")

    def turns(self, number: int) -> None:
        """Run so many turns only: what is under way stays so."""
        for _ in range(number):
            self.call_soon(self.stop)
            self.run_forever()

    def tick(self, by_s: float) -> None:
        """Let monotonic time pass, for what polls."""
        self.now_s += by_s
        self.until_idle()


class HandClock:
    """The wall clock of one kernel; it wakes the engine whenever it is moved."""

    def __init__(self, loop: HandLoop, now_us: int) -> None:
        self._loop = loop
        self._now_us = now_us
        self._wake = anyio.Event()

    def now_us(self) -> int:
        return self._now_us

    def monotonic_us(self) -> int:
        return int(self._loop.now_s * SECOND_US)

    async def wait(self, until_us: int | None, wake: anyio.Event) -> None:
        if until_us is not None and until_us <= self._now_us:
            await anyio.lowlevel.checkpoint()
            return
        self._wake = wake
        await wake.wait()

    async def reach(self, until_us: int) -> None:
        await anyio.sleep_forever()  # what has no hurry does not come in a test of one second

    def move(self, by_us: int) -> None:
        """Move it; nothing is run before the loop is."""
        self._now_us += by_us
        self._wake.set()


class HandWriter(Writer):
    """Writes a batch in a turn of the loop; may be `slow`, as a disk is, and dies with its kernel."""

    slow = dead = planned = False

    def submit(self, op: Op, answer: Callable[[Any], None]) -> None:
        super().submit(op, answer)
        self.go_on()

    def go_on(self) -> None:
        """Write what waits with the next turn."""
        if not self.planned and not self.slow:
            self.planned = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self.planned = False
        self._hand_over()
        if self.slow or not (self._held or not self._waiting.empty()):
            return
        batch = self._collect()
        assert batch is not None
        try:
            if self.dead:
                raise SchedulerClosed
            results = self._store.apply([op for op, _ in batch])
            self.commits += 1
        except CarError as error:
            results = [error] * len(batch)
        self._answers.extend((answer, result) for (_, answer), result in zip(batch, results, strict=True))
        self._arrived.set()
        if self._held:
            self.go_on()

    def close(self) -> None:
        self._hand_over()
        while self._held or not self._waiting.empty():
            self._turn()
        self._closed = True


class _NoThread:
    def __init__(self, **options: Any) -> None:
        pass

    def start(self) -> None:
        pass


class _Corpse:
    """What is left of an owner that was killed: a lock that the system frees, and rows that nobody touched."""

    def __init__(self, owner: owners.Owner, graves: set[str]) -> None:
        self._lock, self.id = owner._lock, owner.id
        self._graves = graves

    def leave(self, now_us: int) -> None:
        self._graves.add(self.id)
        if self._lock:
            self._lock.release()


@contextmanager
def by_hand() -> Iterator[set[str]]:
    """Take threads and chance out of the engine; the owners in the set that is given are dead, also in memory."""
    graves: set[str] = set()
    numbers = itertools.count(1)
    alive = owners.alive

    async def at_once(work: Callable[[], Any], *args: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return work(*args)

    def is_alive(store: SqliteStore, owner: str) -> bool:
        return owner not in graves if store.in_memory else alive(store, owner)

    with ExitStack() as stack:
        for where, name, what in (
            (anyio.to_thread, "run_sync", at_once),
            (secrets, "token_hex", lambda length: f"{next(numbers):0{2 * length}x}"),
            (owners, "alive", is_alive),
            (owners, "_LONG_ENOUGH_S", float("inf")),  # how long a run takes must not decide what it does
            (engine_scheduler, "Writer", HandWriter),
            (store_writer, "threading", SimpleNamespace(Thread=_NoThread)),
        ):
            stack.enter_context(mock.patch.object(where, name, what))
        yield graves


class Body:
    """One run of a body, as the body itself knows it."""

    def __init__(self, kernel: Kernel, runtime: Runtime, spec: AgentSpec, prompt: str) -> None:
        occurrence = runtime.occurrence
        self.kernel = kernel
        self.execution_id = occurrence.execution_id
        self.occurrence_id = occurrence.id
        self.task_id = occurrence.id.partition(":")[0]
        self.attempt = occurrence.attempt
        self.number: int = spec.metadata["number"]
        """Which definition it belongs to."""
        self.mode = prompt
        self.error: BaseException | None = None
        self.lives = True
        self._go = anyio.Event()

    def end(self, error: BaseException | None = None) -> None:
        """Let it end, well or with an error."""
        self.error = error
        self._go.set()

    async def work(self) -> AgentOutput:
        try:
            if self.mode == "quick":
                return AgentOutput(answer="done")
            if self.mode == "fails":
                raise ValueError("no")
            await self._wait()
            if self.error is not None:
                raise self.error
            return AgentOutput(answer="done")
        finally:
            self.lives = False

    async def _wait(self) -> None:
        try:
            await self._go.wait()
        except asyncio.CancelledError:
            if self.mode == "stubborn":
                with anyio.CancelScope(shield=True):
                    await self._go.wait()
            raise


class Kernel:
    """A scheduler's lives, one after the other, on one store."""

    def __init__(
        self, loop: HandLoop, store: SqliteStore, clock: HandClock, graves: set[str], begin: Callable[[Body], None]
    ) -> None:
        self.loop = loop
        self.store = store
        self.clock = clock
        self.most = 64
        """Bodies that its next life runs at the same time."""
        self.lives = False
        self.bodies: list[Body] = []
        self._graves = graves
        self._begin = begin
        self._calls: list[asyncio.Task[Any]] = []

    @property
    def writer(self) -> HandWriter:
        assert isinstance(self.scheduler.writer, HandWriter)
        return self.scheduler.writer

    @property
    def owner(self) -> str:
        return self.scheduler.owner

    def enter(self) -> None:
        """Begin a life."""
        self.scheduler = Scheduler(self.store, runner=self._body, clock=self.clock, max_running=self.most)
        self._leave = asyncio.Event()
        self._dying = False
        self._life = self.loop.create_task(self._live())
        self.loop.until_idle()
        assert self.lives

    async def _live(self) -> None:
        async with self.scheduler:
            self.lives = True
            await self._leave.wait()

    async def _body(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        body = Body(self, runtime, spec, prompt)
        self.bodies.append(body)
        if self._dying:
            body.lives, body.mode = False, "quick"
        else:
            self._begin(body)
        return await body.work()

    def living(self) -> list[Body]:
        """Return the bodies that have begun here and not ended, oldest first."""
        self.bodies = [body for body in self.bodies if body.lives]
        return self.bodies

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await something of the scheduler; None when it goes on, or was refused with an error for the user."""
        task = self.loop.create_task(work)
        self.loop.until_idle()
        self._calls = [one for one in (*self._calls, task) if not _answered(one)]
        return task.result() if task.done() and task.exception() is None else None

    def slow_down(self) -> None:
        """Write nothing for a while."""
        self.writer.slow = True

    def speed_up(self) -> None:
        """Write what waited."""
        self.writer.slow = False
        self.loop.call_soon(self.writer.go_on)
        self.loop.until_idle()

    def leave(self) -> None:
        """End a life in order."""
        self.speed_up()
        self._leave.set()
        self.loop.until_idle()
        for body in self.living():
            if body.mode != "stubborn":
                raise Restless(f"{body.execution_id} goes on though its scheduler was left")
            body.end()
        self._end()

    def crash(self) -> None:
        """End a life as kill -9 does: nothing more is written, and the system frees its lock."""
        for body in self.bodies:
            body.lives = False
            body.end()
        self.bodies = []
        self._dying = True
        writer, scheduler = self.writer, self.scheduler
        writer.dead, writer.slow = True, False
        scheduler._owner = _Corpse(scheduler._owner, self._graves)  # type: ignore[assignment]
        self._leave.set()
        self.loop.call_soon(writer.go_on)
        self.loop.until_idle()
        self._end()

    def _end(self) -> None:
        for _ in range(10):
            if self._life.done():
                break
            self.loop.tick(1)
        self._life.result()
        self.lives = False
        for call in self._calls:
            call.cancel()
        self.loop.until_idle()
        if not self._dying and not all(call.done() for call in self._calls):
            raise Restless("what was asked for is never answered, though its scheduler was left")
        self._calls = []


def _answered(task: asyncio.Task[Any]) -> bool:
    """Tell whether a call has ended; an error that is not for the user is the machine's to see."""
    if not task.done():
        return False
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, CarError):
        raise error
    return True
