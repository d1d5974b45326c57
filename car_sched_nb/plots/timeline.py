"""What ran when: a row a task, a bar a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from car_sched_nb.frames import history
from car_sched_nb.frames.asked import whole
from car_sched_nb.model import Status, to_us
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
    limit = None if limit is None else whole(limit, "limit")
    frame, cut = newest(store, _COLUMNS, limit, now_us, **filters)
    title = f"Timeline of {looks.about(filters.get('task'))}"
    if frame.empty:
        return nothing(title, empty_words(filters, limit))
    rows, names = rows_of(frame)
    clock = _clock(frame, now_us)
    begun = looks.local_ms(frame["started_at"].fillna(frame["scheduled_at"]), clock.zone)
    took = _lengths_ms(frame, begun, looks.wall_ms(now_us, clock.zone), clock)
    hover = _hover(frame, took, clock)
    marks: list[Mark] = []
    for status, look in STATES.items():
        here = (frame["status"] == str(status)).to_numpy()
        if here.any():
            chosen = [text for text, wanted in zip(hover, here, strict=True) if wanted]
            marks += _marks(status, look, begun[here], took[here], rows[here], chosen)
    marks.sort(key=lambda mark: not getattr(mark, "pale", False))  # the bands of gaps lie below what ran
    low, high = looks.padded(begun.min(), max(begun + took))
    height = round(min(max(len(names) * 26, 80), max(700, len(names) * 14)))
    panel = Panel(
        Axis("rows", "", -0.5, len(names) - 0.5, [(row, looks.short(name)) for row, name in enumerate(names)]),
        marks,
        height,
    )
    axis = Axis("time", f"started ({clock.name})", low, high)
    return Chart(title, f"{'the newest ' * cut}{_ran(frame)}, {looks.period(begun)}", axis, [panel])


def newest(
    store: SqliteStore, columns: list[str], limit: int | None, now_us: int, **filters: Any
) -> tuple[pd.DataFrame, bool]:
    """Return the runs that a chart shows, and whether there are older ones; each has the name of a task."""
    import pandas as pd

    asked = looks.MOST + 1 if limit is None else min(limit, looks.MOST + 1)
    frame = history(store, limit=asked, columns=columns, now_us=now_us, **filters)
    cut = len(frame) > looks.MOST
    frame = pd.DataFrame(frame.iloc[-looks.MOST :] if cut else frame)
    frame["task"] = frame["task"].astype(object).fillna("unknown task")  # its row may be gone from the store
    return frame, cut


def _clock(frame: pd.DataFrame, now_us: int) -> looks.Wall:
    """Return the clock along the axis, by when the first began and the last ended."""
    begun = frame["started_at"].fillna(frame["scheduled_at"])
    last = frame["finished_at"].fillna(begun).max()
    live = bool((frame["status"] == str(Status.RUNNING)).any())
    return looks.wall_for(to_us(begun.min()), max(to_us(last), now_us * live))


def _ran(frame: pd.DataFrame) -> str:
    """Return what there is in words: rows of what did not run count their slots, and are no runs."""
    not_run = frame["status"].isin([str(one) for one in looks.NOT_RUN])
    waiting = int((frame["status"] == str(Status.WAITING)).sum())
    ran = frame["started_at"].notna() & ~not_run
    again = ran & (frame["attempt"] > 1)
    words = looks.ran(int(ran.sum()), int(again.sum()), not_run=int(frame["slots"][not_run].sum()))
    return words + (f", {waiting:,} waiting" if waiting else "")


def empty_words(filters: dict[str, Any], limit: int | None = None) -> str:
    """Return why there is nothing to see, and what to do."""
    given = {name for name, value in filters.items() if value is not None and name != "namespace"}
    if limit == 0 or given - {"task"}:
        return "no run fits these filters; leave one of them away"
    if given:
        several = not isinstance(filters["task"], str) and len(filters["task"]) != 1
        return f"{looks.about(filters['task'])} {'have' if several else 'has'} not run yet"
    return "nothing has run yet; a cell that begins with %%car_task NAME runs"


def names_of(frame: pd.DataFrame) -> pd.Series[Any]:
    """Return the task of each line, with the end of its namespace where there are several."""
    names = frame["task"]
    if frame["namespace"].nunique() < 2:
        return names
    return names + " · " + frame["namespace"].astype(object).map(lambda space: str(space).rsplit("/", 1)[-1])


def rows_of(frame: pd.DataFrame) -> tuple[Array, list[str]]:
    """Return the row of each line, and the names of the rows: of many tasks, those that ran last have one."""
    import numpy as np
    import pandas as pd

    keys = names_of(frame)
    found = pd.unique(keys)
    if len(found) > looks.ROWS:
        newest = list(dict.fromkeys(reversed(keys.tolist())))[: looks.ROWS - 1]
        shown = [*sorted(newest), f"{len(found) - len(newest):,} {_OTHERS}"]
    else:
        shown = sorted(found)
    places = {name: row for row, name in enumerate(shown)}
    return np.array([places.get(key, len(shown) - 1) for key in keys], "float64"), shown


def _lengths_ms(frame: pd.DataFrame, begun: Array, now_ms: float, clock: looks.Wall) -> Array:
    """Return how long each run took, what runs until now, a gap of many slots until its end, and 0 for the others."""
    import numpy as np

    took = looks.us_of(frame["duration"]) / 1000
    took = np.where((frame["status"] == str(Status.RUNNING)).to_numpy(), now_ms - begun, took)
    ended = looks.local_ms(frame["finished_at"], clock.zone)
    took = np.where((frame["slots"] > 1).to_numpy() & (frame["attempt"] == 0).to_numpy(), ended - begun, took)
    return np.nan_to_num(np.maximum(took, 0))


def _marks(status: Status, look: Look, begun: Array, took: Array, rows: Array, hover: list[str]) -> list[Mark]:
    """Return a bar for what began, a band for a gap, and a symbol where the state is worth one."""
    name = looks.state_name(status)
    if status is Status.WAITING or status in looks.NOT_RUN:
        points = Points(name, begun, rows, look.colour, look.symbol, hover)
        long = took > 0
        if not long.any():
            return [points]
        texts = [text for text, wanted in zip(hover, long, strict=True) if wanted]
        band = Bars(name, begun[long], took[long], rows[long], look.colour, texts, legend=False, pale=True)
        return [band, points]
    plain = status is Status.COMPLETED
    marks: list[Mark] = [Bars(name, begun, took, rows, look.colour, hover, legend=plain)]
    if not plain:
        marks.append(Points(name, begun, rows, look.colour, look.symbol, hover, edge="#ffffff"))
    return marks


def _hover(frame: pd.DataFrame, took: Array, clock: looks.Wall) -> list[str]:
    begun = frame["started_at"].fillna(frame["scheduled_at"]).dt.tz_convert(clock.zone)
    at = begun.dt.strftime("%a %d %b %Y %H:%M:%S") + clock.short
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
    if Status(status) in looks.NOT_RUN:
        state = f"{looks.counted(slots, 'slot')} {state}"
    else:
        state += f", attempt {attempt}" if attempt > 1 else ""
        state += f", {slots:,} slots" if slots > 1 else ""
    state += f": {reason}" if isinstance(reason, str) else ""
    when = at + (f", {looks.length(took * 1000)}" if took else "")
    return [task, state, when, *looks.said(error if isinstance(error, str) else answer)]
