"""One execution while it lives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import msgspec

from car_sched_nb.durations import parse_duration
from car_sched_nb.errors import BodyFailed
from car_sched_nb.model import Cause, Execution, Status, Task, Trigger, from_us
from car_sched_nb.output import Output, clip
from car_sched_nb.runners.base import AgentOutput, Occurrence, Progress
from car_sched_nb.store import ops
from car_sched_nb.store.ops import Row
from car_sched_nb.tracebacks import the_bodys_own, traceback_of, words_of


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How the work ended."""

    status: Status
    output: AgentOutput = AgentOutput()
    result: Any = None
    error: str | None = None
    error_type: str | None = None
    traceback: str | None = None


class Run:
    """A claimed execution: its row, its cancel scope, its output, and where it stands.

    `state` is waiting, running or cancelling; it is written on the engine's loop and may be read anywhere.
    """

    __slots__ = (
        "_over",
        "begun",
        "cancel_status",
        "duration_us",
        "entry",
        "exception",
        "finish",
        "finished_us",
        "holds_place",
        "limit",
        "mono_us",
        "next_attempt",
        "not_before_us",
        "noted",
        "outcome",
        "output",
        "over",
        "params",
        "progress",
        "reason",
        "result",
        "row",
        "scope",
        "started_us",
        "starting",
        "state",
        "task",
        "wait_reason",
        "working",
    )

    def __init__(self, task: Task, row: Row, params: dict[str, Any], output: Output) -> None:
        self.task = task
        self.row = row
        self.params = params
        self.output = output
        self.scope: anyio.CancelScope | None = None
        """Around the work while it goes on."""
        self.limit: anyio.CancelScope | None = None
        """Bounds the work when the task has a timeout."""
        self.state = str(row.status)
        self.wait_reason = row.wait_reason
        self.not_before_us = row.not_before
        self.entry = 0
        """Its number in the engine's heap while it waits for an instant."""
        self.starting = False
        """Its start is being written."""
        self.working = False
        """A task of the loop drives it."""
        self.begun = False
        self.holds_place = False
        self.cancel_status: Status | None = None
        self.reason: str | None = None
        self.started_us: int | None = None
        self.mono_us = 0
        self.progress: Progress | None = None
        self.result: Any = None
        self.noted: AgentOutput | None = None
        """What the work has left so far, for an end that leaves nothing."""
        self.exception: BaseException | None = None
        """What the body raised, until its end is told. Not in the outcome, which no collector looks into: its frames
        lead back to this run."""
        self.outcome: Outcome | None = None
        self.finished_us = 0
        self.duration_us: int | None = None
        self.finish: ops.Finish | None = None
        self.next_attempt: Run | None = None
        self.over = False
        self._over: anyio.Event | None = None

    @property
    def execution_id(self) -> str:
        return self.row.execution_id

    @property
    def idle(self) -> bool:
        """Whether it waits and nothing has been done to begin or to end it."""
        return not (self.working or self.starting or self.over or self.outcome is not None)

    @property
    def queued(self) -> bool:
        """Whether it stands in its task's queue, in nobody's way."""
        return self.row.wait_reason == "queue" and self.idle

    @property
    def occurrence(self) -> Occurrence:
        """What the body is told of itself."""
        return Occurrence(
            id=self.row.occurrence_id,
            execution_id=self.row.execution_id,
            task=self.task.name,
            slot=self.row.slot,
            scheduled_at=from_us(self.row.scheduled_at),
            attempt=self.row.attempt,
            params=self.params,
        )

    @property
    def execution(self) -> Execution:
        """The execution as it is stored, or will be."""
        return row_execution(self.task, self.row, self.finish)

    async def wait_over(self) -> None:
        """Return when its end is stored."""
        if self._over is None:
            self._over = anyio.Event()
        if not self.over:
            await self._over.wait()

    def end(self) -> None:
        """Its end is stored."""
        self.over = True
        if self._over is not None:
            self._over.set()

    def cancel(self, status: Status, reason: str | None = None) -> None:
        """Ask the work to stop; the row says so only when it has."""
        if self.cancel_status is None:
            self.cancel_status, self.reason = status, reason
            self.state = "cancelling"
        if self.scope is not None:
            self.scope.cancel()

    def start_clock(self, now_us: int, mono_us: int) -> None:
        """The work begins now: timeouts and durations count from here."""
        self.started_us, self.mono_us, self.begun = now_us, mono_us, True
        if self.state == Status.WAITING:
            self.state = str(Status.RUNNING)
        self.wait_reason = None
        if self.limit is not None:
            self.limit.deadline = anyio.current_time() + parse_duration(self.task.timeout) / 1e6

    def end_now(self, outcome: Outcome, now_us: int, mono_us: int) -> None:
        """The work has ended."""
        if self.noted is not None and outcome.output == AgentOutput():
            outcome = msgspec.structs.replace(outcome, output=self.noted)
        self.end_as(outcome)
        self.finished_us = now_us
        self.duration_us = mono_us - self.mono_us if self.begun else None

    def end_as(self, outcome: Outcome) -> None:
        """Replace how it ended by what can be told."""
        self.outcome, self.result = outcome, outcome.result

    def ends(self) -> ops.Finish:
        """Return what to write about its end."""
        outcome = self.outcome
        assert outcome is not None
        printed, masked = self.output.kept(), self.output.masked
        kept = None
        output = outcome.output
        if printed or outcome.traceback or output.transcript or output.artifact:
            kept = ops.Output(
                self.execution_id,
                printed.text if printed else "",
                outcome.traceback,
                printed.displays if printed else None,
                str(self.output.path) if self.output.path else None,
                printed.marks if printed else None,
                output.transcript and masked(output.transcript),
                output.artifact,
            )
        end = ops.End(
            execution_id=self.execution_id,
            owner=self.row.owner,
            status=outcome.status,
            started_at=self.started_us,
            finished_at=self.finished_us,
            duration=self.duration_us,
            answer=clip(masked(output.answer)) if output.answer else None,
            error=outcome.error,
            error_type=outcome.error_type,
            turns=output.turns,
            tool_calls=output.tool_calls,
            tokens_in=output.tokens_in,
            tokens_out=output.tokens_out,
            cost=output.cost,
            model=clip(output.model) if output.model else None,
            reason=self.reason,
        )
        return ops.Finish(end=end, output=kept, task_id=self.task.id, max_failures=self.task.max_failures)


