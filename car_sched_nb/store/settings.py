"""What `%car config` keeps: settings by namespace; those of the namespace '' are for all."""

from __future__ import annotations

import apsw

from car_sched_nb.store.sqlite import SqliteStore

EVERYWHERE = ""
NAMES = ("notify", "model", "keep", "keep_files")
"""Where notices go, an agent's model, how much history is kept of each task, and how long output files are."""
NONE = "none"
"""What hides a setting for all in one namespace."""


def read(store: SqliteStore, namespace: str, name: str) -> str | None:
    """Return a setting as it is in force in a namespace, or None: a default model is `read(store, ns, "model")`."""
    return in_force(store, namespace).get(name)


def in_force(store: SqliteStore, namespace: str) -> dict[str, str]:
    """Return the settings of a namespace, with those for all that it does not replace."""
    sql = "SELECT name, value FROM settings WHERE namespace IN ('', ?) ORDER BY namespace"
    found: dict[str, str] = dict(store.rows(sql, namespace))
    return {name: value for name, value in found.items() if value != NONE}


def put(db: apsw.Connection, namespace: str, name: str, value: str | None) -> None:
    """Keep a setting; None takes it off, so that one for all does not hold in this namespace either."""
    db.execute("DELETE FROM settings WHERE namespace = ? AND name = ?", (namespace, name))
    for_all = db.execute("SELECT 1 FROM settings WHERE namespace = '' AND name = ?", (name,)).fetchall()
    if value is not None or for_all:
        db.execute("INSERT INTO settings VALUES (?, ?, ?)", (namespace, name, NONE if value is None else value))


def own(store: SqliteStore, namespace: str) -> set[str]:
    """Return the names of the settings that a namespace has of its own."""
    return {row[0] for row in store.rows("SELECT name FROM settings WHERE namespace = ?", namespace)}
