"""What the tables say, as tasks and executions, and the rare changes of a task's row."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import apsw
import msgspec

from car_sched_nb.errors import DefinitionChanged, InvalidInput, UnknownTask
from car_sched_nb.model import (
    Execution,
    Task,
    TaskStatus,
    Trigger,
    definition,
    from_us,
    new_id,
    same_runs,
    same_slots,
    to_us,
)
from car_sched_nb.store import upstream
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.triggers import next_fire, resolve_once, schedule_of
from car_sched_nb.when import parse_future

# A task's status, in the seed's words, follows from its row and its newest execution.
_TASK = """
    SELECT t.id, t.namespace, t.name, t.definition, t.enabled, t.revision, t.version, t.cursor, t.next_at,
        t.created_at, t.anchored_at, t.fire_at, t.until_at, t.failures, t.last_run_at, t.run_count,
        EXISTS (SELECT 1 FROM executions e INDEXED BY live WHERE e.task_id = t.id
            AND e.status IN ('waiting', 'running') AND e.owner IS NOT NULL),
        (SELECT e.status FROM executions e WHERE e.task_id = t.id AND e.status NOT IN ('missed', 'skipped')
            ORDER BY e.seq DESC LIMIT 1)
    FROM tasks t"""
_EXECUTION_COLUMNS = (
    "execution_id occurrence_id task_id trigger slot attempt status scheduled_at started_at finished_at duration "
    "wait_reason slots cause reason version params runner executor owner answer error error_type turns tool_calls "
    "tokens_in tokens_out cost model not_before upstream"
).split()
_EXECUTION = f"""
    SELECT {", ".join("e." + name for name in _EXECUTION_COLUMNS)}, t.name, t.namespace
    FROM executions e JOIN tasks t ON t.id = e.task_id"""

_LIVE = "status IN ('waiting', 'running')"
_UNOWNED = f"{_LIVE} AND owner IS NULL"
_EMPTY: dict[str, Any] = {}  # never written to
CRASH_ATTEMPTS = 5
"""A task that tries again after a crash does so until its occurrence had so many attempts: it may be the cause."""


class Defined(NamedTuple):
    """What defining a task did.

    `change` is new, unchanged, slots (a new revision), body (a new version) or keep (how much history is kept, alone).
    """

    task: Task
    change: str


def _instant(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _status(enabled: int, live: int, next_at: int | None, last: str | None) -> TaskStatus:
    if live:
        return TaskStatus.RUNNING
    if not enabled:
        return TaskStatus.DISABLED
    if next_at is not None:
        return TaskStatus.SCHEDULED
    if last is None:
        return TaskStatus.PENDING
    return {"completed": TaskStatus.COMPLETED, "cancelled": TaskStatus.PENDING}.get(last, TaskStatus.FAILED)


def _task(row: tuple[Any, ...]) -> Task:
    (id_, namespace, name, defined, enabled, revision, version, cursor, next_at) = row[:9]
    (created_at, anchored_at, fire_at, until_at, failures, last_run_at, run_count, live, last) = row[9:]
    base = msgspec.json.decode(defined, type=Task)
    over = bool(base.max_runs) and run_count >= base.max_runs  # the last may have been by hand, with a slot planned
    if over:
        next_at = None
    watching = base.trigger in (Trigger.FILE_WATCH, Trigger.AFTER) and enabled and not over
    created = _instant(created_at)
    # Ten thousand tasks in memory share what they have in common.
    return msgspec.structs.replace(
        base,
        agent_metadata=base.agent_metadata or _EMPTY,
        params=base.params or _EMPTY,
        schedule=sys.intern(base.schedule),
        runner=sys.intern(base.runner),
        tz=sys.intern(base.tz),
        id=id_,
        namespace=sys.intern(namespace),
        name=name,
        enabled=bool(enabled),
        revision=revision,
        version=version,
        cursor=cursor,
        next_at=_instant(next_at),
        created_at=created,
        anchored_at=created if anchored_at == created_at else _instant(anchored_at),
        fire_at=_instant(fire_at),
        until_at=_instant(until_at),
        failures=failures,
        last_run_at=_instant(last_run_at),
        run_count=run_count,
        status=TaskStatus.SCHEDULED if watching and not live else _status(enabled, live, next_at, last),
    )


def tasks(store: SqliteStore, namespace: str | None = None) -> list[Task]:
    """Return the tasks of a namespace (or all), oldest first."""
    where = "t.deleted_at IS NULL" + ("" if namespace is None else " AND t.namespace = ?")
    bound = () if namespace is None else (namespace,)
    return store.map(_task, f"{_TASK} WHERE {where} ORDER BY t.created_at, t.id", *bound)


def find(store: SqliteStore, namespace: str, name: str) -> Task | None:
    """Return the task of that name, or None."""
    found = store.rows(f"{_TASK} WHERE t.deleted_at IS NULL AND t.namespace = ? AND t.name = ?", namespace, name)
    return _task(found[0]) if found else None


def get(store: SqliteStore, namespace: str, name: str) -> Task:
    """Return the task of that name.

    Raises
    ------
    UnknownTask
        With the nearest name.
    """
    found = find(store, namespace, name)
    if found is None:
        raise UnknownTask(name, names(store, namespace))
    return found


def names(store: SqliteStore, namespace: str) -> list[str]:
    """Return the names of a namespace's tasks."""
    sql = "SELECT name FROM tasks WHERE deleted_at IS NULL AND namespace = ? ORDER BY name"
    return [row[0] for row in store.rows(sql, namespace)]


