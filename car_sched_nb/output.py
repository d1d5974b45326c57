"""Output of an execution, kept with it and never printed into somebody else's cell.

Which execution a write belongs to is a context variable, so concurrent bodies on one loop and bodies in
threads are told apart. The C level (file descriptors) and threads that a body starts itself are not seen.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

HEAD = 64 * 1024
TAIL = 64 * 1024
"""Characters kept of the first and of the last part; the whole text goes to a file when it is longer."""

ANSWER = 16 * 1024
"""Characters of an answer or an error that a row keeps."""


_NOTHING: list[str] = []  # of all that have printed nothing; never written to


class Output:
    """What one execution printed; written and read from any thread.

    Parameters
    ----------
    spill
        Where the full text goes once it is longer than `HEAD + TAIL`; None drops the middle.
    """

    __slots__ = (
        "_cut",
        "_displays",
        "_file",
        "_head",
        "_head_length",
        "_lock",
        "_spill",
        "_tail",
        "_tail_length",
        "cleared",
        "figures",
        "length",
    )

    def __init__(self, spill: str | None = None) -> None:
        self._lock = threading.Lock()
        self._head: list[str] = _NOTHING
        self._head_length = 0
        self._tail: deque[str] | None = None
        self._tail_length = 0
        self._cut = 0
        self._spill = spill
        self._file: IO[str] | None = None
        self._displays: list[dict[str, Any]] | None = None
        self.figures: OrderedDict[int, Any] | None = None
        """Open figures by number, where somebody keeps them apart."""
        self.length = 0
        self.cleared = 0
        """How many of its characters were taken back by `clear`."""

    def write(self, text: str, stream: str = "stdout") -> int:
        """Append text; return its length, as a stream does."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self.length += len(text)
            if self._head is _NOTHING:
                self._head = []
            if self._head_length < HEAD and not self._tail:
                room = HEAD - self._head_length
                self._head.append(text[:room])
                self._head_length += min(room, len(text))
                rest = text[room:]
            else:
                rest = text
            if rest:
                self._append_tail(rest)
        return len(text)

    def show(self, bundle: dict[str, Any]) -> None:
        """Keep what was displayed, a MIME bundle."""
        self.displays.append(bundle)

    def hide(self, *values: str) -> None:
        """Mask these values in all that is kept from now on: secrets."""

    def masked(self, text: str) -> str:
        """Return a text with the hidden values masked."""
        return text

    @property
    def displays(self) -> list[dict[str, Any]]:
        """What was shown, as MIME bundles."""
        if self._displays is None:
            self._displays = []
        return self._displays

    @property
    def has_displays(self) -> bool:
        """Whether anything was shown."""
        return bool(self._displays)

    def _append_tail(self, text: str) -> None:
        if self._tail is None:
            self._tail = deque()
        self._tail.append(text)
        self._tail_length += len(text)
        if self._tail_length <= TAIL:
            return
        if self._file is None and self._spill is not None:
            self._open_file()
            self._put("".join(self._head), *self._tail)
        elif self._file is not None:
            self._put(text)
        while self._tail_length - TAIL > 0:
            excess = self._tail_length - TAIL
            first = self._tail.popleft()
            if len(first) > excess:
                self._tail.appendleft(first[excess:])
                first = first[:excess]
            self._tail_length -= len(first)
            self._cut += len(first)

    def _open_file(self) -> None:
        try:
            self._file = _open_spill(Path(str(self._spill)))
        except OSError:
            self._spill = None  # no room or no right to write: the first and the last part are kept all the same

    def _put(self, *parts: str) -> None:
        if self._file is not None and not self._file.closed:  # what an execution left behind may still print
            self._in_file(lambda file: file.writelines(parts))

    def _in_file(self, do: Callable[[IO[str]], None]) -> None:
        """Do something with the file; on a full disk it is given up, and what was printed ends nobody's work."""
        if self._file is None or self._file.closed:
            return
        try:
            do(self._file)
        except OSError:
            self._spill = None
            with suppress(OSError):  # what is still in its buffer fails once more
                self._file.close()

    def clear(self) -> None:
        """Forget what was kept in memory; a file of the full text keeps it."""
        with self._lock:
            self._head, self._tail = [], None
            self.displays.clear()
            self._head_length = self._tail_length = self._cut = 0
            self.cleared = self.length

    @property
    def path(self) -> Path | None:
        """The file with the full text, when it was too long to keep."""
        return Path(self._spill) if self._spill and self._file is not None else None

    def since(self, offset: int, most: int) -> tuple[int, str]:
        """Return at most `most` characters from an offset on, with the offset at which they begin.

        Offsets count from the last `clear`. They begin later than asked for when the middle was cut.
        """
        with self._lock:
            after_head = self._head_length + self._cut
            if offset < self._head_length:
                text = "".join(self._head)[offset : offset + most]
                if self._cut or len(text) == most:
                    return offset, clean(text)
                return offset, clean(text + self._tail_since(0, most - len(text)))
            at = max(offset, after_head)
            return at, clean(self._tail_since(at - after_head, most))

    def _tail_since(self, offset: int, most: int) -> str:
        """Read the tail from its end: what is asked for is mostly the newest."""
        wanted, pieces = self._tail_length - offset, []
        for piece in reversed(self._tail or ()):
            if wanted <= 0:
                break
            pieces.append(piece[-wanted:])
            wanted -= len(piece)
        return "".join(reversed(pieces))[:most]

    def text(self) -> str:
        """Return what was kept, with a line that says how much is not shown."""
        if not self.length:
            return ""
        with self._lock:
            self._in_file(lambda file: file.flush())
            cut = f"\n... {self._cut:,} characters not shown ...\n" if self._cut else ""
            return clean("".join(self._head) + cut + "".join(self._tail or ()))

    def close(self) -> None:
        """Close the file of the full text, if there is one."""
        with self._lock:
            self._in_file(lambda file: file.close())


