"""What an execution wrote, cut into what each stream wrote and what was displayed, in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec


class Piece(NamedTuple):
    """A part of the text, or a display in its place."""

    kind: str
    """stdout, stderr, display."""
    text: str
    at_us: int | None
    """When it began; None where no mark is kept."""
    display: int | None = None
    """The number of the display."""
    metadata: Any = None


class _Told(msgspec.Struct):
    marks: list[tuple[int, str, int]] = []
    displays: list[tuple[int, int, int, Any]] = []
    left: int = 0


def pieces(text: str, marks: str | None, displays: int) -> Iterator[Piece]:
    """Yield the pieces of a text with its marks (JSON); a text without any came from stdout, displays before it."""
    told = msgspec.json.decode(marks, type=_Told) if marks else _Told()
    at, number = 0, 0
    runs = _runs(told.marks)
    for number, (start, length, at_us, metadata) in enumerate(told.displays[:displays]):
        yield from _texts(text, at, start, runs)
        at = max(at, start)
        end = max(at, start + length)
        yield Piece("display", text[at:end], at_us, number, metadata)
        at = end
    for number in range(len(told.displays), displays):
        yield Piece("display", "", None, number)
    yield from _texts(text, at, len(text), runs)


def left(marks: str | None) -> int:
    """Return how many displays were not kept."""
    return msgspec.json.decode(marks, type=_Told).left if marks else 0


def _runs(marks: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
    """Return where another stream begins to write."""
    runs: list[tuple[int, str, int]] = []
    for mark in marks:
        if not runs or runs[-1][1] != mark[1]:
            runs.append(mark)
    return runs


def _texts(text: str, start: int, end: int, runs: list[tuple[int, str, int]]) -> Iterator[Piece]:
    if start >= end:
        return
    bounds = [*(at for at, _, _ in runs), len(text)]
    if not runs:
        yield Piece("stdout", text[start:end], None)
    for (_, kind, at_us), (begins, ends) in zip(runs, pairwise(bounds), strict=True):
        first, last = max(begins, start), min(ends, end)
        if first < last:
            yield Piece("stdout" if kind == "display" else kind, text[first:last], at_us)
