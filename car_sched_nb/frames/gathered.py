"""Columns that are put together of pieces as they come, each in one block of memory.

A page that is touched for the first time costs more than what is written into it; of large blocks numpy asks the system
for large pages. So what is read is not kept in pieces until all are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Ints = np.ndarray[Any, np.dtype[np.int64]]

Kind = Literal["int", "maybe", "number", "text", "code"]

NOT_A_TIME = -(2**63)
"""What numpy has for an instant or a duration that is not there."""


class Codes(NamedTuple):
    """Text of which there are few different ones: which of the texts each row has, -1 for NULL."""

    places: Ints
    texts: list[str]


def touch(count: int) -> None:
    """Touch memory for so many objects, and leave it to the next who asks for as much.

    Whoever makes an array of objects holds Python's lock meanwhile: fresh pages make that several times as long.
    """
    import numpy as np

    np.empty(count, np.int64).fill(0)


Piece = Any  # an array of int64 or float64, a pa.LargeStringArray, or Codes


class Gathered:
    """A column of at most so many rows, of pieces that follow each other.

    Parameters
    ----------
    usual
        What all rows have but those that a piece names, as an SQL literal; None when pieces are whole.
    """

    def __init__(self, kind: Kind, usual: str | None, most: int) -> None:
        self._kind, self._usual, self._most = kind, usual, most
        self._count = 0
        self._made = self._new(most if usual is None else 0)
        self._places: list[Ints] = []
        self._others: list[Piece] = []

    def _new(self, most: int) -> _Numeric | _Texts | _Codes:
        import numpy as np

        if self._kind == "text":
            return _Texts(most)
        if self._kind == "code":
            return _Codes(most)
        return _Numeric(most, np.float64 if self._kind == "number" else np.int64)

    def add(self, piece: Piece, count: int, at: Ints) -> None:
        """Take a piece of `count` rows; those that are not as usual are `at` these places of it."""
        if self._usual is None:
            self._made.add(piece)
        else:
            self._places.append(at + self._count)
            self._others.append(piece)
        self._count += count

    def whole(self) -> Any:
        """Return the column: an array of int64 or float64, a `pyarrow.LargeStringArray`, or `Codes`; once."""
        if self._usual is None:
            return self._made.whole()
        import numpy as np

        at = np.concatenate([np.empty(0, np.int64), *self._places])
        others = self._new(len(at))
        for piece in self._others:
            others.add(piece)
        return others.among(self._usual, at, self._count)


class _Numeric:
    def __init__(self, most: int, dtype: type[Any]) -> None:
        import numpy as np

        self._array = np.empty(most, dtype)
        self._count = 0

    def add(self, piece: np.ndarray[Any, Any]) -> None:
        self._array[self._count : self._count + len(piece)] = piece
        self._count += len(piece)

    def whole(self) -> np.ndarray[Any, Any]:
        return _fitting(self._array, self._count)

    def among(self, usual: str, at: Ints, count: int) -> np.ndarray[Any, Any]:
        import numpy as np

        missing = np.nan if self._array.dtype == np.float64 else NOT_A_TIME
        whole = np.full(count, missing if usual == "NULL" else int(usual), self._array.dtype)
        whole[at] = self.whole()
        return whole


class _Texts:
    def __init__(self, most: int) -> None:
        import numpy as np

        self._most = most
        self._ends = np.empty(most + 1, np.int64)
        self._ends[0] = 0
        self._there = np.empty(0, bool)  # as long as nothing is missing
        self._bytes = np.empty(0, np.uint8)
        self._count = 0

    def add(self, piece: pa.LargeStringArray) -> None:
        import numpy as np

        begin, end = self._count, self._count + len(piece)
        if begin == end:
            return
        offsets = np.frombuffer(piece.buffers()[1], np.int64)[piece.offset : piece.offset + len(piece) + 1]
        size, first = int(self._ends[begin]), int(offsets[0])
        np.add(offsets[1:], size - first, out=self._ends[begin + 1 : end + 1])
        if piece.null_count and not len(self._there):
            self._there = np.ones(self._most, bool)
        if len(self._there):
            self._there[begin:end] = piece.is_valid().to_numpy(zero_copy_only=False)
        more = int(offsets[-1]) - first
        if more:
            if size + more > len(self._bytes):
                # As if all rows were like those until now, and a bit.
                self._bytes = _grown(self._bytes, size, (size + more) * max(1.0, 1.1 * self._most / end))
            self._bytes[size : size + more] = np.frombuffer(piece.buffers()[2], np.uint8)[first : first + more]
        self._count = end

    def whole(self) -> pa.LargeStringArray:
        there = self._there[: self._count] if len(self._there) else None
        return _text_array(_fitting(self._ends, self._count + 1), self._bytes, there)

    def among(self, usual: str, at: Ints, count: int) -> pa.LargeStringArray:
        import numpy as np
        import pyarrow as pa

        if usual != "NULL":
            raise ValueError(f"of a text only NULL can be usual, not {usual}")
        if not len(at):
            return pa.nulls(count, pa.large_string())
        ends = np.zeros(count + 1, np.int64)
        ends[at + 1] = np.diff(self._ends[: self._count + 1])
        np.cumsum(ends, out=ends)
        there = np.zeros(count, bool)
        there[at] = self._there[: self._count] if len(self._there) else True
        return _text_array(ends, self._bytes, there)


class _Codes:
    def __init__(self, most: int) -> None:
        import numpy as np

        self._places = np.empty(most, np.int64)
        self._known: dict[str, int] = {}
        self._count = 0

    def add(self, piece: Codes) -> None:
        import numpy as np

        known = self._known
        place = [known.setdefault(value, len(known)) for value in piece.texts]
        into = self._places[self._count : self._count + len(piece.places)]
        np.take(np.array([*place, -1], np.int64), piece.places, out=into, mode="wrap")  # the last one for -1
        self._count += len(piece.places)

    def whole(self) -> Codes:
        return Codes(_fitting(self._places, self._count), list(self._known))

    def among(self, usual: str, at: Ints, count: int) -> Codes:
        import numpy as np

        whole = np.zeros(count, np.int64)
        others = self._places[: self._count]
        whole[at] = np.where(others < 0, others, others + 1)
        return Codes(whole, [usual.strip("'"), *self._known])


def _fitting(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return the filled part of an array, apart when most of the rest would be kept for nothing."""
    return array[:count].copy() if 2 * count < len(array) else array[:count]


def _grown(array: np.ndarray[Any, Any], filled: int, size: float) -> np.ndarray[Any, Any]:
    import numpy as np

    more = np.empty(int(max(size, 1.5 * len(array))), array.dtype)
    more[:filled] = array[:filled]
    return more


def _text_array(ends: Ints, joined: np.ndarray[Any, Any], there: np.ndarray[Any, Any] | None) -> pa.LargeStringArray:
    """Return texts of which each begins where the one before ends."""
    import numpy as np
    import pyarrow as pa

    missing = None if there is None or there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.LargeStringArray.from_buffers(
        len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(joined[: int(ends[-1])]), missing
    )
