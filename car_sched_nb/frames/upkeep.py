"""What was removed of history, as a DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_sched_nb.frames.plans import frame_of
from car_sched_nb.store import retention
from car_sched_nb.store.sqlite import SqliteStore

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = {"at": "instant", "executions": "int64", "files": "int64", "bytes": "int64", "rules": "str"}


def maintenance(store: SqliteStore) -> pd.DataFrame:
    """Return what maintenances removed, a row each, indexed by when, oldest first."""
    done = reversed(retention.maintained(store))
    rows = [(one.at_us, one.executions, one.files, one.bytes, ", ".join(one.rules)) for one in done]
    return frame_of(_COLUMNS, rows).set_index("at")