def by_id(store: SqliteStore, task_id: str) -> Task | None:
    """Return a task that is not deleted, or None."""
    found = store.rows(f"{_TASK} WHERE t.deleted_at IS NULL AND t.id = ?", task_id)
    return _task(found[0]) if found else None


def _execution(row: tuple[Any, ...]) -> Execution:
    values = dict(zip(_EXECUTION_COLUMNS, row[:-2], strict=True))
    for name in ("scheduled_at", "started_at", "finished_at", "not_before"):
        values[name] = _instant(values[name])
    duration, params = values["duration"], values["params"]
    values["duration"] = None if duration is None else timedelta(microseconds=duration)
    values["params"] = msgspec.json.decode(params) if params else {}
    values["upstream"] = msgspec.json.decode(values["upstream"]) if values["upstream"] else ()
    return msgspec.convert({**values, "task": row[-2], "namespace": row[-1]}, Execution)


def executions(store: SqliteStore, where: str = "", *bindings: Any, newest: int | None = None) -> list[Execution]:
    """Return executions oldest first; `where` is SQL over `e` and `t`, `newest` keeps only so many."""
    clause = f" WHERE {where}" if where else ""
    if newest is None:
        return [_execution(row) for row in store.rows(f"{_EXECUTION}{clause} ORDER BY e.seq", *bindings)]
    found = store.rows(f"{_EXECUTION}{clause} ORDER BY e.seq DESC LIMIT ?", *bindings, newest)
    return [_execution(row) for row in reversed(found)]


def attempts(store: SqliteStore, occurrence: str) -> list[Execution]:
    """Return the attempts at an occurrence, oldest first; by their ids, so that a long history is not scanned."""
    # Ids are the occurrence's and `#n` behind it; `$` is the character after `#`.
    where = "(e.execution_id = ? OR (e.execution_id > ? AND e.execution_id < ?)) AND e.attempt > 0"
    return executions(store, where, occurrence, f"{occurrence}#", f"{occurrence}$")


def failed_since(store: SqliteStore, namespace: str, since_us: int) -> int:
    """Return how many executions failed, timed out or were interrupted since an instant."""
    sql = """SELECT count(*) FROM executions e JOIN tasks t ON t.id = e.task_id
        WHERE e.status IN ('failed', 'timed_out', 'interrupted') AND e.finished_at > ? AND t.namespace = ?"""
    count: int = store.rows(sql, since_us, namespace)[0][0]
    return count