def row_execution(task: Task, row: Row, finish: ops.Finish | None = None) -> Execution:
    """Return the execution that a row, and its finish, stand for."""
    end = finish.end if finish else None
    started = (end.started_at if end else None) or (row.started_at if end is None else None)
    finished = end.finished_at if end else row.finished_at
    return Execution(
        execution_id=row.execution_id,
        occurrence_id=row.occurrence_id,
        task_id=task.id,
        task=task.name,
        namespace=task.namespace,
        trigger=Trigger(row.trigger),
        slot=row.slot,
        attempt=row.attempt,
        status=Status(end.status if end else row.status),
        scheduled_at=from_us(row.scheduled_at),
        started_at=from_us(started) if started else None,
        finished_at=from_us(finished) if finished else None,
        duration=timedelta(microseconds=end.duration) if end and end.duration is not None else None,
        wait_reason=None if end else row.wait_reason,
        slots=row.slots,
        cause=Cause(row.cause),
        reason=end.reason if end else row.reason,
        version=row.version,
        params=msgspec.json.decode(row.params) if row.params else {},
        runner=row.runner,
        executor=row.executor,
        owner=row.owner,
        answer=end.answer if end else None,
        error=end.error if end else row.error,
        error_type=end.error_type if end else None,
        turns=end.turns if end else None,
        tool_calls=end.tool_calls if end else None,
        tokens_in=end.tokens_in if end else None,
        tokens_out=end.tokens_out if end else None,
        cost=end.cost if end else None,
        model=end.model if end else None,
        not_before=from_us(row.not_before) if row.not_before and end is None else None,
        upstream=tuple(msgspec.json.decode(row.upstream)) if row.upstream else (),
    )


def failure(error: BaseException, task_name: str, masked: Callable[[str], str]) -> Outcome:
    """Return how an execution failed: a runner's own words, or an exception with the body's traceback.

    Secrets are masked here, before a text is cut, lest the cut leave half of one.
    """
    if isinstance(error, BodyFailed):
        output = getattr(error, "output", None)
        kept = output if isinstance(output, AgentOutput) else AgentOutput()
        trace = clip(masked(error.traceback)) if error.traceback else None
        said, name = clip(masked(str(error))), clip(masked(error.error_type))
        return Outcome(Status.FAILED, kept, error=said, error_type=name, traceback=trace)
    error = the_bodys_own(error)
    trace = clip(masked(traceback_of(error, f"<car_task {task_name}>")))
    name = clip(type(error).__name__)
    return Outcome(Status.FAILED, error=clip(masked(words_of(error))), error_type=name, traceback=trace)
