"""What is defined, what is planned, and what became of it, as DataFrames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import EnumType, StrEnum
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from car_sched_nb.errors import InvalidInput
from car_sched_nb.frames import asked, dtypes
from car_sched_nb.model import Cause, Status, TaskStatus, Trigger, to_us
from car_sched_nb.occurrence import bare_slot, slot_text
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.triggers import Fire, schedule_of, series, upcoming, words
from car_sched_nb.when import zone_name

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.model import Task

MOST = 1_000_000
"""Slots in one frame; a task of 10 ms has as many in three hours."""

_INSTANT = "instant"
_LENGTH = "length"
_MINUTE_US = 60_000_000


class SlotStatus(StrEnum):
    """What became of a slot: a state of its execution, or nothing yet."""

    DUE = "due"
    TO_COME = "to_come"


_SLOT_STATES = [*map(str, Status), *map(str, SlotStatus)]


def frame_of(columns: dict[str, Any], rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Return rows as a frame whose columns have their dtypes, also when there is none.

    Parameters
    ----------
    columns
        By name: a dtype, an enum or a list for a fixed categorical, "instant" and "length" for microseconds.
    """
    import pandas as pd

    turned = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    made = {name: _series(values, kind) for (name, kind), values in zip(columns.items(), turned, strict=True)}
    return pd.DataFrame(made)


def _series(values: Sequence[Any], kind: Any) -> Any:
    import numpy as np
    import pandas as pd

    if kind in (_INSTANT, _LENGTH):
        lowest = np.iinfo("int64").min  # what numpy takes for "not a time"
        whole = np.array([lowest if value is None else value for value in values], dtype="int64")
        return dtypes.instants(whole) if kind == _INSTANT else dtypes.lengths(whole)
    if isinstance(kind, EnumType | list):
        names = [str(one) for one in (list[StrEnum](kind) if isinstance(kind, EnumType) else kind)]
        return pd.Categorical([None if value is None else str(value) for value in values], categories=names)
    return pd.Series(list(values), dtype=kind)


_TASKS = {
    "name": "str",
    "status": TaskStatus,
    "runner": "str",
    "trigger": Trigger,
    "when": "str",
    "next_at": _INSTANT,
    "last_run_at": _INSTANT,
    "run_count": "int64",
    "enabled": "bool",
    "revision": "int64",
    "version": "int64",
    "created_at": _INSTANT,
    "namespace": "str",
    "task_id": "str",
}


def tasks(store: SqliteStore, namespace: str | None = None) -> pd.DataFrame:
    """Return the stored tasks as a DataFrame indexed by name; `when` is the trigger in words."""
    rows = [
        (
            *(task.name, task.status, task.runner, task.trigger, words(task), _us(task.next_at), _us(task.last_run_at)),
            *(task.run_count, task.enabled, task.revision, task.version, _us(task.created_at)),
            *(task.namespace, task.id),
        )
        for task in records.tasks(store, namespace)
    ]
    return frame_of(_TASKS, rows).set_index("name")


def _us(instant: Any) -> int | None:
    return None if instant is None else to_us(instant)