def tokens_since(store: SqliteStore, task_id: str, since_us: int, without: list[str]) -> int:
    """Return the tokens of a task's executions that ended since an instant, `without` those of these ids."""
    sql = """SELECT total(tokens_in) + total(tokens_out) FROM executions WHERE task_id = ? AND finished_at >= ?
        AND execution_id NOT IN (SELECT value FROM json_each(?))"""
    return int(store.rows(sql, task_id, since_us, msgspec.json.encode(without).decode())[0][0])


def transcript(store: SqliteStore, execution_id: str) -> str | None:
    """Return the conversation of an execution as it is stored, or None."""
    found = store.rows("SELECT transcript FROM outputs WHERE execution_id = ?", execution_id)
    return found[0][0] if found else None


def execution(store: SqliteStore, execution_id: str) -> Execution | None:
    """Return one execution, or None."""
    found = executions(store, "e.execution_id = ?", execution_id)
    return found[0] if found else None


def output_text(store: SqliteStore, execution_id: str) -> str:
    """Return what an execution printed, its traceback last."""
    found = store.rows("SELECT text, traceback FROM outputs WHERE execution_id = ?", execution_id)
    return "".join(part for part in found[0] if part) if found else ""


def output(store: SqliteStore, execution_id: str) -> tuple[str, str, str | None, str | None, str | None]:
    """Return what is kept of an execution's output: text, traceback, displays and marks (JSON), and its file."""
    sql = "SELECT coalesce(text, ''), coalesce(traceback, ''), display, marks, path FROM outputs WHERE execution_id = ?"
    found = store.rows(sql, execution_id)
    return found[0] if found else ("", "", None, None, None)


def newest_of(store: SqliteStore, namespace: str | None, name: str) -> str | None:
    """Return the id of the newest execution of the tasks of a name, of those that were deleted too; None when none."""
    sql = f"""SELECT e.execution_id FROM tasks t JOIN executions e INDEXED BY by_task ON e.task_id = t.id
        WHERE t.name = ? {"" if namespace is None else "AND t.namespace = ?"} AND e.attempt > 0
        ORDER BY e.seq DESC LIMIT 1"""
    found = store.rows(sql, *((name,) if namespace is None else (name, namespace)))
    return str(found[0][0]) if found else None


