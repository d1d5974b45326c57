"""Watched paths: events from the system, a moment of stillness, then the content decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from watchfiles import awatch

from car_sched_nb import files
from car_sched_nb.engine.armed import Armed
from car_sched_nb.engine.roots import Roots
from car_sched_nb.model import Trigger

SETTLE_S = 0.02
"""Seconds that size and mtime must hold still before a change counts."""

_LONGEST_S = 10.0  # a file that is written all the time is read all the same
_POLL_S = 1.0  # where the system cannot watch
_SWEEP_S = 30.0  # the system loses events when there are too many, and network mounts tell of none
_READERS = 16  # threads: more would only wait for each other

T = TypeVar("T")


def cursor_of(digest: str, counter: int) -> str:
    """Return a file_watch task's cursor: the content last settled and how many changes led there."""
    return f"{digest}.{counter}"


def parts_of(cursor: str) -> tuple[str, int]:
    """Return (digest, counter) of a cursor."""
    digest, _, counter = cursor.partition(".")
    return digest, int(counter)


class Followed:
    """An armed task whose paths are watched: `again` when something changed while it was `reading`."""

    __slots__ = ("again", "armed", "contents", "paths", "reading", "said")

    def __init__(self, armed: Armed) -> None:
        self.armed = armed
        self.paths = armed.task.watch_path
        self.contents = files.Contents()
        self.reading = self.again = False
        self.said: dict[str, str] = {}
        """Why it could not be watched or read, as it was told last."""


