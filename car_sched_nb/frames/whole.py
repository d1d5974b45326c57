"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from car_sched_nb.errors import InvalidInput, NotWritten

_NEW_MODE = 0o600  # answers may be private


def target(given: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file that may be written, behind links and `~`.

    Raises
    ------
    InvalidInput
        When its folder does not exist, or it is a folder, a device or a pipe.
    """
    try:
        path = Path(given).expanduser().resolve()
        kind = path.stat().st_mode if path.exists() else None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL, a user that is not there
        raise InvalidInput(f"{str(given)!r} cannot be used as a file ({error}); give another path") from error
    if kind is not None and stat.S_ISDIR(kind):
        raise InvalidInput(f"{path} is a folder; give a file in it: {path / 'history.parquet'}")
    if kind is not None and not stat.S_ISREG(kind):
        raise InvalidInput(f"{path} is no ordinary file, so it cannot be replaced as a whole; give another path")
    if not path.parent.is_dir():
        missing = next(folder for folder in reversed(path.parents) if not folder.is_dir())
        why = "is a file, not a folder" if missing.exists() else "does not exist; make it first"
        raise InvalidInput(f"{path} cannot be written: the folder {missing} {why}")
    return path


@contextmanager
def written_whole(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Write a file under another name beside it, and give it its name when all of it is on the disk.

    Whatever happens before, an interrupt too, what had the name is untouched and nothing else is left. A new file is
    for its user only; one that replaces another has the mode of that.

    Raises
    ------
    NotWritten
        When the system refuses.
    """
    part = path.with_name(f".car-{secrets.token_hex(8)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, _NEW_MODE))
        try:
            yield part
            _publish(part, path, overwrite=overwrite)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
    except OSError as error:
        raise NotWritten(str(path), error.strerror or str(error)) from error


def _publish(part: Path, path: Path, *, overwrite: bool) -> None:
    with suppress(FileNotFoundError):
        part.chmod(stat.S_IMODE(path.stat().st_mode))
    with part.open("rb") as written:
        os.fsync(written.fileno())
    if overwrite:
        part.replace(path)
    else:
        _link(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name too survives a power cut
    finally:
        os.close(folder)


def _link(part: Path, path: Path) -> None:
    """Give a file a name that no other file has."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as FAT
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, _NEW_MODE))
        part.replace(path)