def define(db: apsw.Connection, task: Task, namespace: str, now_us: int, baseline: str | None) -> Defined:
    """Store a definition; the same name in the same namespace is the same task.

    An unchanged one changes nothing. Another trigger, schedule, zone or path starts the slots afresh
    (`revision`); any other change keeps them and applies from the next start (`version`). How much of its history is
    kept is no part of either.

    Parameters
    ----------
    baseline
        A watched path's state now, for a new revision of a `file_watch` task.
    """
    found = db.execute(
        f"{_TASK} WHERE t.deleted_at IS NULL AND t.namespace = ? AND t.name = ?", (namespace, task.name)
    ).fetchall()
    old = _task(found[0]) if found else None
    if old and definition(old) == definition(task):
        return Defined(old, "unchanged")
    text = msgspec.json.encode(definition(task)).decode()
    if old and same_runs(old, task):
        db.execute("UPDATE tasks SET definition = ? WHERE id = ?", (text, old.id))
        return Defined(_again(db, old.id), "keep")
    if task.trigger is Trigger.AFTER:
        upstream.check(_query(db), task, namespace)
    until_us = _until(task, old, now_us)
    if old and same_slots(old, task):
        kept = {"anchored_at": old.anchored_at, "fire_at": old.fire_at, "run_count": old.run_count}
        now = msgspec.structs.replace(task, until_at=_instant(until_us), **kept)
        following = next_fire(now, schedule_of(now), old.cursor)
        db.execute(
            "UPDATE tasks SET definition = ?, version = version + 1, until_at = ?, next_at = ? WHERE id = ?",
            (text, until_us, following.at_us if following else None, old.id),
        )
        return Defined(_again(db, old.id), "body")
    id_, change = (old.id, "slots") if old else (new_id(), "new")
    task = msgspec.structs.replace(task, id=id_, anchored_at=from_us(now_us), until_at=_instant(until_us))
    if task.trigger is Trigger.ONCE:
        task = msgspec.structs.replace(task, fire_at=from_us(resolve_once(task, now_us)))
    cursor, next_at = _first_slots(db, task, namespace, baseline)
    if old is None:
        sql = """INSERT INTO tasks (definition, cursor, next_at, anchored_at, fire_at, until_at, created_at, namespace,
            name, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
        tail: tuple[Any, ...] = (now_us, namespace, task.name, id_)
    else:
        sql = """UPDATE tasks SET definition = ?, cursor = ?, next_at = ?, anchored_at = ?, fire_at = ?, until_at = ?,
            revision = revision + 1, version = version + 1, run_count = 0, removed_to = NULL WHERE id = ?"""
        tail = (id_,)
    fire_us = to_us(task.fire_at) if task.fire_at else None
    db.execute(sql, (text, cursor, next_at, now_us, fire_us, until_us, *tail))
    return Defined(_again(db, id_), change)


def _until(task: Task, old: Task | None, now_us: int) -> int | None:
    """Return the last instant of a task's slots; resolved once, as long as it is typed the same."""
    if old is not None and (old.until, old.tz) == (task.until, task.tz):
        return to_us(old.until_at) if old.until_at else None
    if not task.until:
        return None
    return parse_future(task.until, now_us=now_us, zone=task.tz or None, option="--until")


def _first_slots(db: apsw.Connection, task: Task, namespace: str, baseline: str | None) -> tuple[str, int | None]:
    if task.trigger is Trigger.FILE_WATCH:
        if baseline is None:
            raise DefinitionChanged(task.name)
        return baseline, None
    if task.trigger is Trigger.AFTER:
        return upstream.cursor_of(upstream.ends(_query(db), task, namespace)), None
    plan = schedule_of(task)
    if plan is None:
        return "", None
    first = next_fire(task, plan, plan.start())
    return plan.start(), first.at_us if first else None


def _query(db: apsw.Connection) -> upstream.Query:
    return lambda sql, *bindings: db.execute(sql, bindings).fetchall()


def _again(db: apsw.Connection, id_: str) -> Task:
    return _task(db.execute(f"{_TASK} WHERE t.id = ?", (id_,)).fetchall()[0])


def set_enabled(db: apsw.Connection, task_id: str, enabled: bool) -> bool:
    """Pause or resume a task; return whether that changed anything. Resumed, its failures count from 0."""
    changed = db.execute(
        "UPDATE tasks SET enabled = ?, failures = iif(?, 0, failures) WHERE id = ? AND enabled != ? RETURNING id",
        (enabled, enabled, task_id, enabled),
    ).fetchall()
    return bool(changed)


def delete(db: apsw.Connection, task_id: str, now_us: int) -> None:
    """Hide a task; its history stays, and its name is free for a new task."""
    db.execute("UPDATE tasks SET deleted_at = ?, next_at = NULL WHERE id = ?", (now_us, task_id))
    db.execute("DELETE FROM armed WHERE task_id = ?", (task_id,))
    cancel_unowned(db, task_id, now_us)


def cancel_unowned(db: apsw.Connection, task_id: str, now_us: int) -> int:
    """Cancel what waits of a task and has no owner; return how many."""
    rows = db.execute(
        f"""UPDATE executions SET status = 'cancelled', wait_reason = NULL, not_before = NULL, finished_at = ?
        WHERE task_id = ? AND {_UNOWNED} RETURNING seq""",
        (now_us, task_id),
    ).fetchall()
    return len(rows)