class Watcher:
    """Follows the paths of all armed file_watch tasks with one set of system watches.

    Parameters
    ----------
    settle
        Called on the engine's loop with (armed, cursor, digest, counter) when a content was found that is
        not the one last settled.
    tell
        Called with (armed, text) when a task's paths cannot be watched or read.
    """

    def __init__(self, settle: Callable[[Armed, str, str, int], None], tell: Callable[[Armed, str], None]) -> None:
        self._settle = settle
        self._tell = tell
        self._followed: dict[str, Followed] = {}
        self._readers = anyio.CapacityLimiter(_READERS)
        self._changed = anyio.Event()
        self._group: Any = None

    def follow(self, armed: Iterable[Armed]) -> None:
        """Follow exactly these tasks."""
        before, self._followed = self._followed, {}
        for one in armed:
            if one.task.trigger is Trigger.FILE_WATCH and one.task.enabled:
                known = before.get(one.task.id)
                same = known is not None and known.armed is one and known.paths == one.task.watch_path
                self._followed[one.task.id] = known if known is not None and same else Followed(one)
        if self._followed != before:
            self._changed.set()

    async def run(self) -> None:
        """Watch for ever; begins anew when other folders have to be watched, or one of them was replaced."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                while True:
                    await self._watch()
            finally:
                self._group = None  # what ends from now on has nobody to read for it

    async def _watch(self) -> None:
        self._changed = changed = anyio.Event()
        stop = anyio.Event()
        places = await self._survey()
        async with anyio.create_task_group() as watches:
            try:
                if self._followed:
                    await watches.start(self._follow, places, stop)
                    watches.start_soon(self._sweep)
                if places.blind:
                    watches.start_soon(self._poll, places.blind)
                # What changed before the watches stood, also while nothing watched, is found by reading once.
                self._read_all()
                if await self._survey() != places:
                    changed.set()
                await changed.wait()
                await anyio.sleep(SETTLE_S)  # where many folders are made, the watches wait for some of them
            finally:
                stop.set()  # a cancellation alone would wait for the thread that watches
            watches.cancel_scope.cancel()

    async def _survey(self) -> Roots:
        """Return the places as they are; nothing to watch when that cannot be found out now."""
        paths = {task_id: followed.paths for task_id, followed in self._followed.items()}
        try:
            return await _in_thread(partial(Roots, paths))
        except Exception as error:  # noqa: BLE001 - say no file descriptors: read again and again until there are
            places = Roots({})
            places.blind = dict.fromkeys(paths, str(error))
            return places

    async def _follow(self, places: Roots, stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        changes = awatch(
            *places.folders,
            watch_filter=None,
            debounce=50,
            step=10,
            recursive=False,
            stop_event=stop,
            ignore_permission_denied=True,
        )
        task_status.started()  # nobody else runs before the watches stand: only then the generator first waits
        try:
            async with aclosing(changes):
                async for found in changes:
                    told = await _in_thread(partial(places.told_by, [path for _, path in found]))
                    for task_id in told.concerned & self._followed.keys():
                        self._read_soon(self._followed[task_id])
                    if told.outdated:
                        self._changed.set()
        except Exception as error:  # noqa: BLE001 - a system that cannot watch must not end the engine
            cause = _cause(error)
            # A folder went just now, or a name is not UTF-8 (watchfiles 1.3 then tells of nothing more).
            if isinstance(cause, FileNotFoundError) or "Unable to decode path" in str(cause):
                self._changed.set()
            else:
                await self._poll(dict.fromkeys(self._followed, str(cause)))

    async def _poll(self, blind: dict[str, str]) -> None:
        """Read what the system does not tell of every second; after a while it is asked to watch again."""
        with anyio.move_on_after(_SWEEP_S):
            while True:
                for task_id in blind.keys() & self._followed.keys():
                    followed = self._followed[task_id]
                    self._say(followed, "watched", f"{blind[task_id]}; it is read every {_POLL_S:g} s instead")
                    self._read_soon(followed)
                await anyio.sleep(_POLL_S)
        self._changed.set()

    async def _sweep(self) -> None:
        """Read everything now and then."""
        while True:
            await anyio.sleep(_SWEEP_S)
            self._read_all()

    def _read_all(self) -> None:
        for followed in tuple(self._followed.values()):
            self._read_soon(followed)

    def read(self, armed: Armed) -> None:
        """Read a task's paths soon; changes while it is read are seen by reading again."""
        followed = self._followed.get(armed.task.id)
        if followed is not None and followed.armed is armed and armed.task.trigger is Trigger.FILE_WATCH:
            self._read_soon(followed)

    def _read_soon(self, followed: Followed) -> None:
        if followed.reading:
            followed.again = True
        elif self._group is not None:
            followed.reading = True
            self._group.start_soon(self._read, followed)

    async def _read(self, followed: Followed) -> None:
        armed = followed.armed
        try:
            digest = await self._look(followed.contents.digest, followed.paths)
            if digest != parts_of(armed.cursor)[0]:
                await self._hold_still(followed.paths)
                digest = await self._look(followed.contents.digest, followed.paths)
            old, counter = parts_of(armed.cursor)
            if digest != old and self._is_followed(followed):
                self._settle(armed, cursor_of(digest, counter + 1), digest, counter + 1)
        except Exception as error:  # noqa: BLE001 - one task's paths must not end the watching of all others
            self._say(followed, "read", str(error))
            followed.again = True
            await anyio.sleep(_POLL_S)
        finally:
            followed.reading = False
        if followed.again and self._is_followed(followed):
            followed.again = False
            self._read_soon(followed)

    def _is_followed(self, followed: Followed) -> bool:
        task = followed.armed.task
        return self._followed.get(task.id) is followed and task.watch_path == followed.paths

    def _say(self, followed: Followed, what: str, why: str) -> None:
        if followed.said.get(what) != why and self._is_followed(followed):
            followed.said[what] = why
            self._tell(followed.armed, f"its paths cannot be {what}: {why}")

    async def _hold_still(self, paths: str) -> None:
        """Return once size and times held still; looking takes at most half of the time."""
        before: object = None
        with anyio.move_on_after(_LONGEST_S):
            while True:
                began = anyio.current_time()
                now = await self._look(files.signature, paths)
                if now == before:
                    return
                before = now
                await anyio.sleep(max(SETTLE_S, anyio.current_time() - began))

    async def _look(self, function: Callable[[str], T], paths: str) -> T:
        return await _in_thread(partial(function, paths), self._readers)


async def _in_thread(function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    # A mount that hangs must not keep the engine from ending.
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


def _cause(error: BaseException) -> BaseException:
    """Return what went wrong, out of the groups of those who passed it on."""
    return _cause(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
