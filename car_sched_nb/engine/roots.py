"""Where the system has to watch: single folders, and whose paths a change in one of them concerns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFMT
from typing import NamedTuple

from car_sched_nb import files

_MOST_LINKS = 40
"""Linux gives up after as many, too."""


class Told(NamedTuple):
    """The ids of the tasks that changes concern, and whether other folders have to be watched from now on."""

    concerned: set[str]
    outdated: bool


class Roots:
    """The folders to watch for some tasks, as they are now; asks the file system, so not on a loop.

    Each folder is watched by itself, never with all below it: the system would follow links there, out of the folder
    or round in a loop. Watched are the folders that hold the files, and all on the way from the root to them, links
    and what these lead to included: any of them may be moved away or replaced.

    Parameters
    ----------
    watched
        The paths of each task, one a line, by its id.
    """

    def __init__(self, watched: Mapping[str, str]) -> None:
        self.kinds: dict[str, int] = {}
        """What each name on a way is: a folder, a link, a file, or 0 for nothing."""
        self._on_the_way: dict[str, set[str]] = {}
        self._holding: dict[str, set[str]] = {}
        """Folder: the ids of the tasks that all its entries concern."""
        self._growing: set[str] = set()
        """Folders in which a new folder is watched too."""
        self.blind: dict[str, str] = {}
        """Why the system cannot watch, by the id of a task whose paths have to be read again and again instead."""
        for task_id, paths in watched.items():
            for path in paths.splitlines():
                self._add(task_id, path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Roots) and (self.kinds, self._holding) == (other.kinds, other._holding)

    __hash__ = None  # type: ignore[assignment]

    @property
    def folders(self) -> list[str]:
        """The folders to watch, each after the one that it lies in: what is replaced meanwhile is seen there."""
        ways = (name for name, kind in self.kinds.items() if kind == S_IFDIR)
        return [name for name in dict.fromkeys((*ways, *self._holding)) if _watchable(name)]

    def told_by(self, changed: Iterable[str]) -> Told:
        """Return what changes mean."""
        concerned: set[str] = set()
        outdated = False
        for path in changed:
            folder = os.path.dirname(path)
            concerned |= self._on_the_way.get(path, set()) | self._holding.get(folder, set())
            outdated = outdated or self._leads_elsewhere(path, folder)
        return Told(concerned, outdated)

    def _leads_elsewhere(self, path: str, folder: str) -> bool:
        was, now = self.kinds.get(path), _kind(path)
        if was is not None and (S_IFDIR in (was, now) or S_IFLNK in (was, now)):
            return True  # one of the same name and number may be another one
        return (now == S_IFDIR and folder in self._growing) or (now == S_IFLNK and folder in self._holding)

    def _add(self, task_id: str, path: str) -> None:
        found = files.survey(path)
        base, deep = files.watched_folder(path)
        real = self._go(task_id, str(base))
        if not found.folders:
            self._check(task_id, os.path.dirname(self._go(task_id, path)))
        for folder in found.folders:
            there = os.path.join(real, folder.removeprefix(str(base)).lstrip(os.sep)).rstrip(os.sep) or os.sep
            if files.is_glob(path):
                there = self._go(task_id, folder)  # a pattern may lead through links
            self._holding.setdefault(there, set()).add(task_id)
            self._check(task_id, there)
            if deep:
                self._growing.add(there)
        for file in found.files:
            if found.folders and os.path.islink(file):
                self._go(task_id, file)

    def _go(self, task_id: str, path: str) -> str:
        """Note every name on the way to a path and return where it really leads."""
        name = os.sep
        for name in _way(path):
            if name not in self.kinds:
                self.kinds[name] = _kind(name)
            self._on_the_way.setdefault(name, set()).add(task_id)
        return name

    def _check(self, task_id: str, folder: str) -> None:
        if os.path.isdir(folder) and not _watchable(folder):
            self.blind[task_id] = f"{folder!r} may not be listed, or its name is not UTF-8"


def _way(path: str) -> Iterator[str]:
    """Yield the names that are looked up for a path, from the root: folders, links, what these lead to, itself."""
    name, *rest = Path(path).parts
    links = 0
    yield name
    while rest:
        part = rest.pop(0)
        name = os.path.dirname(name) if part == os.pardir else os.path.join(name, part)
        yield name
        try:
            target = Path(name).readlink()
        except OSError:
            continue  # no link, or nothing
        links += 1
        if links > _MOST_LINKS:
            return
        name, *rest = (Path(name).parent / target).parts + tuple(rest)  # from the root again
        yield name


def _kind(path: str) -> int:
    try:
        return S_IFMT(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return 0


def _watchable(folder: str) -> bool:
    try:
        folder.encode()
    except UnicodeEncodeError:
        return False
    return os.access(folder, os.R_OK)
