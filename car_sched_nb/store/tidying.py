"""Files beside the store, full texts and artifacts, are not kept for ever; the rows of their executions are."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from car_sched_nb.durations import parse_duration
from car_sched_nb.errors import InvalidInput
from car_sched_nb.store.sqlite import SqliteStore

KEEP = "30d"
"""How long a file is kept, unless `%car config --keep-files` says otherwise."""

MOST_BYTES = 1_000_000_000
"""Of more than that the oldest go first."""

_FOLDERS = ("outputs", "artifacts")
_SETTLED_S = 3600.0  # a younger file without a row may be of an execution that is just being written


class Tidied(NamedTuple):
    """How many files were removed, and their size."""

    files: int
    bytes: int

    def __add__(self, other: object) -> Tidied:
        if not isinstance(other, Tidied):
            return NotImplemented
        return Tidied(self.files + other.files, self.bytes + other.bytes)


class _File(NamedTuple):
    path: Path
    changed_s: float
    size: int


def has_files(store: SqliteStore) -> bool:
    """Tell whether there may be something to tidy."""
    return store.folder is not None and any((store.folder / name).is_dir() for name in _FOLDERS)


def tidy(store: SqliteStore, now_s: float) -> Tidied:
    """Remove old files, those of executions that are not in the store any more, and the oldest beyond `MOST_BYTES`.

    The file of a live execution stays, whoever owns it. Return how many were removed; from any thread.

    Parameters
    ----------
    now_s
        The time as the file system counts it.
    """
    files = sorted(_files(store), key=lambda file: file.changed_s)
    if not files:
        return Tidied(0, 0)
    spaces = _namespaces(store, files)
    live = {_stem(str(row[0])) for row in store.rows(_LIVE)}
    settings = dict(store.rows("SELECT namespace, value FROM settings WHERE name = 'keep_files'"))
    room = sum(file.size for file in files) - MOST_BYTES
    done = Tidied(0, 0)
    for file in files:
        stems = _stems(file.path.name)
        if not live.isdisjoint(stems):
            continue
        space = next((spaces[stem] for stem in stems if stem in spaces), None)
        age_s = now_s - file.changed_s
        orphan = space is None and age_s > _SETTLED_S
        if orphan or age_s > _keep_s(settings, space or "") or room > 0:
            with suppress(OSError):  # somebody else has just done the same, or it is not ours to remove
                file.path.unlink()
                room -= file.size
                done += Tidied(1, file.size)
    return done


_LIVE = "SELECT execution_id FROM executions INDEXED BY live WHERE status IN ('waiting', 'running')"


def _files(store: SqliteStore) -> list[_File]:
    found: list[_File] = []
    if store.folder is None:
        return found
    for name in _FOLDERS:
        for path in (store.folder / name).rglob("*"):
            with suppress(OSError):
                stat = path.lstat()
                if not path.is_dir():
                    found.append(_File(path, stat.st_mtime, stat.st_size))
    return found


def _stem(execution_id: str) -> str:
    """Return what the names of an execution's files begin with."""
    return execution_id.replace(":", "_").replace("#", "_")


def _stems(name: str) -> list[str]:
    """Return what the name of a file may begin with, the longest first."""
    return [name[:at] for at in range(len(name) - 1, 0, -1) if name[at] in "._"]


def _namespaces(store: SqliteStore, files: list[_File]) -> dict[str, str]:
    """Return the namespaces of the executions that files belong to, by the stems of their names."""
    wanted = []
    for file in files:
        for stem in _stems(file.path.name):
            first = stem.replace("_", ":", 2)
            wanted.append(first)
            if "_" in first:
                wanted.append("#".join(first.rsplit("_", 1)))
    rows = store.rows(
        """SELECT e.execution_id, t.namespace FROM json_each(?) w
            JOIN executions e ON e.execution_id = w.value JOIN tasks t ON t.id = e.task_id""",
        msgspec.json.encode(wanted).decode(),
    )
    return {_stem(str(id_)): str(namespace) for id_, namespace in rows}


def _keep_s(settings: dict[str, str], namespace: str) -> float:
    """Return how long the files of a namespace are kept: what is set for it, else for all."""
    for value in (settings.get(namespace), settings.get(""), KEEP):
        if value is not None:
            with suppress(InvalidInput):
                return parse_duration(value) / 1e6
    raise AssertionError("KEEP is a duration")
