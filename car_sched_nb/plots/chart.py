"""What a chart shows, whoever draws it. All text is plain: whoever draws it escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Array = Any
"""A numpy array of doubles. Instants are milliseconds as a clock on the wall of this machine counts them."""


class Axis(NamedTuple):
    """What is measured along one side, from `low` to `high`.

    `time` is in milliseconds of local time, `log` in numbers above 0, `rows` counts from 0 at the top; `ticks` gives
    the names of places.
    """

    kind: Literal["time", "number", "log", "rows", "none"]
    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = ()


class Bars(NamedTuple):
    """Bars that lie: from `start`, so long, on a row; with `tall`, bars of this `length` that stand on 0, `y` wide.

    `pale` ones have an edge in their colour, and let what lies below be seen.
    """

    name: str
    start: Array
    length: Array
    y: Array
    colour: str
    hover: Sequence[str]
    tall: bool = False
    legend: bool = True
    pale: bool = False


class Points(NamedTuple):
    """A symbol for each, with a text below it where `labels` has one."""

    name: str
    x: Array
    y: Array
    colour: str
    symbol: str
    hover: Sequence[str]
    size: float | Array = 9
    labels: Sequence[str] = ()
    legend: bool = True
    edge: str = ""


class Line(NamedTuple):
    """A line through places, broken where one is not a number; `arrows` stand at the end of each part."""

    name: str
    x: Array
    y: Array
    colour: str
    width: float = 1.5
    dash: Literal["solid", "dot", "dash"] = "solid"
    arrows: bool = False
    legend: bool = True
    words: str = ""


class Cells(NamedTuple):
    """Squares of size 1, the stronger in colour the higher their value; what is no number is left out."""

    name: str
    values: Array
    colour: tuple[int, int, int]
    hover: Sequence[Sequence[str]]


class Words(NamedTuple):
    """Words beside places, upright or not."""

    x: Sequence[float]
    texts: Sequence[str]


Mark = Bars | Points | Line | Cells


class Panel(NamedTuple):
    """One of the fields that lie above each other; `top` has words at its upper edge."""

    y: Axis
    marks: Sequence[Mark]
    height: int
    top: Words = Words((), ())


class Chart(NamedTuple):
    """A picture: its titles, the axis that its panels share, and them. Without panels it says why."""

    title: str
    subtitle: str
    x: Axis
    panels: Sequence[Panel]
    joined: bool = False
    """Whether cells are squares."""


def nothing(title: str, why: str) -> Chart:
    """Return a chart that has nothing to show, with what to do about it."""
    return Chart(title, why, Axis("none", "", 0, 1), ())
