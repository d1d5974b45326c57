"""Watched paths: events from the system, a moment of stillness, then the content decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import anyio
import anyio.to_thread
from watchfiles import awatch

from car_sched_nb import files
from car_sched_nb.engine.armed import Armed
from car_sched_nb.model import Trigger

SETTLE_S = 0.02
"""Seconds that size and mtime must hold still before a change counts."""

_LONGEST_S = 10.0  # a file that is written all the time is read all the same
_POLL_S = 1.0  # where the system cannot watch


def cursor_of(digest: str, counter: int) -> str:
    """Return a file_watch task's cursor: the content last settled and how many changes led there."""
    return f"{digest}.{counter}"


def parts_of(cursor: str) -> tuple[str, int]:
    """Return (digest, counter) of a cursor."""
    digest, _, counter = cursor.partition(".")
    return digest, int(counter)


class Watcher:
    """Follows the paths of all armed file_watch tasks with two sets of system watches, flat and deep.

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
        self._watched: dict[str, Armed] = {}
        self._roots: dict[Path, tuple[bool, set[str]]] = {}
        """Folder: (deep, the ids of the tasks that it tells of)."""
        self._seen: dict[str, tuple[object, str]] = {}
        """Task id: the (signature, digest) that was read last."""
        self._reading: set[str] = set()
        self._again: set[str] = set()
        self._changed = anyio.Event()
        self._group: Any = None

    def follow(self, armed: Iterable[Armed]) -> None:
        """Follow exactly these tasks."""
        now = {a.task.id: a for a in armed if a.task.trigger is Trigger.FILE_WATCH and a.task.enabled}
        same = {k: (a, a.task.watch_path) for k, a in now.items()} == {
            k: (a, a.task.watch_path) for k, a in self._watched.items()
        }
        self._watched = now
        if not same:
            self._seen = {k: v for k, v in self._seen.items() if k in now}
            self._changed.set()

    async def run(self) -> None:
        """Watch for ever; begins anew when the set of folders changes, or one of them was replaced."""
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
        self._roots = await anyio.to_thread.run_sync(_roots_of, dict(self._watched))
        known = self._places()
        async with anyio.create_task_group() as watches:
            for deep in (False, True):
                folders = [str(folder) for folder, (is_deep, _) in self._roots.items() if is_deep == deep]
                if folders:
                    watches.start_soon(self._follow, folders, deep, known, stop)
            # The watches are set up before this task goes on; what changed before that, also while nothing
            # watched, is found by reading once.
            await anyio.lowlevel.checkpoint()
            for armed in tuple(self._watched.values()):
                self.read(armed)
            try:
                await changed.wait()
            finally:
                stop.set()  # a cancellation alone would wait for the thread that watches
            watches.cancel_scope.cancel()

    async def _follow(self, folders: list[str], deep: bool, known: object, stop: anyio.Event) -> None:
        try:
            async for changes in awatch(
                *folders, watch_filter=None, debounce=50, step=10, recursive=deep, stop_event=stop
            ):
                self._look({Path(path) for _, path in changes})
                if self._places() != known:
                    self._changed.set()  # a folder came, went or was replaced: its watch is of what it was
        except Exception as error:  # noqa: BLE001 - a system that cannot watch must not end the engine
            for armed in self._of(folders):
                self._tell(armed, f"cannot be watched ({error}); its paths are read every {_POLL_S:g} s instead")
            while True:
                await anyio.sleep(_POLL_S)
                for armed in self._of(folders):
                    self.read(armed)
                if self._places() != known:
                    self._changed.set()

    def _places(self) -> list[tuple[int, int, bool] | None]:
        """Return what the watches were set up for: when it changes, they have to be set up again."""
        paths: list[str | Path] = [*self._roots]
        paths += [path for armed in self._watched.values() for path in armed.task.watch_path.splitlines()]
        return [_identity(path) for path in paths]

    def _of(self, folders: Iterable[str]) -> list[Armed]:
        ids = {task_id for folder in folders for task_id in self._roots.get(Path(folder), (False, set()))[1]}
        return [self._watched[task_id] for task_id in ids if task_id in self._watched]

    def _look(self, changed: set[Path]) -> None:
        told = {folder for path in changed for folder in (path, *path.parents)}
        for armed in self._of(str(folder) for folder in self._roots if folder in told):
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
            digest = await self._digest(task_id, paths)
            if digest != parts_of(armed.cursor)[0]:
                await self._hold_still(paths)
                digest = await self._digest(task_id, paths)
            old, counter = parts_of(armed.cursor)
            if digest != old and self._watched.get(task_id) is armed:
                self._settle(armed, cursor_of(digest, counter + 1), digest, counter + 1)
        except Exception as error:  # noqa: BLE001 - one task's paths must not end the watching of all others
            self._tell(armed, f"cannot be read: {error}")
        finally:
            self._reading.discard(task_id)
        if task_id in self._again:
            self._again.discard(task_id)
            self.read(armed)

    async def _digest(self, task_id: str, paths: str) -> str:
        """Return the content; read again only when size, times or inode of something have changed."""
        signature = await anyio.to_thread.run_sync(files.signature, paths)
        known = self._seen.get(task_id)
        if known is not None and known[0] == signature:
            return known[1]
        digest = await anyio.to_thread.run_sync(partial(files.digest, paths))
        self._seen[task_id] = (signature, digest)
        return digest

    async def _hold_still(self, paths: str) -> None:
        """Return once size and times held still."""
        before = await anyio.to_thread.run_sync(files.signature, paths)
        with anyio.move_on_after(_LONGEST_S):
            while True:
                await anyio.sleep(SETTLE_S)
                now = await anyio.to_thread.run_sync(files.signature, paths)
                if now == before:
                    return
                before = now


def _roots_of(watched: dict[str, Armed]) -> dict[Path, tuple[bool, set[str]]]:
    """Return the folders to watch and whose they are.

    Beside the folder of a path its own parent, which tells when the folder itself is replaced, and for a link the
    folder of what it leads to. A folder that is not there is watched through the nearest one that is.
    """
    roots: dict[Path, tuple[bool, set[str]]] = {}
    for task_id, armed in watched.items():
        for path in armed.task.watch_path.splitlines():
            folder, deep = files.watched_folder(path)
            found = [(folder, deep), (folder.parent, False)]
            real = Path(os.path.realpath(path))
            if not files.is_glob(path) and real != Path(path):
                found.append((real, True) if real.is_dir() else (real.parent, False))
            for root, is_deep in found:
                there = _nearest_folder(root)
                was_deep, ids = roots.get(there, (False, set()))
                roots[there] = (was_deep or (is_deep and there == root), ids | {task_id})
    return roots


def _nearest_folder(folder: Path) -> Path:
    return next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))


def _identity(path: str | Path) -> tuple[int, int, bool] | None:
    """Tell a path apart from another of its name; a file that is replaced stays the same place."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    folder = S_ISDIR(stat.st_mode)
    return (stat.st_dev, stat.st_ino, True) if folder else (0, 0, False)
