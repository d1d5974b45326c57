"""Executions from their claim to their end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import msgspec

from car_sched_nb.clock import Clock
from car_sched_nb.engine import edges, ending
from car_sched_nb.engine.armed import new_row
from car_sched_nb.engine.edges import Turn
from car_sched_nb.engine.ending import stopped
from car_sched_nb.engine.events import Event, Events
from car_sched_nb.engine.messages import of_task
from car_sched_nb.engine.places import Places
from car_sched_nb.engine.run import Outcome, Run, failure
from car_sched_nb.engine.source import RunSource
from car_sched_nb.errors import BodyFailed, InvalidInput, SchedulerClosed, StoreError, UnknownRunner
from car_sched_nb.loops import Spawn, soon_caller
from car_sched_nb.model import Cause, Execution, Status, Task, Trigger, from_us, to_us
from car_sched_nb.output import Output, current_output
from car_sched_nb.runners.base import Runner, SharedInfra, Upstream, Work, current_runtime
from car_sched_nb.store import records
from car_sched_nb.store.ops import NOT_WRITTEN, Call, Finish, Finished, Settle, Settled, Start
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer
from car_sched_nb.when import midnight_us

AGAIN_S = 1.0
"""Seconds until a store that refused a write is asked again."""


class Running:
    """What runs or waits to run here; on the engine's loop only.

    Parameters
    ----------
    spawn
        Starts a coroutine as a task of the loop.
    owner
        The id that claims carry.
    runners
        By name; may grow while it runs.
    max_running
        Executions that work at the same time; more are `waiting` for the limit.
    """

    def __init__(
        self,
        store: SqliteStore,
        writer: Writer,
        spawn: Spawn,
        *,
        owner: str,
        clock: Clock,
        runners: Mapping[str, Runner],
        infra: SharedInfra,
        events: Events,
        max_running: int,
    ) -> None:
        self.runs: dict[str, dict[str, Run]] = {}
        """By task id and execution id, oldest first."""
        self.closing = False
        self.ended: Callable[[Run], None] = lambda run: None
        """Called with each execution after its end is stored; the engine sets it."""
        self.later: Callable[[Run, int], None] = lambda run, at_us: None
        """Calls `begin` at an instant; the engine sets it."""
        self.claiming = 0
        """Claims by hand under way."""
        self.turned: Callable[[Run, Turn], None] = lambda run, turn: None
        """Called with each final end that completed or failed, after `ended`; the scheduler sets it."""
        self.notify: Callable[[], None] = lambda: None
        """Wakes whoever waits for a change; the engine sets it."""
        self.kept: dict[str, tuple[str, Any]] = {}
        """By task id: (execution id, live result) of the newest that completed, for the tasks that others follow."""
        self.followed: frozenset[str] = frozenset()
        """Names of the tasks that others follow."""
        self._places = Places(max_running)
        self._store = store
        self._writer = writer
        self._spawn = spawn
        self._soon = soon_caller()
        self._ending: list[Run] = []
        """What has ended in this turn of the loop."""
        self.owner = owner
        self._clock = clock
        self._runners = runners
        self.infra = infra
        self._events = events
        self._folder = store.folder
        self._scratch: TemporaryDirectory[str] | None = None
        self._troubles: dict[tuple[str, str], type] = {}
        """What the store refused last, by task id and what was to be written, until it takes it."""

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

    def of(self, task_id: str) -> list[Run]:
        """Return what runs or waits of a task here, oldest first."""
        return list(self.runs.get(task_id, {}).values())

    def occupied(self, task_id: str) -> bool:
        """Tell whether an occurrence of a task is in progress here, apart from its queue."""
        runs = self.runs.get(task_id)
        return runs is not None and any(not run.queued for run in runs.values())

    # Claims

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
        upstream: str | None = None,
        wait: tuple[str, int | None] | None = None,
    ) -> Run:
        """Return a run to be claimed; it holds a place among `max_running`, or waits: for one, or for `wait`.

        `wait` is (reason, the instant until when or None).
        """
        runner = self.runner_of(task)
        values = {**task.params, **(params or {})}
        held = False
        reason, not_before = wait or (None, None)
        if reason is None and runner.waits_for_loop(task):
            reason = "kernel busy"
        elif reason is None:
            held = self._places.take()
            reason = None if held else "limit"
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
            params=kept_params(values),
            executor=runner.executor(task),
            owner=self.owner,
            not_before=not_before,
            upstream=upstream,
        )
        run = self._run_of(task, row, values)
        run.holds_place = held
        return run

    def _run_of(self, task: Task, row: Any, params: dict[str, Any]) -> Run:
        spill = self.file_of(row.execution_id, ".txt") if self._folder is not None else None
        return Run(task, row, params, Output(spill))

    def file_of(self, execution_id: str, suffix: str) -> str:
        """Return where a file of an execution is kept: beside the store, or as long as the scheduler lives."""
        if self._folder is None and self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="car-outputs-")
        folder = self._folder if self._scratch is None else self._scratch.name
        name = execution_id.replace(":", "_").replace("#", "_")
        return f"{folder}/outputs/{name}{suffix}"

    def clean_up(self) -> None:
        """Remove the files of a store in memory, which is gone with its scheduler."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def release(self, run: Run) -> None:
        """Give back the place that a run holds."""
        if run.holds_place:
            run.holds_place = False
            self._places.give_back()

    async def claim(self, run: Run, op: Settle) -> bool:
        """Settle a claim that was asked for by hand; start it when it was won.

        Raises
        ------
        SchedulerClosed
            When the scheduler is being left: what began now would outlive it.
        """
        settled: Settled | None = None
        self.claiming += 1
        try:
            if self.closing:
                raise SchedulerClosed
            settled = await self._writer.write(op)
        finally:
            self.claiming -= 1
            if settled is None or not settled.claimed:
                self.release(run)
            if self.closing:
                self.notify()
        if settled.claimed:
            self.claimed(run)
        return settled.claimed

    def claimed(self, run: Run) -> None:
        """Take in an execution whose row is written, and start it when its time has come."""
        self.runs.setdefault(run.task.id, {})[run.execution_id] = run
        self.tell("claimed", run.task, run)
        if run.row.status == Status.RUNNING or run.wait_reason == "kernel busy":
            self._work_on(run)
        elif run.not_before_us is not None:
            self.later(run, run.not_before_us)
        elif run.wait_reason == "limit":
            self._stand_in_line(run)
        else:
            self.next_in_queue(run.task.id)

    def take_over(self, task: Task, found: Execution) -> None:
        """Plan a waiting execution that has no owner; whoever starts it owns it."""
        row = new_row(
            task,
            (found.slot, found.occurrence_id, found.execution_id),
            status=found.status,
            scheduled_at=to_us(found.scheduled_at),
            attempt=found.attempt,
            wait_reason=found.wait_reason if found.wait_reason in ("queue", "retry delay", "jitter") else "retry delay",
            cause=found.cause,
            reason=found.reason,
            trigger=found.trigger,
            params=kept_params(found.params),
            executor=found.executor,
            not_before=to_us(found.not_before) if found.not_before else None,
            upstream=msgspec.json.encode(found.upstream).decode() if found.upstream else None,
        )
        run = self._run_of(task, row, found.params)
        if row.wait_reason != "queue" and run.not_before_us is None:
            run.not_before_us = self._clock.now_us()
        self.claimed(run)

    # What waits

    def next_in_queue(self, task_id: str) -> None:
        """Begin the first of a task's queue when nothing is in its way."""
        if not self.occupied(task_id):
            for run in self.of(task_id)[:1]:
                self.later(run, 0)

    def _others_in_queue(self, refused: Run) -> None:
        """Try the others: the store knows the order in which those of several owners came."""
        for run in self.of(refused.task.id):
            if run is not refused and run.queued and not run.entry:
                self.later(run, 0)

    def begin(self, run: Run) -> None:
        """Begin a waiting execution now: with a place, and after its start is committed."""
        if not run.idle or self.closing:
            return
        try:
            runner = self.runner_of(run.task)
            waits_for_loop = runner.waits_for_loop(run.task)
            used_up = self.used_up(run.task)
        except StoreError as error:
            self._start_later(run, error)
            return
        except Exception as error:  # noqa: BLE001 - what cannot run now ends as a row that says why
            self._end(run, failure(error, run.task.name, run.output.masked))
            return
        if used_up:
            run.reason = "budget"
            self._end(run, Outcome(Status.SKIPPED, error=used_up))
        elif waits_for_loop:
            run.wait_reason = "kernel busy"
            self._work_on(run)
        else:
            self._stand_in_line(run)

    def _stand_in_line(self, run: Run) -> None:
        def go() -> bool:
            if not run.idle or self.closing:
                return False
            run.holds_place = True
            self._start(run)
            return True

        self._places.when_free(go)
        if run.idle:
            run.wait_reason = "limit"

    def _start_op(self, run: Run) -> Start:
        return Start(
            run.execution_id,
            self.owner,
            self._clock.now_us(),
            run.task.version,
            self.runner_of(run.task).executor(run.task),
            run.task.overlap != "allow",
            run.task.id,
        )

    def _start(self, run: Run) -> None:
        run.starting = True

        def answer(started: bool | BaseException) -> None:
            run.starting = False
            if started is True:
                self.well(run.task, "start")
                self._is_ours(run)
                if run.cancel_status is None:
                    self._work_on(run)
                else:
                    self._end(run, stopped(run))
            else:
                self.release(run)
                self._not_started(run, started)

        self._writer.submit(self._start_op(run), answer)

    def _is_ours(self, run: Run) -> None:
        if run.row.owner is None:
            run.row = msgspec.structs.replace(run.row, owner=self.owner)

    def _not_started(self, run: Run, said: bool | BaseException) -> None:
        """Somebody else has it, or something is in its way: look at its row."""
        if run.over:
            return
        if run.cancel_status is not None:
            self._end(run, stopped(run))
            return
        if said is False:
            try:
                found = records.execution(self._store, run.execution_id)
            except StoreError as error:
                self._start_later(run, error)
                return
            if found is None or found.status is not Status.WAITING or found.owner not in (None, self.owner):
                self.forget(run)
                return
        self._start_later(run, said if isinstance(said, BaseException) else None)

    def _start_later(self, run: Run, error: BaseException | None = None) -> None:
        if error is not None:
            self._start_refused(run, error)
        run.wait_reason = run.row.wait_reason
        if run.queued:
            self._others_in_queue(run)
        self.later(run, self._clock.now_us() + int(AGAIN_S * 1e6))

    def _start_refused(self, run: Run, error: BaseException) -> None:
        self.trouble(run.task, "start", error, f"the store did not take the start of {run.execution_id}: {error}")

    def forget(self, run: Run) -> None:
        """Leave an execution to whoever has it now."""
        self._take_out(run)
        run.end()
        self.tell("elsewhere", run.task, run)
        self.ended(run)

    def let_wait(self, task_id: str) -> None:
        """Leave what waits of a task to whoever plans it now; what a hand asked for here goes on."""
        for run in self.of(task_id):
            if not run.idle or run.row.cause == Cause.HAND:
                continue
            if run.row.owner is not None:
                now_us = self._clock.now_us()
                release = partial(records.release, execution_id=run.execution_id, owner=self.owner, now_us=now_us)
                self._writer.submit(Call(release), lambda answer: None)
            self.forget(run)

    # Work

    def _work_on(self, run: Run) -> None:
        run.working = True
        self._spawn(self._run(run))

    async def _run(self, run: Run) -> None:
        current_output.set(run.output)
        _hide_secrets(run)
        outcome: Outcome | None = None
        try:
            run.scope = scope = anyio.CancelScope()
            if run.cancel_status is not None:
                return  # before it began
            with scope:
                if run.task.timeout:
                    run.limit = anyio.CancelScope()
                    with run.limit:
                        outcome = await self._work(run)
                    if outcome is None and not scope.cancel_called:
                        said = f"did not end within {run.task.timeout}"
                        outcome = Outcome(Status.TIMED_OUT, error=said, error_type="TimedOut")
                else:
                    outcome = await self._work(run)
        finally:
            run.working, run.scope = False, None
            if outcome is not None or run.begun or run.row.status == Status.RUNNING:
                self._end(run, outcome or stopped(run))
            elif self.closing:
                self._leave(run)
            else:
                self.release(run)
                self._not_started(run, said=False)

    async def _work(self, run: Run) -> Outcome:
        try:
            runner = self.runner_of(run.task)
            if not runner.waits_for_loop(run.task):
                self._begin_clock(run)
            source = RunSource(self, run)
            current_runtime.set(source.runtime)
            output, result = await runner.run(Work(source, self.infra, self.owner))
            return Outcome(Status.COMPLETED, output, result)
        except BaseException as error:
            cancelled = isinstance(error, anyio.get_cancelled_exc_class())
            # One that nobody asked for is the body's own error; any other must never be swallowed.
            if cancelled and (self.closing or anyio.get_current_task().has_pending_cancellation()):
                raise
            if self._events.heard and not isinstance(error, BodyFailed):
                run.exception = error
            return failure(error, run.task.name, run.output.masked)

    def tokens_today(self, task: Task, besides: Run | None = None) -> int:
        """Return what a task has used since midnight, with what runs here now and without `besides`; any thread."""
        here = self.of(task.id)
        noted = [run.noted for run in here if run is not besides and run.noted is not None]
        now = sum((output.tokens_in or 0) + (output.tokens_out or 0) for output in noted)
        since_us = midnight_us(self._clock.now_us())
        # What has ended may be stored and not yet be known to be.
        return now + records.tokens_since(self._store, task.id, since_us, [run.execution_id for run in here])

    def used_up(self, task: Task) -> str | None:
        """Return why a task may not run again today, or None."""
        if not task.daily_tokens:
            return None
        used = self.tokens_today(task)
        if used < task.daily_tokens:
            return None
        return f"{used:,} tokens are used today of --daily-tokens {task.daily_tokens:,}; it runs again tomorrow"

    def last_success(self, task: Task) -> datetime | None:
        """Return when a task last completed."""
        sql = """SELECT finished_at FROM executions WHERE task_id = ? AND status = 'completed'
            ORDER BY seq DESC LIMIT 1"""
        found = self._store.rows(sql, task.id)
        return from_us(found[0][0]) if found else None

    def upstream(self, run: Run) -> dict[str, Upstream]:
        """Return what an execution follows, by task name."""
        ids = msgspec.json.decode(run.row.upstream) if run.row.upstream else []
        found = {}
        for id_ in ids:
            execution = records.execution(self._store, id_)
            if execution is not None:
                kept_id, result = self.kept.get(execution.task_id, ("", None))
                found[execution.task] = Upstream(execution, result if kept_id == id_ else None)
        return found

    async def begin_here(self, run: Run) -> None:
        """Commit the start of an execution that waited for its loop; the work begins when this returns."""
        if run.begun:
            return
        if not run.holds_place and not self._places.take():
            await self._place(run)
        run.holds_place = True
        if run.row.status == Status.WAITING:
            if not await self._write_start(run):
                assert run.scope is not None
                run.scope.cancel()
                await anyio.lowlevel.checkpoint()
            self._is_ours(run)
        self._begin_clock(run)

    async def _write_start(self, run: Run) -> bool:
        """Write the start of an execution as soon as the store takes it; return whether it may begin."""
        while True:
            try:
                started: bool = await self._writer.write(self._start_op(run))
            except StoreError as error:
                self._start_refused(run, error)
                await anyio.sleep(AGAIN_S)
            else:
                self.well(run.task, "start")
                return started

    async def _place(self, run: Run) -> None:
        """Wait in line for a place."""
        there, gone = anyio.Event(), False

        def go() -> bool:
            if gone:
                return False
            there.set()
            return True

        run.wait_reason = "limit"
        self._places.when_free(go)
        try:
            await there.wait()
        except BaseException:
            gone = True
            if there.is_set():
                self._places.give_back()
            raise

    def _begin_clock(self, run: Run) -> None:
        run.start_clock(self._clock.now_us(), self._clock.monotonic_us())
        self.tell("started", run.task, run)

    # Ends

    def stop(self, run: Run, status: Status, reason: str | None = None) -> None:
        """Ask an execution to stop; one that has not begun ends at once."""
        run.cancel(status, reason)
        self.tell("cancelling", run.task, run)
        if run.idle:
            if self.closing:
                self._leave(run)
            else:
                self._end(run, stopped(run))

    def _leave(self, run: Run) -> None:
        """Leave an execution that has not begun: its row waits for whoever plans the task next."""
        self.release(run)
        self._take_out(run)
        run.end()
        self.ended(run)

    def _end(self, run: Run, outcome: Outcome) -> None:
        """Note an end; it is written after what else may begin in this turn of the loop."""
        run.end_now(outcome, self._clock.now_us(), self._clock.monotonic_us())
        self.release(run)
        self._ending.append(run)
        if len(self._ending) == 1:
            self._soon(self._write_ends)

    def _write_ends(self) -> None:
        ended, self._ending = self._ending, []
        for run in ended:
            run.output.close()
            try:
                run.finish = ending.finish_of(run, self.owner, self.closing)
            except Exception as error:  # noqa: BLE001 - an end that cannot be told must not stay in progress for ever
                masked, run.output = run.output.masked, Output()
                run.end_as(failure(error, run.task.name, masked))
                run.finish = ending.finish_of(run, self.owner, self.closing)
            self._store_end(run, run.finish)

    def _store_end(self, run: Run, finish: Finish) -> None:
        """Write an end; until it is stored it is in progress for everybody, and a store that is busy is asked again."""
        self._writer.submit(finish, partial(self._end_answered, run, finish))

    def _end_answered(self, run: Run, finish: Finish, finished: Finished | BaseException) -> None:
        if not isinstance(finished, BaseException):
            self.well(run.task, "end")
            self._over(run, finish, finished)
            return
        said = f"the end of {run.execution_id} could not be stored: {finished}"
        self.trouble(run.task, "end", finished, said, run)
        if self.closing:
            self._over(run, finish)  # the row is interrupted by whoever comes next
        elif isinstance(finished, StoreError):
            self._spawn(self._store_end_later(run, finish))
        elif run.finish is finish:  # what it left can never be stored; that it ended can
            run.finish = bare = ending.bare(finish, said)
            self._store_end(run, bare)
        else:
            self._over(run, finish)

    async def _store_end_later(self, run: Run, finish: Finish) -> None:
        await anyio.sleep(AGAIN_S)
        self._store_end(run, finish)

    def _over(self, run: Run, finish: Finish, finished: Finished = NOT_WRITTEN) -> None:
        self._take_out(run)
        if finish.retry is not None and finished and not self.closing:
            run.next_attempt = self._run_of(run.task, finish.retry, run.params)
            self.claimed(run.next_attempt)
            if run.cancel_status is not None:  # it was asked to stop while its failure was being stored
                self.stop(run.next_attempt, run.cancel_status, run.reason)
        if run.task.name in self.followed and finish.end.status == Status.COMPLETED:
            self.kept[run.task.id] = (run.execution_id, run.result)
        run.end()
        turned = edges.turn(finish.failed, finished.before) if finished else None
        self.tell("finished", run.task, run, turned=turned)
        run.exception = None
        self.ended(run)
        if turned is not None:
            self.turned(run, turned)

    def trouble(self, task: Task, what: str, error: BaseException, text: str, run: Run | None = None) -> None:
        """Tell that the store did not take something; not again before it has taken it or refuses otherwise."""
        if self._troubles.get((task.id, what)) is not type(error):
            self._troubles[task.id, what] = type(error)
            self.tell("error", task, run, text=text)

    def well(self, task: Task, what: str) -> None:
        """Note that the store has taken something."""
        if self._troubles:
            self._troubles.pop((task.id, what), None)

    def _take_out(self, run: Run) -> None:
        live = self.runs.get(run.task.id)
        if live is not None:
            live.pop(run.execution_id, None)
            if not live:
                del self.runs[run.task.id]

    def tell(
        self,
        kind: str,
        task: Task,
        run: Run | None = None,
        *,
        execution: Execution | None = None,
        text: str = "",
        turned: Turn | None = None,
    ) -> None:
        """Hand an event to the listeners."""
        if not self._events.heard:
            return
        over = run is not None and kind == "finished"
        self._events.tell(
            Event(
                kind=kind,
                task=task,
                execution_id=run.execution_id if run else None,
                execution=run.execution if run and over else execution,
                result=run.result if run and over else None,
                exception=run.exception if run and over else None,
                final=run is None or run.next_attempt is None,
                text=text,
                turn=turned,
            )
        )


def _hide_secrets(run: Run) -> None:
    """Mask what a task is given from the environment in all that is kept of it."""
    names = of_task(run.task)
    if names:
        run.output.hide(*filter(None, map(os.environ.get, names)))


def kept_params(values: Mapping[str, Any]) -> str | None:
    """Return parameters as a row keeps them."""
    if not values:
        return None
    try:
        return msgspec.json.encode(values).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"params must be plain values (text, numbers, lists): {error}") from None
