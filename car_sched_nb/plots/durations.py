"""How long the runs of tasks took, and how that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from car_sched_nb.frames.asked import whole
from car_sched_nb.model import Status
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Axis, Chart, Line, Mark, Panel, Points, Words, nothing
from car_sched_nb.plots.looks import STATES, Look
from car_sched_nb.plots.timeline import empty_words, names_of, newest

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.plots.chart import Array
    from car_sched_nb.store.sqlite import SqliteStore

_COLUMNS = "task namespace version status attempt started_at duration answer error".split()
_SLOW = 0.95
_LABELS = 12
_STEEP = 40
_PARTS = 15
_LEAST, _LEAST_SLOW = 5, 20  # runs that have a median, and a slow tail
_PLACES = 800  # of a line


class Moving(NamedTuple):
    """What was usual and what was slow around each completed run of a task: of `window` and `slow_window` runs."""

    usual: Array
    slow: Array
    window: int
    slow_window: int


def durations(store: SqliteStore, *, limit: int | None, now_us: int, **filters: Any) -> Chart:
    """Prepare the chart; the filters are those of `frames.history`, the newest 20,000 runs of them are shown."""
    import numpy as np

    limit = None if limit is None else whole(limit, "limit")
    frame, cut = newest(store, _COLUMNS, limit, now_us, **filters)
    begun_any = bool(frame["started_at"].notna().any())
    frame = frame[frame["started_at"].notna() & frame["duration"].notna()].sort_values("started_at", kind="stable")
    title = f"Durations of {looks.about(filters.get('task'))}"
    if frame.empty:
        return nothing(title, "no run has ended yet" if begun_any else empty_words(filters, limit))
    begun, took = looks.local_ms(frame["started_at"]), looks.us_of(frame["duration"])
    done = (frame["status"] == str(Status.COMPLETED)).to_numpy()
    names = names_of(frame)
    ordered = names.value_counts().index.tolist()
    unit, unit_us = looks.unit_for(np.quantile(took, _SLOW) if len(took) >= _LEAST else took.max())
    shown = _Shown(begun, took / unit_us, done, _hover(frame))
    steep = took.max() > _STEEP * np.median(took) and (took > 0).all()
    bottom = took.min() / unit_us / 2 if steep else 0.0
    top = took.max() / unit_us * (1.6 if steep else 1.08) or 1.0
    words, said = Words((), ()), f", {looks.counted(len(ordered), 'task')}"
    if len(ordered) > 1:
        marks = _of_tasks(shown, names.to_numpy(object), ordered)
    else:
        moved = moving(shown.took[done])
        marks, said = _of_one(shown, moved), _summary(took[done], moved)
        begins, words = _versions(frame["version"].to_numpy(), begun, bottom, top)
        marks += begins
    marks += _not_completed(shown, frame)
    panel = Panel(Axis("log" if steep else "number", f"took ({unit})", bottom, top), marks, 380, words)
    axis = Axis("time", f"started ({looks.zone()})", *looks.padded(begun.min(), begun.max()))
    ran = looks.ran(len(frame), int((frame["attempt"] > 1).sum()))
    return Chart(title, f"{'the newest ' * cut}{ran}{said}, {looks.period(begun)}", axis, [panel])


class _Shown(NamedTuple):
    """All runs: when each began, how long it took in the axis' unit, whether it completed, what is said of it."""

    begun: Array
    took: Array
    done: Array
    hover: list[str]

    def points(self, name: str, here: Array, look: Look, size: float) -> list[Mark]:
        if not here.any():
            return []
        texts = [text for text, wanted in zip(self.hover, here, strict=True) if wanted]
        return [Points(name, self.begun[here], self.took[here], look.colour, look.symbol, texts, size)]


