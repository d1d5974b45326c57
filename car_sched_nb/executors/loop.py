"""Asynchronous work on the scheduler's own loop, or on the kernel's in another thread."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio

from car_sched_nb.loops import soon_caller

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
        job = _Job(make, soon)
        self._loop.call_soon_threadsafe(job.start, context=contextvars.copy_context())
        try:
            await job.ended.wait()
        except anyio.get_cancelled_exc_class():
            if not self._loop.is_running():
                raise  # its kernel is ending: nothing on that loop goes on, and nobody would tell of an end
            self._loop.call_soon_threadsafe(job.cancel)
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
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[None] | None = None
        self.ended = anyio.Event()
        self.stopped = False
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    def cancel(self) -> None:
        self._scope.cancel()

    async def _work(self) -> None:
        try:
            with self._scope:
                try:
                    self.result = await self._make()
                except BaseException as error:
                    if isinstance(error, asyncio.CancelledError) and self._scope.cancel_called:
                        raise
                    # Anything else is the body's own, SystemExit and KeyboardInterrupt too: the kernel lives on.
                    self.error = error
            self.stopped = self._scope.cancelled_caught
        finally:
            self._soon(self.ended.set)
