r"""Lines that are written again and again: carriage returns, colours and what else a terminal is told.

`\r` begins a line anew; what stood there is gone. A line of which only blanks are left is empty.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable

_CONTROLS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_UP_AND_DOWN = re.compile(r"((?:\x1b\[A)+)(\n+)")  # how a bar below another begins its line anew


def shorten(text: str) -> str:
    """Return text that reads the same, without what its own carriage returns have taken back."""
    text = _UP_AND_DOWN.sub(lambda found: "\r" if len(found[1]) == 3 * len(found[2]) else found[0], text)
    lines = text.split("\n")
    return "\n".join([*(_shorter(line) for line in lines[:-1]), _shorter(lines[-1], unfinished=True)])


def _shorter(line: str, *, unfinished: bool = False) -> str:
    body = line.rstrip("\r")
    at = body.rfind("\r")
    if at >= 0:
        kept = body[at + 1 :]
        body = "\r" + (kept if kept.strip() else " ")
    return body + "\r" if unfinished and line.endswith("\r") else body


def collapse(text: str, places: Iterable[int] = ()) -> tuple[str, list[int]]:
    """Return the text as it reads when all is written, and where some places of it are then."""
    kept: list[str] = []
    ends, lost = [0], [0]  # up to where in the old text, and how much of it is gone until there
    at = 0

    def drop(start: int, end: int) -> None:
        nonlocal at
        kept.append(text[at:start])
        ends.extend((start, end))
        lost.extend((lost[-1], lost[-1] + end - start))
        at = end

    while (found := text.find("\r", at)) >= 0:
        start = max(at, text.rfind("\n", 0, found) + 1)
        end = text.find("\n", found)
        end = len(text) if end < 0 else end
        body = text[start:end].rstrip("\r")
        back = body.rfind("\r") + 1
        if back:
            blank = not body[back:].strip()
            drop(start, start + (len(body) if blank else back))
        drop(start + len(body), end)
    if at == 0:
        return text, list(places)
    kept.append(text[at:])

    def moved(place: int) -> int:
        after = bisect_right(ends, place) - 1
        if after % 2 and after + 1 < len(ends):  # within what is gone
            return ends[after] - lost[after]
        return place - lost[after]

    return "".join(kept), [moved(place) for place in places]


def plain(text: str) -> str:
    """Return text without colours and other words to a terminal."""
    return _CONTROLS.sub("", text) if "\x1b" in text else text
