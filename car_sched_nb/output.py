"""Output of an execution, kept with it and never printed into somebody else's cell.

Which execution a write belongs to is a context variable, so concurrent bodies on one loop and bodies in
threads are told apart. The C level (file descriptors) and threads that a body starts itself are not seen.
"""

from __future__ import annotations

import codecs
import logging
import re
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from car_sched_nb.masking import Masker, forms
from car_sched_nb.returns import collapse, shorten

HEAD = 64 * 1024
TAIL = 64 * 1024
"""Characters kept of the first and of the last part; the whole text goes to a file when it is longer."""

ANSWER = 16 * 1024
"""Characters of an answer or an error that a row keeps."""

APART_S = 0.1
"""A mark says which stream wrote, and when: at each change of the stream, and at most so often in between."""

MARKS = 1_000
"""So many of the first and so many of the last marks are kept."""

DISPLAYS = 100
DISPLAY_BYTES = 20 * 1024 * 1024
"""How much of what was shown is kept; how many did not fit is told."""

_NOTHING: list[str] = []  # of all that have printed nothing; never written to
_LONGEST_LINE = 16 * 1024  # of those that may still be taken back
_ONLY_A_LINE = re.compile(r"\r[^\r\n]{0,1000}\S[^\r\n]{0,1000}").fullmatch
_time = time.time


class Shown:
    """Something that was displayed, and where it stands in the text."""

    __slots__ = ("at_us", "bundle", "changed", "display_id", "length", "metadata", "offset")

    def __init__(self, bundle: bytes, metadata: Any, display_id: str | None, offset: int, at_us: int) -> None:
        self.bundle = bundle
        """A MIME bundle, as JSON."""
        self.metadata = metadata
        self.display_id = display_id
        self.offset = offset
        self.length = 0
        """How much of the text is its own."""
        self.at_us = at_us
        self.changed: str | None = None
        """Its text since an update that came too late for its place."""


class Kept(NamedTuple):
    """What a row keeps: the text, and as JSON the bundles, and when what was written."""

    text: str
    displays: str | None
    marks: str | None


