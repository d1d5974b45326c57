"""What a row of the table is made of: calls of the contestants' functions, each a line of a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import Figures

CONTESTANTS = {
    "ours": "car_sched_nb",
    "floor": "floor",
    "apscheduler3": "APScheduler 3",
    "apscheduler4": "APScheduler 4 alpha",
    "huey": "huey",
    "dbos": "DBOS",
}
TIME_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Call:
    """A function of a module, what it is given, and the store that it finds."""

    function: str
    given: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""
    """In place of the contestant's own."""
    filled: Call | None = None
    """Fills the store, once for all rounds."""
    against: Call | None = None
    """Measured just before it; the figures get `ratio`, how many times as long this one takes."""
    environment: str = ""
    """In place of the contestant's own."""

    def sized(self, quick: bool) -> dict[str, Any]:
        """Return what it is given in a full run or in a quick one."""
        return {name: value[quick] if isinstance(value, tuple) else value for name, value in self.given.items()}


Calls = Mapping[str, Call]
"""By the configuration's label."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    key: str
    what: str
    goal: str
    show: Callable[[Figures], str]
    main: str
    """The figure that contestants are compared by."""
    cells: Mapping[str, Calls | str]
    """By contestant; text in place of calls says why it is not measured."""
    more_is_better: bool = False
    compared: bool = False
    """Whether "so many times the best peer" says something: all do the same work and keep it in the same place."""


def call(
    function: str,
    filled: Call | None = None,
    against: Call | None = None,
    module: str = "",
    environment: str = "",
    **given: Any,
) -> Call:
    """Return a call; a pair among what is given is (a full run's, `--quick`'s)."""
    return Call(function, given, module, filled, against, environment)
