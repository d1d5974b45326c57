"""What no event of the scheduler tells: whether the kernel is busy, what other owners do, and that days pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from car_sched_nb.store import board, owners, records

if TYPE_CHECKING:
    from car_sched_nb.engine.scheduler import Scheduler
    from car_sched_nb.widget.view import View

_RECOUNT = 60  # looks until failures that are a day old are let go
_ALL_OTHERS = 30  # looks until also what nobody looks at is asked of the tasks that others plan
_DAY_US = 86_400_000_000


class Surroundings:
    """Looks around once a second while somebody looks; on the engine's loop, its reads in a thread."""

    def __init__(self, scheduler: Scheduler, view: View, ask_kernel: Callable[[Callable[[], Any]], None]) -> None:
        self._scheduler = scheduler
        self._view = view
        self._ask_kernel = ask_kernel
        self._loop = asyncio.get_running_loop()
        self.blocked_us: int | None = None
        """Since when the kernel's loop has not answered."""
        self._asked_us: int | None = None
        self._looks = 0
        self._doubtful: set[str] = set()
        """Ids of tasks that are planned here no more, maybe because they were deleted elsewhere."""
        self._heard: set[str] | None = None
        """Ids of tasks with events while the store is asked what others did: what it says of them may be old."""

    def look_at_kernel(self) -> None:
        """Ask the kernel's loop whether it is free; it is busy when the last question has no answer."""
        self.blocked_us = self._asked_us
        if self._asked_us is None:
            self._asked_us = self._scheduler.clock.now_us()
            self._ask_kernel(lambda: self._loop.call_soon_threadsafe(self._answered))

    def _answered(self) -> None:
        self._asked_us = None

    def rest(self) -> None:
        """Nobody looks: what was counted is old when somebody does."""
        self._looks = -1

    def heard(self, task_id: str, kind: str) -> None:
        """Note that a task had an event."""
        if kind == "disarmed":
            self._doubtful.add(task_id)
        if self._heard is not None:
            self._heard.add(task_id)

    async def look(self, rows: set[str]) -> None:
        """Ask the store what no event tells; `rows` are the ids of the tasks that somebody looks at.

        Raises
        ------
        StoreError
            When it does not answer.
        """
        self._looks += 1
        if self._looks % _RECOUNT == 0:
            await self.recount()
        if self._scheduler.store.in_memory or self._heard is not None:
            return  # nobody else can see it, or the last look takes long
        self._heard = set()
        try:
            await self._look_at_others(rows, self._heard)
        finally:
            self._heard = None

    async def _look_at_others(self, rows: set[str], heard: set[str]) -> None:
        scheduler, view = self._scheduler, self._view
        store, namespace = scheduler.store, scheduler.namespace
        known = self._doubtful or view.elsewhere or view.live_elsewhere or self._looks % _ALL_OTHERS == 0
        if not known and not await anyio.to_thread.run_sync(owners.others, store, scheduler.owner):
            return  # alone: what nobody owns yet is looked at now and then
        armed = await anyio.to_thread.run_sync(scheduler.armed_elsewhere)
        live = await anyio.to_thread.run_sync(board.live_elsewhere, store, namespace, scheduler.owner)
        wanted = {task_id for task_id in armed if task_id not in view or task_id in rows}
        wanted |= (view.elsewhere.keys() ^ armed.keys()) | (view.live_elsewhere.keys() ^ live.keys())
        if self._looks % _ALL_OTHERS == 0:
            wanted |= armed.keys()
        wanted |= self._doubtful
        view.follow_others(armed, live)
        if wanted:
            state = await anyio.to_thread.run_sync(board.state_of, store, namespace, wanted)
            self._doubtful -= wanted
            view.renew(wanted - heard, state)

    async def recount(self) -> None:
        """Count the failures of the last 24 h."""
        scheduler = self._scheduler
        since_us = scheduler.clock.now_us() - _DAY_US
        count = partial(records.failed_since, scheduler.store, scheduler.namespace, since_us)
        self._view.failed_24h = await anyio.to_thread.run_sync(count)
