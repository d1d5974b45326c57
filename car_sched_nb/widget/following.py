"""What an execution prints, followed in increments."""

from __future__ import annotations

from typing import Any, Protocol

from car_sched_nb.output import Output

_LONGEST_LINE = 1_000


class Followed(Protocol):
    """Where the text of an execution comes from."""

    @property
    def cleared(self) -> int:
        """Grows when what was printed is taken back."""
        ...

    @property
    def length(self) -> int:
        """Characters until now, with those taken back."""
        ...

    @property
    def line(self) -> str:
        """What comes after it and may still be taken back: a progress bar."""
        ...

    def since(self, offset: int, most: int) -> tuple[int, str]:
        """Return text from an offset on, and where it really begins."""
        ...


class Stored:
    """The text that was kept of an execution that has ended."""

    cleared = 0
    line = ""

    def __init__(self, text: str) -> None:
        self._text = text
        self.length = len(text)

    def since(self, offset: int, most: int) -> tuple[int, str]:
        return offset, self._text[offset : offset + most]


class Following:
    """One view's place in the output of one execution."""

    def __init__(self, execution_id: str, source: Output | Stored) -> None:
        self.execution_id = execution_id
        self._source: Followed = source
        self._at = 0
        self._cleared = source.cleared
        self._reset = True
        self._line = ""

    @property
    def live(self) -> bool:
        """Whether it was opened while it lived."""
        return not isinstance(self._source, Stored)

    @property
    def behind(self) -> bool:
        """Whether there is anything to send."""
        source = self._source
        if self._reset or source.cleared != self._cleared or self._at < source.length - source.cleared:
            return True
        return source.line[-_LONGEST_LINE:] != self._line

    def begin_again(self) -> None:
        """Send all of it anew."""
        self._at, self._reset, self._line = 0, True, ""

    def take(self, most: int) -> dict[str, Any]:
        """Return the next increment, its text at most so many bytes of UTF-8."""
        if self._source.cleared != self._cleared:
            self._cleared = self._source.cleared
            self.begin_again()
        at, text = self._source.since(self._at, most)
        if not text.isascii() and len(text.encode()) > most:
            text = text.encode()[:most].decode(errors="ignore")
        said: dict[str, Any] = {"execution": self.execution_id, "at": at, "text": text}
        self._at = at + len(text)
        line = self._source.line[-_LONGEST_LINE:]
        if line != self._line:
            said["line"] = self._line = line
        said["size"] = max(self._source.length - self._source.cleared, self._at)
        if self._reset:
            said["reset"], self._reset = True, False
        return said
