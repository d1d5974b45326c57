"""Asynchronous work on an asyncio loop in a thread of its own: it holds up neither the engine nor the kernel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from car_sched_nb.loops import context_for_asyncio, soon_caller

T = TypeVar("T")
Work = Callable[[asyncio.Event], Awaitable[T]]


async def run_apart(work: Work[T]) -> T:
    """Return what some work returns; a cancellation returns only after it has really ended.

    Parameters
    ----------
    work
        Is given an event, which a cancellation sets: the work then ends what it has begun, and raises
        `asyncio.CancelledError`. It is an asyncio coroutine whatever the loop of the caller is.
    """
    job = _Job(work, soon_caller())
    # Its context is the caller's: what a library prints or logs there belongs to the execution.
    threading.Thread(target=context_for_asyncio().run, args=(job.run,), name="car-apart", daemon=True).start()
    try:
        await job.ended.wait()
    except anyio.get_cancelled_exc_class():
        job.stop()
        with anyio.CancelScope(shield=True):
            await job.ended.wait()
        if isinstance(job.error, asyncio.CancelledError):
            raise
    if job.error is not None:
        raise job.error
    result: T = job.result
    return result


class _Job:
    """One piece of work; only `ended` belongs to the caller's loop."""

    def __init__(self, work: Work[Any], soon: Callable[..., Any]) -> None:
        self._work = work
        self._soon = soon
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.ended = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                self.result = runner.run(self._await())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is awaited
            self.error = error
        finally:
            with suppress(RuntimeError):  # that loop has been closed over it: nobody waits
                self._soon(self.ended.set)

    async def _await(self) -> Any:
        return await self._work(self._stop)

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: it has just ended
            self._loop.call_soon_threadsafe(self._stop.set)
