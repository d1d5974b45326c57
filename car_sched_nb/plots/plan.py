"""What is coming: the slots of the next days by task, and how many lie together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from car_sched_nb.errors import InvalidInput
from car_sched_nb.frames import asked, ids_of
from car_sched_nb.frames.history import RUNNERS
from car_sched_nb.model import Task, from_us
from car_sched_nb.plots import looks, scales
from car_sched_nb.plots.chart import Axis, Bars, Chart, Mark, Panel, Points, nothing
from car_sched_nb.store import records
from car_sched_nb.triggers import upcoming, words
from car_sched_nb.when import zone_info

if TYPE_CHECKING:
    from car_sched_nb.plots.chart import Array
    from car_sched_nb.store.sqlite import SqliteStore

_MOST = 100_000
"""Slots that are computed; of a task with more than its share the rest is taken to go on as it began."""

_DRAWN = 3_000
"""Slots of a task that are drawn one by one."""

_MOST_DAYS = 366
_DAY_US = 86_400_000_000
_STEPS_S = (1, 10, 60, 300, 900, 3600, 10_800, 21_600, 86_400)
_BINS = 200
_STEP_WORDS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


class Coming(NamedTuple):
    """The slots of a task, in UTC microseconds; `rest_us` is the distance at which they go on after the last one."""

    task: Task
    at_us: Array
    rest_us: float

    @property
    def dense(self) -> bool:
        """Whether they are too many to draw each."""
        return bool(self.rest_us) or len(self.at_us) > _DRAWN

    def total(self, end_us: int) -> float:
        """Return how many there are until then."""
        return len(self.at_us) + ((end_us - float(self.at_us[-1])) // self.rest_us if self.rest_us else 0)


def plan(
    store: SqliteStore,
    *,
    namespace: str | None,
    days: float,
    task: str | Sequence[str] | None,
    runner: str | Sequence[str] | None,
    now_us: int,
) -> Chart:
    """Prepare the chart of all enabled tasks, or of those that are asked for, from now on."""
    if not _is_number(days) or not 0 < days <= _MOST_DAYS:
        raise InvalidInput(f"days is a number above 0 and at most {_MOST_DAYS}, not {days!r}: car.plot.plan(days=7)")
    end_us = now_us + round(days * _DAY_US)
    title = f"Plan of the next {_days(days)}"
    coming = _coming(_chosen(store, namespace, task, runner), now_us, end_us)
    if not coming:
        return nothing(title, "nothing is planned; %%car_task NAME --every 1h is")
    step_us, edges, counts = _counts(coming, now_us, end_us)
    busiest = int(counts.argmax())
    total = sum(one.total(end_us) for one in coming)
    info = zone_info(looks.zone())
    begins = [f"{from_us(int(edge)).astimezone(info):%a %d %b %H:%M}" for edge in edges]
    cut = any(one.rest_us for one in coming)
    subtitle = f"{'about ' * cut}{looks.counted(total, 'slot')} of {looks.counted(len(coming), 'task')}"
    if counts[busiest] > 1:
        subtitle += f"; most in one {_step(step_us)}: {counts[busiest]:,.0f}, {begins[busiest]}"
    low, high = looks.wall_ms(now_us), looks.wall_ms(end_us)
    many = Bars(
        f"slots in each {_step(step_us)}",
        _wall(edges),
        counts,
        _wall_steps(edges, step_us),
        looks.GREY,
        [f"{looks.counted(count, 'slot')}\nfrom {begin}" for begin, count in zip(begins, counts, strict=True)],
        tall=True,
    )
    upper, rows = _by_task(coming, end_us)
    height = round(min(max(rows * 24, 70), max(600, rows * 14)))
    lower = scales.counts(float(counts.max()), 4)._replace(title=many.name)
    axis = Axis("time", f"planned for ({looks.zone()})", *looks.padded(low, high))
    return Chart(title, subtitle, axis, [upper._replace(height=height), Panel(lower, [many], 130)])


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _days(days: float) -> str:
    return "day" if days == 1 else f"{days:g} days"


def _chosen(
    store: SqliteStore,
    namespace: str | None,
    task: str | Sequence[str] | None,
    runner: str | Sequence[str] | None,
) -> list[Task]:
    found = [one for one in records.tasks(store, namespace) if one.enabled]
    if task is not None:
        wanted = {*ids_of(store, namespace, task)}
        found = [one for one in found if one.id in wanted]
    if runner is not None:
        runners = set(asked.several(runner, "runner"))
        for one in runners:
            asked.one_of(one, sorted({*RUNNERS, *(task.runner for task in found)}), "runner")
        found = [one for one in found if one.runner in runners]
    return found


def _coming(tasks: Sequence[Task], now_us: int, end_us: int) -> list[Coming]:
    import numpy as np

    share = max(10, _MOST // max(1, len(tasks)))
    found = []
    for task in tasks:
        at_us: list[int] = []
        for fire in islice(upcoming(task, now_us + 1), share + 1):
            if fire.at_us > end_us:
                break
            at_us.append(fire.at_us)
        if at_us:
            more = len(at_us) > share
            rest_us = (at_us[-1] - at_us[0]) / (len(at_us) - 1) if more else 0.0
            found.append(Coming(task, np.array(at_us, "float64"), rest_us))
    return found


def _counts(coming: Sequence[Coming], now_us: int, end_us: int) -> tuple[int, Array, Array]:
    """Return the length of a step, where each begins, and how many slots lie in it, all UTC microseconds."""
    import numpy as np

    step_us = next((s for s in _STEPS_S if (end_us - now_us) / (s * 1e6) <= _BINS), _STEPS_S[-1]) * 1_000_000
    first = now_us // step_us * step_us
    edges = np.arange(first, end_us + step_us, step_us, dtype="float64")
    counts = np.zeros(len(edges) - 1)
    for one in coming:
        counts += np.histogram(one.at_us, edges)[0]
        if one.rest_us:
            steps = (np.minimum(edges, end_us) - one.at_us[-1]) / one.rest_us
            counts += np.diff(np.maximum(np.ceil(steps) - 1, 0))  # those before an edge
    return step_us, edges[:-1], counts


def _step(step_us: int) -> str:
    step_s = step_us // 1_000_000
    return _STEP_WORDS.get(step_s) or (f"{step_s // 3600} h" if step_s >= 3600 else looks.length(step_us))


def _wall(at_us: Array) -> Array:
    """Return instants in UTC microseconds as local milliseconds."""
    import pandas as pd

    return looks.local_ms(pd.Series(pd.to_datetime(at_us.astype("int64"), unit="us", utc=True)))


def _wall_steps(edges: Array, step_us: int) -> Array:
    import numpy as np

    return np.full(len(edges), step_us / 1000)


def _by_task(coming: Sequence[Coming], end_us: int) -> tuple[Panel, int]:
    """Return the slots in rows, those of few first; what is too dense for points is a band."""
    import numpy as np

    several = len({one.task.namespace for one in coming}) > 1
    name = (lambda t: f"{t.name} · {t.namespace.rsplit('/', 1)[-1]}") if several else (lambda t: t.name)
    ordered = sorted(coming, key=lambda one: name(one.task))
    shown, others = ordered, 0
    if len(ordered) > looks.ROWS:
        busy = {id(one) for one in sorted(ordered, key=lambda one: -len(one.at_us))[: looks.ROWS - 1]}
        shown = [one for one in ordered if id(one) in busy]
        others = len(ordered) - len(shown)
        shown += [one for one in ordered if id(one) not in busy]
    x: list[Array] = []
    y: list[Array] = []
    hover: list[str] = []
    bands: list[tuple[float, float, float, str]] = []
    last_row = len(shown) - others
    for place, one in enumerate(shown):
        row = min(place, last_row)
        wall = _wall(one.at_us)
        told = f"{name(one.task)}\n{words(one.task)}"
        if one.dense:
            until = looks.wall_ms(end_us) if one.rest_us else wall[-1]
            bands.append((wall[0], until - wall[0], row, f"{told}\ntoo many to draw each"))
            continue
        x.append(wall)
        y.append(np.full(len(wall), row, "float64"))
        times = wall.astype("datetime64[ms]").astype("datetime64[s]").astype(object)
        hover += [f"{told}\n{at:%a %d %b %H:%M:%S}" for at in times]
    marks: list[Mark] = []
    if bands:
        start, length, rows, texts = zip(*bands, strict=True)
        marks.append(
            Bars(
                "too many to draw each",
                np.array(start),
                np.array(length),
                np.array(rows, "float64"),
                looks.BLUE,
                texts,
            )
        )
    if x:
        marks.append(Points("slot", np.concatenate(x), np.concatenate(y), looks.BLUE, "tick", hover, 11))
    names = [looks.short(name(one.task)) for one in shown[:last_row]]
    names += [f"{others:,} others"] if others else []
    ticks: list[tuple[float, str]] = [(float(row), one) for row, one in enumerate(names)]
    return Panel(Axis("rows", "", -0.5, len(names) - 0.5, ticks), marks, 0), len(names)