def preview(tasks: Iterable[Task], now_us: int, n: int | None = 10, until_us: int | None = None) -> pd.DataFrame:
    """Return the next planned slots of tasks, in the order of time.

    Columns: `task`, `slot`, `scheduled_at` (UTC), `local` (in the task's zone, this machine's for several zones), and
    `in_minute`, how many of these slots lie in the same minute: where a plan piles up.

    Parameters
    ----------
    n
        So many of each task; None for all until `until_us`.
    """
    n = None if n is None else asked.whole(n, "n")
    found = list(tasks)
    fires = merge(*(_next(task, now_us, n, until_us) for task in found), key=lambda one: one[2])
    rows = list(islice(fires, MOST + 1))
    if len(rows) > MOST:
        raise InvalidInput(f"more than {MOST:,} slots are planned until then; ask for less: until='in 1h'")
    crowd = Counter(at_us // _MINUTE_US for _, _, at_us in rows)
    columns = {"task": "str", "slot": "str", "scheduled_at": _INSTANT, "in_minute": "int64"}
    frame = frame_of(columns, [(*row, crowd[row[2] // _MINUTE_US]) for row in rows])
    frame.insert(3, "local", _local(frame, found))
    return frame


def _next(task: Task, now_us: int, n: int | None, until_us: int | None) -> Iterator[tuple[str, str, int]]:
    for fire in islice(upcoming(task, now_us + 1), None if n is None else min(n, MOST + 1)):
        if until_us is not None and fire.at_us > until_us:
            return
        yield task.name, fire.slot, fire.at_us


def _local(frame: pd.DataFrame, tasks: Sequence[Task]) -> Any:
    zones = {task.tz for task in tasks if task.tz}
    return frame["scheduled_at"].dt.tz_convert(zone_name(zones.pop() if len(zones) == 1 else None))


_SLOTS = {
    "task": "str",
    "slot": "str",
    "scheduled_at": _INSTANT,
    "status": _SLOT_STATES,
    "execution_id": "str",
    "attempts": "int64",
    "slots": "int64",
    "started_at": _INSTANT,
    "lateness": _LENGTH,
    "duration": _LENGTH,
    "cause": Cause,
    "reason": "str",
    "error": "str",
}
_OF_SLOTS = """
    SELECT e.slot, e.scheduled_at, e.status, e.execution_id, e.attempt, e.slots, e.started_at,
        e.started_at - e.scheduled_at, e.duration, e.cause, coalesce(e.reason, e.wait_reason), e.error
    FROM executions e WHERE e.task_id = ? AND e.trigger != 'manual' AND e.scheduled_at < ?
        AND (e.scheduled_at >= ? OR (e.attempt = 0 AND e.slots > 1)) ORDER BY e.scheduled_at, e.attempt"""


def slots(
    store: SqliteStore, tasks: Iterable[Task], start_us: int | None, end_us: int | None, now_us: int
) -> pd.DataFrame:
    """Return every planned slot of tasks in a period with what became of it, a row each, indexed by `slot`.

    `status` is that of the slot's last attempt, `missed` or `skipped` with the reason, `due` when it is planned and not
    settled yet, or `to_come`. A paused task has none to come; what has passed in its pause is `skipped`, without an id
    as long as the pause lasts. Slots that a file's change or other tasks made are there as far as they came, and
    settled slots whose rows were removed are not there. `slots` is more than 1 for what a schedule has left that was
    changed since: its single slots cannot be told any more.

    Parameters
    ----------
    start_us, end_us
        None for each task's definition, and for now.
    """
    rows: list[tuple[Any, ...]] = []
    for task in tasks:
        assert task.created_at is not None
        begin_us = to_us(task.created_at) if start_us is None else start_us
        until_us = max(begin_us, now_us + 1) if end_us is None else end_us
        found = _of_task(store, task, begin_us, until_us, now_us, MOST - len(rows))
        rows += [(task.name, *row) for row in found if begin_us <= row[1] < until_us]
    rows.sort(key=lambda row: row[2])
    return frame_of(_SLOTS, rows).set_index("slot")


def _of_task(
    store: SqliteStore, task: Task, start_us: int, end_us: int, now_us: int, most: int
) -> Iterable[tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    gaps: list[tuple[Any, ...]] = []
    for row in store.rows(_OF_SLOTS, task.id, end_us, start_us):
        if row[4] == 0:
            gaps.append(row)
        else:
            found[row[0]] = row
    for gap in gaps:
        for row in _each(task, gap, start_us, end_us):
            found.setdefault(row[0], row)
            _check_number(found, most)
    for fire in _planned(task, start_us, end_us if task.enabled else min(end_us, now_us + 1)):
        text = slot_text(task.revision, fire.slot)
        if text not in found:
            found[text] = (text, fire.at_us, *_unsettled(task, fire.at_us > now_us))
            _check_number(found, most)
    return found.values()


def _unsettled(task: Task, to_come: bool) -> tuple[Any, ...]:
    """Return what there is to tell of a slot without a row, from `status` on; a pause gets one when it ends."""
    state: Any = SlotStatus.TO_COME if to_come else SlotStatus.DUE if task.enabled else Status.SKIPPED
    return (state, None, 0, 1, *[None] * 4, None if task.enabled else "paused", None)


def _check_number(found: dict[str, Any], most: int) -> None:
    if len(found) > most:
        raise InvalidInput(f"there are more than {MOST:,} slots in that time; ask for less of it: start=..., end=...")


def _each(task: Task, gap: tuple[Any, ...], start_us: int, end_us: int) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each slot of a gap in a period; the gap itself when its schedule was changed since."""
    slot, at_us, count = gap[0], gap[1], gap[5]
    planned = bare_slot(task.revision, slot)
    if planned is None or schedule_of(task) is None:
        yield gap
        return
    for fire in series(task, Fire(planned, at_us), count, start_us):
        if fire.at_us >= end_us:
            return
        yield (slot_text(task.revision, fire.slot), fire.at_us, *gap[2:5], 1, *gap[6:])


def _planned(task: Task, start_us: int, end_us: int) -> Iterator[Fire]:
    """Yield what the task's schedule plans in a period, from its cursor on: what lies before is settled."""
    plan = schedule_of(task)
    if plan is None:
        return
    for fire in upcoming(msgspec.structs.replace(task, enabled=True), max(start_us, 0)):
        if fire.at_us >= end_us:
            return
        yield fire
