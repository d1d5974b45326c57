"""The engine: one heap and one timer for all tasks; who moves the cursor runs.

Everything here happens on the engine's loop. What is durable is asked of the writer's thread and answered here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import anyio

from car_sched_nb.clock import Clock
from car_sched_nb.engine.armed import Armed, Gap, Plan, decide, settle, transaction
from car_sched_nb.engine.run import Run, row_execution
from car_sched_nb.engine.running import Running
from car_sched_nb.model import Status, Task, to_us
from car_sched_nb.store import records
from car_sched_nb.store.ops import Call, Settle, Settled
from car_sched_nb.store.owners import reconcile_in
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer
from car_sched_nb.triggers import Fire

_RETRY_US = 1_000_000
_STEP_US = 1_000_000
"""A wall clock that went back by more was set, not slewed."""


class Engine:
    """Plans armed tasks, settles their slots and starts what it won."""

    def __init__(self, store: SqliteStore, writer: Writer, clock: Clock, running: Running) -> None:
        self.armed: dict[str, Armed] = {}
        self.running = running
        running.ended = self.ended
        self._store = store
        self._writer = writer
        self._clock = clock
        self._heap: list[tuple[int, int, Armed]] = []
        self._numbers = itertools.count(1)
        self._wake = anyio.Event()
        self.changed = anyio.Event()
        self.file_due: Callable[[Armed], None] = lambda armed: None
        """Has a watched path read again; the watcher sets it."""
        self.settling = 0
        """Transactions under way."""

    # Planning

    async def timer(self) -> None:
        """Wake at the next fire, for ever."""
        before_us = self._clock.now_us()
        while True:
            now_us = self._clock.now_us()
            if now_us < before_us - _STEP_US:
                for armed in self.armed.values():
                    self._fall_back(armed)
            before_us = now_us
            while self._heap and self._heap[0][0] <= now_us:
                _, entry, armed = heapq.heappop(self._heap)
                if armed.entry == entry:
                    self.due(armed)
            self._wake = anyio.Event()
            await self._clock.wait(self._heap[0][0] if self._heap else None, self._wake)

    def arm(self, task: Task, remaining: int | None = None) -> Armed:
        """Plan a stored task; `remaining` bounds how many executions it may start."""
        armed = self.armed.get(task.id)
        if armed is None:
            armed = self.armed[task.id] = Armed(task, remaining)
        else:
            if armed.task.revision != task.revision:
                armed.gap, armed.arming = None, False
            armed.take(task)
            armed.remaining = remaining
        if self._fall_back(armed):
            return armed
        # The store knows the next fire: ten thousand tasks need no computing at a start.
        if task.enabled and task.next_at is not None and armed.remaining != 0:
            self._push(armed, to_us(task.next_at))
        return armed

    def _fall_back(self, armed: Armed) -> bool:
        """Take a cursor that is later than now back to the last slot not after now; return whether it was.

        The clock was ahead when it was settled. What started then stays guarded by its occurrence.
        """
        schedule, now_us = armed.schedule, self._clock.now_us()
        if armed.settling or schedule is None or not schedule.ahead(armed.cursor, now_us):
            return False
        last = schedule.current(now_us)
        cursor = last.slot if last and last.at_us <= now_us else schedule.start()
        following = schedule.next_fire(cursor)
        task = armed.task

        def won() -> None:
            armed.cursor, armed.gap = cursor, None

        op = transaction(
            task,
            now_us,
            expected=armed.cursor,
            cursor=cursor,
            next_at=following.at_us if following else None,
            by_hand=True,
            free=False,
        )
        self._submit(armed, op, None, won)
        return True

    def disarm(self, task_id: str) -> None:
        """Plan a task no more; what runs goes on."""
        armed = self.armed.pop(task_id, None)
        if armed:
            armed.entry = 0
            self._notify()

    def replan(self, armed: Armed) -> None:
        """Put the next fire into the heap."""
        fire = armed.next_fire
        if fire is None:
            armed.entry = 0
        else:
            self._push(armed, fire.at_us)

    def _push(self, armed: Armed, at_us: int) -> None:
        if armed.entry and armed.at_us == at_us and at_us > self._clock.now_us():
            return  # it stands there already
        armed.at_us = at_us
        armed.entry = next(self._numbers)
        first = self._heap[0][0] if self._heap else None
        heapq.heappush(self._heap, (at_us, armed.entry, armed))
        if first is None or at_us < first:
            self._wake.set()

    async def stop(self) -> None:
        """Plan nothing more and interrupt what runs; return when all of it has ended."""
        self.running.closing = True
        for task_id in tuple(self.armed):
            self.disarm(task_id)
        with anyio.CancelScope(shield=True):
            while self.running.runs or self.settling:
                for run in [run for runs in self.running.runs.values() for run in runs]:
                    run.cancel(Status.INTERRUPTED)
                await self.changed.wait()

    def is_armed(self, armed: Armed) -> bool:
        """Tell whether an entry is still the one that is planned."""
        return self.armed.get(armed.task.id) is armed

    def nothing_due(self, armed: Armed, now_us: int) -> bool:
        """Tell whether no slot of a task is due or being settled."""
        if armed.settling:
            return False
        fire = armed.next_fire
        return fire is None or fire.at_us > now_us or armed.waits is not None

    # Settling

    def due(self, armed: Armed) -> None:
        """Settle the slots of a task that passed."""
        if armed.schedule is None:
            self.file_due(armed)  # pushed because another owner's run was in the way
            return
        if armed.settling or not self.is_armed(armed) or armed.next_fire is None:
            return
        now_us = self._clock.now_us()
        passed = armed.schedule.passed(armed.cursor, now_us)
        if passed is None:
            self.replan(armed)
            return
        if self.waits_for_names(armed):
            following = armed.schedule.next_fire(passed.last.slot)
            self._push(armed, following.at_us if following else now_us + _RETRY_US)
            return
        busy = bool(self.running.runs.get(armed.task.id)) or armed.elsewhere
        plan = decide(armed, passed, now_us, busy and armed.task.overlap != "allow")
        if plan is not None:
            self._settle(armed, plan, now_us)
        elif armed.elsewhere:
            self._push(armed, now_us + _RETRY_US)
        armed.elsewhere = False

    def waits_for_names(self, armed: Armed) -> bool:
        """Tell whether the body needs what nobody has defined; said once, settled when it is there."""
        try:
            missing = self.running.runner_of(armed.task).missing(armed.task)
        except Exception as error:  # noqa: BLE001 - a body that no longer compiles waits to be corrected
            missing = str(error)
        if missing != armed.waits:
            armed.waits = missing
            if missing:
                self.running.tell("waits", armed.task, text=missing)
        return missing is not None

    def recheck(self) -> None:
        """Look again at the tasks that wait for names."""
        for armed in list(self.armed.values()):
            if armed.waits is not None and not self.waits_for_names(armed):
                self.due(armed)
                self.file_due(armed)

    def _settle(self, armed: Armed, plan: Plan, now_us: int) -> None:
        run = self._claim(armed, plan.run, now_us) if plan.run else None
        op = settle(armed, plan, now_us, run.row if run else None)
        self._submit(armed, op, run, lambda: self._settled(armed, plan, op))

    def settle_file(self, armed: Armed, cursor: str, slot: str) -> None:
        """Settle a watched path's new state (`cursor`) and run its slot."""
        now_us = self._clock.now_us()
        run = self._claim(armed, Fire(slot, now_us), now_us)
        task = armed.task
        op = transaction(
            task,
            now_us,
            expected=armed.cursor,
            cursor=cursor,
            free=task.overlap != "allow",
            claim=run.row,
        )

        def won() -> None:
            armed.cursor, armed.arming = cursor, False

        self._submit(armed, op, run, won)

    def _submit(self, armed: Armed, op: Settle, run: Run | None, won: Callable[[], None]) -> None:
        armed.settling = True
        self.settling += 1

        def answer(settled: Settled | BaseException) -> None:
            armed.settling = False
            self.settling -= 1
            if isinstance(settled, Settled) and settled.claimed and run:
                self.running.start(run)
            elif run:
                self.running.release(run)
            if isinstance(settled, BaseException):
                self.running.tell("error", armed.task, text=f"the store did not take a slot: {settled}")
                self._push(armed, self._clock.now_us() + _RETRY_US)
            elif not settled.won:
                self._lost(armed)
            else:
                won()
                if settled.claimed and armed.remaining is not None:
                    armed.remaining -= 1
                self.again(armed)
            self._notify()

        self._writer.submit(op, answer)

    def _settled(self, armed: Armed, plan: Plan, op: Settle) -> None:
        armed.cursor, armed.arming = plan.cursor, False
        if plan.gap is not None:
            if op.gap is not None:
                armed.gap = Gap(op.gap.execution_id, plan.reason)
                self.running.tell("gap", armed.task, execution=row_execution(armed.task, op.gap))
            else:
                self.running.tell("gap", armed.task)
        if plan.run is not None:
            armed.gap = None

    def again(self, armed: Armed) -> None:
        """Plan what comes next, at once when it is already due."""
        if self.is_armed(armed):
            self.replan(armed)
            self.file_due(armed)

    def _lost(self, armed: Armed) -> None:
        """Somebody else settled, changed, paused or deleted the task: read it again."""
        if not self.is_armed(armed):
            return
        task = records.by_id(self._store, armed.task.id)
        if task is None or (task.revision, task.version) != (armed.task.revision, armed.task.version):
            self.disarm(armed.task.id)
            self.running.tell(
                "disarmed", armed.task, text="it was changed or deleted elsewhere; run its cell to arm it here"
            )
            return
        moved = task.cursor != armed.cursor
        armed.take(task)
        armed.gap = None
        if moved or not task.enabled:
            self.again(armed)
        elif task.status == "running" and not self.running.runs.get(task.id):
            # In progress with another owner: its slots are skipped there or here, whoever is first.
            armed.elsewhere = True
            self._reconcile(armed)
        else:
            self.again(armed)

    def _reconcile(self, armed: Armed) -> None:
        """Settle again once it is known whether the other owner still lives."""
        armed.settling = True
        now_us = self._clock.now_us()

        def answer(interrupted: object) -> None:
            armed.settling = False
            armed.elsewhere = not interrupted
            if armed.schedule is None:
                self._push(armed, self._clock.now_us() + (0 if interrupted else _RETRY_US))
            self.due(armed)
            self._notify()

        self._writer.submit(Call(lambda db: reconcile_in(db, self._store, now_us)), answer)

    def _claim(self, armed: Armed, fire: Fire, now_us: int) -> Run:
        return self.running.new_run(armed.task, armed.ids(fire.slot), fire.at_us, now_us)

    def ended(self, run: Run) -> None:
        """Plan on after an execution of a task."""
        armed = self.armed.get(run.task.id)
        if armed is not None and not armed.settling:
            self.again(armed)
        self._notify()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()