class Output:
    """What one execution printed; written and read from any thread.

    Parameters
    ----------
    spill
        Where the full text goes once it is longer than `HEAD + TAIL`; None drops the middle.
    """

    __slots__ = (
        "_cut",
        "_decoders",
        "_file",
        "_head",
        "_head_length",
        "_last_marks",
        "_line",
        "_line_of",
        "_lock",
        "_marked_s",
        "_marks",
        "_mask",
        "_shown",
        "_shown_bytes",
        "_spill",
        "_stream",
        "_tail",
        "_tail_length",
        "cleared",
        "displays_left",
        "figures",
        "length",
    )

    def __init__(self, spill: str | None = None) -> None:
        self._lock = threading.RLock()
        self._head: list[str] = _NOTHING
        self._head_length = 0
        self._tail: deque[str] | None = None
        self._tail_length = 0
        self._cut = 0
        self._line = ""
        """The last line, while it may be taken back: from its first carriage return on."""
        self._line_of: Shown | None = None
        """Whose text that is, when it is a display's that may be updated."""
        self._spill = spill
        self._file: IO[str] | None = None
        self._stream: str | None = None
        self._marked_s = 0.0
        self._marks: list[tuple[int, str, int]] | None = None
        self._last_marks: deque[tuple[int, str, int]] | None = None
        self._mask: Masker | None = None
        self._decoders: dict[str, codecs.IncrementalDecoder] | None = None
        self._shown: list[Shown] | None = None
        self._shown_bytes = 0
        self.displays_left = 0
        """How many displays did not fit."""
        self.figures: OrderedDict[int, Any] | None = None
        """Open figures by number, where somebody keeps them apart."""
        self.length = 0
        """Characters until now, without a line that may still be taken back."""
        self.cleared = 0
        """How many of its characters were taken back by `clear`."""

    def write(self, text: str, stream: str = "stdout") -> int:
        """Append text that a stream wrote; return its length, as a stream does."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        size = len(text)
        with self._lock:
            now_s = _time()
            if stream != self._stream or not 0 <= now_s - self._marked_s < APART_S:
                self._mark(stream, now_s)
            if self._line or self._mask is not None or "\r" in text:
                self._write_line(text if self._mask is None else self._mask.feed(text))
            elif self._tail is None and self._head_length + size <= HEAD:
                self._head.append(text)
                self._head_length += size
                self.length += size
            elif self._tail is not None:
                self.length += size
                self._append_tail(text)
            else:
                self._append(text)
        return size

    def write_bytes(self, data: bytes, stream: str = "stdout") -> int:
        """Append UTF-8, in whatever pieces it comes; what is none is replaced."""
        with self._lock:
            if self._decoders is None:
                self._decoders = {}
            if stream not in self._decoders:
                self._decoders[stream] = codecs.getincrementaldecoder("utf-8")(errors="replace")
            text = self._decoders[stream].decode(data)
            if text:
                self.write(text, stream)
        return len(data)

    def show(
        self,
        bundle: Mapping[str, Any],
        *,
        text: str | None = None,
        metadata: Any = None,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Keep what was displayed, a MIME bundle.

        Parameters
        ----------
        text
            What stands for it in the text.
        display_id
            Its name for later ones: each replaces the bundle of the earlier.
        update
            It only replaces, and takes a new place only when there is nothing to replace.
        """
        with self._lock:
            if self._mask is not None:
                bundle, metadata = self._mask.masked_in(bundle), self._mask.masked_in(metadata)
            encoded = _encoded(bundle)
            earlier = [one for one in self._shown or () if display_id and one.display_id == display_id]
            for one in earlier:
                self._replace(one, encoded, metadata, text)
            if not (update and earlier):
                self._place(encoded, metadata, display_id, text)

    def _replace(self, one: Shown, encoded: bytes, metadata: Any, text: str | None) -> None:
        grown = len(encoded) - len(one.bundle)
        if self._shown_bytes + grown > DISPLAY_BYTES:
            self.displays_left += 1
            return
        self._shown_bytes += grown
        one.bundle, one.metadata = encoded, metadata
        if text is None:
            return
        text = text.removesuffix("\n")
        if self._line_of is one:
            self._line = f"{text}\n"
        else:
            one.changed = text

    def _place(self, encoded: bytes, metadata: Any, display_id: str | None, text: str | None) -> None:
        now_s = _time()
        self._mark("display", now_s)
        self._settle()
        one = Shown(encoded, metadata, display_id, self.length - self.cleared, int(now_s * 1e6))
        if self._shown is None:
            self._shown = []
        if len(self._shown) >= DISPLAYS or self._shown_bytes + len(encoded) > DISPLAY_BYTES:
            self.displays_left += 1
        else:
            self._shown.append(one)
            self._shown_bytes += len(encoded)
        if text is None:
            return
        text = text.removesuffix("\n")
        if display_id and self._mask is None and len(text) < _LONGEST_LINE:
            self._line, self._line_of = f"{text}\n", one
        else:
            self._append(self.masked(f"{text}\n"))
            one.length = self.length - self.cleared - one.offset

    def hide(self, *values: str) -> None:
        """Mask these values in all that is kept from now on: secrets. One of less than 4 characters is left."""
        hidden = {form for value in values for form in forms(value)}
        with self._lock:
            before = self._mask
            if before is not None:
                hidden |= before.values
                self._append(before.feed("", last=True))
            if hidden:
                self._mask = Masker(hidden)

    def masked(self, text: str) -> str:
        """Return a text with the hidden values masked."""
        return text if self._mask is None else self._mask.masked(text)

    @property
    def displays(self) -> list[bytes]:
        """What was shown, as JSON of MIME bundles."""
        return [one.bundle for one in self._shown or ()]

    def _mark(self, stream: str, now_s: float) -> None:
        if self._head is _NOTHING:
            self._head = []
        if stream != self._stream:
            self._commit()
        self._stream, self._marked_s = stream, now_s
        mark = (self.length - self.cleared, stream, int(now_s * 1e6))
        if self._marks is None:
            self._marks = []
        elif len(self._marks) == MARKS and self._last_marks is None:
            self._last_marks = deque(maxlen=MARKS)
        marks = self._marks if self._last_marks is None else self._last_marks
        if not marks or marks[-1][0] != mark[0]:
            marks.append(mark)
        elif marks[-1][1] != stream:
            marks[-1] = mark  # of the one before nothing is left

    def _write_line(self, text: str) -> None:
        """Append text; what a carriage return takes back is never counted."""
        if self._line_of is not None:
            self._commit()
        if not self._line and "\r" not in text:
            self._append(text)
            return
        if text[:1] == "\r" and _ONLY_A_LINE(text) and not self._line.endswith("A"):
            self._line = text  # the most common, many times a second: a bar is drawn again
            return
        text = shorten(self._line + text)
        begins = text.find("\r", text.rfind("\n") + 1)
        if begins < 0 or len(text) - begins > _LONGEST_LINE:
            begins = len(text)
        self._line = text[begins:]
        self._append(text[:begins])

    def _commit(self) -> None:
        """Let the last line stay as it is."""
        if self._line:
            line, self._line = self._line, ""
            self._append(line)
            if self._line_of is not None:
                self._line_of.length, self._line_of = len(line), None

    def _settle(self) -> None:
        """Hold nothing back."""
        self._commit()
        if self._mask is not None:
            self._append(self._mask.feed("", last=True))

    def _append(self, text: str) -> None:
        if not text:
            return
        if self._head is _NOTHING:
            self._head = []
        self.length += len(text)
        if self._tail is None and self._head_length < HEAD:
            room = HEAD - self._head_length
            self._head.append(text[:room])
            self._head_length += min(room, len(text))
            text = text[room:]
        if text:
            self._append_tail(text)

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
            self._settle()
            self._head, self._tail = [], None
            self._marks = self._last_marks = self._stream = self._shown = None
            self._head_length = self._tail_length = self._cut = self._shown_bytes = 0
            self.cleared = self.length

    @property
    def path(self) -> Path | None:
        """The file with the full text, when it was too long to keep."""
        return Path(self._spill) if self._spill and self._file is not None else None

    @property
    def line(self) -> str:
        """What comes after the `length` characters and may still be taken back."""
        return clean(collapse(self._line)[0])

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
        return self._read([])[0] if self.length or self._line else ""

    def _read(self, places: Iterable[int]) -> tuple[str, list[int]]:
        with self._lock:
            self._in_file(lambda file: file.flush())
            head, cut = self._head_length, self._cut
            note = f"\n... {cut:,} characters not shown ...\n" if cut else ""
            text = "".join(self._head) + note + "".join(self._tail or ()) + self._line

        def moved(place: int) -> int:
            if place <= head:
                return place
            return head + len(note) + max(0, place - head - cut)

        text, at = collapse(text, map(moved, places))
        return clean(text), at

    def kept(self) -> Kept | None:
        """Return what a row keeps of it; None when there is nothing."""
        if not self.length and not self._line and not self._shown and not self.displays_left:
            return None
        with self._lock:
            marks = [*(self._marks or ()), *(self._last_marks or ())]
            shown = list(self._shown or ())
            ends = [one.offset + (len(self._line) if one is self._line_of else one.length) for one in shown]
            places = [*(mark[0] for mark in marks), *(one.offset for one in shown), *ends]
            text, at = self._read(places)
        first, last = at[len(marks) : len(marks) + len(shown)], at[len(marks) + len(shown) :]
        told = {
            "marks": [(place, stream, us) for place, (_, stream, us) in zip(at, marks, strict=False)],
            "displays": [
                (start, end - start, one.at_us, one.metadata)
                for start, end, one in zip(first, last, shown, strict=True)
            ],
            "left": self.displays_left,
        }
        displays = f"[{','.join(one.bundle.decode() for one in shown)}]" if shown else None
        return Kept(text, displays, _encoded(told).decode())

    def close(self) -> None:
        """Hold nothing back, and close the file of the full text, if there is one."""
        with self._lock:
            if self._line or self._mask is not None:
                self._settle()
            for one in self._shown or ():
                if one.changed is not None:
                    self._mark("display", _time())
                    self._append(self.masked(f"{one.changed}\n"))
                    one.changed = None
            self._in_file(lambda file: file.close())


