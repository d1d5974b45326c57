"""The state of watched files, folders and globs as 16 hex digits of their content."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from watchfiles import DefaultFilter

from car_sched_nb.errors import InvalidInput

LARGE = 64 * 1024 * 1024
"""Bytes above which size, mtime and inode stand for the content."""

ABSENT = hashlib.sha256(b"absent").hexdigest()[:16]
"""The state of a path that is not there: absence is a state, and a change to it fires."""

_WILD = "*?["
_ignored = DefaultFilter()


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
    """Return the folder whose events tell of a path, and whether with all below it.

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
    states = [_path_digest(path) for path in paths.splitlines()]
    if len(states) == 1:
        return states[0]
    return _hash("\n".join(states).encode())


def signature(paths: str) -> tuple[tuple[str, int, int, int, int], ...]:
    """Return name, size, times and inode of everything watched: when it holds still, a writer has finished."""
    found = []
    for path in paths.splitlines():
        for file in (path, *_files(path)):
            try:
                stat = os.stat(file)
            except OSError:
                continue
            found.append((file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    return tuple(found)


def _files(path: str) -> Iterator[str]:
    if is_glob(path):
        yield from sorted(glob.glob(path, recursive=True, include_hidden=False))
    elif os.path.isdir(path):
        yield from sorted(_walk(path))
    elif os.path.exists(path):
        yield path


def _walk(folder: str) -> Iterator[str]:
    # Links to folders are not followed: they may form a loop.
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _ignored.ignore_dirs and name != ".ipynb_checkpoints"]
        for name in files:
            if _ignored(None, os.path.join(where, name)):  # type: ignore[arg-type]
                yield os.path.join(where, name)


def _path_digest(path: str) -> str:
    if not is_glob(path) and not os.path.isdir(path):
        return _file_digest(path)
    base = watched_folder(path)[0]
    found = [f"{os.path.relpath(file, base)}\0{_file_digest(file)}" for file in _files(path) if os.path.isfile(file)]
    if not found and not os.path.isdir(path):
        return ABSENT
    return _hash("\n".join(found).encode("utf-8", "surrogateescape"))


def _file_digest(path: str) -> str:
    try:
        stat = os.stat(path)
        if stat.st_size > LARGE:
            return _hash(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}".encode())
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except FileNotFoundError:
        return ABSENT
    except IsADirectoryError:
        return _path_digest(path)
    except OSError as error:
        # A file that cannot be read has a state too; it changes when it can be read again.
        return _hash(f"unreadable {error.errno}".encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
