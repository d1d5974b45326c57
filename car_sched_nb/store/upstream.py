"""Tasks that follow others: whom, which of their ends are the newest, and that no circle closes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from car_sched_nb.errors import InvalidInput, nearest
from car_sched_nb.model import Status, Task

Query = Callable[..., list[tuple[Any, ...]]]
"""Runs SQL with its bindings and returns the rows: `SqliteStore.rows`, or the same inside a transaction."""

FAILED = frozenset({Status.FAILED, Status.TIMED_OUT, Status.INTERRUPTED, Status.CANCELLED, Status.SKIPPED})

# The newest occurrence that has ended for good: a failure whose next attempt is planned has not. One that was skipped
# because of its own upstream, or of its budget then, counts as a failure: a chain stops with a word on every link.
_END = """
    SELECT e.seq, e.execution_id, e.status, e.finished_at FROM tasks t JOIN executions e ON e.task_id = t.id
    WHERE t.namespace = ? AND t.name = ? AND t.deleted_at IS NULL
        AND (e.status IN ('completed', 'failed', 'cancelled', 'timed_out', 'interrupted')
            OR (e.status = 'skipped' AND e.trigger = 'after' AND e.reason IN ('upstream', 'budget')))
        AND NOT EXISTS (SELECT 1 FROM executions x WHERE x.occurrence_id = e.occurrence_id AND x.seq != e.seq
            AND x.status IN ('waiting', 'running', 'completed'))
    ORDER BY e.seq DESC LIMIT 1"""


class End(NamedTuple):
    """The newest end of an upstream task; `seq` is 0 when there is none."""

    name: str
    seq: int = 0
    execution_id: str = ""
    status: str = ""
    finished_us: int = 0


def names_of(task: Task) -> list[str]:
    """Return the names of the tasks that a task follows."""
    return task.after.split()


def ends(query: Query, task: Task, namespace: str) -> list[End]:
    """Return the newest end of each upstream task, in the order of `after`."""
    found = []
    for name in names_of(task):
        row = query(_END, namespace, name)
        found.append(End(name, *row[0]) if row else End(name))
    return found


def cursor_of(found: Sequence[End]) -> str:
    """Return the cursor of a task that has used these ends."""
    return ",".join(str(end.seq) for end in found)


def slot_of(found: Sequence[End]) -> str:
    """Return the slot that follows these ends."""
    return hashlib.sha256("\n".join(end.execution_id for end in found).encode()).hexdigest()[:16]


def are_newer(found: Sequence[End], cursor: str) -> bool:
    """Tell whether every upstream task has an end newer than the one last used."""
    return all(end.seq > used for end, used in zip(found, map(int, cursor.split(",")), strict=True))


def unwanted(task: Task, found: Sequence[End]) -> list[End]:
    """Return the ends that keep a task from running, by its `when`."""
    if task.when == "ended":
        return []
    return [end for end in found if (end.status in FAILED) != (task.when == "failed")]


def check(query: Query, task: Task, namespace: str) -> None:
    """Refuse upstream names that nobody has, and a circle with its path.

    Raises
    ------
    InvalidInput
        With the nearest name, or the circle.
    """
    rows = query("SELECT name, definition ->> 'after' FROM tasks WHERE namespace = ? AND deleted_at IS NULL", namespace)
    follows = {str(name): str(after or "").split() for name, after in rows}
    for name in names_of(task):
        if name not in follows and name != task.name:
            raise InvalidInput(f"--after {name}: no task is named so{nearest(name, follows, none='')}; define it first")
    follows[task.name] = names_of(task)
    circle = _circle(task.name, follows)
    if circle:
        raise InvalidInput(f"--after would close a circle: {' after '.join(circle)}; leave one of them away")


def check_no_circle(query: Query, *namespaces: str) -> None:
    """Refuse to bring tasks together that would follow each other in a circle.

    Raises
    ------
    InvalidInput
        With the circle.
    """
    follows: dict[str, list[str]] = {}
    for namespace in namespaces:
        sql = "SELECT name, definition ->> 'after' FROM tasks WHERE namespace = ? AND deleted_at IS NULL"
        follows |= {str(name): str(after or "").split() for name, after in query(sql, namespace)}
    for name in follows:
        circle = _circle(name, follows)
        if circle:
            raise InvalidInput(f"together they would be a circle: {' after '.join(circle)}; delete one of them first")


def _circle(start: str, follows: dict[str, list[str]]) -> list[str]:
    """Return the path from a task back to itself, or nothing."""
    path_to = {start: [start]}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for before in follows.get(name, ()):
            if before == start:
                return [*path_to[name], start]
            if before not in path_to:
                path_to[before] = [*path_to[name], before]
                waiting.append(before)
    return []


def as_json(found: Sequence[End]) -> str:
    """Return the upstream executions' ids as a row keeps them."""
    return msgspec.json.encode([end.execution_id for end in found]).decode()
