"""The state of watched files, folders and globs as 16 hex digits of their content."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import re
import time
from pathlib import Path
from stat import S_IFMT, S_ISREG
from typing import NamedTuple

from watchfiles import DefaultFilter

from car_sched_nb.errors import InvalidInput

LARGE = 64 * 1024 * 1024
"""Bytes above which size, mtime and inode stand for the content."""

RACY_NS = 2_000_000_000
"""A file changed so shortly ago may change again and show the same times: FAT counts them in steps of 2 s."""

_CHUNK = 1024 * 1024
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WILD = "*?["
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ESTALE}
"""Errors that say something of this moment and nothing of the file."""

_IGNORED_FOLDERS = {*DefaultFilter.ignore_dirs, ".ipynb_checkpoints"}
_IGNORED_FILES = re.compile("|".join(DefaultFilter.ignore_entity_patterns))
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors of a name that leads to nothing, of a link that leads to itself too."""

Stamp = tuple[int, int, int, int, int]
"""Kind, size, mtime, ctime and inode of a file."""


class Survey(NamedTuple):
    """What a path stands for now: its files, and the folders whose entries decide which files these are."""

    files: list[str]
    folders: list[str]


class Contents:
    """Digests of files, kept while size, times and inode hold: of a large folder only what changed is read again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Stamp, str]] = {}

    def digest(self, paths: str) -> str:
        """Return the state of all watched paths, one a line, as 16 hex digits; reads them, so not on a loop.

        Raises
        ------
        OSError
            When they cannot be read just now, say for lack of file descriptors: that is no state of theirs.
        """
        before, self._known = self._known, {}
        states = [self._path(path, before) for path in paths.splitlines()]
        return states[0] if len(states) == 1 else _hash("\n".join(states).encode())

    def _path(self, path: str, before: dict[str, tuple[Stamp, str]]) -> str:
        if not is_glob(path) and not os.path.isdir(path):
            return self._file(path, before)
        base = str(watched_folder(path)[0])
        found = []
        for file in survey(path).files:
            state = self._file(file, before)
            if state not in (ABSENT, _NO_CONTENT):
                found.append(f"{file.removeprefix(base).lstrip(os.sep)}\0{state}")
        if not found and not os.path.isdir(path):
            return ABSENT
        return _hash("\n".join(found).encode("utf-8", "surrogateescape"))

    def _file(self, path: str, before: dict[str, tuple[Stamp, str]]) -> str:
        try:
            stat = os.stat(path)
            if not S_ISREG(stat.st_mode):
                return _NO_CONTENT  # a pipe would wait for a writer for ever, a device might never end
            if stat.st_size > LARGE:
                return _large(stat)
            known = before.get(path)
            if known is not None and known[0] == _stamp(stat):
                self._known[path] = known
                return known[1]
            return self._read(path)
        except OSError as error:
            return _unreadable(error)

    def _read(self, path: str) -> str:
        now_ns = time.time_ns()
        # It may have become a pipe since it was looked at.
        descriptor = os.open(path, _OPEN)
        try:
            stat = os.fstat(descriptor)
            if not S_ISREG(stat.st_mode):
                return _NO_CONTENT
            content, size = hashlib.sha256(), 0
            while chunk := os.read(descriptor, min(_CHUNK, stat.st_size + 1)):
                content.update(chunk)
                size += len(chunk)
                if size > LARGE:  # it grows as fast as it is read
                    return _large(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        digest = content.hexdigest()[:16]
        if max(stat.st_mtime_ns, stat.st_ctime_ns) < now_ns - RACY_NS:
            self._known[path] = (_stamp(stat), digest)
        return digest


def is_glob(path: str) -> bool:
    """Tell whether a path is a pattern; an existing file with such a name is a file."""
    return any(sign in path for sign in _WILD) and not os.path.exists(path)


def resolve(paths: str, base: str | None = None) -> str:
    """Return watched paths, one a line, absolute, so that a `cd` in the notebook does not move them.

    Raises
    ------
    InvalidInput
        When the parent of a path does not exist: nothing could be seen there.
    """
    root = Path(base or os.getcwd())
    found = []
    for line in paths.splitlines():
        path = os.path.normpath(root / Path(line.strip()).expanduser())
        parent, _ = watched_folder(path)
        if not parent.is_dir():
            raise InvalidInput(f"--watch {line.strip()}: the folder {parent} does not exist; make it first")
        found.append(path)
    return "\n".join(found)


def watched_folder(path: str) -> tuple[Path, bool]:
    """Return the folder whose entries tell of a path, and whether with all below it.

    A file is watched through its folder, so that a rename over it, a deletion and a new file are seen.
    """
    if os.path.isdir(path):
        return Path(path), True
    if not is_glob(path):
        return Path(path).parent, False
    parts = Path(path).parts
    fixed = next(i for i, part in enumerate(parts) if any(sign in part for sign in _WILD))
    return Path(*parts[:fixed]), fixed < len(parts) - 1


def digest(paths: str) -> str:
    """Return the state of all watched paths, one a line, as 16 hex digits; reads them, so not on a loop."""
    return Contents().digest(paths)


def signature(paths: str) -> dict[str, Stamp]:
    """Return kind, size, times and inode of every watched file: when it holds still, a writer has finished."""
    found = {}
    for path in paths.splitlines():
        for file in survey(path).files:
            try:
                found[file] = _stamp(os.stat(file))
            except OSError as error:
                _unreadable(error)
    return found


def survey(path: str) -> Survey:
    """Return the files, sorted, and the folders of a path; links to folders are not followed, as they may form a loop.

    A folder that a link in the path itself or in the fixed parts of a glob leads to is what was asked for.
    """
    if is_glob(path):
        base = watched_folder(path)[0]
        return _matches(str(base), Path(path).parts[len(base.parts) :])
    if os.path.isdir(path):
        return _tree(path)
    return Survey([path], [])


def _tree(folder: str) -> Survey:
    files, folders = [], [folder]
    for place in folders:  # it grows as folders are found
        for entry in _entries(place):
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _IGNORED_FOLDERS:
                    folders.append(entry.path)
            elif not _IGNORED_FILES.search(entry.name) and not (entry.is_symlink() and os.path.isdir(entry.path)):
                files.append(entry.path)
    return Survey(sorted(files), folders)


def _matches(base: str, pattern: tuple[str, ...]) -> Survey:
    """Find what fits a pattern, as `glob.glob` does, but for `**`, which goes into folders and not into links."""
    files: set[str] = set()
    looked: set[tuple[str, tuple[str, ...]]] = set()
    waiting = [(base, pattern)]
    while waiting:
        folder, parts = here = waiting.pop()
        if here in looked:
            continue
        looked.add(here)
        part, rest = parts[0], parts[1:]
        if part == "**" and rest:
            waiting.append((folder, rest))
        for entry in _entries(folder):
            if part == "**":
                fits = not entry.name.startswith(".")
                if fits and entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, parts))
            else:
                hidden = entry.name.startswith(".") and not part.startswith(".")
                fits = entry.name == part or (not hidden and fnmatch.fnmatch(entry.name, part))
                if fits and rest and os.path.isdir(entry.path):
                    waiting.append((entry.path, rest))
            if fits and not rest:
                files.add(entry.path)
    return Survey(sorted(files), sorted({folder for folder, _ in looked}))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        _unreadable(error)
        return []  # gone, or not to be listed: nothing is seen in it


def _stamp(stat: os.stat_result) -> Stamp:
    return (S_IFMT(stat.st_mode), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _large(stat: os.stat_result) -> str:
    return _hash(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}".encode())


def _unreadable(error: OSError) -> str:
    """Return the state of a file that cannot be read; it changes when it can be read again."""
    if error.errno in _PASSING:
        raise error
    if error.errno in _NOTHING:
        return ABSENT
    return _hash(f"unreadable {error.errno}".encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


ABSENT = _hash(b"absent")
"""The state of a path that is not there: absence is a state, and a change to it fires."""

_NO_CONTENT = _hash(b"no content")
"""The state of what is neither a file nor a folder: a pipe, a socket, a device."""
