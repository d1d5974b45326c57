"""The history as a DataFrame: its columns, their dtypes, and what part of it is asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from car_sched_nb.frames import asked, dtypes
from car_sched_nb.frames.gathered import Kind
from car_sched_nb.frames.recent import Read, recent
from car_sched_nb.frames.scan import Column, pieces, scan
from car_sched_nb.model import Cause, Status, Trigger
from car_sched_nb.store.sqlite import Readable, SqliteStore

if TYPE_CHECKING:
    from datetime import date, timedelta

    import pandas as pd

    Instant = str | date | timedelta | pd.Timestamp
    """What bounds a period: an instant, aware or local, a day, or text such as "7d" or "2026-11-23 09:00"."""

RUNNERS = ("python", "shell", "agent", "notebook")
"""Those that each scheduler has; there may be others."""


class _Known(NamedTuple):
    """What the rows name by id: task names, their namespaces, and owners."""

    tasks: dict[str, str]
    spaces: dict[str, str]
    owners: dict[str, str]


class _Shown(NamedTuple):
    """A column of the frame: what is read for it, and how that becomes it."""

    reads: tuple[Column, ...]
    make: Callable[..., Any]


def _text(sql: str, *, usual: str | None = "NULL") -> _Shown:
    return _Shown((Column(sql, "text", usual),), lambda known, read: dtypes.texts(read))


def _named(sql: str, names: Callable[[_Known], dict[str, str]]) -> _Shown:
    return _Shown((Column(sql, "code"),), lambda known, read: dtypes.few_texts(read, names(known)))


def _one_of(sql: str, kind: type[StrEnum], usual: str | None = None) -> _Shown:
    return _Shown((Column(sql, "code", usual),), lambda known, read: dtypes.category(read, kind))


def _whole(sql: str, usual: str | None = None) -> _Shown:
    return _Shown((Column(sql, "int", usual),), lambda known, read: read)


def _number(sql: str, kind: Kind) -> _Shown:
    return _Shown((Column(sql, kind, "NULL"),), lambda known, read: dtypes.nullable(read))


_INSTANT = _Shown((Column("", "maybe"),), lambda known, read: dtypes.instants(read))
_LENGTH = _Shown((Column("", "maybe"),), lambda known, read: dtypes.lengths(read))
_FEW = _Shown((Column("", "code"),), lambda known, read: dtypes.few_texts(read))


def _as(shown: _Shown, sql: str) -> _Shown:
    return shown._replace(reads=tuple(column._replace(sql=sql) for column in shown.reads))


COLUMNS: dict[str, _Shown] = {
    "execution_id": _text("e.execution_id", usual=None),
    "task_id": _as(_FEW, "e.task_id"),
    "task": _named("e.task_id", lambda known: known.tasks),
    "namespace": _named("e.task_id", lambda known: known.spaces),
    "trigger": _one_of("e.trigger", Trigger),
    "slot": _text("e.slot", usual=None),
    "attempt": _whole("e.attempt", "1"),
    "status": _one_of("e.status", Status),
    "scheduled_at": _as(_INSTANT, "e.scheduled_at"),
    "started_at": _as(_INSTANT, "e.started_at"),
    "finished_at": _as(_INSTANT, "e.finished_at"),
    "duration": _as(_LENGTH, "e.duration"),
    "lateness": _Shown(
        (Column("e.scheduled_at", "maybe"), Column("e.started_at", "maybe")),
        lambda known, scheduled, started: dtypes.between(scheduled, started),
    ),
    "slots": _whole("e.slots", "1"),
    "cause": _one_of("e.cause", Cause, "'slot'"),
    "reason": _text("coalesce(e.reason, e.wait_reason)"),
    "version": _whole("e.version"),
    "params": _Shown((Column("e.params", "text", "NULL"),), lambda known, read: dtypes.mappings(read)),
    "runner": _as(_FEW, "e.runner"),
    "executor": _as(_FEW, "e.executor"),
    "owner": _named("e.owner", lambda known: known.owners),
    "answer": _text("e.answer", usual=None),
    "error": _text("e.error"),
    "error_type": _text("e.error_type"),
    "turns": _number("e.turns", "maybe"),
    "tool_calls": _number("e.tool_calls", "maybe"),
    "tokens_in": _number("e.tokens_in", "maybe"),
    "tokens_out": _number("e.tokens_out", "maybe"),
    "cost": _number("e.cost", "number"),
    "model": _text("e.model"),
}

_PARAMS_TEXT = _Shown((Column("e.params", "text", "NULL"),), lambda known, read: dtypes.texts(read.fill_null("{}")))


def history(
    store: SqliteStore,
    *,
    namespace: str | None = None,
    task: str | Sequence[str] | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: str | Sequence[str] | None = None,
    runner: str | Sequence[str] | None = None,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    now_us: int,
) -> pd.DataFrame:
    """Return executions as a DataFrame indexed by `execution_id`, oldest first.

    Parameters
    ----------
    namespace
        None for every notebook's.

    What else may be given, and what is refused, `car.history` says.
    """
    shown = _chosen(columns)
    if limit is not None:
        limit = asked.whole(limit, "limit")
    where, bound = filters(store, namespace, task, since, until, status, runner, now_us)
    since_us = None if since is None else bound[-1]
    key = (where, *(bound if since is None else bound[:-1]), "of", limit, *shown)
    if limit is not None:
        key = (*key, since_us)  # of the newest since an instant, those since another are not a part
    found = recent(store, key, since_us, lambda: _read(store, f"FROM executions e WHERE {where}", bound, shown, limit))
    frame = found.frame.copy(deep=False)  # what the caller changes in a column is copied first, by pandas 3
    if found.params is not None:
        frame.insert(list(shown).index("params") - 1, "params", dtypes.mappings(found.params))
    return frame


def _read(store: SqliteStore, source: str, bound: Sequence[Any], shown: dict[str, _Shown], limit: int | None) -> Read:
    wanted = _wanted(shown)
    arrays = dict(zip(wanted, scan(store, source, bound, wanted, limit), strict=True))
    params = arrays.pop(COLUMNS["params"].reads[0], None)
    rest = {name: one for name, one in shown.items() if name != "params"}
    return Read(_frame(rest, arrays, _known(store)), params)


def _wanted(shown: dict[str, _Shown]) -> list[Column]:
    return list(dict.fromkeys(column for one in shown.values() for column in one.reads))


def batches(
    store: Readable, where: str, bound: Sequence[Any], columns: Sequence[str] | None, rows: int
) -> Iterator[pd.DataFrame]:
    """Yield what `history` returns in frames of so many rows at most; at least one, with all columns.

    Their `params` are JSON text.

    Parameters
    ----------
    where, bound
        A condition, as `filters` returns it.
    """
    shown = {name: _PARAMS_TEXT if name == "params" else one for name, one in _chosen(columns).items()}
    wanted = _wanted(shown)
    known = _known(store)
    for piece in pieces(store, f"FROM executions e WHERE {where}", bound, wanted, rows):
        yield _frame(shown, dict(zip(wanted, piece, strict=True)), known)


def _frame(shown: dict[str, _Shown], arrays: dict[Column, Any], known: _Known) -> pd.DataFrame:
    """Make the frame of what was read; the arrays are let go as soon as they are columns."""
    import pandas as pd

    made: dict[str, Any] = {}
    left = Counter(column for one in shown.values() for column in one.reads)
    for name, one in shown.items():
        made[name] = one.make(known, *(arrays[column] for column in one.reads))
        left.subtract(one.reads)
        for column in one.reads:
            if not left[column]:
                del arrays[column]
    index = pd.Index(made.pop("execution_id"), name="execution_id")
    if not made:
        return pd.DataFrame(index=index, columns=pd.Index([], dtype="str"))
    return pd.DataFrame(made, index=index, copy=False)


def _chosen(columns: Sequence[str] | None) -> dict[str, _Shown]:
    if columns is None:
        return COLUMNS
    names = asked.several(columns, "a column")
    for name in names:
        asked.one_of(name, COLUMNS, "column")
    return {name: COLUMNS[name] for name in dict.fromkeys(["execution_id", *names])}


def _known(store: Readable) -> _Known:
    tasks = store.rows("SELECT id, name, namespace FROM tasks")
    owners = store.rows("SELECT id, name FROM owners")
    return _Known({id_: name for id_, name, _ in tasks}, {id_: space for id_, _, space in tasks}, dict(owners))


def filters(
    store: Readable,
    namespace: str | None,
    task: str | Sequence[str] | None,
    since: Instant | None,
    until: Instant | None,
    status: str | Sequence[str] | None,
    runner: str | Sequence[str] | None,
    now_us: int,
) -> tuple[str, list[Any]]:
    """Return a condition on `executions e`, for `scan`, and what is bound in it, since when last."""
    parts: list[str] = ["TRUE"]
    bound: list[Any] = []

    def among(column: str, values: Iterable[str]) -> None:
        several = list(values)
        if len(several) == 1:  # a tenth quicker
            parts.append(f"{column} = ?")
            bound.append(several[0])
        else:
            parts.append(f"{column} IN (SELECT value FROM json_each(?))")
            bound.append(json.dumps(several))

    if task is not None:
        among("e.task_id", ids_of(store, namespace, task))
    elif namespace is not None:
        others = store.rows("SELECT 1 FROM tasks WHERE namespace != ? LIMIT 1", namespace)
        if others:
            among("{i}e.task_id", [row[0] for row in store.rows("SELECT id FROM tasks WHERE namespace = ?", namespace)])
    since_us, until_us = asked.period(since, until, now_us)
    if until_us is not None:
        parts.append("{i}e.scheduled_at < ?")
        bound.append(until_us)
    if status is not None:
        states = asked.several(status, "status")
        for state in states:
            asked.one_of(state, Status, "status")
        among("+e.status", states)
    if runner is not None:
        runners = asked.several(runner, "runner")
        _check_runners(store, runners)
        among("e.runner", runners)
    if since_us is not None:
        parts.append("{i}e.scheduled_at >= ?")
        bound.append(since_us)
    return " AND ".join(parts), bound


def _check_runners(store: Readable, runners: Sequence[str]) -> None:
    known = {*RUNNERS, *(row[0] for row in store.rows("SELECT DISTINCT definition ->> 'runner' FROM tasks") if row[0])}
    # One that no task has now may have run all the same; only then are the rows read for it.
    ran = "SELECT 1 FROM executions WHERE runner IN (SELECT value FROM json_each(?)) LIMIT 1"
    for runner in runners:
        if runner not in known and not store.rows(ran, json.dumps([runner])):
            asked.one_of(runner, sorted(known), "runner")


def ids_of(store: Readable, namespace: str | None, task: str | Iterable[str]) -> list[str]:
    """Return the ids of tasks by their names or patterns; a deleted task's history stays, so its name is known too."""
    sql, bound = "SELECT id, name FROM tasks", []
    if namespace is not None:
        sql, bound = f"{sql} WHERE namespace = ?", [namespace]
    found = store.rows(sql, *bound)
    wanted = asked.fitting(task, (name for _, name in found))
    return [id_ for id_, name in found if name in wanted]
