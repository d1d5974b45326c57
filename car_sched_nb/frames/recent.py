"""Frames that were read a moment ago: to ask again when nothing was written since costs next to nothing."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import zlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from car_sched_nb.frames.gathered import touch

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from car_sched_nb.store.sqlite import SqliteStore

KEEP_S = 120.0
"""How long a frame that nobody asks for again takes up memory."""

MOST_ROWS = 2_000_000
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
    mark: int
    until_s: float


_kept: dict[tuple[str, Hashable], _Kept] = {}  # the newest last
_lock = threading.Lock()
_end: threading.Timer | None = None


def recent(store: SqliteStore, key: Hashable, since_us: int | None, read: Callable[[], Read]) -> Read:
    """Return what `read` returns, or has returned for this key when nothing was written into the store since.

    What was kept may begin at an earlier `since_us`; it is cut then. Nothing that its first caller or another changes
    in it is seen by the next. From any thread.
    """
    import pandas as pd

    if int(pd.__version__.partition(".")[0]) < 3:  # what a caller changes would be changed for all
        return read()
    state = _state(store)
    place = (store.path, key)
    with _lock:
        for other in [other for other, kept in _kept.items() if other[0] == store.path and kept.state != state]:
            del _kept[other]  # before anything is read: memory may not be enough for both
        kept = _kept.pop(place, None)
        found = None if kept is None or _mark(kept.found.frame) != kept.mark else _from(kept, since_us)
        if kept is not None and found is not None:
            _keep(place, kept)
            return Read(_apart(found.frame), found.params)
    found = read()
    if state is not None:
        with _lock:
            _keep(place, _Kept(state, since_us, found, _mark(found.frame), 0.0))
    return found


def _state(store: SqliteStore) -> Hashable | None:
    """Return what is another after something was written, whoever wrote it; None when that cannot be told."""
    if store.in_memory:
        return None
    try:
        journal, stat = os.stat(f"{store.path}-wal").st_size, os.stat(store.path)  # noqa: PTH116 - often asked for
    except FileNotFoundError:
        journal, stat = 0, os.stat(store.path)  # noqa: PTH116
    if journal:
        return store.data_version()
    # All that was written is in the file, for which nobody has to ask SQLite: also when it was closed in between.
    if os.name == "nt" or not 0 <= stat.st_mtime <= time.time() - _SETTLED_S:  # Windows tells the time late
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


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


# pandas copies a column before it changes one that two frames share, but it gives the arrays of its own kinds away:
# `frame["task"].to_numpy()[0] = "other"` goes past it. So these are watched, and no two callers have the same.


def _mark(frame: pd.DataFrame) -> int:
    """Return a number that is another when somebody has changed what pandas gives away."""
    mark = 1
    for name in frame.columns:
        for exposed in _exposed(frame[name]):
            mark = zlib.adler32(exposed.data, mark)
    return mark


def _is_arrows(column: pd.Series[Any]) -> bool:
    """Tell whether Arrow holds a column: nobody can change that in place."""
    import pandas as pd

    return isinstance(column.dtype, pd.StringDtype) and column.dtype.storage != "python"


def _exposed(column: pd.Series[Any]) -> list[np.ndarray[Any, Any]]:
    """Return what of a column can be changed past pandas, of texts where they lie; nothing of what Arrow holds."""
    import numpy as np
    import pandas as pd

    dtype, array = column.dtype, column.array
    if isinstance(dtype, pd.CategoricalDtype):
        return [np.asarray(array.codes)]
    if isinstance(dtype, pd.DatetimeTZDtype):
        return [np.asarray(array.asi8)]
    if _is_arrows(column):
        return []
    if isinstance(dtype, pd.StringDtype):
        texts = array.to_numpy()
        places = (ctypes.c_char * texts.nbytes).from_address(texts.ctypes.data) if texts.nbytes else b""
        return [np.frombuffer(places, np.uint8)]
    if isinstance(dtype, pd.Int64Dtype | pd.Float64Dtype):
        import pyarrow as pa

        return [np.frombuffer(pa.array(array).buffers()[1] or b"", np.int64), np.asarray(array.isna())]
    return [np.asarray(array).view(np.int64)]


def _apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose changes reach no other; what nobody can change is shared."""
    import pandas as pd

    made: dict[Any, Any] = {}
    for name in frame.columns:
        made[name] = one = frame[name]
        if not _is_arrows(one):
            touch(len(one))
            made[name] = one.array.copy()
    return pd.DataFrame(made, index=frame.index, columns=frame.columns, copy=False)


def _keep(place: tuple[str, Hashable], kept: _Kept) -> None:
    _kept[place] = kept._replace(until_s=time.monotonic() + KEEP_S)
    while len(_kept) > 1 and sum(len(one.found.frame) for one in _kept.values()) > MOST_ROWS:
        del _kept[next(iter(_kept))]
    if _end is None:
        _look_again()


def _look_again() -> None:
    """Let go what nobody has asked for in its time, as soon as it is over."""
    global _end  # noqa: PLW0603 - there is one for all
    now_s = time.monotonic()
    for place in [place for place, kept in _kept.items() if kept.until_s <= now_s]:
        del _kept[place]
    _end = None
    if _kept:
        _end = threading.Timer(min(kept.until_s for kept in _kept.values()) - now_s, _later)
        _end.daemon = True
        _end.start()


def _later() -> None:
    with _lock:
        _look_again()


def forget() -> None:
    """Let all go."""
    with _lock:
        _kept.clear()
        if _end is not None:
            _end.cancel()
        _look_again()
