"""Frames that were read a moment ago: to ask again when nothing was written since costs next to nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.store.sqlite import SqliteStore

KEEP_S = 120.0
"""How long a frame that nobody asks for again takes up memory."""

MOST_ROWS = 1_000_000
"""Of all frames together; the newest is kept whatever its length."""

_SETTLED_S = 0.1  # the times of files are coarse: after a change a moment ago may come another of the same time


class Read(NamedTuple):
    """What is kept: a frame, and as it was read the column whose values could be changed in place (None: without)."""

    frame: pd.DataFrame
    params: Any


class _Kept(NamedTuple):
    state: Hashable
    since_us: int | None
    found: Read


_kept: dict[tuple[str, Hashable], _Kept] = {}  # the newest last
_lock = threading.Lock()
_end: threading.Timer | None = None


def recent(store: SqliteStore, key: Hashable, since_us: int | None, read: Callable[[], Read]) -> Read:
    """Return what `read` returns, or has returned for this key when nothing was written into the store since.

    What was kept may begin at an earlier `since_us`; it is cut then. From any thread.
    """
    import pandas as pd

    state = _state(store)
    if state is None or int(pd.__version__.partition(".")[0]) < 3:  # what a caller changes would be changed for all
        return read()
    place = (store.path, key)
    with _lock:
        for other in [other for other, kept in _kept.items() if other[0] == store.path and kept.state != state]:
            del _kept[other]  # before anything is read: memory may not be enough for both
        kept = _kept.pop(place, None)
        found = None if kept is None else _from(kept, since_us)
        if kept is not None and found is not None:
            _keep(place, kept)
            return found
    found = read()
    with _lock:
        _keep(place, _Kept(state, since_us, found))
    return found


def _state(store: SqliteStore) -> Hashable | None:
    """Return what is another after something was written, whoever wrote it; None when that cannot be told."""
    if store.in_memory or os.name == "nt":  # Windows tells the times of open files late
        return None
    found = []
    for name in (store.path, f"{store.path}-wal"):
        try:
            stat = os.stat(name)  # noqa: PTH116 - as often as somebody asks
        except OSError:
            continue
        if stat.st_size:  # an empty journal comes and goes with whoever opens the store
            if not 0 <= stat.st_mtime <= time.time() - _SETTLED_S:
                return None
            found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def _from(kept: _Kept, since_us: int | None) -> Read | None:
    """Return what was kept, from an instant on; None when it holds too little for that."""
    if kept.since_us == since_us:
        return kept.found
    frame, params = kept.found
    if kept.since_us is None or since_us is None or kept.since_us > since_us or "scheduled_at" not in frame:
        return None
    import pandas as pd

    later = frame["scheduled_at"] >= pd.Timestamp(since_us, unit="us", tz="UTC")
    if later.all():
        return kept.found
    return Read(frame[later], None if params is None else params.filter(later.to_numpy()))


def _keep(place: tuple[str, Hashable], kept: _Kept) -> None:
    global _end  # noqa: PLW0603 - there is one for all
    _kept[place] = kept
    while len(_kept) > 1 and sum(len(one.found.frame) for one in _kept.values()) > MOST_ROWS:
        del _kept[next(iter(_kept))]
    if _end is not None:
        _end.cancel()
    _end = threading.Timer(KEEP_S, forget)
    _end.daemon = True
    _end.start()


def forget() -> None:
    """Let all go."""
    with _lock:
        _kept.clear()
