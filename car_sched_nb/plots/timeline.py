"""What ran when: a row a task, a bar a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from car_sched_nb.frames import history
from car_sched_nb.model import Status
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Axis, Bars, Chart, Mark, Panel, Points, nothing
from car_sched_nb.plots.looks import STATES, Look

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.plots.chart import Array
    from car_sched_nb.store.sqlite import SqliteStore

_COLUMNS = (
    "task namespace status scheduled_at started_at finished_at duration attempt slots reason answer error".split()
)
_OTHERS = "others"


def timeline(store: SqliteStore, *, limit: int | None, now_us: int, **filters: Any) -> Chart:
    """Prepare the chart; the filters are those of `frames.history`, the newest 20,000 runs of them are shown."""
    import pandas as pd

    most = looks.MOST if limit is None else min(limit, looks.MOST)
    asked = most + 1 if limit is None or limit > most else limit
    frame = history(store, limit=asked, columns=_COLUMNS, now_us=now_us, **filters)
    cut = len(frame) > most
    frame = pd.DataFrame(frame.iloc[-most:] if cut else frame)
    title = f"Timeline of {looks.about(filters.get('task'))}"
    if frame.empty:
        return nothing(title, empty_words(filters))
    rows, names = rows_of(frame)
    begun = looks.local_ms(frame["started_at"].fillna(frame["scheduled_at"]))
    took = _lengths_ms(frame, begun, now_us)
    hover = _hover(frame, took)
    marks: list[Mark] = []
    for status, look in STATES.items():
        here = (frame["status"] == str(status)).to_numpy()
        if here.any():
            chosen = [text for text, wanted in zip(hover, here, strict=True) if wanted]
            marks += _marks(status, look, begun[here], took[here], rows[here], chosen)
    low, high = looks.padded(begun.min(), max(begun + took))
    which = f"the newest {looks.runs(most)}" if cut else looks.runs(len(frame))
    height = round(min(max(len(names) * 26, 80), max(700, len(names) * 14)))
    panel = Panel(
        Axis("rows", "", -0.5, len(names) - 0.5, [(row, looks.short(name)) for row, name in enumerate(names)]),
        marks,
        height,
    )
    axis = Axis("time", f"started ({looks.zone()})", low, high)
    return Chart(title, f"{which}, {looks.period(begun)}", axis, [panel])


def empty_words(filters: dict[str, Any]) -> str:
    """Return why there is nothing to see, and what to do."""
    if any(value is not None for name, value in filters.items() if name != "namespace"):
        return "no run fits these filters; leave one of them away"
    return "nothing has run yet; a cell that begins with %%car_task NAME runs"


def rows_of(frame: pd.DataFrame) -> tuple[Array, list[str]]:
    """Return the row of each line, and the names of the rows: of many tasks, those that ran last have one."""
    import numpy as np
    import pandas as pd

    several = len(frame["namespace"].unique()) > 1
    spaces = frame["namespace"].astype(object).map(lambda space: str(space).rsplit("/", 1)[-1])
    names = frame["task"].astype(object)
    keys = names + " · " + spaces if several else names
    found = pd.unique(keys)
    if len(found) > looks.ROWS:
        newest = list(dict.fromkeys(reversed(keys.tolist())))[: looks.ROWS - 1]
        shown = [*sorted(newest), f"{len(found) - len(newest):,} {_OTHERS}"]
    else:
        shown = sorted(found)
    places = {name: row for row, name in enumerate(shown)}
    return np.array([places.get(key, len(shown) - 1) for key in keys], "float64"), shown


def _lengths_ms(frame: pd.DataFrame, begun: Array, now_us: int) -> Array:
    """Return how long each run took, what runs until now, and 0 for what did not begin."""
    import numpy as np

    took = looks.us_of(frame["duration"]) / 1000
    live = (frame["status"] == str(Status.RUNNING)).to_numpy()
    took = np.where(live, looks.wall_ms(now_us) - begun, took)
    return np.nan_to_num(np.maximum(took, 0))


def _marks(status: Status, look: Look, begun: Array, took: Array, rows: Array, hover: list[str]) -> list[Mark]:
    """Return a bar for what began, and a symbol where the state is worth one."""
    name = looks.state_name(status)
    if status in (Status.WAITING, Status.MISSED, Status.SKIPPED):
        return [Points(name, begun, rows, look.colour, look.symbol, hover)]
    plain = status is Status.COMPLETED
    marks: list[Mark] = [Bars(name, begun, took, rows, look.colour, hover, legend=plain)]
    if not plain:
        marks.append(Points(name, begun, rows, look.colour, look.symbol, hover, edge="#ffffff"))
    return marks


def _hover(frame: pd.DataFrame, took: Array) -> list[str]:
    begun = frame["started_at"].fillna(frame["scheduled_at"]).dt.tz_convert(looks.zone())
    at = begun.dt.strftime("%a %d %b %Y %H:%M:%S")
    columns = zip(
        *(frame[name] for name in ("task", "status", "attempt", "slots", "reason", "answer", "error")),
        at,
        took,
        strict=True,
    )
    return ["\n".join(_lines(*row)) for row in columns]


def _lines(
    task: str, status: str, attempt: int, slots: int, reason: Any, answer: Any, error: Any, at: str, took: float
) -> list[str]:
    state = looks.state_name(Status(status))
    state += f", attempt {attempt}" if attempt > 1 else ""
    state += f", {slots:,} slots" if slots > 1 else ""
    state += f": {reason}" if isinstance(reason, str) else ""
    when = at + (f", {looks.length(took * 1000)}" if took else "")
    return [task, state, when, *looks.said(error if isinstance(error, str) else answer)]
