"""How an execution's end is told to the store, with the next attempt that its task wants. Pure."""

from __future__ import annotations

import msgspec

from car_sched_nb.engine.policy import retry_delay_us
from car_sched_nb.engine.run import Outcome, Run
from car_sched_nb.model import Cause, Status
from car_sched_nb.occurrence import execution_id
from car_sched_nb.output import clip
from car_sched_nb.store.ops import Finish, Row
from car_sched_nb.store.records import CRASH_ATTEMPTS


def finish_of(run: Run, owner: str, closing: bool) -> Finish:
    """Return what to write about an execution that has ended.

    Parameters
    ----------
    owner
        Who plans its next attempt; while the scheduler is left (`closing`) whoever comes next.
    """
    finish, outcome, task = run.ends(), run.outcome, run.task
    assert outcome is not None
    if outcome.status is Status.COMPLETED:
        return msgspec.structs.replace(finish, failed=False)
    most = max(CRASH_ATTEMPTS, task.retries + 1)
    if outcome.status is Status.INTERRUPTED and task.on_crash == "retry" and run.row.attempt < most:
        retry = msgspec.structs.replace(next_attempt(run, 0, None), not_before=finish.end.finished_at)
        return msgspec.structs.replace(finish, retry=retry)
    if outcome.status not in (Status.FAILED, Status.TIMED_OUT):
        return finish
    if run.row.attempt > task.retries or run.cancel_status is not None:
        return msgspec.structs.replace(finish, failed=True)
    retry = next_attempt(run, finish.end.finished_at, None if closing else owner)
    return msgspec.structs.replace(finish, retry=retry)


def next_attempt(run: Run, now_us: int, owner: str | None) -> Row:
    """Return the row of the attempt that follows a failed one."""
    attempt = run.row.attempt + 1
    return msgspec.structs.replace(
        run.row,
        execution_id=execution_id(run.row.occurrence_id, attempt),
        attempt=attempt,
        status=str(Status.WAITING),
        wait_reason="retry delay",
        started_at=None,
        cause=str(Cause.RETRY),
        owner=owner,
        not_before=now_us + retry_delay_us(run.task, run.execution_id, run.row.attempt),
    )


def bare(finish: Finish, said: str) -> Finish:
    """Return an end without what the work left; `said` is why."""
    left = dict.fromkeys(("answer", "turns", "tool_calls", "tokens_in", "tokens_out", "cost", "model"))
    end = msgspec.structs.replace(finish.end, **left, error=clip(said), error_type="Unstorable")
    return msgspec.structs.replace(finish, end=end, output=None)


def stopped(run: Run) -> Outcome:
    """Return the outcome of work that was stopped from outside."""
    if run.cancel_status is Status.CANCELLED:
        return Outcome(Status.CANCELLED)
    return Outcome(Status.INTERRUPTED, error="its scheduler was closed while it ran", error_type="Interrupted")
