"""A disk whose power can be cut: only what was synced is sure, of the rest a random part, sector by sector.

Lives read and write the system's files as ever; beside them it keeps what a real disk would have.
"""

# ruff: noqa: N802 - the names are SQLite's

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import apsw

SECTOR = 512
SYSTEM = apsw.vfs_names()[0]


@dataclass
class Platter:
    """What a disk has of one file: the bytes that are sure, and since the last sync what may be there."""

    sure: bytearray
    maybe: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, a sector's bytes), or (size, None) for a cut to that size."""

    def write(self, data: bytes, offset: int) -> None:
        starts = range(offset - offset % SECTOR, offset + len(data), SECTOR)
        ends = ((max(at, offset) - offset, at + SECTOR - offset) for at in starts)
        self.maybe += [(offset + start, data[start:end]) for start, end in ends]

    def sync(self) -> None:
        for what in self.maybe:
            _put(self.sure, *what)
        self.maybe.clear()

    def after_the_cut(self, chance: random.Random) -> bytes:
        """Return what is found when the power is back."""
        found, kept = bytearray(self.sure), chance.choice([0, 0.5, 0.9, 1])
        for what in self.maybe:
            if chance.random() < kept:
                _put(found, *what)
        return bytes(found)


def _put(file: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del file[offset:]
        return
    file.extend(bytes(max(0, offset - len(file))))
    file[offset : offset + len(data)] = data


class Disk(apsw.VFS):
    """SQLite's way to the system's files, until the power is cut.

    Parameters
    ----------
    after
        An empty folder: what is found on the disk after the cut is put there.
    last
        How many writes and syncs there are until then.
    """

    name = "power-cut"

    def __init__(self, after: Path, last: int, chance: random.Random) -> None:
        self._after = after
        self._left = last
        self._chance = chance
        self._platters: dict[str, Platter] = {}
        super().__init__(self.name, SYSTEM, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile(SYSTEM, name, flags)  # a temporary file: nobody looks for it after the cut
        path = name if isinstance(name, str) else name.filename()
        file = Plugged(SYSTEM, name, flags)
        if path not in self._platters:
            self._platters[path] = Platter(bytearray(Path(path).read_bytes()))
        file.disk, file.platter = self, self._platters[path]
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._platters.pop(filename, None)

    def used(self) -> None:
        """Count a write or a sync; at the last one the power is cut before it is done."""
        self._left -= 1
        if self._left == 0:
            self._cut()

    def _cut(self) -> NoReturn:
        for path, platter in self._platters.items():
            (self._after / Path(path).name).write_bytes(platter.after_the_cut(self._chance))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Plugged(apsw.VFSFile):
    """A file on that disk. Shared memory and locks are the system's: they need no power to be lost."""

    disk: Disk
    platter: Platter

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.used()
        super().xWrite(data, offset)
        self.platter.write(bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:
        self.disk.used()
        super().xTruncate(newsize)
        self.platter.maybe.append((newsize, None))

    def xSync(self, flags: int) -> None:
        self.disk.used()
        self.platter.sync()  # the system's own file needs none: nobody reads it after the cut
