"""Maintenance: what the rules do not keep is removed, a little at a time, and said."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from filelock import FileLock, Timeout

from car_sched_nb.clock import Clock
from car_sched_nb.errors import CarError, MaintainedElsewhere
from car_sched_nb.store import retention, tidying
from car_sched_nb.store.ops import Call
from car_sched_nb.store.retention import AT_ONCE, Expired, Maintained
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.tidying import Tidied
from car_sched_nb.store.writer import Writer

EVERY_US = 3_600_000_000
"""Between two maintenances of a store, whoever does them."""

_PATIENCE_S = 60.0  # of somebody who asks for one while another is going on
_LOOK_S = 0.1
_LOCK = "maintenance"  # without the ending of an owner's


class Maintenance:
    """Removes what the rules do not keep, at the start and about every hour; one scheduler of a store at a time.

    Parameters
    ----------
    tell
        Called with a task's id, how many of its executions were removed, and the rule.
    """

    def __init__(self, store: SqliteStore, writer: Writer, clock: Clock, tell: Callable[[str, int, str], None]) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._tell = tell
        self._busy = anyio.Lock()
        self._lock: FileLock | None = None

    async def run(self) -> None:
        """Do it for ever; what fails is done an hour later."""
        begun = False
        while True:
            with suppress(CarError, OSError):
                if not begun or await anyio.to_thread.run_sync(self._is_due):
                    await self.once(patience_s=0)
            begun = True
            await self._clock.reach(self._clock.now_us() + EVERY_US)

    def _is_due(self) -> bool:
        """Tell whether no other scheduler has done it in this hour."""
        last = next(iter(retention.maintained(self._store)), None)
        return last is None or not 0 <= self._clock.now_us() - last.at_us < EVERY_US // 2

    async def once(self, patience_s: float = _PATIENCE_S) -> Maintained:
        """Remove what is not kept now, and return what it was.

        Raises
        ------
        MaintainedElsewhere
            When another scheduler is at it for longer than `patience_s`.
        """
        async with self._busy:
            if self._store.folder is None:
                return await self._remove()
            until = anyio.current_time() + patience_s
            while True:
                with anyio.CancelScope(shield=True):  # lest it is held and nobody knows
                    lock = await anyio.to_thread.run_sync(self._acquire)
                if lock is not None:
                    break
                if anyio.current_time() >= until:
                    raise MaintainedElsewhere
                await anyio.sleep(_LOOK_S)
            try:
                return await self._remove()
            finally:
                lock.release()

    def _acquire(self) -> FileLock | None:
        folder = self._store.folder
        assert folder is not None
        if self._lock is None:
            folder.mkdir(mode=0o700, exist_ok=True)
            # It is taken and released by different threads.
            self._lock = FileLock(folder / _LOCK, mode=0o600, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return None
        return self._lock

    async def _remove(self) -> Maintained:
        now_us = self._clock.now_us()
        executions, tidied, rules = 0, Tidied(0, 0), Counter[str]()
        found = await anyio.to_thread.run_sync(retention.expired, self._store, now_us)
        for which in found:
            count, files = await self.remove(which, now_us)
            if count:
                executions, tidied = executions + count, tidied + files
                rules[f"--keep {which.rule}"] += count
                self._tell(which.task_id, count, which.rule)
        if tidying.has_files(self._store):
            tidied += await anyio.to_thread.run_sync(tidying.tidy, self._store, time.time(), abandon_on_cancel=True)
        named = tuple(name for name, _ in rules.most_common())
        done = Maintained(at_us=now_us, executions=executions, files=tidied.files, bytes=tidied.bytes, rules=named)
        await self._writer.write(Call(lambda db: retention.note(db, done)))
        return done

    async def remove(self, which: Expired, now_us: int) -> tuple[int, Tidied]:
        """Remove a task's rows, and the files beside the store that belong to them, in small transactions."""
        count, tidied = 0, Tidied(0, 0)
        for gaps in (True, False):
            after = 0
            choose = partial(retention.choose, self._store.rows, which, now_us, gaps=gaps)
            while seqs := await anyio.to_thread.run_sync(partial(choose, after=after)):
                removed, files = await self.remove_these(seqs)
                count, tidied, after = count + removed, tidied + files, seqs[-1]
        return count, tidied

    async def remove_these(self, seqs: Sequence[int]) -> tuple[int, Tidied]:
        """Remove rows that were chosen, but for those with an attempt that was asked for since."""
        count, tidied = 0, Tidied(0, 0)
        for start in range(0, len(seqs), AT_ONCE):
            gone = await self._write(seqs[start : start + AT_ONCE])
            count += gone.executions
            if gone.paths:
                tidied += await anyio.to_thread.run_sync(unlink, gone.paths)
        return count, tidied

    async def _write(self, seqs: Sequence[int]) -> retention.Gone:
        """Remove some rows, and leave the store to others for as long as that took."""
        begun_s = time.monotonic()
        gone: retention.Gone = await self._writer.write(Call(lambda db: retention.remove(db, seqs)))
        await anyio.sleep(time.monotonic() - begun_s)
        return gone


def unlink(paths: Sequence[Path]) -> Tidied:
    """Remove files; what is not there any more does not count, and what may not be removed is left to tidying."""
    done = Tidied(0, 0)
    for path in paths:
        with suppress(OSError):
            size = path.lstat().st_size
            path.unlink()
            done += Tidied(1, size)
    return done
