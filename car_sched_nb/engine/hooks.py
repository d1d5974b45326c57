"""Functions that are called when a task fails, recovers or completes: `@car.on("failed")`."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import deque
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import anyio

from car_sched_nb.engine.edges import Notice, Turn
from car_sched_nb.errors import InvalidInput, nearest
from car_sched_nb.executors.loop import LoopHost
from car_sched_nb.loops import OwnThread
from car_sched_nb.model import NOTICES
from car_sched_nb.output import Output, clip, current_output
from car_sched_nb.tracebacks import words_of

MOST = 1_000
"""Calls of a hook that wait; beyond that the oldest are given up."""

_SHOWN = 500
_log = logging.getLogger(__name__)


class Hook:
    """A function that is called at some notices, one after the other; it stays callable."""

    def __init__(self, hooks: Hooks, kind: str, function: Callable[[Notice], Any], task: str, every: bool) -> None:
        functools.update_wrapper(self, function)
        self.kind = kind
        self.task = task
        self.every = every
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.waiting: deque[Notice] = deque(maxlen=MOST)
        self.busy = False
        self._hooks = hooks
        self._thread = OwnThread(f"car-hook-{self.name}")

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.function(*args, **options)

    def __repr__(self) -> str:
        return f"<hook {self.name} on {self.kind}{f' of {self.task}' if self.task != '*' else ''}>"

    def off(self) -> None:
        """Call it no more; from any thread."""
        self._hooks.remove(self)
        self.rest()

    def rest(self) -> None:
        """End its thread until it is called again."""
        self._thread.end()

    def wants(self, task: str, turned: Turn) -> bool:
        """Tell whether it is called at an end of a task."""
        wanted = turned.kind == self.kind or (self.kind == "completed" and not turned.failed)
        at = self.every or self.kind == "completed" or turned.edge
        return wanted and at and fnmatchcase(task, self.task)

    async def call(self, notice: Notice, host: LoopHost) -> str:
        """Call the function and return why it failed, if it did. In a kernel what it prints goes to the log."""
        output = Output()
        if host.foreign:  # else it would be shown in whatever cell runs
            current_output.set(output)
        reason = ""
        try:
            if inspect.iscoroutinefunction(self.function):
                await host.run(lambda: self.function(notice), _at_once)
            else:
                await self._thread.call(lambda: self.function(notice))
        except GeneratorExit:
            raise
        except BaseException as error:
            cancelled = isinstance(error, anyio.get_cancelled_exc_class())
            if cancelled and anyio.get_current_task().has_pending_cancellation():
                raise
            # Any other is the function's own, SystemExit and a task's that it awaited too: the engine lives on.
            reason = clip(f"{type(error).__name__}: {words_of(error)}", _SHOWN)
        printed = output.text().strip()
        current_output.set(None)
        if printed:
            _log.info("hook %s printed at %s of %s: %s", self.name, self.kind, notice.task, clip(printed, _SHOWN))
            reason = f"{reason} (it printed: {clip(printed, _SHOWN)})" if reason else ""
        return reason


async def _at_once() -> None:
    """Nothing has to be written before a hook begins."""


class Hooks:
    """The hooks of one scheduler; from any thread."""

    def __init__(self) -> None:
        self._hooks: tuple[Hook, ...] = ()

    def add(self, kind: str, function: Callable[[Notice], Any], task: str | None, every: bool) -> Hook:
        """Call a function from now on; one that was defined again under its name takes the place of the former."""
        if kind not in NOTICES:
            raise InvalidInput(f"on is {', '.join(NOTICES)}, not {kind!r}{nearest(str(kind), NOTICES)}")
        if every and kind == "recovered":
            raise InvalidInput("every=True goes with 'failed'; a recovery is one already")
        if isinstance(function, Hook):
            function = function.function
        if not callable(function):
            raise InvalidInput(f'write @car.on("{kind}") over a function that takes one notice')
        hook = Hook(self, kind, function, task or "*", every)
        former = [one for one in self._hooks if _replaces(hook, one)]
        self._hooks = (*(one for one in self._hooks if one not in former), hook)
        return hook

    def remove(self, hook: Hook) -> None:
        self._hooks = tuple(one for one in self._hooks if one is not hook)

    def rest(self) -> None:
        """End their threads until they are called again."""
        for hook in self._hooks:
            hook.rest()

    def wanting(self, task: str, turned: Turn) -> list[Hook]:
        """Return who is called at an end of a task."""
        return [hook for hook in self._hooks if hook.wants(task, turned)]


def _replaces(new: Hook, old: Hook) -> bool:
    if new.function is old.function:
        return (new.kind, new.task) == (old.kind, old.task)  # the same function may be for several kinds
    return new.name == old.name != "<lambda>"
