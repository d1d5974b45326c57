"""Watched paths: events from the system, a moment of stillness, then the content decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from watchfiles import awatch

from car_sched_nb import files
from car_sched_nb.engine.armed import Armed
from car_sched_nb.model import Trigger

SETTLE_S = 0.02
"""Seconds that size and mtime must hold still before a change counts."""

_POLL_S = 0.1
_LONGEST_S = 10.0  # a file that is written all the time is read all the same


def cursor_of(digest: str, counter: int) -> str:
    """Return a file_watch task's cursor: the content last settled and how many changes led there."""
    return f"{digest}.{counter}"


def parts_of(cursor: str) -> tuple[str, int]:
    """Return (digest, counter) of a cursor."""
    digest, _, counter = cursor.partition(".")
    return digest, int(counter)


class Watcher:
    """Follows the paths of all armed file_watch tasks with one set of system watches.

    Parameters
    ----------
    settle
        Called on the engine's loop with (armed, cursor, digest, counter) when a content was found that is
        not the one last settled.
    """

    def __init__(self, settle: Callable[[Armed, str, str, int], None], tell: Callable[[Armed, str], None]) -> None:
        self._settle = settle
        self._tell = tell
        self._watched: dict[str, Armed] = {}
        self._reading: set[str] = set()
        self._again: set[str] = set()
        self._changed = anyio.Event()
        self._group: Any = None

    def follow(self, armed: Iterable[Armed]) -> None:
        """Follow exactly these tasks."""
        now = {a.task.id: a for a in armed if a.task.trigger is Trigger.FILE_WATCH and a.task.enabled}
        same = {k: a.task.watch_path for k, a in now.items()} == {
            k: a.task.watch_path for k, a in self._watched.items()
        }
        self._watched = now
        if not same:
            self._changed.set()

    async def run(self) -> None:
        """Watch for ever; begins anew when the set of folders changes."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                await self._watch()
            finally:
                self._group = None  # what ends from now on has nobody to read for it

    async def _watch(self) -> None:
        while True:
            self._changed = changed = anyio.Event()
            async with anyio.create_task_group() as watches:
                for folder, deep in self._folders():
                    watches.start_soon(self._follow, folder, deep)
                await changed.wait()
                watches.cancel_scope.cancel()

    def _folders(self) -> set[tuple[str, bool]]:
        return {
            (str(folder), deep)
            for armed in self._watched.values()
            for folder, deep in map(files.watched_folder, armed.task.watch_path.splitlines())
            if folder.is_dir()
        }

    async def _follow(self, folder: str, deep: bool) -> None:
        # The first yield says that the system watches; what changed before that, also while nothing
        # watched, is found by reading once.
        first = True
        try:
            async for changes in awatch(
                folder, watch_filter=None, debounce=50, step=10, recursive=deep, rust_timeout=50, yield_on_timeout=True
            ):
                if changes or first:
                    self._look(folder, first)
                first = False
        except FileNotFoundError:
            await self._poll(folder)

    async def _poll(self, folder: str) -> None:
        """Wait for a folder that went away to come back."""
        self._look(folder, True)
        while not await anyio.Path(folder).is_dir():  # noqa: ASYNC110 - its parent is not watched
            await anyio.sleep(_POLL_S)
        self._changed.set()

    def _look(self, folder: str, all_of_it: bool) -> None:
        for armed in list(self._watched.values()):
            if any(str(files.watched_folder(path)[0]) == folder for path in armed.task.watch_path.splitlines()):
                self.read(armed)

    def read(self, armed: Armed) -> None:
        """Read a task's paths soon; changes while it is read are seen by reading again."""
        task_id = armed.task.id
        if self._watched.get(task_id) is not armed or self._group is None:
            return
        if task_id in self._reading:
            self._again.add(task_id)
        else:
            self._reading.add(task_id)
            self._group.start_soon(self._read, armed)

    async def _read(self, armed: Armed) -> None:
        task_id, paths = armed.task.id, armed.task.watch_path
        try:
            digest = await anyio.to_thread.run_sync(partial(files.digest, paths))
            if digest != parts_of(armed.cursor)[0]:
                digest = await self._still(paths)
            old, counter = parts_of(armed.cursor)
            if digest != old and self._watched.get(task_id) is armed:
                self._settle(armed, cursor_of(digest, counter + 1), digest, counter + 1)
        except OSError as error:
            self._tell(armed, f"cannot be read: {error}")
        finally:
            self._reading.discard(task_id)
        if task_id in self._again:
            self._again.discard(task_id)
            self.read(armed)

    async def _still(self, paths: str) -> str:
        """Return the content once size and mtime held still."""
        before = await anyio.to_thread.run_sync(files.signature, paths)
        with anyio.move_on_after(_LONGEST_S):
            while True:
                await anyio.sleep(SETTLE_S)
                now = await anyio.to_thread.run_sync(files.signature, paths)
                if now == before:
                    break
                before = now
        return await anyio.to_thread.run_sync(files.digest, paths)
