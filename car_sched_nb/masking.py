"""Secrets are masked in whatever pieces they come."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

MASK = "***"

SHORTEST = 4
"""Characters of the shortest value that is masked: a shorter one would turn half of a text into stars."""


SHORTEST_LINE = 16
"""The same of one line of a value that has several: shorter ones, such as `"type": "x",`, are no secret."""


class Masker:
    """Replaces every run of characters that belongs to a hidden value by `MASK`.

    A stream is fed in pieces: of each only the end that could begin a value is held back.
    """

    __slots__ = ("_covered", "_firsts", "_held", "_longest", "_open", "_pattern", "values")

    def __init__(self, values: Iterable[str]) -> None:
        self.values = frozenset(values)
        """What is hidden, in all the forms it may take."""
        self._longest = max(map(len, self.values))
        self._firsts = frozenset(value[0] for value in self.values)
        longest_first = sorted(self.values, key=len, reverse=True)
        # A look-ahead, because values may overlap.
        self._pattern = re.compile(f"(?=({'|'.join(map(re.escape, longest_first))}))")
        self._held = ""
        self._covered = 0  # of what is held, how much belongs to a value that was found
        self._open = False  # what was given out last was a mask

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return what can be shown now of a stream, with its next piece; with `last` all of it."""
        text = self._held + piece
        end = len(text) if last else self._begins(text)
        out, at, covered = [], 0, 0
        for start, stop in self._runs(text):
            if start >= end and not (start == 0 and self._open):
                break  # it is found again with the next piece
            if start > at:
                out.append(text[at:start])
                self._open = False
            if not self._open:
                out.append(MASK)
                self._open = True
            at, covered = min(stop, end), max(0, stop - end)
        if at < end:
            out.append(text[at:end])
            self._open = False
        self._covered = covered
        self._held = text[end:]
        return "".join(out)

    def _runs(self, text: str) -> list[tuple[int, int]]:
        """Return where values stand, those that touch as one."""
        runs: list[tuple[int, int]] = [(0, self._covered)] if self._covered else []
        for match in self._pattern.finditer(text):
            start, stop = match.span(1)
            if runs and start <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(stop, runs[-1][1]))
            else:
                runs.append((start, stop))
        return runs

    def _begins(self, text: str) -> int:
        """Return where the end of a text begins that may become a value."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self._firsts:
                end = text[at:]
                if any(value.startswith(end) and len(value) > len(end) for value in self.values):
                    return at
        return len(text)

    def masked(self, text: str) -> str:
        """Return a whole text masked."""
        return Masker(self.values).feed(text, last=True) if self._pattern.search(text) else text

    def masked_in(self, value: Any) -> Any:
        """Return a value with all text in it masked, as far down as it goes."""
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, dict):
            return {self.masked_in(key): self.masked_in(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.masked_in(one) for one in value]
        return value


def forms(value: str) -> set[str]:
    """Return a value as it stands in text, HTML, JSON, a `repr` and a URL; nothing for one that is too short."""
    if len(value) < SHORTEST:
        return set()
    found = {value, html.escape(value), json.dumps(value)[1:-1], repr(value)[1:-1], quote(value), quote(value, safe="")}
    # Each line of a key in several, as a traceback or `grep` shows it alone.
    lines = {line.strip() for line in value.splitlines()} if len(value.splitlines()) > 1 else set()
    stripped = value.strip()
    found |= {stripped} if len(stripped) >= SHORTEST else set()
    return found | {line for line in lines if len(line) >= SHORTEST_LINE}