def _encoded(value: Any) -> bytes:
    """Return JSON; of a mapping without what is none."""
    try:
        return msgspec.json.encode(value)
    except Exception:  # noqa: BLE001 - whatever a library displays, it must not end its author's work
        found = {}
        for key, one in value.items() if isinstance(value, Mapping) else ():
            with suppress(Exception):
                found[clean(str(key))] = msgspec.Raw(msgspec.json.encode(clean(one) if isinstance(one, str) else one))
        return msgspec.json.encode(found)


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


class Stream:
    """A text stream into one output, whoever writes; a terminal it is not."""

    encoding = "utf-8"

    def __init__(self, output: Output, name: str) -> None:
        self._output = output
        self._name = name

    def write(self, text: str) -> int:
        return self._output.write(text, self._name)

    def flush(self) -> None:
        """Do nothing: what was written is there."""

    def isatty(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        """Be the author's `sys.stdout`, for libraries that look whether a bar is on it."""
        return isinstance(other, Routed) and other.goes_to(self._output, self._name)

    __hash__ = object.__hash__


class _Bytes(Stream):
    """The same for bytes: what `sys.stdout.buffer` is to a body."""

    def write(self, data: Any) -> int:
        return self._output.write_bytes(bytes(data), self._name)


class Routed:
    """A stream that sends each write to the output of the execution that made it, else to the stream below."""

    def __init__(self, below: Any, name: str = "stdout") -> None:
        self._below = below
        self._name = name

    def write(self, text: str) -> int:
        output = current_output.get()
        if output is None:
            return int(self._below.write(text) or 0)
        return output.write(text, self._name)

    def goes_to(self, output: Output, name: str) -> bool:
        """Tell whether what is written now goes into an output."""
        return name == self._name and current_output.get() is output

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if current_output.get() is None:
            self._below.flush()

    def isatty(self) -> bool:
        return current_output.get() is None and bool(self._below.isatty())

    @property
    def buffer(self) -> Any:
        output = current_output.get()
        return self._below.buffer if output is None else _Bytes(output, self._name)

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
            taken[id(below)] = (name, below, Routed(below, name))
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
