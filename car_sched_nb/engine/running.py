"""Executions from their claim to their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from car_sched_nb.clock import Clock
from car_sched_nb.engine.armed import new_row
from car_sched_nb.engine.events import Event, Events
from car_sched_nb.engine.run import Outcome, Run, failure, row_execution
from car_sched_nb.errors import InvalidInput, UnknownRunner
from car_sched_nb.model import Cause, Execution, Status, Task, Trigger, from_us
from car_sched_nb.output import Output, current_output
from car_sched_nb.runners.base import AgentSpec, Progress, Runner, Runtime, SharedInfra, Work
from car_sched_nb.store.ops import Settle, Settled, Start
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer

_AGAIN_S = 1.0


class Running:
    """What runs or waits to run here; on the engine's loop only.

    Parameters
    ----------
    owner
        The id that claims carry.
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
        self.runs: dict[str, set[Run]] = {}
        """By task id."""
        self.closing = False
        self.ended: Callable[[Run], None] = lambda run: None
        """Called with each execution after its end is stored; the engine sets it."""
        self._limiter = anyio.CapacityLimiter(max_running)
        self._store = store
        self._writer = writer
        self._group = group
        self._owner = owner
        self._clock = clock
        self._runners = runners
        self._infra = infra
        self._events = events

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
        kept = _kept_params(values)
        token = object()
        held = False
        reason = "kernel busy" if runner.waits_for_loop(task) else None
        if reason is None:
            try:
                self._limiter.acquire_on_behalf_of_nowait(token)
                held = True
            except anyio.WouldBlock:
                reason = "limit"
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
            params=kept,
            executor=runner.executor(task),
            owner=self._owner,
        )
        run = Run(task, row, values, Output(self._spill(row.execution_id)))
        run.token, run.holds_token = token, held
        return run

    def _spill(self, execution_id: str) -> str | None:
        name = execution_id.replace(":", "_").replace("#", "_")
        return None if self._store.in_memory else f"{self._store.path}.d/outputs/{name}.txt"

    def release(self, run: Run) -> None:
        if run.holds_token:
            run.holds_token = False
            self._limiter.release_on_behalf_of(run.token)

    async def claim(self, run: Run, op: Settle) -> bool:
        """Settle a claim that was asked for by hand; start it when it was won."""
        settled: Settled | None = None
        try:
            settled = await self._writer.write(op)
        finally:
            if settled is None or not settled.claimed:
                self.release(run)
        if settled.claimed:
            self.start(run)
        return settled.claimed

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
            # One that nobody asked for is the body's own error; any other must never be swallowed.
            if cancelled and (self.closing or anyio.get_current_task().has_pending_cancellation()):
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
        if not run.holds_token:
            await self._limiter.acquire_on_behalf_of(run.token)
            run.holds_token = True
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
        # Until its end is stored it is in progress for everybody: a store that is busy is asked again.
        while True:
            try:
                await self._writer.write(finish)
            except Exception as error:  # noqa: BLE001 - the engine outlives a store that is gone
                said = f"the end of {run.execution_id} could not be stored: {error}"
                self.tell("error", run.task, run, text=said)
                if self.closing:
                    break  # the row is interrupted by whoever comes next
                await anyio.sleep(_AGAIN_S)
            else:
                break
        self.release(run)
        live = self.runs.get(run.task.id, set())
        live.discard(run)
        if not live:
            self.runs.pop(run.task.id, None)
        run.ended.set()
        self.tell("finished", run.task, run, execution=run.execution)
        self.ended(run)

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


def _kept_params(values: dict[str, Any]) -> str | None:
    try:
        return msgspec.json.encode(values).decode() if values else None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"params must be plain values (text, numbers, lists): {error}") from None


def _stopped(run: Run) -> Outcome:
    """Return the outcome of work that was stopped from outside."""
    if run.cancel_status is Status.CANCELLED:
        return Outcome(Status.CANCELLED)
    return Outcome(Status.INTERRUPTED, error="its scheduler was closed while it ran", error_type="Interrupted")
