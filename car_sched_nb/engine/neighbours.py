"""Other owners of the same store: what they ask for, what they changed, and what they left when they went."""

from __future__ import annotations

import anyio
import anyio.to_thread

from car_sched_nb.clock import Clock
from car_sched_nb.engine.after import Followers
from car_sched_nb.engine.armed import Armed
from car_sched_nb.engine.core import Engine
from car_sched_nb.errors import StoreError
from car_sched_nb.loops import Spawn
from car_sched_nb.model import Status
from car_sched_nb.store import records
from car_sched_nb.store.owners import others, reconcile
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer

LOOK_S = 0.25
"""Seconds between two looks while another owner lives."""

_ALONE_S = 1.0
_MOST_SKIPPED = 8  # looks that may fall out because this owner is writing all the time


class Neighbours:
    """Watches whether somebody else has written, and follows it; on the engine's loop only."""

    def __init__(
        self,
        engine: Engine,
        followers: Followers,
        store: SqliteStore,
        writer: Writer,
        clock: Clock,
        spawn: Spawn,
        namespace: str,
    ) -> None:
        self._engine = engine
        self._followers = followers
        self._store = store
        self._writer = writer
        self._clock = clock
        self._namespace = namespace
        self._skipped = 0
        self._foreign = 0
        self._others: list[str] = []
        engine.take_over_all = self.take_over
        engine.reconcile = lambda armed: spawn(self._reconcile_for(armed))

    async def run(self) -> None:
        """Look for ever: four times a second while another owner has not left, else once."""
        while True:
            await anyio.sleep(LOOK_S if self._others else _ALONE_S)
            try:
                if (self._others and await self._interrupted()) or self._changed():
                    self.look()
            except StoreError:
                continue  # whoever writes next says so; a store that comes back is looked at again

    def _changed(self) -> bool:
        foreign = self._store.commits - self._writer.commits
        changed = self._store.changed_elsewhere()
        if changed is None and not self._store.in_memory:
            self._skipped += 1
            changed = self._skipped > _MOST_SKIPPED
        if changed is not None:
            self._skipped = 0
        changed = changed or foreign != self._foreign
        self._foreign = foreign
        return changed

    async def _interrupted(self) -> bool:
        """End what owners that are gone left behind; return whether there was any."""
        return bool(await anyio.to_thread.run_sync(reconcile, self._store, self._clock.now_us()))

    async def _reconcile_for(self, armed: Armed) -> None:
        try:
            gone = await self._interrupted()
            self.take_over()
        except StoreError:
            gone = False
        self._engine.reconciled(armed, gone)

    def look(self) -> None:
        """Follow what others wrote: cancels, changed tasks, what waits without an owner, ends of upstream tasks."""
        engine, running = self._engine, self._engine.running
        self._others = others(self._store, running.owner)
        for execution_id in records.asked_to_stop(self._store, running.owner):
            for run in [runs[execution_id] for runs in running.runs.values() if execution_id in runs]:
                if run.cancel_status is None:
                    running.stop(run, Status.CANCELLED)
        if engine.armed:
            states = records.states(self._store, self._namespace)
            for armed in tuple(engine.armed.values()):
                engine.noticed(armed, states.get(armed.task.id))
            self.take_over()
            self._followers.look_at_all()

    def take_over(self) -> None:
        """Plan what waits for a task that is planned here and has no owner."""
        for execution in records.unowned(self._store, self._namespace):
            armed = self._engine.armed.get(execution.task_id)
            if armed is not None:
                self._engine.take_over(armed, execution)
