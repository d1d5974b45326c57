"""Calls from one thread into the loop of another, and tasks of a loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

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