def moving(took: Array) -> Moving:
    """Return the median and the slow tail's limit around each run, in the order of time; of few there is none."""
    import pandas as pd

    series = pd.Series(took, dtype="float64")
    window = max(_LEAST, len(series) // _PARTS)
    slow_window = max(_LEAST_SLOW, window)
    # At both ends a window has half its runs.
    usual = series.rolling(window, center=True, min_periods=min(_LEAST, window // 2 + 1)).median()
    slow = series.rolling(slow_window, center=True, min_periods=slow_window // 2).quantile(_SLOW)
    if len(series) < _LEAST_SLOW:
        slow[:] = float("nan")
    return Moving(usual.to_numpy(), slow.to_numpy(), window, slow_window)


def _summary(took: Array, moved: Moving) -> str:
    """Return the median of all, and of the newest where there are others."""
    import numpy as np

    if not len(took):
        return ", none completed"
    words = f", median {looks.length(np.median(took))}"
    if len(took) > moved.window:
        words += f", of the newest {moved.window:,}: {looks.length(np.median(took[-moved.window :]))}"
    return words


def _of_one(shown: _Shown, moved: Moving) -> list[Mark]:
    """Return the runs of one task, with what was usual and what was slow as time went by."""
    import numpy as np

    slow = np.zeros(len(shown.done), bool)
    slow[shown.done] = shown.took[shown.done] > moved.slow
    look, at = STATES[Status.COMPLETED], shown.begun[shown.done]
    marks = shown.points("completed", shown.done & ~slow, look, 6)
    marks += shown.points("completed, slowest 5 %", slow, Look(look.colour, "triangle-up"), 9)
    marks += _line(f"median of {moved.window:,} runs", at, moved.usual, looks.BLUE)
    marks += _line(f"95 % of {moved.slow_window:,} runs were quicker", at, moved.slow, looks.BLUE, thin=True)
    return marks


def _of_tasks(shown: _Shown, names: Array, ordered: list[str]) -> list[Mark]:
    """Return the runs of several tasks, those with most runs in a colour of their own, each with its median."""
    import numpy as np

    marks: list[Mark] = []
    lines: list[Mark] = []
    named = ordered if len(ordered) <= len(looks.TASKS) else ordered[: len(looks.TASKS) - 1]
    for name, look in zip(named, looks.TASKS, strict=False):
        here = shown.done & (names == name)
        marks += shown.points(looks.short(name), here, look, 6)
        lines += _joined(_line(looks.short(name), *_median(shown, names == name), look.colour))
    others = ordered[len(named) :]
    if others:
        told = f"{len(others):,} others"
        grey = shown.points(told, shown.done & ~np.isin(names, named), Look(looks.GREY, "circle"), 4)
        levels = [_line(told, *_median(shown, names == name), looks.GREY, thin=True) for name in others]
        marks = [*grey, *_joined([line for found in levels for line in found]), *marks]
    return [*marks, *lines]


def _median(shown: _Shown, of_task: Array) -> tuple[Array, Array]:
    here = shown.done & of_task
    return shown.begun[here], moving(shown.took[here]).usual


def _joined(lines: list[Line]) -> list[Mark]:
    """Return lines that look alike as one with breaks, without a name in the legend."""
    import numpy as np

    if not lines:
        return []
    x, y = (
        np.concatenate([np.append(values, np.nan) for values in of])
        for of in zip(*((one.x, one.y) for one in lines), strict=True)
    )
    return [lines[0]._replace(x=x[:-1], y=y[:-1], legend=False)]


def _line(name: str, at: Array, level: Array, colour: str, *, thin: bool = False) -> list[Line]:
    """Return a line where there is a level, of so many places as a screen can show."""
    import numpy as np

    places = np.flatnonzero(~np.isnan(level))
    if len(places) < 2:
        return []
    places = np.unique(np.append(places[:: 1 + len(places) // _PLACES], places[-1]))
    return [Line(name, at[places], level[places], colour, 1.5 if thin else 2.5, "dash" if thin else "solid")]


def _not_completed(shown: _Shown, frame: pd.DataFrame) -> list[Mark]:
    marks: list[Mark] = []
    for status, look in STATES.items():
        if status is not Status.COMPLETED:
            marks += shown.points(looks.state_name(status), (frame["status"] == str(status)).to_numpy(), look, 9)
    return marks


def _hover(frame: pd.DataFrame) -> list[str]:
    at = frame["started_at"].dt.tz_convert(looks.zone()).dt.strftime("%a %d %b %Y %H:%M:%S")
    took = looks.us_of(frame["duration"])
    columns = (frame[name] for name in ("task", "status", "version", "answer", "error"))
    return [
        "\n".join(
            [
                task,
                f"{looks.state_name(Status(status))}, {looks.length(us)}",
                f"{when}, version {version}",
                *looks.said(error if isinstance(error, str) else answer),
            ]
        )
        for task, status, version, answer, error, when, us in zip(*columns, at, took, strict=True)
    ]


def _versions(versions: Array, begun: Array, bottom: float, top: float) -> tuple[list[Mark], Words]:
    """Return a line where each version began, and the newest ones' names above."""
    import numpy as np

    found, places = np.unique(versions, return_index=True)
    if len(found) < 2:
        return [], Words((), ())
    first = sorted(zip(begun[places], found, strict=True))
    x = np.array([at for one, _ in first for at in (one, one, np.nan)])
    room = (begun[-1] - begun[0]) / 25
    labels: list[tuple[float, str]] = []
    for at, version in reversed(first):
        if len(labels) < _LABELS and (not labels or labels[-1][0] - at > room):
            labels.append((at, f"v{version}"))
    words = Words([at for at, _ in labels], [text for _, text in labels])
    return [Line("version begins", x, np.array([bottom, top, np.nan] * len(first)), looks.GREY, 1, "dot")], words
