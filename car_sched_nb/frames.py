"""History and tasks as DataFrames, with the same columns and dtypes whatever is in the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import EnumType, StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

from car_sched_nb.errors import InvalidInput, UnknownTask, nearest
from car_sched_nb.model import Cause, Status, TaskStatus, Trigger, to_us
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.triggers import upcoming, words
from car_sched_nb.when import parse_instant

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from car_sched_nb.model import Task

_INSTANT = "datetime64[us, UTC]"
_LENGTH = "timedelta64[us]"

# Name, SQL, dtype; in the order of the columns after the index.
_HISTORY: tuple[tuple[str, str, Any], ...] = (
    ("execution_id", "e.execution_id", "str"),
    ("task_id", "e.task_id", "str"),
    ("task", "t.name", "str"),
    ("namespace", "t.namespace", "str"),
    ("trigger", "e.trigger", Trigger),
    ("slot", "e.slot", "str"),
    ("attempt", "e.attempt", "int64"),
    ("status", "e.status", Status),
    ("scheduled_at", "e.scheduled_at", _INSTANT),
    ("started_at", "e.started_at", _INSTANT),
    ("finished_at", "e.finished_at", _INSTANT),
    ("duration", "e.duration", _LENGTH),
    ("lateness", "e.started_at - e.scheduled_at", _LENGTH),
    ("slots", "e.slots", "int64"),
    ("cause", "e.cause", Cause),
    ("reason", "coalesce(e.reason, e.wait_reason)", "str"),
    ("version", "e.version", "int64"),
    ("params", "e.params", "json"),
    ("runner", "e.runner", "str"),
    ("executor", "e.executor", "str"),
    ("owner", "o.name", "str"),
    ("answer", "e.answer", "str"),
    ("error", "e.error", "str"),
    ("error_type", "e.error_type", "str"),
    ("turns", "e.turns", "Int64"),
    ("tool_calls", "e.tool_calls", "Int64"),
    ("tokens_in", "e.tokens_in", "Int64"),
    ("tokens_out", "e.tokens_out", "Int64"),
    ("cost", "e.cost", "Float64"),
    ("model", "e.model", "str"),
)
_FROM = "FROM executions e JOIN tasks t ON t.id = e.task_id LEFT JOIN owners o ON o.id = e.owner"


def history(
    store: SqliteStore,
    *,
    namespace: str | None = None,
    task: str | Sequence[str] | None = None,
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    status: str | Sequence[str] | None = None,
    limit: int | None = None,
    now_us: int,
) -> pd.DataFrame:
    """Return executions as a DataFrame indexed by `execution_id`, oldest first.

    Parameters
    ----------
    namespace
        None for every notebook's.
    task, status
        One or several names.
    since, until
        Bounds on `scheduled_at`, the first included: a datetime, "2026-11-23 09:00", or a length back from
        now such as "7d". What is naive is local time.
    limit
        Only the newest so many.

    Raises
    ------
    UnknownTask, InvalidInput
        For a name or a value that does not fit, with what to type.
    """
    where, bound = _where(store, namespace, _several(task), since, until, _several(status), now_us)
    columns = ", ".join(sql for _, sql, _ in _HISTORY)
    sql = f"SELECT {columns} {_FROM} WHERE {where} ORDER BY e.seq"
    if limit is not None:
        if limit < 0:
            raise InvalidInput(f"limit is a whole number from 0, not {limit}")
        sql = f"SELECT {columns} {_FROM} WHERE {where} ORDER BY e.seq DESC LIMIT ?"
        bound.append(limit)
    rows = store.rows(sql, *bound)
    return _frame(_HISTORY, rows if limit is None else rows[::-1]).set_index("execution_id")


def _several(given: str | Sequence[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [str(given)] if isinstance(given, str) else [str(one) for one in given]


def _where(
    store: SqliteStore,
    namespace: str | None,
    names: list[str] | None,
    since: str | datetime | None,
    until: str | datetime | None,
    states: list[str] | None,
    now_us: int,
) -> tuple[str, list[Any]]:
    parts: list[str] = ["1"]
    bound: list[Any] = []
    if namespace is not None:
        parts.append("t.namespace = ?")
        bound.append(namespace)
    if names is not None:
        _check_names(store, namespace, names)
        parts.append("t.name IN (SELECT value FROM json_each(?))")
        bound.append(json.dumps(names))
    for text, sign in ((since, ">="), (until, "<")):
        if text is not None:
            parts.append(f"e.scheduled_at {sign} ?")
            bound.append(parse_instant(text, now_us=now_us))
    if since is not None and until is not None and bound[-2] > bound[-1]:
        raise InvalidInput(f"since ({since}) is after until ({until}); swap them")
    if states is not None:
        for state in states:
            if state not in list(Status):
                listed = ", ".join(Status)
                raise InvalidInput(f"no status is named {state!r}{nearest(state, Status, none=';')} there are {listed}")
        parts.append("e.status IN (SELECT value FROM json_each(?))")
        bound.append(json.dumps(states))
    return " AND ".join(parts), bound


def _check_names(store: SqliteStore, namespace: str | None, names: list[str]) -> None:
    # A deleted task's history stays, so its name is known too.
    sql = "SELECT DISTINCT name FROM tasks" + ("" if namespace is None else " WHERE namespace = ?")
    known = {row[0] for row in store.rows(sql, *([] if namespace is None else [namespace]))}
    for name in names:
        if name not in known:
            raise UnknownTask(name, known)


def _frame(columns: Sequence[tuple[str, str, Any]], rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    import pandas as pd

    turned = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return pd.DataFrame({name: _series(values, kind) for (name, _, kind), values in zip(columns, turned, strict=True)})


def _series(values: Sequence[Any], kind: Any) -> Any:
    import numpy as np
    import pandas as pd

    if kind == "json":
        return pd.Series([json.loads(value) if value else {} for value in values], dtype=object)
    if kind in (_INSTANT, _LENGTH):
        lowest = np.iinfo("int64").min  # what numpy takes for "not a time"
        whole = np.array([lowest if value is None else value for value in values], dtype="int64")
        if kind == _LENGTH:
            return pd.Series(whole.view("timedelta64[us]"))
        return pd.Series(whole.view("datetime64[us]")).dt.tz_localize("UTC")
    if isinstance(kind, EnumType):
        names = [str(one) for one in list[StrEnum](kind)]
        return pd.Categorical([None if value is None else str(value) for value in values], categories=names)
    return pd.Series(list(values), dtype=kind)


_TASKS: tuple[tuple[str, str, Any], ...] = (
    ("name", "", "str"),
    ("status", "", TaskStatus),
    ("runner", "", "str"),
    ("trigger", "", Trigger),
    ("when", "", "str"),
    ("next_at", "", _INSTANT),
    ("last_run_at", "", _INSTANT),
    ("run_count", "", "int64"),
    ("enabled", "", "bool"),
    ("revision", "", "int64"),
    ("version", "", "int64"),
    ("created_at", "", _INSTANT),
    ("namespace", "", "str"),
    ("task_id", "", "str"),
)


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
    return _frame(_TASKS, rows).set_index("name")


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else to_us(instant)


def preview(task: Task, now_us: int, n: int = 10) -> pd.DataFrame:
    """Return the next `n` planned slots of a task: `slot`, `scheduled_at` (UTC), `local` (in the task's zone)."""
    if n < 0:
        raise InvalidInput(f"n is a whole number from 0, not {n}")
    found = [(fire.slot, fire.at_us) for fire in islice(upcoming(task, now_us + 1), n)]
    frame = _frame((("slot", "", "str"), ("scheduled_at", "", _INSTANT)), found)
    from car_sched_nb.when import zone_name

    frame["local"] = frame["scheduled_at"].dt.tz_convert(zone_name(task.tz or None))
    return frame