def _open_spill(path: Path) -> IO[str]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def clean(text: str) -> str:
    """Return text that a database takes: no NUL, no lone surrogate."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def clip(text: str, most: int = ANSWER) -> str:
    """Return clean text of at most `most` characters, its middle replaced by how much is missing."""
    return ends(text, text, len(text), most)


def ends(first: str, last: str, length: int, most: int = ANSWER) -> str:
    """Do the same with a text of which only the first and the last `most` of its `length` characters are there."""
    if length > most:
        half = (most - 50) // 2
        first = f"{first[:half]}\n... {length - 2 * half:,} characters not shown ...\n{last[-half:]}"
    return clean(first)


current_output: ContextVar[Output | None] = ContextVar("car_current_output", default=None)


class Routed:
    """A stream that sends each write to the output of the execution that made it, else to the stream below."""

    def __init__(self, below: Any) -> None:
        self._below = below

    def write(self, text: str) -> int:
        output = current_output.get()
        if output is None:
            return int(self._below.write(text) or 0)
        return output.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if current_output.get() is None:
            self._below.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


def route_streams() -> Callable[[], None]:
    """Put `Routed` streams over `sys.stdout` and `sys.stderr`; return what takes them off again.

    Log handlers that already hold one of the streams are moved too.
    """
    taken: dict[int, tuple[str, Any, Routed]] = {}
    for name in ("stdout", "stderr"):
        below = getattr(sys, name)
        if not isinstance(below, Routed):
            taken[id(below)] = (name, below, Routed(below))
            setattr(sys, name, taken[id(below)][2])
    handlers = [ref() for ref in logging._handlerList]  # type: ignore[attr-defined]  # noqa: SLF001 - no public list
    moved = []
    for handler in handlers:
        if isinstance(handler, logging.StreamHandler) and id(handler.stream) in taken:
            moved.append((handler, handler.stream))
            handler.setStream(taken[id(handler.stream)][2])

    def restore() -> None:
        for name, below, routed in taken.values():
            if getattr(sys, name) is routed:
                setattr(sys, name, below)
        for handler, stream in moved:
            handler.setStream(stream)

    return restore
