"""Tasks tied by `--after`: who waits for whom, and which path takes longest."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from car_sched_nb.errors import InvalidInput, UnknownTask
from car_sched_nb.frames import history
from car_sched_nb.frames.asked import several
from car_sched_nb.model import Status, Task
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Axis, Chart, Line, Mark, Panel, Points, nothing
from car_sched_nb.plots.looks import STATES
from car_sched_nb.store import records
from car_sched_nb.store.upstream import names_of

if TYPE_CHECKING:
    from car_sched_nb.store.sqlite import SqliteStore

Key = tuple[str, str]
"""A task's namespace and name."""

_SWEEPS = 4
_LEVEL = 0.32


class Measured(NamedTuple):
    """What the history knows of a task: how long it usually takes, and how it ended last."""

    median_us: float | None = None
    last: str = ""
    runs: int = 0


class Tied(NamedTuple):
    """Tasks and whom each follows; who is followed and not there has no task."""

    tasks: Mapping[Key, Task | None]
    follows: Mapping[Key, Sequence[Key]]


def graph(
    store: SqliteStore,
    *,
    namespace: str | None,
    task: str | Sequence[str] | None,
    runner: str | Sequence[str] | None,
    since: Any,
    until: Any,
    now_us: int,
) -> Chart:
    """Prepare the chart of all tasks that follow others; with `task`, of those that are tied with them."""
    title = "Tasks that follow others"
    tied = _tied(records.tasks(store, namespace))
    if task is not None:
        tied = _around(tied, several(task, "task"), records.tasks(store, namespace))
    if not tied.tasks:
        whose = "follows another" if task is None else f"is tied with {looks.about(task)}"
        return nothing(title, f"no task {whose}; write %%car_task NAME --after OTHER")
    names = sorted({one.name for one in tied.tasks.values() if one})
    known = measured(store, namespace=namespace, task=names, since=since, until=until, runner=runner, now_us=now_us)
    of = {key: known.get(one.id, Measured()) if one else Measured() for key, one in tied.tasks.items()}
    level = levels(tied.follows)
    path, total_us = critical_path(tied.follows, level, {key: one.median_us or 0.0 for key, one in of.items()})
    subtitle = f"{len(tied.tasks):,} tasks in {max(level.values()) + 1} levels"
    if total_us:
        subtitle += f"; critical path {looks.length(total_us)}, by medians: {_through(path)}"
    unmeasured = sum(1 for key, one in of.items() if one.median_us is None and tied.tasks[key])
    if unmeasured:
        subtitle += f"; {unmeasured} not measured yet"
    return _chart(title, subtitle, tied, level, of, path if total_us else [])


def _through(path: Sequence[Key]) -> str:
    names = [looks.short(name, 20) for _, name in path]
    return " → ".join(names if len(names) < 5 else [*names[:2], "…", *names[-1:]])


def _tied(tasks: Iterable[Task]) -> Tied:
    """Return who follows somebody or is followed."""
    there = {(task.namespace, task.name): task for task in tasks}
    follows: dict[Key, list[Key]] = {}
    for (space, name), task in there.items():
        for before in names_of(task):
            follows.setdefault((space, before), [])
            follows.setdefault((space, name), []).append((space, before))
    return Tied({key: there.get(key) for key in follows}, follows)


def _around(tied: Tied, wanted: Sequence[str], tasks: Sequence[Task]) -> Tied:
    """Return whom these tasks follow and who follows them, however far away."""
    names = {task.name for task in tasks} | {name for _, name in tied.tasks}
    begun: set[Key] = set()
    for pattern in wanted:
        found = {name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)}
        if not found:
            raise UnknownTask(pattern, names)
        begun |= {key for key in tied.tasks if key[1] in found}
    before = {key: list(ones) for key, ones in tied.follows.items()}
    after: dict[Key, list[Key]] = {key: [] for key in before}
    for key, ones in before.items():
        for one in ones:
            after[one].append(key)
    kept = _reached(begun, before) | _reached(begun, after)
    return Tied(
        {key: task for key, task in tied.tasks.items() if key in kept},
        {key: [one for one in ones if one in kept] for key, ones in before.items() if key in kept},
    )


