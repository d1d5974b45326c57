"""Calls from one thread into the loop of another, and tasks of a loop."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None]], None]


def soon_caller() -> Callable[..., Any]:
    """Return this loop's thread-safe "call soon", whichever loop it is."""
    native: Any = current_token().native_token
    # asyncio has the one, trio the other
    soon: Callable[..., Any] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return soon


def context_for_asyncio() -> contextvars.Context:
    """Return a copy of this context in which anyio finds asyncio: trio's own says otherwise, also in another thread."""
    context = contextvars.copy_context()
    if (sniffio := sys.modules.get("sniffio")) is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


def spawner(group: TaskGroup) -> Spawn:
    """Return what starts a coroutine that ends by itself and raises nothing, as cheaply as this loop can.

    On asyncio that is a bare task: a task group of anyio takes eight times as long to start one. Whoever spawns
    waits for the end; `group` takes them on other loops.
    """
    native: Any = current_token().native_token
    if not isinstance(native, asyncio.AbstractEventLoop):

        def start(work: Coroutine[Any, Any, None]) -> None:
            group.start_soon(_await, work)

        return start
    alive: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task = native.create_task(work)
        alive.add(task)
        task.add_done_callback(alive.discard)

    return spawn


async def _await(work: Coroutine[Any, Any, None]) -> None:
    await work


class OwnThread:
    """One thread that calls functions in turn; a caller that is cancelled leaves its call behind.

    It starts with the first call, and does not keep the program from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, fn: Callable[[], T]) -> T:
        """Return what `fn` returns in the thread, which has this context."""
        soon, ended = soon_caller(), anyio.Event()
        context = contextvars.copy_context()
        result: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                result.append(context.run(fn))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever called
                errors.append(error)
            with suppress(RuntimeError):  # its loop is gone, and with it whoever called
                soon(ended.set)

        self._calls.put(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        await ended.wait()
        if errors:
            raise errors[0]
        return result[0]

    def end(self) -> None:
        """End the thread after what it was given."""
        if self._thread is not None:
            self._thread = None
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
