"""How long the runs of a task took, and whether that changed with its versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from car_sched_nb.frames import history
from car_sched_nb.model import Status
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Axis, Chart, Line, Mark, Panel, Points, Words, nothing
from car_sched_nb.plots.looks import STATES
from car_sched_nb.plots.timeline import empty_words

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.plots.chart import Array
    from car_sched_nb.store.sqlite import SqliteStore

_COLUMNS = "task task_id version status started_at duration answer error".split()
_SLOW = 0.95
_LABELS = 12
_FEW = 5  # so many runs have a slow tail
_STEEP = 40
_NONE = ""


class Part(NamedTuple):
    """The runs of one version of a task: from when to when, what is usual and what is slow."""

    task_id: str
    version: int
    first_ms: float
    last_ms: float
    median_us: float
    slow_us: float


def durations(store: SqliteStore, *, limit: int | None, now_us: int, **filters: Any) -> Chart:
    """Prepare the chart; the filters are those of `frames.history`, the newest 20,000 runs of them are shown."""
    import numpy as np
    import pandas as pd

    asked = looks.MOST + 1 if limit is None else min(limit, looks.MOST + 1)
    frame = history(store, limit=asked, columns=_COLUMNS, now_us=now_us, **filters)
    cut = len(frame) > looks.MOST
    frame = pd.DataFrame(frame.iloc[-looks.MOST :] if cut else frame)
    frame = frame[frame["started_at"].notna() & frame["duration"].notna()]
    title = f"Durations of {looks.about(filters.get('task'))}"
    if frame.empty:
        return nothing(title, empty_words(filters))
    begun, took = looks.local_ms(frame["started_at"]), looks.us_of(frame["duration"])
    done = (frame["status"] == str(Status.COMPLETED)).to_numpy()
    several = len(frame["task"].unique()) > 1
    found = parts(frame, begun, took, done, whole=several)
    unit, unit_us = looks.unit_for(np.quantile(took, _SLOW) if len(took) > _FEW else took.max())
    slow = _slow(frame, took, done, found)
    points = _points(frame, begun, took / unit_us, done, slow)
    low, high = looks.padded(begun.min(), begun.max())
    steep = took.max() > _STEEP * np.median(took) and (took > 0).all()
    bottom = took.min() / unit_us / 2 if steep else 0.0
    top = took.max() / unit_us * (1.6 if steep else 1.08) or 1.0
    marks, words = _versions(found, bottom, top)
    panel = Panel(
        Axis("log" if steep else "number", f"took ({unit})", bottom, top),
        [*points, *_levels(found, unit_us, high), *marks],
        380,
        words,
    )
    axis = Axis("time", f"started ({looks.zone()})", low, high)
    which = f"the newest {looks.runs(len(frame))}" if cut else looks.runs(len(frame))
    return Chart(title, f"{which}{_summary(took[done])}, {looks.period(begun)}", axis, [panel])


def _summary(took: Array) -> str:
    import numpy as np

    if not len(took):
        return ", none completed"
    words = f", median {looks.length(np.median(took))}"
    if len(took) > _FEW:
        words += f", the slowest 5 % above {looks.length(np.quantile(took, _SLOW))}"
    return words


def parts(frame: pd.DataFrame, begun: Array, took: Array, done: Array, *, whole: bool) -> list[Part]:
    """Return the versions that ran, in the order of time, or one part of all; what never completed has no median."""
    import numpy as np
    import pandas as pd

    table = pd.DataFrame(
        {
            "id": _NONE if whole else frame["task_id"].to_numpy(object),
            "version": -1 if whole else frame["version"].to_numpy(),
            "begun": begun,
            "took": np.where(done, took, np.nan),
        }
    )
    found = []
    for _, group in table.groupby(["id", "version"], sort=False):
        usual = group["took"].dropna()
        median = float(usual.median()) if len(usual) else float("nan")
        slow = float(usual.quantile(_SLOW)) if len(usual) > _FEW else float("nan")
        first, last = float(group["begun"].min()), float(group["begun"].max())
        found.append(Part(str(group["id"].iloc[0]), int(group["version"].iloc[0]), first, last, median, slow))
    return sorted(found, key=lambda part: part.first_ms)


def _slow(frame: pd.DataFrame, took: Array, done: Array, found: list[Part]) -> Array:
    """Tell which completed runs are in the slow tail of their task's version."""
    import numpy as np

    limits = {(part.task_id, part.version): part.slow_us for part in found}
    alone = limits.get((_NONE, -1), float("nan"))
    above = np.array([limits.get(key, alone) for key in zip(frame["task_id"], frame["version"], strict=True)])
    return done & (took > above)


def _points(frame: pd.DataFrame, begun: Array, shown: Array, done: Array, slow: Array) -> list[Mark]:
    hover = _hover(frame)
    marks: list[Mark] = []

    def add(name: str, here: Array, colour: str, symbol: str, size: float) -> None:
        if here.any():
            texts = [text for text, wanted in zip(hover, here, strict=True) if wanted]
            marks.append(Points(name, begun[here], shown[here], colour, symbol, texts, size))

    look = STATES[Status.COMPLETED]
    add("completed", done & ~slow, look.colour, look.symbol, 6)
    add("completed, slowest 5 %", slow, look.colour, "triangle-up", 9)
    for status, other in STATES.items():
        if status is not Status.COMPLETED:
            add(
                looks.state_name(status),
                (frame["status"] == str(status)).to_numpy(),
                other.colour,
                other.symbol,
                9,
            )
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


def _levels(found: list[Part], unit_us: float, end_ms: float) -> list[Mark]:
    """Return the median and the slow tail's limit of each version, from its first run until its last."""
    import numpy as np

    marks: list[Mark] = []
    for name, field, dash in (("median", "median_us", "solid"), ("95 % were quicker", "slow_us", "dash")):
        measured = [(part, getattr(part, field)) for part in found if getattr(part, field) == getattr(part, field)]
        if not measured:
            continue
        alone = len(found) == 1
        x = [at for part, _ in measured for at in (part.first_ms, end_ms if alone else part.last_ms, np.nan)]
        y = [one for _, level in measured for one in (level / unit_us, level / unit_us, np.nan)]
        words = "; ".join(
            (f"version {part.version}: " if len(measured) > 1 else "") + looks.length(level)
            for part, level in measured[-4:]
        )
        marks.append(
            Line(name, np.array(x), np.array(y), looks.BLUE, 2.5 if field == "median_us" else 1.5, dash, words=words)  # type: ignore[arg-type]
        )
    return marks


def _versions(found: list[Part], bottom: float, top: float) -> tuple[list[Mark], Words]:
    """Return a line where each version began, and the newest ones' names above."""
    import numpy as np

    if len(found) < 2:
        return [], Words((), ())
    x = np.array([at for part in found for at in (part.first_ms, part.first_ms, np.nan)])
    y = np.array([bottom, top, np.nan] * len(found))
    room = (found[-1].last_ms - found[0].first_ms) / 25
    labels: list[tuple[float, str]] = []
    for part in reversed(found):
        if len(labels) < _LABELS and (not labels or labels[-1][0] - part.first_ms > room):
            labels.append((part.first_ms, f"v{part.version}"))
    words = Words([at for at, _ in labels], [text for _, text in labels])
    return [Line("version begins", x, y, looks.GREY, 1, "dot")], words
