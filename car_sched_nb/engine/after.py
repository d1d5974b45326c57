"""Tasks that follow others: when every upstream task has a new end, their slot is settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from car_sched_nb.clock import Clock
from car_sched_nb.engine.armed import Armed
from car_sched_nb.engine.core import Engine
from car_sched_nb.errors import StoreError
from car_sched_nb.model import Trigger
from car_sched_nb.store import upstream
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.upstream import End
from car_sched_nb.triggers import Fire


class Followers:
    """The planned tasks that follow others; on the engine's loop only."""

    def __init__(self, engine: Engine, store: SqliteStore, clock: Clock, namespace: str) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._namespace = namespace
        self._by_name: dict[str, list[Armed]] = {}
        engine.upstream_ended = self.ended

    def follow(self, armed: Iterable[Armed]) -> None:
        """Follow exactly the upstream tasks of these."""
        self._by_name = {}
        for one in armed:
            if one.task.trigger is Trigger.AFTER:
                for name in upstream.names_of(one.task):
                    self._by_name.setdefault(name, []).append(one)
        self._engine.running.followed = frozenset(self._by_name)

    def ended(self, name: str) -> None:
        """Look at the tasks that follow one which has ended."""
        for armed in self._by_name.get(name, ()):
            self.look(armed)

    def look_at_all(self) -> None:
        """Look at every task that follows another: an end may have been written elsewhere."""
        for armed in {id(one): one for ones in self._by_name.values() for one in ones}.values():
            self.look(armed)

    def look(self, armed: Armed) -> None:
        """Settle a task's slot when every upstream task has an end newer than the one last used."""
        task, engine = armed.task, self._engine
        if task.trigger is not Trigger.AFTER:
            return  # it follows nobody any more
        if armed.settling or not engine.is_armed(armed) or not armed.may_run(self._clock.now_us()):
            return
        try:
            ends = upstream.ends(self._store.rows, task, self._namespace)
        except StoreError as error:
            engine.refused(armed, error)
            return
        if not upstream.are_newer(ends, armed.cursor):
            return
        if engine.in_the_way(armed):
            return  # it is looked at again when that has ended, and then follows the newest
        unwanted = upstream.unwanted(task, ends)
        if not unwanted and engine.waits_for_names(armed):
            return
        engine.settle_state(
            armed,
            upstream.cursor_of(ends),
            Fire(upstream.slot_of(ends), max(end.finished_us for end in ends)),
            upstream=upstream.as_json(ends),
            skipped=_why(unwanted),
        )


def _why(unwanted: Sequence[End]) -> str | None:
    return "; ".join(f"{end.name} {end.status}" for end in unwanted) or None
