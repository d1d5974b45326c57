"""The engine: one heap and one timer for all tasks; who moves the cursor runs.

Everything here happens on the engine's loop. What is durable is asked of the writer's thread and answered here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from car_sched_nb.clock import Clock
from car_sched_nb.engine.armed import Armed, Gap, Plan, decide, new_row, settle
from car_sched_nb.engine.events import Event, Events
from car_sched_nb.engine.run import Outcome, Run, failure, row_execution
from car_sched_nb.errors import UnknownRunner
from car_sched_nb.model import Cause, Execution, Status, Task, Trigger, from_us, to_us
from car_sched_nb.output import Output, current_output
from car_sched_nb.runners.base import AgentSpec, Progress, Runner, Runtime, SharedInfra, Work
from car_sched_nb.store import records
from car_sched_nb.store.ops import Settle, Settled, Start
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer
from car_sched_nb.triggers import Fire

_RETRY_US = 1_000_000


class Engine:
    """Plans armed tasks, settles their slots and runs what it won.

    Parameters
    ----------
    owner
        The id that its claims carry.
    runners
        By name; may grow while it runs.
    max_running
        Executions that run at the same time; more are `waiting` for the limit.
    """

    def __init__(
        self,
        store: SqliteStore,
        writer: Writer,
        group: TaskGroup,
        *,
        owner: str,
        clock: Clock,
        runners: Mapping[str, Runner],
        infra: SharedInfra,
        events: Events,
        max_running: int,
    ) -> None:
        self.armed: dict[str, Armed] = {}
        self.runs: dict[str, set[Run]] = {}
        self.limiter = anyio.CapacityLimiter(max_running)
        self._store = store
        self._writer = writer
        self._group = group
        self._owner = owner
        self._clock = clock
        self._runners = runners
        self._infra = infra
        self._events = events
        self._heap: list[tuple[int, int, Armed]] = []
        self._numbers = itertools.count(1)
        self._wake = anyio.Event()
        self.changed = anyio.Event()
        self.file_due: Callable[[Armed], None] = lambda armed: None
        """Has a watched path read again; the watcher sets it."""
        self._settling = 0
        self.closing = False

    # Planning

    async def timer(self) -> None:
        """Wake at the next fire, for ever."""
        while True:
            now_us = self._clock.now_us()
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
        # The store knows the next fire: ten thousand tasks need no computing at a start.
        if task.enabled and task.next_at is not None and armed.remaining != 0:
            self._push(armed, to_us(task.next_at))
        return armed

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
        armed.entry = next(self._numbers)
        first = self._heap[0][0] if self._heap else None
        heapq.heappush(self._heap, (at_us, armed.entry, armed))
        if first is None or at_us < first:
            self._wake.set()

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
        if armed.settling or not self.is_armed(armed) or armed.schedule is None or armed.next_fire is None:
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
        busy = bool(self.runs.get(armed.task.id)) or armed.elsewhere
        plan = decide(armed, passed, now_us, busy and armed.task.overlap != "allow")
        if plan is not None:
            self._settle(armed, plan, now_us)
        elif armed.elsewhere:
            self._push(armed, now_us + _RETRY_US)
        armed.elsewhere = False

    def waits_for_names(self, armed: Armed) -> bool:
        """Tell whether the body needs what nobody has defined; said once, settled when it is there."""
        try:
            missing = self.runner_of(armed.task).missing(armed.task)
        except Exception as error:  # noqa: BLE001 - a body that no longer compiles waits to be corrected
            missing = str(error)
        if missing != armed.waits:
            armed.waits = missing
            if missing:
                self.tell("waits", armed.task, text=missing)
        return missing is not None

    def runner_of(self, task: Task) -> Runner:
        """Return the runner of a task.

        Raises
        ------
        UnknownRunner
            When nobody has registered it in this kernel's life.
        """
        runner = self._runners.get(task.runner)
        if runner is None:
            raise UnknownRunner(task.runner, self._runners)
        return runner

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
        op = Settle(
            task_id=task.id,
            revision=task.revision,
            version=task.version,
            now=now_us,
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
        self._settling += 1

        def answer(settled: Settled | BaseException) -> None:
            armed.settling = False
            self._settling -= 1
            if isinstance(settled, Settled) and settled.claimed and run:
                self.start(run)
            elif run:
                self._release(run)
            if isinstance(settled, BaseException):
                self.tell("error", armed.task, text=f"the store did not take a slot: {settled}")
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
                self.tell("gap", armed.task, execution=row_execution(armed.task, op.gap))
            else:
                self.tell("gap", armed.task)
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
            self.tell("disarmed", armed.task, text="it was changed or deleted elsewhere; run its cell to arm it here")
            return
        moved = task.cursor != armed.cursor
        armed.take(task)
        armed.gap = None
        if moved or not task.enabled:
            self.again(armed)
        elif task.status == "running" and not self.runs.get(task.id):
            # In progress with another owner: its slots are skipped there or here, whoever is first.
            armed.elsewhere = True
            self._push(armed, self._clock.now_us())
        else:
            self.again(armed)

    # Claims

    def _claim(self, armed: Armed, fire: Fire, now_us: int) -> Run:
        return self.new_run(armed.task, armed.ids(fire.slot), fire.at_us, now_us)

    def new_run(
        self,
        task: Task,
        ids: tuple[str, str, str],
        scheduled_at: int,
        now_us: int,
        *,
        attempt: int = 1,
        cause: Cause = Cause.SLOT,
        trigger: Trigger | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Run:
        """Return a run to be claimed; it holds a place among `max_running`, or waits for one."""
        runner = self.runner_of(task)
        values = {**task.params, **(params or {})}
        reason = "kernel busy" if runner.waits_for_loop(task) else None
        token = object()
        try:
            self.limiter.acquire_on_behalf_of_nowait(token)
            held = True
        except anyio.WouldBlock:
            reason, held = "limit", False
        row = new_row(
            task,
            ids,
            status=Status.WAITING if reason else Status.RUNNING,
            wait_reason=reason,
            scheduled_at=scheduled_at,
            started_at=None if reason else now_us,
            attempt=attempt,
            cause=cause,
            trigger=trigger,
            params=msgspec.json.encode(values).decode() if values else None,
            executor=runner.executor(task),
            owner=self._owner,
        )
        run = Run(task, row, values, Output(self._spill(row.execution_id)))
        run.token, run.holds_token = token, held
        return run

    def _spill(self, execution_id: str) -> Path | None:
        folder = self._store.folder
        return folder / "outputs" / f"{execution_id.replace(':', '_').replace('#', '_')}.txt" if folder else None

    def _release(self, run: Run) -> None:
        if run.holds_token:
            run.holds_token = False
            self.limiter.release_on_behalf_of(run.token)

    async def claim(self, run: Run, op: Settle) -> bool:
        """Settle a claim that was asked for by hand; start it when it was won."""
        settled: Settled | None = None
        try:
            settled = await self._writer.write(op)
        finally:
            if settled is None or not settled.claimed:
                self._release(run)
        if settled.claimed:
            self.start(run)
        return settled.claimed

    # Running

    def start(self, run: Run) -> None:
        """Begin a claimed execution."""
        self.runs.setdefault(run.task.id, set()).add(run)
        self.tell("claimed", run.task, run)
        self._group.start_soon(self._run, run, name=run.execution_id)

    async def _run(self, run: Run) -> None:
        current_output.set(run.output)
        outcome: Outcome | None = None
        try:
            with run.scope:
                if not run.holds_token:
                    await self.limiter.acquire_on_behalf_of(run.token)
                    run.holds_token = True
                with run.limit:
                    outcome = await self._work(run)
                if outcome is None and not run.scope.cancel_called:
                    outcome = Outcome(Status.TIMED_OUT, error=f"did not end within {run.task.timeout}")
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish(run, outcome or _stopped(run))

    async def _work(self, run: Run) -> Outcome:
        try:
            runner = self.runner_of(run.task)
            if not runner.waits_for_loop(run.task):
                await self._begin(run)
            output, result = await runner.run(self._as_work(run))
            return Outcome(Status.COMPLETED, output, result)
        except BaseException as error:
            cancelled = isinstance(error, anyio.get_cancelled_exc_class())
            if cancelled and (run.scope.cancel_called or run.limit.cancel_called or self.closing):
                raise
            return failure(error, run.task.name)

    def _as_work(self, run: Run) -> Work:
        task = run.task

        async def begin() -> None:
            await self._begin(run)

        def report(progress: Progress) -> None:
            run.progress = progress

        spec = AgentSpec(
            name=task.name, system_prompt=task.system_prompt, max_turns=task.max_turns, metadata=task.agent_metadata
        )
        runtime = Runtime(run.occurrence, self._infra, run.output, report, lambda: self._last_success(task))
        return Work(task=task, spec=spec, runtime=runtime, mailbox=self._infra.mailbox(task.name), begin=begin)

    def _last_success(self, task: Task) -> datetime | None:
        sql = """SELECT finished_at FROM executions WHERE task_id = ? AND status = 'completed'
            ORDER BY seq DESC LIMIT 1"""
        found = self._store.rows(sql, task.id)
        return from_us(found[0][0]) if found else None

    async def _begin(self, run: Run) -> None:
        """Commit the start of a waiting execution; the work begins when this returns."""
        if run.begun:
            return
        now_us = self._clock.now_us()
        if run.row.status == Status.WAITING and not await self._writer.write(
            Start(run.execution_id, self._owner, now_us)
        ):
            run.cancel(Status.INTERRUPTED)
            await anyio.lowlevel.checkpoint()
        run.start_clock(self._clock.now_us(), self._clock.monotonic_us())
        self.tell("started", run.task, run)

    async def _finish(self, run: Run, outcome: Outcome) -> None:
        finish = run.finish(outcome, self._clock.now_us(), self._clock.monotonic_us())
        run.output.close()
        run.result = outcome.result
        run.execution = row_execution(run.task, run.row, finish)
        try:
            await self._writer.write(finish)
        except Exception as error:  # noqa: BLE001 - the engine outlives a store that is gone; the row is interrupted later
            self.tell("error", run.task, run, text=f"the end of {run.execution_id} could not be stored: {error}")
        self._release(run)
        live = self.runs.get(run.task.id, set())
        live.discard(run)
        if not live:
            self.runs.pop(run.task.id, None)
        run.ended.set()
        self.tell("finished", run.task, run, execution=run.execution)
        armed = self.armed.get(run.task.id)
        if armed is not None and not armed.settling:
            self.again(armed)
        self._notify()

    # Telling

    def tell(
        self, kind: str, task: Task, run: Run | None = None, *, execution: Execution | None = None, text: str = ""
    ) -> None:
        """Hand an event to the listeners."""
        self._events.tell(
            Event(
                kind=kind,
                task=task,
                execution_id=run.execution_id if run else None,
                execution=execution,
                result=run.result if run and execution else None,
                text=text,
            )
        )

    def _notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


def _stopped(run: Run) -> Outcome:
    """Return the outcome of work that was stopped from outside."""
    if run.cancel_status is Status.CANCELLED:
        return Outcome(Status.CANCELLED)
    return Outcome(Status.INTERRUPTED, error="its scheduler was closed while it ran", error_type="Interrupted")