def ask_to_stop(db: apsw.Connection, task_id: str, owner: str, now_us: int) -> list[str]:
    """Ask the other owners to stop what runs or waits of a task there; return the execution ids."""
    rows = db.execute(
        f"""UPDATE executions SET cancel_asked = coalesce(cancel_asked, ?) WHERE task_id = ? AND {_LIVE}
            AND owner IS NOT NULL AND owner != ? RETURNING execution_id""",
        (now_us, task_id, owner),
    ).fetchall()
    return [str(row[0]) for row in rows]


def release(db: apsw.Connection, execution_id: str, owner: str, now_us: int) -> None:
    """Take an owner's name off an execution that waits: whoever plans its task may start it."""
    _cancel_unwanted(db, owner, now_us)
    db.execute(
        "UPDATE executions SET owner = NULL WHERE execution_id = ? AND owner = ? AND status = 'waiting'",
        (execution_id, owner),
    )


def _cancel_unwanted(db: apsw.Connection, owner: str, now_us: int) -> None:
    """Cancel what waits for an owner and was asked to stop, or whose task was deleted: nobody after it would."""
    db.execute(
        f"""UPDATE executions SET status = 'cancelled', wait_reason = NULL, not_before = NULL, finished_at = ?
        WHERE owner = ? AND {_LIVE} AND status = 'waiting' AND (cancel_asked IS NOT NULL
            OR EXISTS (SELECT 1 FROM tasks t WHERE t.id = executions.task_id AND t.deleted_at IS NOT NULL))""",
        (now_us, owner),
    )


def asked_to_stop(store: SqliteStore, owner: str) -> list[str]:
    """Return the executions of an owner that another has asked to stop."""
    asked = "owner = ? AND cancel_asked IS NOT NULL"
    sql = f"SELECT execution_id FROM executions INDEXED BY live WHERE {_LIVE} AND {asked}"
    return [str(row[0]) for row in store.rows(sql, owner)]


def have_ended(store: SqliteStore, execution_ids: list[str]) -> bool:
    """Tell whether none of these executions is live any more."""
    sql = f"SELECT 1 FROM executions WHERE execution_id IN (SELECT value FROM json_each(?)) AND {_LIVE} LIMIT 1"
    return not execution_ids or not store.rows(sql, msgspec.json.encode(execution_ids).decode())


def in_progress(store: SqliteStore, task_id: str) -> bool:
    """Tell whether anything of a task runs or waits, whoever owns it."""
    sql = f"SELECT 1 FROM executions INDEXED BY live WHERE task_id = ? AND {_LIVE} LIMIT 1"
    return bool(store.rows(sql, task_id))


def note_armed(db: apsw.Connection, owner: str, task_ids: list[str]) -> None:
    """Note that an owner plans these tasks."""
    ids = msgspec.json.encode(task_ids).decode()
    db.execute("INSERT OR IGNORE INTO armed (owner, task_id) SELECT ?, value FROM json_each(?)", (owner, ids))


def note_disarmed(db: apsw.Connection, owner: str, task_id: str) -> None:
    """Note that an owner plans a task no more."""
    db.execute("DELETE FROM armed WHERE owner = ? AND task_id = ?", (owner, task_id))


def armed_by_others(store: SqliteStore, namespace: str, owner: str) -> dict[str, str]:
    """Return the names of other owners that plan tasks of a namespace, by task id."""
    sql = """SELECT a.task_id, o.name FROM armed a JOIN owners o ON o.id = a.owner JOIN tasks t ON t.id = a.task_id
        WHERE o.ended_at IS NULL AND o.id != ? AND t.namespace = ? AND t.deleted_at IS NULL"""
    return dict(store.rows(sql, owner, namespace))


def unowned(store: SqliteStore, namespace: str) -> list[Execution]:
    """Return what waits in a namespace and has no owner, oldest first."""
    found = f"e.seq IN (SELECT seq FROM executions INDEXED BY live WHERE {_UNOWNED})"
    return executions(store, f"{found} AND t.namespace = ?", namespace)