def _reached(begun: Iterable[Key], to: Mapping[Key, Sequence[Key]]) -> set[Key]:
    found, waiting = set[Key](), list(begun)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += to[key]
    return found


def measured(store: SqliteStore, **filters: Any) -> dict[str, Measured]:
    """Return by task id what the history knows of each task."""
    frame = history(store, columns=["task_id", "status", "duration"], **filters)
    took = frame.assign(us=looks.us_of(frame["duration"]), status=frame["status"].astype(object))
    found: dict[str, Measured] = {}
    for id_, group in took.groupby("task_id", sort=False):
        done = group.loc[group["status"] == str(Status.COMPLETED), "us"].dropna()
        median = float(done.median()) if len(done) else None
        found[str(id_)] = Measured(median, str(group["status"].iloc[-1]), len(done))
    return found


def levels(follows: Mapping[Key, Sequence[Key]]) -> dict[Key, int]:
    """Return for each task how many lie before it, on the longest way.

    Raises
    ------
    InvalidInput
        When they follow each other in a circle: the store refuses that, but another program may have written it.
    """
    found: dict[Key, int] = {}
    try:
        for key in TopologicalSorter(follows).static_order():
            found[key] = max((found[one] + 1 for one in follows[key]), default=0)
    except CycleError as error:
        circle = " after ".join(str(key) for key in error.args[1])
        raise InvalidInput(f"the tasks follow each other in a circle: {circle}; delete one of them") from None
    return found


def critical_path(
    follows: Mapping[Key, Sequence[Key]], level: Mapping[Key, int], took_us: Mapping[Key, float]
) -> tuple[list[Key], float]:
    """Return the path on which the lengths of the tasks are most in sum, from its first task on, and that sum."""
    ends: dict[Key, float] = {}
    by: dict[Key, Key | None] = {}
    for key in sorted(follows, key=lambda one: level[one]):
        last = max(follows[key], key=lambda one: ends[one], default=None)
        by[key] = last
        ends[key] = took_us[key] + (ends[last] if last else 0.0)
    longest = max(ends, key=lambda one: (ends[one], level[one]))
    at: Key | None = longest
    path = []
    while at is not None:
        path.append(at)
        at = by[at]
    return path[::-1], ends[longest]


def _ways(follows: Mapping[Key, Sequence[Key]], level: Mapping[Key, int]) -> dict[tuple[Key, Key], list[Key]]:
    """Return the way of each tie: where it skips levels it has places of its own there, and crosses no name."""
    found = {}
    for key, ones in follows.items():
        for before in ones:
            between = [(f"\0{before}", f"{key} {place}") for place in range(level[before] + 1, level[key])]
            found[before, key] = [before, *between, key]
    return found


