"""Messages that have not reached everybody yet: kept until they have, so that a restart sends them.

Each row is one notice and belongs to one owner, which alone sends it. What an owner that is gone left is taken by the
next one of its namespace. Who dies between sending and noting it has the message sent twice.
"""

from __future__ import annotations

import apsw
import msgspec

from car_sched_nb.store.sqlite import SqliteStore

MOST = 1_000
"""Messages of a namespace that wait; beyond that the oldest are given up."""

_COLUMNS = "id, task, task_id, execution_id, kind, title, body, at, due_at, tries, done"


class Delivery(msgspec.Struct, frozen=True):
    """A notice to be sent; its texts have no secret in them."""

    id: int
    task: str
    task_id: str
    execution_id: str
    kind: str
    title: str
    body: str
    at_us: int
    due_us: int
    tries: int = 0
    done: frozenset[int] = frozenset()
    """Places in the list of URLs of those that have it."""


def add(db: apsw.Connection, namespace: str, owner: str, delivery: Delivery) -> None:
    """Keep a message until it is sent; its id is chosen here."""
    db.execute(
        """INSERT INTO deliveries (namespace, owner, task, task_id, execution_id, kind, title, body, at, due_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            *(namespace, owner, delivery.task, delivery.task_id, delivery.execution_id, delivery.kind),
            *(delivery.title, delivery.body, delivery.at_us, delivery.due_us),
        ),
    )
    db.execute(
        """DELETE FROM deliveries WHERE namespace = ?1 AND id <= (SELECT id FROM deliveries WHERE namespace = ?1
            ORDER BY id DESC LIMIT 1 OFFSET ?2)""",
        (namespace, MOST),
    )


def waiting(store: SqliteStore, owner: str) -> list[Delivery]:
    """Return what an owner has to send, oldest first."""
    rows = store.rows(f"SELECT {_COLUMNS} FROM deliveries WHERE owner = ? ORDER BY id", owner)
    named = [dict(zip(Delivery.__struct_fields__, row, strict=True)) for row in rows]
    return [msgspec.convert({**one, "done": msgspec.json.decode(one["done"])}, Delivery) for one in named]


def left_behind(store: SqliteStore, namespace: str) -> bool:
    """Tell whether owners that are gone left messages in a namespace."""
    return bool(store.rows(f"SELECT 1 FROM deliveries WHERE namespace = ? AND {_GONE} LIMIT 1", namespace))


_GONE = "owner NOT IN (SELECT id FROM owners WHERE ended_at IS NULL)"


def take_over(db: apsw.Connection, namespace: str, owner: str) -> None:
    """Make what owners that are gone left this owner's."""
    db.execute(f"UPDATE deliveries SET owner = ? WHERE namespace = ? AND {_GONE}", (owner, namespace))


def remove(db: apsw.Connection, ids: list[int]) -> None:
    """Forget messages that have reached everybody, or are not wanted any more."""
    db.execute("DELETE FROM deliveries WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),))


def postpone(db: apsw.Connection, later: list[tuple[int, int, list[int]]]) -> None:
    """Note one more try of each message: (id, when to try again, the places of the URLs that have it)."""
    db.execute(
        """UPDATE deliveries SET tries = tries + 1, due_at = j.due_at, done = j.done
        FROM (SELECT value ->> 0 AS id, value ->> 1 AS due_at, value -> 2 AS done FROM json_each(?)) AS j
        WHERE deliveries.id = j.id""",
        (_json(later),),
    )


def failing_since(db: apsw.Connection, task_id: str, execution_id: str) -> int | None:
    """Return when the series of failures began that an execution ended, UTC microseconds."""
    found = db.execute(
        """SELECT min(e.finished_at) FROM executions e INDEXED BY by_task
        WHERE e.task_id = ?1 AND e.status IN ('failed', 'timed_out')
            AND e.seq < (SELECT seq FROM executions WHERE execution_id = ?2)
            AND e.seq > coalesce((SELECT max(c.seq) FROM executions c WHERE c.task_id = ?1 AND c.status = 'completed'
                AND c.seq < (SELECT seq FROM executions WHERE execution_id = ?2)), 0)""",
        (task_id, execution_id),
    ).fetchall()
    return None if not found or found[0][0] is None else int(found[0][0])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