def states(store: SqliteStore, namespace: str) -> dict[str, tuple[int, int, int, str]]:
    """Return (revision, version, enabled, cursor) of a namespace's tasks, by id."""
    sql = "SELECT id, revision, version, enabled, cursor FROM tasks WHERE namespace = ? AND deleted_at IS NULL"
    return {row[0]: row[1:] for row in store.rows(sql, namespace)}


def adopt(db: apsw.Connection, old: str, new: str) -> int:
    """Move the tasks of one namespace to another, with the settings that it does not have; return how many tasks.

    Raises
    ------
    InvalidInput
        When both have a task of the same name, or their tasks together would follow each other in a circle: nothing is
        moved.
    """
    both = db.execute(
        """SELECT a.name FROM tasks a JOIN tasks b ON a.name = b.name
        WHERE a.namespace = ? AND b.namespace = ? AND a.deleted_at IS NULL AND b.deleted_at IS NULL""",
        (old, new),
    ).fetchall()
    if both and old != new:
        listed = ", ".join(sorted(str(row[0]) for row in both))
        raise InvalidInput(f"both notebooks have {listed}; delete or rename one of each, then adopt again")
    upstream.check_no_circle(_query(db), old, new)
    for table in ("settings", "deliveries"):
        db.execute(f"UPDATE OR IGNORE {table} SET namespace = ? WHERE namespace = ?", (new, old))
    return len(db.execute("UPDATE tasks SET namespace = ? WHERE namespace = ? RETURNING id", (new, old)).fetchall())


def let_go(db: apsw.Connection, owner: str, now_us: int) -> list[str]:
    """End an owner: what ran there is interrupted, what waited has no owner any more; return what was interrupted.

    A run by hand that did not begin is interrupted too: whoever asked for it is gone. The next attempt of an
    interrupted execution, where its task wants one, waits for whoever plans the task.
    """
    by_hand = "status = 'waiting' AND cause = 'hand'"
    rows = db.execute(
        f"""UPDATE executions SET status = 'interrupted', finished_at = ?, wait_reason = NULL, not_before = NULL,
            error = 'the kernel that ran it went away', error_type = 'Interrupted'
        WHERE owner = ? AND {_LIVE} AND (status = 'running' OR {by_hand}) RETURNING execution_id""",
        (now_us, owner),
    ).fetchall()
    _cancel_unwanted(db, owner, now_us)
    db.execute(f"UPDATE executions SET owner = NULL WHERE owner = ? AND {_LIVE}", (owner,))
    db.execute("DELETE FROM armed WHERE owner = ?", (owner,))
    db.execute("UPDATE owners SET ended_at = coalesce(ended_at, ?) WHERE id = ?", (now_us, owner))
    interrupted = [str(row[0]) for row in rows]
    for execution_id in interrupted:
        _try_again(db, execution_id, now_us)
    return interrupted


def _try_again(db: apsw.Connection, interrupted: str, now_us: int) -> None:
    """Write the next attempt of an interrupted execution whose task has `on_crash` retry."""
    db.execute(
        """INSERT OR IGNORE INTO executions (execution_id, occurrence_id, task_id, trigger, slot, attempt, status,
            wait_reason, scheduled_at, slots, cause, version, params, runner, executor, not_before, upstream)
        SELECT e.occurrence_id || '#' || (e.attempt + 1), e.occurrence_id, e.task_id, e.trigger, e.slot, e.attempt + 1,
            'waiting', 'retry delay', e.scheduled_at, 1, 'retry', e.version, e.params, e.runner, e.executor, :now,
            e.upstream
        FROM executions e JOIN tasks t ON t.id = e.task_id
        WHERE e.execution_id = :id AND t.deleted_at IS NULL AND t.definition ->> 'on_crash' = 'retry'
            AND e.attempt < max(:most, coalesce(t.definition ->> 'retries', 0) + 1)""",
        {"id": interrupted, "now": now_us, "most": CRASH_ATTEMPTS},
    )