def _bent(way: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a way that climbs only between the levels: beside a task it is level, and crosses no name."""
    found = [way[0]]
    for (x, y), (next_x, next_y) in pairwise(way):
        found += [(x + _LEVEL, y), (next_x - _LEVEL, next_y), (next_x, next_y)]
    return found


def _places(follows: Mapping[Key, Sequence[Key]], level: Mapping[Key, int]) -> dict[Key, tuple[float, float]]:
    """Return where each is drawn: its level, and beside those it is tied with."""
    after: dict[Key, list[Key]] = {key: [] for key in follows}
    for key, ones in follows.items():
        for one in ones:
            after[one].append(key)
    columns: list[list[Key]] = [[] for _ in range(max(level.values()) + 1)]
    for key in sorted(follows):
        columns[level[key]].append(key)
    height: dict[Key, float] = {}

    def spread(column: list[Key]) -> None:
        for place, key in enumerate(column):
            height[key] = place - (len(column) - 1) / 2

    for column in columns:
        spread(column)
    for sweep in range(_SWEEPS):
        neighbours = follows if sweep % 2 == 0 else after
        for column in columns if sweep % 2 == 0 else reversed(columns):
            column.sort(
                key=lambda key: (
                    sum(height[one] for one in neighbours[key]) / len(neighbours[key])
                    if neighbours[key]
                    else height[key]
                )
            )
            spread(column)
    return {key: (float(level[key]), height[key]) for key in follows}


def _chart(
    title: str,
    subtitle: str,
    tied: Tied,
    level: Mapping[Key, int],
    of: Mapping[Key, Measured],
    path: Sequence[Key],
) -> Chart:
    import numpy as np

    ways = _ways(tied.follows, level)
    follows = {key: list[Key]() for key in tied.follows}
    far = dict(level)
    for way in ways.values():
        for place, (before, key) in enumerate(pairwise(way), level[way[0]] + 1):
            follows.setdefault(key, []).append(before)
            far[key] = place
    places = _places(follows, far)
    critical = {*pairwise(path)}
    marks: list[Mark] = []
    for name, chosen, colour, width in (
        ("then", [way for tie, way in ways.items() if tie not in critical], looks.GREY, 1.2),
        ("critical path", [way for tie, way in ways.items() if tie in critical], looks.PURPLE, 4.0),
    ):
        if chosen:
            lines = [_bent([places[key] for key in way]) for way in chosen]
            x = [at for line in lines for at in (*(place[0] for place in line), np.nan)]
            y = [at for line in lines for at in (*(place[1] for place in line), np.nan)]
            marks.append(Line(name, np.array(x), np.array(y), colour, width, arrows=True))
    columns = max(level.values()) + 1
    most = max(9, 80 // columns)
    several = len({space for space, _ in tied.tasks}) > 1
    for name, colour, symbol, chosen_keys in _groups(tied, of):
        labels = [_label(key, of[key], most) for key in chosen_keys]
        hover = [_hover(key, tied.tasks[key], of[key], several=several) for key in chosen_keys]
        at = np.array([places[key] for key in chosen_keys])
        marks.append(Points(name, at[:, 0], at[:, 1], colour, symbol, hover, 16, labels))
    heights = [y for _, y in places.values()]
    tall = max(heights) - min(heights) + 1
    panel = Panel(
        Axis("none", "", max(heights) + 0.75, min(heights) - 0.5), marks, round(min(max(tall * 64, 130), 1100))
    )
    return Chart(title, subtitle, Axis("none", "", -0.45, columns - 0.55), [panel])


def _label(key: Key, known: Measured, most: int) -> str:
    name = looks.short(key[1], most)
    return name if known.median_us is None else f"{name}\n{looks.length(known.median_us)}"


def _groups(tied: Tied, of: Mapping[Key, Measured]) -> list[tuple[str, str, str, list[Key]]]:
    """Return the tasks by the state of their last run: its name, colour and symbol, and who."""
    found = []
    for status, look in STATES.items():
        keys = [key for key in tied.tasks if of[key].last == str(status)]
        found.append((f"last {looks.state_name(status)}", look.colour, look.symbol, keys))
    fresh = [key for key, task in tied.tasks.items() if task and not of[key].last]
    gone = [key for key, task in tied.tasks.items() if task is None]
    found += [("has not run", looks.GREY, "diamond", fresh), ("no such task any more", looks.RED, "square-open", gone)]
    return [group for group in found if group[3]]


def _hover(key: Key, task: Task | None, known: Measured, *, several: bool) -> str:
    space, name = key
    lines = [name if not several else f"{name} · {space}"]
    if task is None:
        return "\n".join([*lines, "no task has this name any more"])
    if task.after:
        lines.append(f"after {', '.join(names_of(task))} {task.when}")
    if known.median_us is None:
        lines.append("not measured yet")
    else:
        lines.append(f"median {looks.length(known.median_us)} of {looks.counted(known.runs, 'run')}")
    if known.last:
        lines.append(f"last: {looks.state_name(Status(known.last))}")
    return "\n".join(lines)
