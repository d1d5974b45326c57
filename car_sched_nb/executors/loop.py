"""Asynchronous work on the scheduler's own loop, or on the kernel's in another thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio

from car_sched_nb.loops import context_for_asyncio, soon_caller

Make = Callable[[], Awaitable[Any]]
Begin = Callable[[], Awaitable[None]]


class LoopHost(Protocol):
    """Where `executor="loop"` runs."""

    foreign: bool
    """Whether the work may have to wait until that loop is free."""

    async def run(self, make: Make, begin: Begin) -> Any:
        """Await `begin`, then what `make` returns, there; a cancellation returns only after it has really ended."""
        ...


class OwnLoop:
    """The loop that the scheduler itself runs on."""

    foreign = False

    async def run(self, make: Make, begin: Begin) -> Any:
        await begin()
        return await make()


class ForeignLoop:
    """An asyncio loop in another thread: a kernel's, which stands still during every synchronous cell."""

    foreign = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, make: Make, begin: Begin) -> Any:
        soon, free = soon_caller(), anyio.Event()
        self._loop.call_soon_threadsafe(lambda: soon(free.set))
        await free.wait()  # a cancellation here finds nothing begun
        await begin()
        return await _carried_out(self._loop, _Job(make, soon))


class ThreadLoop:
    """An asyncio loop in a daemon thread of its own, started with its first work and never waited for.

    What runs there holds up neither the kernel, whose cells stand still for nobody, nor the engine.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    async def run(self, make: Make) -> Any:
        """Await what `make` returns there, in this context; a cancellation returns only after it has really ended."""
        return await _carried_out(self._started(), _Job(make, soon_caller()))

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # a forked child has the object, not the thread
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            return self._loop


async def _carried_out(loop: asyncio.AbstractEventLoop, job: _Job) -> Any:
    loop.call_soon_threadsafe(job.start, context=context_for_asyncio())
    try:
        await job.ended.wait()
    except anyio.get_cancelled_exc_class():
        if not loop.is_running():
            raise  # its kernel is ending: nothing on that loop goes on, and nobody would tell of an end
        loop.call_soon_threadsafe(job.cancel)
        with anyio.CancelScope(shield=True):
            await job.ended.wait()
        if job.stopped:
            raise
    if job.error is not None:
        raise job.error
    return job.result


class _Job:
    """One piece of work on a foreign loop; only `ended` belongs to the engine's."""

    def __init__(self, make: Make, soon: Callable[..., Any]) -> None:
        self._make = make
        self._soon = soon
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None
        self.ended = anyio.Event()
        self.stopped = False
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    def cancel(self) -> None:
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def _work(self) -> None:
        try:
            with anyio.CancelScope() as scope:  # made here: the engine's loop may be of the other kind
                self._scope = scope
                if self._cancelled:
                    scope.cancel()
                try:
                    self.result = await self._make()
                except BaseException as error:
                    if isinstance(error, asyncio.CancelledError) and scope.cancel_called:
                        raise
                    # Anything else is the body's own, SystemExit and KeyboardInterrupt too: the kernel lives on.
                    self.error = error
            self.stopped = scope.cancelled_caught
        except Exception as error:  # noqa: BLE001 - whoever waits must learn of it
            self.error = error
        finally:
            self._soon(self.ended.set)
