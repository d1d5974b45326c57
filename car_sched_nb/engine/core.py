"""The engine: one heap and one timer for all tasks; who moves the cursor runs.

Everything here happens on the engine's loop. What is durable is asked of the writer's thread and answered here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from functools import partial

import anyio
import msgspec

from car_sched_nb.clock import Clock
from car_sched_nb.collector import MANY, collector
from car_sched_nb.engine.armed import ON_TIME_US, Armed, Gap, Plan, decide, new_row, settle, transaction
from car_sched_nb.engine.policy import jitter_us
from car_sched_nb.engine.run import Run, row_execution
from car_sched_nb.engine.running import Running
from car_sched_nb.errors import StoreError
from car_sched_nb.model import Cause, Execution, Status, Task, to_us
from car_sched_nb.occurrence import slot_text
from car_sched_nb.store import records, retention
from car_sched_nb.store.ops import Call, End, Finish, Settle, Settled
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer
from car_sched_nb.triggers import Fire, Passed, grace_us, next_fire

_RETRY_US = 1_000_000
_BURST = 500  # fires in one go: after them, what was won may begin
_STEP_US = 1_000_000
"""A wall clock that went back by more was set, not slewed."""


class Engine:
    """Plans armed tasks, settles their slots and starts what it won."""

    def __init__(self, store: SqliteStore, writer: Writer, clock: Clock, running: Running) -> None:
        self.armed: dict[str, Armed] = {}
        self.running = running
        running.ended = self.ended
        running.later = self.later
        running.notify = self.notify
        self._store = store
        self._writer = writer
        self._clock = clock
        self._heap: list[tuple[int, int, Armed | Run]] = []
        self._numbers = itertools.count(1)
        self._wake = anyio.Event()
        self._changed: anyio.Event | None = None
        self.look: Callable[[Armed], None] = lambda armed: None
        """Has the state read again that triggers a task without a schedule: a watched path's, or its upstream's."""
        self.upstream_ended: Callable[[str], None] = lambda name: None
        """Looks at the tasks that follow the one of that name."""
        self.take_over_all: Callable[[], None] = lambda: None
        """Plans what waits without an owner; the neighbours' watch sets it."""
        self.reconcile: Callable[[Armed], None] = lambda armed: None
        """Finds out whether the other owner of what runs still lives, and then calls `reconciled`."""
        self.settling = 0
        """Transactions under way."""

    def now_us(self) -> int:
        """Return the wall clock."""
        return self._clock.now_us()

    # Planning

    async def timer(self) -> None:
        """Wake at the next fire, for ever."""
        mono_us = self._clock.monotonic_us()
        ahead_us = self._clock.now_us() - mono_us
        while True:
            now_us, looked_us, mono_us = self._clock.now_us(), mono_us, self._clock.monotonic_us()
            before_us, ahead_us = ahead_us, now_us - mono_us
            if ahead_us < before_us - _STEP_US:
                self._stepped_back(before_us - ahead_us, looked_us + ahead_us)
            for number in range(_BURST):
                if not self._heap or self._heap[0][0] > now_us:
                    break
                if number == MANY:
                    collector.hold()
                _, entry, item = heapq.heappop(self._heap)
                if item.entry == entry:
                    self.due(item) if isinstance(item, Armed) else self._begin(item)
            else:
                await anyio.lowlevel.checkpoint()
                continue
            self._wake = anyio.Event()
            await self._clock.wait(self._heap[0][0] if self._heap else None, self._wake)

    def _stepped_back(self, by_us: int, since_us: int) -> None:
        """Follow a wall clock that was set back: no slot is lost, and no delay grows.

        `since_us` is when it was looked at before, by the time that it tells now.
        """
        for armed in self.armed.values():
            self._fall_back(armed, since_us)
            if armed.schedule is None and armed.entry:
                self._push(armed, self._clock.now_us())
        for runs in self.running.runs.values():
            for run in runs.values():
                if run.entry and run.not_before_us is not None:
                    self.later(run, run.not_before_us - by_us)

    def later(self, run: Run, at_us: int) -> None:
        """Begin a waiting execution at an instant."""
        run.not_before_us = at_us
        run.entry = self._push_item(at_us, run)

    def _begin(self, run: Run) -> None:
        run.entry = 0
        armed = self.armed.get(run.task.id)
        if armed is not None and armed.task.enabled:
            run.task = armed.task  # a changed body applies from the next start
        if not self.held(run):
            self.running.begin(run)

    def held(self, run: Run) -> bool:
        """Tell whether an execution waits until its task is resumed, or the names are there that its body needs."""
        armed = self.armed.get(run.task.id)
        if armed is None or run.working or run.starting or run.row.cause in (Cause.HAND, Cause.BACKFILL):
            return False
        return not armed.task.enabled or self.waits_for_names(armed)

    def _begin_waiting(self, task_id: str) -> None:
        """Begin what was held of a task when its time comes."""
        for run in self.running.of(task_id):
            if run.idle and not run.entry and not run.queued:
                self.later(run, run.not_before_us or 0)
        self.running.next_in_queue(task_id)

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
        if task.enabled and task.id in self.running.runs:
            self._begin_waiting(task.id)
        if self._fall_back(armed):
            return armed
        # The store knows the next fire: ten thousand tasks need no computing at a start.
        if task.enabled and task.next_at is not None and armed.remaining != 0:
            self._push(armed, to_us(task.next_at))
        return armed

    def _fall_back(self, armed: Armed, since_us: int | None = None) -> bool:
        """Take a cursor that is later than now back to the last slot not after `since_us` (now); return whether it was.

        The clock was ahead when it was settled. What started then stays guarded by its occurrence.
        """
        schedule, now_us = armed.schedule, self._clock.now_us()
        if armed.settling or schedule is None or not schedule.ahead(armed.cursor, now_us):
            return False
        back_us = now_us if since_us is None else since_us
        try:
            # Slots that ran and whose rows were removed meanwhile are guarded by nothing else.
            back_us = max(back_us, retention.removed_to(self._store, armed.task.id) or 0)
        except StoreError as error:
            self.refused(armed, error)
            return False
        last = schedule.current(back_us)
        cursor = last.slot if last and last.at_us <= back_us else schedule.start()
        task = armed.task
        following = next_fire(task, schedule, cursor)

        def won() -> None:
            armed.cursor, armed.gap = cursor, None

        op = transaction(
            task,
            now_us,
            expected=armed.cursor,
            cursor=cursor,
            next_at=following.at_us if following else None,
            by_hand=True,
        )
        self._submit(armed, op, None, won)
        return True

    def disarm(self, task_id: str) -> None:
        """Plan a task no more; what runs goes on."""
        armed = self.armed.pop(task_id, None)
        if armed:
            armed.entry = 0
            self.notify()

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
        armed.entry = self._push_item(at_us, armed)

    def _push_item(self, at_us: int, item: Armed | Run) -> int:
        entry = next(self._numbers)
        if not self._heap or at_us < self._heap[0][0]:
            self._wake.set()
        heapq.heappush(self._heap, (at_us, entry, item))
        return entry

    async def stop(self) -> None:
        """Plan nothing more and interrupt what runs; return when all of it has ended."""
        self.running.closing = True
        for task_id in tuple(self.armed):
            self.disarm(task_id)
        with anyio.CancelScope(shield=True):
            while self.running.runs or self.settling or self.running.claiming:
                for run in [run for runs in self.running.runs.values() for run in runs.values()]:
                    if run.cancel_status is not Status.INTERRUPTED:
                        self.running.stop(run, Status.INTERRUPTED)
                if self.running.runs or self.settling or self.running.claiming:
                    await self.change()

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
            self.look(armed)  # pushed because another owner's run was in the way
            return
        if armed.settling or not self.is_armed(armed) or armed.next_fire is None:
            return
        now_us = self._clock.now_us()
        passed = armed.passed(now_us)
        if passed is None:
            self.replan(armed)
            return
        if self.waits_for_names(armed):
            following = armed.schedule.next_fire(passed.last.slot)
            self._push(armed, following.at_us if following else now_us + _RETRY_US)
            return
        used_up = self.used_up(armed)
        plan = self._decided(armed, passed, now_us, may_replace=not used_up)
        if plan is not None and plan.run is not None and used_up:
            plan = plan.not_run("budget", used_up)
        if plan is not None:
            self._settle(armed, plan, now_us)
        elif armed.elsewhere:
            self._push(armed, now_us + _RETRY_US)
        armed.elsewhere = False

    def _decided(self, armed: Armed, passed: Passed, now_us: int, *, may_replace: bool) -> Plan | None:
        """Decide about slots that are due, by the task's overlap; None leaves them for when it is free."""
        overlap, task_id = armed.task.overlap, armed.task.id
        if overlap == "allow":
            return decide(armed, passed, now_us, busy=False)
        if overlap == "queue":
            waiting = any(run.queued and run.row.cause == Cause.SLOT for run in self.running.of(task_id))
            armed.behind = armed.behind or waiting
            return None if waiting else decide(armed, passed, now_us, busy=False)
        # A queue that an earlier definition left is in the way too.
        busy = bool(self.running.of(task_id)) or armed.elsewhere
        if overlap == "replace" and busy and may_replace:
            armed.replacing = True
            self._replace(armed)
        return decide(armed, passed, now_us, busy)

    def used_up(self, armed: Armed) -> str | None:
        """Return why a task may not run again today, or None; a store that cannot tell does not stop it."""
        try:
            return self.running.used_up(armed.task)
        except StoreError as error:
            self.running.trouble(armed.task, "slot", error, f"the store did not tell what was used today: {error}")
            return None

    def in_the_way(self, armed: Armed) -> bool:
        """Tell whether a run of a task is going on that a new state has to wait for; `replace` stops it."""
        if armed.task.overlap == "allow" or not self.running.of(armed.task.id):
            return False
        if armed.task.overlap == "replace" and not self.used_up(armed):  # else nothing would come in its place
            self._replace(armed)
        return True

    def _replace(self, armed: Armed) -> None:
        """Stop what runs of a task: a newer slot has come."""
        for run in self.running.of(armed.task.id):
            if run.cancel_status is None:
                self.running.stop(run, Status.CANCELLED, "replaced")
        if armed.elsewhere:
            task_id, owner, now_us = armed.task.id, self.running.owner, self._clock.now_us()
            self._writer.submit(Call(lambda db: records.ask_to_stop(db, task_id, owner, now_us)), lambda answer: None)

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
                self.notify()  # it counts as due no more
        return missing is not None

    def recheck(self) -> None:
        """Look again at the tasks that wait for names."""
        for armed in list(self.armed.values()):
            if armed.waits is not None and not self.waits_for_names(armed):
                self._begin_waiting(armed.task.id)
                self.due(armed)
                self.look(armed)
                self.take_over_all()

    def _settle(self, armed: Armed, plan: Plan, now_us: int) -> None:
        run = self._claim(armed, plan.run, now_us) if plan.run else None
        op = settle(armed, plan, now_us, run.row if run else None)
        self._submit(armed, op, run, partial(self._settled, armed, plan, op))

    def settle_state(
        self, armed: Armed, cursor: str, fire: Fire, *, upstream: str | None = None, skipped: str | None = None
    ) -> None:
        """Settle a state that was found, a watched path's or the upstream tasks', and run its slot.

        `skipped` says what of its upstream keeps it from running: its row is written, and nothing starts.
        """
        now_us = self._clock.now_us()
        task = armed.task
        reason = "upstream"
        if not skipped and (skipped := self.used_up(armed)):
            reason = "budget"
        run = None if skipped else self._claim(armed, fire, now_us, upstream)
        gap = None
        if skipped:
            gap = new_row(
                task,
                armed.ids(fire.slot, attempt=0),
                attempt=0,
                status=Status.SKIPPED,
                scheduled_at=fire.at_us,
                finished_at=now_us,
                reason=reason,
                error=skipped,
                upstream=upstream,
            )
        op = transaction(
            task,
            now_us,
            expected=armed.cursor,
            cursor=cursor,
            max_runs=task.max_runs,
            claim=run.row if run else None,
            gap=gap,
        )

        def won() -> None:
            armed.cursor, armed.arming = cursor, False
            if gap is not None:
                self.running.tell("gap", task, execution=row_execution(task, gap))
                self.upstream_ended(task.name)

        self._submit(armed, op, run, won)

    def _submit(self, armed: Armed, op: Settle, run: Run | None, won: Callable[[], None]) -> None:
        armed.settling = True
        self.settling += 1
        self._writer.submit(op, partial(self._answered, armed, run, won))

    def _answered(
        self, armed: Armed, run: Run | None, won: Callable[[], None], settled: Settled | BaseException
    ) -> None:
        armed.settling = False
        self.settling -= 1
        if isinstance(settled, Settled) and settled.claimed and run:
            armed.count_run()
            self.running.claimed(run)
        elif run:
            self.running.release(run)
        if isinstance(settled, BaseException):
            self.refused(armed, settled)
        elif not settled.won:
            self._lost(armed)
        else:
            self.running.well(armed.task, "slot")
            won()
            if settled.claimed and armed.remaining is not None:
                armed.remaining -= 1
            self.again(armed)
        self.notify()

    def refused(self, armed: Armed, error: BaseException) -> None:
        """Look at a task again soon: the store could not be read or written."""
        self.running.trouble(armed.task, "slot", error, f"the store did not take a slot: {error}")
        if self.is_armed(armed):
            self._push(armed, self._clock.now_us() + _RETRY_US)

    def _settled(self, armed: Armed, plan: Plan, op: Settle) -> None:
        armed.cursor, armed.arming = plan.cursor, False
        if plan.gap is not None:
            if op.gap is not None:
                armed.gap = Gap(op.gap.execution_id, plan.reason)
                self.running.tell("gap", armed.task, execution=row_execution(armed.task, op.gap))
            else:
                self.running.tell("gap", armed.task)
        if plan.run is not None:
            armed.gap, armed.replacing = None, False
        fire = armed.next_fire
        armed.behind = armed.behind and fire is not None and fire.at_us <= self._clock.now_us()

    def again(self, armed: Armed) -> None:
        """Plan what comes next, at once when it is already due."""
        if self.is_armed(armed):
            self.replan(armed)
            self.look(armed)

    def _lost(self, armed: Armed) -> None:
        """Somebody else settled, changed, paused or deleted the task: read it again."""
        if not self.is_armed(armed):
            return
        try:
            task = records.by_id(self._store, armed.task.id)
        except StoreError as error:
            self.refused(armed, error)
            return
        self.running.well(armed.task, "slot")
        if self.yields(armed, task):
            return
        assert task is not None
        moved = task.cursor != armed.cursor
        armed.take(task)
        armed.gap = None
        if moved or not task.enabled:
            self.again(armed)
        elif not self.running.runs.get(task.id) and records.in_progress(self._store, task.id):
            # With another owner: its slots are skipped there or here, whoever is first. Or left by one that is gone.
            armed.elsewhere = True
            armed.settling = True
            self.reconcile(armed)
        else:
            self.again(armed)

    def noticed(self, armed: Armed, state: tuple[int, int, int, str] | None) -> None:
        """Follow what another owner wrote into a task's row: (revision, version, enabled, cursor), or None."""
        task = armed.task
        if armed.settling or state == (task.revision, task.version, task.enabled, armed.cursor):
            return
        stored = records.by_id(self._store, task.id)
        if not self.yields(armed, stored):
            assert stored is not None
            self.arm(stored, armed.remaining)
            self.look(armed)
            self.notify()  # what was due here was settled there

    def take_over(self, armed: Armed, execution: Execution) -> None:
        """Plan an execution that waits without an owner, or call it missed when that is too late."""
        if execution.execution_id in self.running.runs.get(armed.task.id, {}) or self.waits_for_names(armed):
            return
        now_us = self._clock.now_us()
        due = execution.not_before or execution.scheduled_at
        late_us, catchup = now_us - to_us(due), armed.task.catchup
        of_a_plan = armed.schedule is not None and execution.cause is Cause.SLOT and catchup != "all"
        if of_a_plan and late_us > max(ON_TIME_US, self._allowed_us(armed, execution)):
            self._miss(armed, execution, now_us)
            return
        self.running.take_over(armed.task, execution)

    def _allowed_us(self, armed: Armed, execution: Execution) -> int:
        """Return how late a slot may begin; one of a schedule that was changed since may not."""
        task, schedule, bare = armed.task, armed.schedule, _bare(execution.slot)
        if schedule is None or task.catchup == "none" or execution.slot != slot_text(task.revision, bare):
            return 0
        return grace_us(task, schedule, Fire(bare, to_us(execution.scheduled_at)))

    def _miss(self, armed: Armed, execution: Execution, now_us: int) -> None:
        end = End(
            execution_id=execution.execution_id,
            owner=None,
            status=Status.MISSED,
            started_at=None,
            finished_at=now_us,
            duration=None,
            reason="no_owner",
        )
        self.settling += 1

        def answer(_: bool | BaseException) -> None:
            self.settling -= 1
            if not armed.settling:
                self.again(armed)  # what it was in the way of
            self.notify()

        self._writer.submit(Finish(end=end), answer)

    def yields(self, armed: Armed, task: Task | None) -> bool:
        """Plan a task no more when it was changed or deleted elsewhere: `task` is what is stored now."""
        if task is not None and (task.revision, task.version) == (armed.task.revision, armed.task.version):
            return False
        self.disarm(armed.task.id)
        note = partial(records.note_disarmed, owner=self.running.owner, task_id=armed.task.id)
        self._writer.submit(Call(note), lambda answer: None)
        self.running.let_wait(armed.task.id)
        self.running.tell(
            "disarmed", armed.task, text="it was changed or deleted elsewhere; run its cell to arm it here"
        )
        return True

    def reconciled(self, armed: Armed, interrupted: bool) -> None:
        """Settle again, now that it is known whether the other owner still lives."""
        armed.settling = False
        armed.elsewhere = not interrupted
        if armed.schedule is None:
            # Looked at at once, it would be found in the way again, and again.
            self._push(armed, self._clock.now_us() + (0 if interrupted else _RETRY_US))
        else:
            self.due(armed)
        self.notify()

    def _claim(self, armed: Armed, fire: Fire, now_us: int, upstream: str | None = None) -> Run:
        task, ids = armed.task, armed.ids(fire.slot)
        wait: tuple[str, int | None] | None = None
        if task.overlap == "queue" and (armed.elsewhere or self.running.runs.get(task.id)):
            wait = "queue", None
        elif task.jitter and (begins_us := fire.at_us + jitter_us(task, ids[1])) > now_us:
            wait = "jitter", begins_us
        return self.running.new_run(task, ids, fire.at_us, now_us, upstream=upstream, wait=wait)

    def ended(self, run: Run) -> None:
        """Plan on after an execution of a task."""
        armed = self.armed.get(run.task.id)
        if armed is not None and run.finish is not None and run.finish.failed and run.finish.max_failures:
            self._follow_pause(armed)
        self.running.next_in_queue(run.task.id)
        if armed is not None and not armed.settling:
            self.again(armed)
        if run.task.name in self.running.followed:
            self.upstream_ended(run.task.name)
        self.notify()

    def _follow_pause(self, armed: Armed) -> None:
        """Follow that a failure was one too many in a row."""
        stored = records.by_id(self._store, armed.task.id)
        if stored is not None and armed.task.enabled and not stored.enabled:
            armed.task = msgspec.structs.replace(armed.task, enabled=False)
            self.running.tell("paused", stored)

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        collector.let_go(busy=self.settling > 0 or len(self.running.runs) > MANY)
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def change(self) -> None:
        """Return when something has ended, was settled, or is planned no more."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


def _bare(slot: str) -> str:
    """Return a slot without its revision."""
    return slot.rpartition(".")[2] if slot.startswith("r") else slot
