"""The scheduler: the public face of the engine, for scripts and for the notebook's session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import msgspec

from car_sched_nb import files
from car_sched_nb.clock import Clock, SystemClock
from car_sched_nb.engine.after import Followers
from car_sched_nb.engine.armed import Armed, Plan, settle
from car_sched_nb.engine.backfill import MOST_OF_A_ROW, PLANNED, Backfill, bounds_us
from car_sched_nb.engine.check import checked, checked_setting
from car_sched_nb.engine.core import Engine
from car_sched_nb.engine.edges import Notice
from car_sched_nb.engine.events import Event, Events
from car_sched_nb.engine.handle import TaskHandle
from car_sched_nb.engine.hooks import Hook, Hooks
from car_sched_nb.engine.maintenance import Maintenance
from car_sched_nb.engine.neighbours import Neighbours
from car_sched_nb.engine.run import Run
from car_sched_nb.engine.running import Running
from car_sched_nb.engine.serving import Serving
from car_sched_nb.engine.targets import Attempt
from car_sched_nb.engine.telling import Telling
from car_sched_nb.engine.watch import Watcher, cursor_of
from car_sched_nb.errors import (
    CarError,
    DefinitionChanged,
    InvalidInput,
    SchedulerClosed,
    StoreError,
    TaskPaused,
    UnknownExecution,
    UnknownTask,
)
from car_sched_nb.executors.loop import LoopHost, OwnLoop
from car_sched_nb.loops import soon_caller, spawner
from car_sched_nb.model import Cause, Execution, Status, Task, Trigger, same_slots
from car_sched_nb.output import route_streams
from car_sched_nb.runners.agent import PromptRunner
from car_sched_nb.runners.base import AgentRunner, Runner, SharedInfra
from car_sched_nb.runners.notebook import NotebookRunner
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.runners.shell import ShellRunner
from car_sched_nb.runners.user import RunFunction, UserRunner
from car_sched_nb.store import records, retention, settings
from car_sched_nb.store.ops import Call
from car_sched_nb.store.owners import Owner, reconcile, sweep, whoami
from car_sched_nb.store.records import Defined
from car_sched_nb.store.retention import Maintained
from car_sched_nb.store.sqlite import MEMORY, SqliteStore
from car_sched_nb.store.writer import Writer
from car_sched_nb.triggers import Fire
from car_sched_nb.when import parse_instant

_TRIES = 10
_LOOK_S = 0.05  # between two looks at whether another owner's work has ended


class Scheduler:
    """Plans and runs tasks; `async with Scheduler(store) as s:` on asyncio or trio.

    Its methods belong to the loop that entered it; in a notebook `car.scheduler()` is the same, synchronous and
    from any thread.

    Parameters
    ----------
    store
        A path, `:memory:` (default), or an open store, which is then left open.
    namespace
        Whose tasks these are: a notebook's path, or any text.
    runner
        An `AgentRunner` or async function, registered as `agent`.
    python
        The runner of Python bodies; gives them their names.
    host
        The loop that asynchronous bodies run on.
    owner_name
        How others are told who runs something.
    max_running
        Executions that run at the same time.

    Raises
    ------
    StoreError
        On entering, when the store cannot be used; each says what to do instead.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | SqliteStore = MEMORY,
        *,
        namespace: str = "default",
        runner: AgentRunner | RunFunction | None = None,
        python: PythonRunner | None = None,
        host: LoopHost | None = None,
        owner_name: str | None = None,
        clock: Clock | None = None,
        max_running: int = 64,
    ) -> None:
        self.namespace = namespace
        self.clock = clock or SystemClock()
        self.infra = SharedInfra()
        self.python = python or PythonRunner()
        self._host = host or OwnLoop()
        self._agents = PromptRunner(self.python, self.infra, self._host)
        self.runners: dict[str, Runner] = {
            "python": self.python,
            "shell": ShellRunner(),
            "agent": self._agents,
            "notebook": NotebookRunner(namespace),
        }
        self._given = store
        self._owner_name = owner_name or whoami(namespace)
        self._max_running = max_running
        self._events = Events()
        self.hooks = Hooks()
        self._backfills: list[Backfill] = []
        self._entered = False
        if runner is not None:
            self.register("agent", runner)

    # Life

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._enter(stack)
            self._stack = stack.pop_all()
        return self

    async def _enter(self, stack: AsyncExitStack) -> None:
        self._own_store = not isinstance(self._given, SqliteStore)
        self.store = await anyio.to_thread.run_sync(self._open)
        if self._own_store:
            stack.push_async_callback(_at_last, self.store.close)
        self._agents.default_model = lambda: settings.read(self.store, self.namespace, "model") or ""
        self._owner = await anyio.to_thread.run_sync(self._arrive)
        stack.push_async_callback(_at_last, lambda: self._owner.leave(self.clock.now_us()))
        stack.callback(route_streams())
        self._soon = soon_caller()
        self.writer = Writer(self.store, self._soon)
        stack.callback(self.writer.answer)
        stack.push_async_callback(_at_last, self.writer.close)
        # The last to end: also when the whole program is cancelled, ends are written and answered.
        answers = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(self.writer.stop)
        self._group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(self._group.cancel_scope.cancel)
        self._spawn = spawner(self._group)
        self.running = Running(
            self.store,
            self.writer,
            self._spawn,
            owner=self._owner.id,
            clock=self.clock,
            runners=self.runners,
            infra=self.infra,
            events=self._events,
            max_running=self._max_running,
        )
        stack.callback(self.running.clean_up)
        self.engine = Engine(self.store, self.writer, self.clock, self.running)
        self._serving = Serving(self.running, self.store, self.writer, self.clock)
        self._watcher = Watcher(
            self._file_changed, lambda armed, text: self.running.tell("error", armed.task, text=text)
        )
        self._followers = Followers(self.engine, self.store, self.clock, self.namespace)
        self._neighbours = Neighbours(
            self.engine, self._followers, self.store, self.writer, self.clock, self._spawn, self.namespace
        )
        self.telling = Telling(
            self.running,
            self.hooks,
            self._events,
            self.store,
            self.writer,
            self.clock,
            self._spawn,
            self._host,
            self.namespace,
        )
        self.engine.look = self._look
        stack.push_async_callback(self.telling.close)
        stack.push_async_callback(self.engine.stop)
        answers.start_soon(self.writer.deliver)
        self._maintenance = Maintenance(self.store, self.writer, self.clock, self._tell_removed)
        services = (
            *(self.engine.timer, self._watcher.run, self._neighbours.run, self.telling.run),
            self._maintenance.run,
        )
        for service in services:
            self._group.start_soon(service)
        self._entered = True

    def _open(self) -> SqliteStore:
        if isinstance(self._given, SqliteStore):
            self._given.migrate()
            return self._given
        store = SqliteStore(self._given)
        try:
            store.migrate()
        except BaseException:
            store.close()
            raise
        return store

    def _arrive(self) -> Owner:
        now_us = self.clock.now_us()
        self.interrupted = reconcile(self.store, now_us)
        sweep(self.store)
        return Owner(self.store, self._owner_name, now_us)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._entered = False
        # The body's own exception goes on as it is, not in a group; a cancellation may be the group's.
        if isinstance(error, anyio.get_cancelled_exc_class()):
            return await self._stack.__aexit__(kind, error, trace)
        return await self._stack.__aexit__(None, None, None)

    @property
    def owner(self) -> str:
        """The id of this life of this scheduler."""
        return self._owner.id

    @property
    def owner_name(self) -> str:
        """Its readable name."""
        return self._owner_name

    def register(self, name: str, runner: AgentRunner | RunFunction) -> None:
        """Add a runner, or replace the user's one of that name."""
        self.runners[name] = UserRunner(name, runner, self._host)

    # Telling

    def on(
        self, kind: str, *, task: str | None = None, every: bool = False
    ) -> Callable[[Callable[[Notice], Any]], Hook]:
        """Call the decorated function when a task fails, recovers or completes; one call at a time, in order.

        It gets an object with `task`, `kind`, `execution`, `in_a_row` and `text`. A synchronous function runs in a
        thread, an asynchronous one on the loop of asynchronous bodies. What it raises is a warning and hurts nobody;
        what it prints in a kernel goes to the log, into no cell. Defined again under its name it replaces the former.

        Parameters
        ----------
        kind
            `failed` (the first failure in a row), `recovered` (the first success after failures), or `completed`.
        task
            Of which task; a name or a pattern such as `load-*`. All when not given.
        every
            At each failure of a series.

        Returns
        -------
        What the function becomes: it stays callable, and its `off()` takes it off again.
        """
        return lambda function: self.hooks.add(kind, function, task, every)

    async def configure(self, **given: str) -> dict[str, str]:
        """Keep settings of this namespace, as `%car config` does; return those that are in force.

        Parameters
        ----------
        **given
            `notify`: `env:NAME`, the variable with the addresses (apprise URLs) that notices go to; `model`: the
            model of agents that name none; `keep`: how much history is kept of each task (`1000`, `90d`, `all`);
            `keep_files`: how long output files are kept. `none` takes one off.
        """
        values = {name: checked_setting(name, value) for name, value in given.items()}
        for name, value in values.items():
            await self._call(settings.put, self.namespace, name, value)
        return settings.in_force(self.store, self.namespace)

    async def test_notice(self) -> list[Attempt]:
        """Send a test message to the services of `%car config --notify` and return what became of it at each.

        Raises
        ------
        InvalidInput
            When there is no target, or nothing can be sent to it.
        """
        self._check_entered()
        return await self.telling.test()

    # Defining

    def check(self, task: Task) -> Task:
        """Return the task in canonical form, or refuse it; stores nothing."""
        return checked(task, self.runners)

    async def define(self, task: Task) -> Defined:
        """Store a task without planning it; unchanged, it changes nothing.

        Raises
        ------
        InvalidInput, UnknownRunner
            When it can never run; nothing is stored.
        """
        self._check_entered()
        task = self.check(task)
        for _ in range(_TRIES):
            baseline = await self._baseline(task)
            try:
                defined: Defined = await self._call(records.define, task, self.namespace, self.clock.now_us(), baseline)
            except DefinitionChanged:
                continue
            armed = self.engine.armed.get(defined.task.id)
            if defined.change != "unchanged" and armed is not None:
                before = armed.task
                self.engine.arm(defined.task, armed.remaining)
                self._follow_states([before, defined.task])
            if defined.change != "unchanged":
                self.running.tell("added" if defined.change == "new" else "changed", defined.task)
            return defined
        raise DefinitionChanged(task.name)

    async def _baseline(self, task: Task) -> str | None:
        if task.trigger is not Trigger.FILE_WATCH:
            return None
        old = records.find(self.store, self.namespace, task.name)
        if old and same_slots(old, task):
            return None
        return cursor_of(await anyio.to_thread.run_sync(partial(files.digest, task.watch_path)), 0)

    async def add(self, task: Task) -> Task:
        """Store a task and plan it from now on; return it as stored."""
        defined = await self.define(task)
        return await self.arm(defined.task.name)

    async def arm(self, name: str, *, remaining: int | None = None) -> Task:
        """Plan a stored task in this scheduler; what passed unserved follows its catch-up."""
        task = self.task(name)
        await self._arm([task], remaining)
        return task

    async def arm_all(self) -> int:
        """Plan all stored tasks of this namespace; return how many."""
        tasks = self.tasks()
        await self._arm(tasks)
        return len(tasks)

    async def _arm(self, tasks: Sequence[Task], remaining: int | None = None) -> None:
        for task in tasks:
            self.engine.arm(task, remaining)
        self._follow_states(tasks)
        await self._call(records.note_armed, self._owner.id, [task.id for task in tasks])
        self._neighbours.take_over()
        for task in tasks:
            self.running.tell("armed", task)

    async def disarm(self, name: str) -> None:
        """Plan a task here no more; it stays stored, and what runs goes on."""
        await self._disarm(self.task(name))

    async def _disarm(self, task: Task) -> None:
        self.engine.disarm(task.id)
        self._follow_states([task])
        await self._call(records.note_disarmed, self._owner.id, task.id)

    def _follow_states(self, changed: Iterable[Task]) -> None:
        triggers = {task.trigger for task in changed}
        if Trigger.FILE_WATCH in triggers:
            self._watcher.follow(self.engine.armed.values())
        if Trigger.AFTER in triggers:
            self._followers.follow(self.engine.armed.values())
            self._followers.look_at_all()

    def _look(self, armed: Armed) -> None:
        if armed.task.trigger is Trigger.FILE_WATCH:
            self._watcher.read(armed)
        elif armed.task.trigger is Trigger.AFTER:
            self._followers.look(armed)

    # Looking

    def task(self, name: str) -> Task:
        """Return a task by name, with its state.

        Raises
        ------
        UnknownTask
            With the nearest name.
        """
        self._check_entered()
        return records.get(self.store, self.namespace, name)

    def tasks(self) -> list[Task]:
        """Return the tasks of this namespace, oldest first."""
        self._check_entered()
        return records.tasks(self.store, self.namespace)

    def executions(self, name: str | None = None, newest: int | None = None) -> list[Execution]:
        """Return executions of one task, or of the namespace, oldest first."""
        if name is None:
            return records.executions(self.store, "t.namespace = ?", self.namespace, newest=newest)
        return records.executions(self.store, "e.task_id = ?", self.task(name).id, newest=newest)

    def events(self) -> AsyncIterator[Event]:
        """Return what happens from now on; a slow reader loses the oldest events."""
        return self._events.stream()

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call a function on the engine's loop at each event; return what ends that."""
        return self._events.listen(listener)

    def waiting_for_names(self) -> list[tuple[str, str]]:
        """Return the planned tasks whose bodies need what nobody has defined: (name, what is missing)."""
        armed = self.engine.armed.values()
        planned = [one for one in armed if one.next_fire or one.task.watch_path or one.task.after]
        return [(one.task.name, one.waits or "") for one in planned if self.engine.waits_for_names(one)]

    def armed_elsewhere(self) -> dict[str, str]:
        """Return who else plans tasks of this namespace: other owners' names, by task id."""
        return records.armed_by_others(self.store, self.namespace, self.owner)

    def live(self, name: str | None = None) -> list[Run]:
        """Return what runs or waits here now."""
        runs = [run for runs in self.running.runs.values() for run in runs.values()]
        return [run for run in runs if name is None or run.task.name == name]

    # Running

    async def run_once(self, task: Task | str, *, params: Mapping[str, Any] | None = None) -> Execution:
        """Serve the current slot and return its execution; served before, it is not run again.

        A failed occurrence is run again, as its next attempt. A manual task runs each time.

        Raises
        ------
        TaskPaused
            When the task is disabled.
        """
        stored = (await self.define(task)).task if isinstance(task, Task) else self.task(task)
        run = await self._serving.current(stored, params)
        if isinstance(run, Execution):
            return run
        return await _last_attempt(run)

    async def run_now(self, name: str, *, params: Mapping[str, Any] | None = None) -> Execution:
        """Start a task outside its grid, now; return its execution once it is claimed, without waiting for its end.

        While it runs already the execution returned is `skipped`, unless overlap is allowed.
        """
        claimed = await self._serving.by_hand(self.task(name), params)
        return claimed if isinstance(claimed, Execution) else claimed.execution

    async def backfill(self, name: str, start: datetime | str | None = None, end: datetime | str | None = None) -> int:
        """Run the slots of a period that were missed or skipped, in the background; return how many that are.

        Each runs under its slot's own id and at most once, whoever asks and how often; `cancel` ends it.

        Parameters
        ----------
        start, end
            Aware datetimes, or text as for `--at`, in the task's zone; both included. Open: from the task's creation,
            until now.
        """
        task, now_us = self.task(name), self.clock.now_us()
        period = [parse_instant(given, now_us=now_us, zone=task.tz or None) for given in (start, end)]
        backfill = Backfill(self.engine, self.running, self.store, task)
        return self._begin(backfill, await backfill.find(*bounds_us(period[0], period[1], task, now_us)))

    async def run_slot(self, execution_id: str) -> int:
        """Run what a `missed` or `skipped` row stands for, in the background; return how many slots that are.

        Slots of a plan run as `backfill` runs them; any other is run now, as an occurrence of its own.

        Raises
        ------
        InvalidInput, UnknownTask, UnknownExecution
            When there is nothing of it left to run.
        """
        execution, task = self._recorded(execution_id)
        if execution.status not in (Status.MISSED, Status.SKIPPED):
            raise InvalidInput(f"it is {execution.status.value}, not missed or skipped; run the task: run_now")
        if execution.cause is not Cause.SLOT or task.trigger not in PLANNED:
            claimed = await self._serving.by_hand(task, execution.params)
            if isinstance(claimed, Execution):
                running = f"{task.name} is still running; cancel it, or try again when it has ended"
                raise InvalidInput(claimed.error or running)
            return 1
        if execution.slots > MOST_OF_A_ROW:
            raise InvalidInput(
                f"it stands for {execution.slots:,} slots; run a part of them: %car backfill {task.name} --start --end"
            )
        backfill = Backfill(self.engine, self.running, self.store, task)
        count = await backfill.find_gap(execution)
        if not count:
            raise InvalidInput("it has run meanwhile, or its schedule was changed since; run the task: run_now")
        return self._begin(backfill, count)

    def _begin(self, backfill: Backfill, count: int) -> int:
        if count:
            self._backfills.append(backfill)
            self._group.start_soon(self._backfill, backfill)
        return count

    async def retry(self, execution_id: str) -> Execution:
        """Start the next attempt at an occurrence that failed; return it once it is claimed.

        Any execution that timed out, was cancelled or interrupted may be tried again too, with its own params.

        Raises
        ------
        InvalidInput, UnknownTask, UnknownExecution
            When it did not fail, runs again already, or its task runs.
        """
        return (await self._serving.once_more(*self._recorded(execution_id))).execution

    def _recorded(self, execution_id: str) -> tuple[Execution, Task]:
        """Return an execution of this namespace and its task."""
        execution = records.execution(self.store, execution_id)
        if execution is None or execution.namespace != self.namespace:
            raise UnknownExecution(execution_id)
        task = records.by_id(self.store, execution.task_id)
        if task is None:
            raise UnknownTask(execution.task)
        return execution, task

    async def _backfill(self, backfill: Backfill) -> None:
        try:
            await backfill.run()
        except CarError as error:
            self.running.tell("error", backfill.task, text=f"its backfill ended early: {error}")
        finally:
            self._backfills.remove(backfill)
            self.engine.notify()

    async def run_loop(self, task: Task | str, max_iterations: int | None = None) -> list[Execution]:
        """Plan a task and return its executions when `max_iterations` of them have ended.

        A manual or once task has one. Cancelling it stops what runs and plans the task no more. Slots that
        were skipped or missed do not count.
        """
        return await self._loop(task, max_iterations, None)

    async def _loop(self, task: Task | str, most: int | None, handle: TaskHandle | None) -> list[Execution]:
        await anyio.lowlevel.checkpoint()  # cancelled before it began: nothing begins
        stored = (await self.define(task)).task if isinstance(task, Task) else self.task(task)
        if handle:
            handle.task_id = stored.id
        if stored.trigger in (Trigger.MANUAL, Trigger.ONCE):
            most = min(1, most) if most is not None else 1
        if most == 0:
            return []
        if not stored.enabled:
            raise TaskPaused(stored.name)
        found: list[Execution] = []
        gone = False

        def hear(event: Event) -> None:
            nonlocal gone
            if event.task.id != stored.id:
                return
            if event.kind == "finished" and event.execution and event.final:
                found.append(event.execution)
                if handle:
                    handle.add(event.execution, event.result)
            if event.kind in ("deleted", "disarmed"):
                gone = True
                self.engine.notify()

        before = self.engine.armed.get(stored.id)
        stop = self.listen(hear)
        try:
            if stored.trigger is Trigger.MANUAL:
                execution = await self.run_now(stored.name)
                if execution.status is Status.SKIPPED:
                    return [execution]
            elif stored.trigger is Trigger.ONCE and stored.next_at is None:
                return self.executions(stored.name, newest=1)
            else:
                await self.arm(stored.name, remaining=most)
            while not (gone or (most is not None and len(found) >= most) or self._nothing_left(stored.id)):
                await self.engine.change()
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await self._disarm(stored)
                    if before is not None and stored.trigger is not Trigger.MANUAL:
                        await self._arm(tuple(filter(None, [records.by_id(self.store, stored.id)])))
                finally:  # also when the store is in trouble
                    await self._stop(stored.id, Status.CANCELLED)
                    stop()
        return found

    def _nothing_left(self, task_id: str) -> bool:
        """Tell whether a planned task has had its last run, by `max_runs` or `until`."""
        armed = self.engine.armed.get(task_id)
        if armed is None or armed.settling or armed.remaining == 0 or self.running.of(task_id):
            return False
        return armed.task.enabled and not armed.may_go_on(self.clock.now_us())

    def spawn(self, task: Task | str, max_iterations: int | None = None) -> TaskHandle:
        """Run a task in the background and return its handle at once."""
        self._check_entered()
        name = task.name if isinstance(task, Task) else task
        scope = anyio.CancelScope()
        handle = TaskHandle("", name, lambda: self._soon(scope.cancel))

        async def work() -> None:
            error: BaseException | None = None
            try:
                with scope:
                    await self._loop(task, max_iterations, handle)
            except Exception as failure:  # noqa: BLE001 - it belongs to whoever awaits the handle
                error = failure
            finally:
                handle.end(error)

        self._group.start_soon(work)
        return handle

    async def wait(self, *names: str, timeout_s: float | None = None) -> bool:
        """Return True when what runs or is due now has ended, False when that took longer than `timeout_s`."""
        for name in names:
            self.task(name)  # a name that nobody has would wait for nothing and look like success
        with anyio.move_on_after(timeout_s):
            while self._in_progress(names):
                await self.engine.change()
            return True
        return False

    def _in_progress(self, names: Iterable[str]) -> bool:
        wanted = set(names)
        now_us = self.clock.now_us()
        runs = (run for runs in self.running.runs.values() for run in runs.values())
        if any((not wanted or run.task.name in wanted) and not self.engine.held(run) for run in runs):
            return True
        if any(not wanted or one.task.name in wanted for one in self._backfills):
            return True
        return any(
            not self.engine.nothing_due(armed, now_us)
            for armed in self.engine.armed.values()
            if not wanted or armed.task.name in wanted
        )

    # Steering

    async def cancel(self, name: str) -> int:
        """Stop what runs or waits of a task, here and elsewhere; return how many when all of it has really stopped.

        The task goes on with its next slot. What another kernel runs stops there: it is asked to, and looks four times
        a second.
        """
        return await self._stop(self.task(name).id, Status.CANCELLED) + await self.cancel_elsewhere(name)

    async def cancel_elsewhere(self, name: str, timeout_s: float | None = None) -> int:
        """Stop what others run of a task, and what waits without an owner; wait for it at most so long."""
        task_id, now_us = self.task(name).id, self.clock.now_us()
        asked: list[str] = await self._call(records.ask_to_stop, task_id, self.owner, now_us)
        unowned: int = await self._call(records.cancel_unowned, task_id, now_us)
        self._neighbours.look()
        with anyio.move_on_after(timeout_s):
            while not records.have_ended(self.store, asked):  # noqa: ASYNC110 - another process ends it
                await anyio.sleep(_LOOK_S)
        return len(asked) + unowned

    def busy(self) -> list[str]:
        """Return the ids of the tasks of which something runs, waits or is filled in here."""
        return list(dict.fromkeys([*self.running.runs, *(one.task.id for one in self._backfills)]))

    def cancel_soon(self, name: str) -> int:
        """Ask what runs, waits or is filled in of a task here to stop; return how many were asked, at once."""
        return self.cancel_id_soon(self.task(name).id)

    def cancel_id_soon(self, task_id: str) -> int:
        """Do the same by the task's id; asks the store nothing."""
        filling = sum(one.task.id == task_id for one in self._backfills)
        return len(self._ask_to_stop(task_id, Status.CANCELLED)) or filling

    def _ask_to_stop(self, task_id: str, status: Status) -> list[Run]:
        for backfill in self._backfills:
            if backfill.task.id == task_id:
                backfill.scope.cancel()
        runs = self.running.of(task_id)
        for run in runs:
            self.running.stop(run, status)
        return runs

    async def wait_ended(self, runs: Iterable[Run], timeout_s: float) -> None:
        """Wait until these have ended, at most so long."""
        with anyio.move_on_after(timeout_s):
            for run in runs:
                await run.wait_over()

    async def _stop(self, task_id: str, status: Status) -> int:
        runs = self._ask_to_stop(task_id, status)
        for run in runs:
            await _last_attempt(run)
        return len(runs)

    async def pause(self, name: str) -> bool:
        """Start no more slots of a task until it is resumed; what runs goes on. Return whether that is new."""
        task = self.task(name)
        changed: bool = await self._call(records.set_enabled, task.id, False)
        self._take(task.name)
        if changed:
            self.running.tell("paused", self.task(name))
        return changed

    async def resume(self, name: str) -> bool:
        """Plan a paused task again; what passed meanwhile is one `skipped` row. Return whether that is new."""
        task = self.task(name)
        if task.enabled:
            await self.arm(name)
            return False
        await self._skip_paused(task)
        await self._call(records.set_enabled, task.id, True)
        await self.arm(name)
        self.running.tell("resumed", self.task(name))
        return True

    async def _skip_paused(self, task: Task) -> None:
        now_us = self.clock.now_us()
        armed = Armed(msgspec.structs.replace(task, enabled=True))  # what it would have run
        passed = armed.passed(now_us)
        if passed is None:
            return
        gap = Plan(passed.last.slot, None, passed.first, passed.slots, Status.SKIPPED, "paused")
        op = msgspec.structs.replace(settle(armed, gap, now_us, None), by_hand=True)
        await self.writer.write(op)

    def _take(self, name: str) -> None:
        """Have the engine follow a task's row as it is now."""
        task = self.task(name)
        armed = self.engine.armed.get(task.id)
        if armed:
            armed.take(task)
            self.engine.replan(armed)
            self.engine.notify()
            self._follow_states([task])

    async def delete(self, name: str) -> None:
        """Hide a task and ask what runs of it to stop, here and elsewhere; its history stays and its name is free."""
        task, now_us = self.task(name), self.clock.now_us()
        armed = self.engine.armed.get(task.id)
        self.engine.disarm(task.id)
        try:
            await self._call(records.ask_to_stop, task.id, self.owner, now_us)
            await self._call(records.delete, task.id, now_us)
        except StoreError:
            if armed is not None:
                self.engine.arm(task, armed.remaining)  # it is still there, and goes on
            raise
        self._follow_states([task])
        self._ask_to_stop(task.id, Status.CANCELLED)
        self.running.tell("deleted", task)

    async def archive(self, before: datetime | str, only: Sequence[int] | None = None) -> int:
        """Remove the executions of this namespace that ended before an instant, with their outputs; return how many.

        What runs or waits stays, and so does what tells which slots were served: no slot runs again by it.

        Parameters
        ----------
        before
            An aware datetime, or text: `90d` (so long ago), `2026-01-01`; nothing that lies ahead.
        only
            Numbers that `store.retention.chosen` has returned: these, but for those whose slot is tried again since.
        """
        if only is not None:
            return (await self._maintenance.remove_these(only))[0]
        now_us = self.clock.now_us()
        before_us = retention.before_us(before, now_us)
        found = await anyio.to_thread.run_sync(retention.ended_before, self.store, self.namespace, before_us)
        return sum([(await self._maintenance.remove(which, now_us))[0] for which in found])

    async def maintain(self) -> Maintained:
        """Remove now what the rules do not keep (`--keep`), as is done every hour, and return what it was.

        Of the whole store: history of every namespace, and files beside the store. What runs or waits stays, and so
        does what tells which slots were served.

        Raises
        ------
        MaintainedElsewhere
            When another scheduler is doing it for longer than a minute.
        """
        self._check_entered()
        return await self._maintenance.once()

    def maintained(self) -> list[Maintained]:
        """Return what maintenances removed, the newest first; from any thread."""
        return retention.maintained(self.store)

    def _tell_removed(self, task_id: str, count: int, rule: str) -> None:
        armed = self.engine.armed.get(task_id)
        if armed is not None:
            executions = f"{count:,} execution{'s' * (count != 1)}"
            self.running.tell("removed", armed.task, text=f"{executions} removed by --keep {rule}")

    async def adopt(self, old: str) -> int:
        """Move the tasks of another namespace into this one; return how many."""
        count: int = await self._call(records.adopt, old, self.namespace)
        return count

    async def recheck(self) -> None:
        """Look again at tasks that wait for a name; a notebook calls it after each cell."""
        self.engine.recheck()

    # Inside

    def _file_changed(self, armed: Armed, cursor: str, digest: str, counter: int) -> None:
        # While it runs, the change waits: what counts is the content when the body is free again.
        now_us = self.clock.now_us()
        if armed.settling or not self.engine.is_armed(armed) or not armed.may_run(now_us):
            return
        if self.engine.in_the_way(armed):
            return
        if self.engine.waits_for_names(armed):
            return
        try:
            slot = self._serving.file_slot(armed.task, digest, counter)
        except StoreError as error:
            self.engine.refused(armed, error)
            return
        self.engine.settle_state(armed, cursor, Fire(slot, now_us))

    async def _call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await self.writer.write(Call(lambda db: fn(db, *args)))

    def _check_entered(self) -> None:
        if not self._entered:
            raise SchedulerClosed


async def _at_last(fn: Callable[[], None]) -> None:
    """Call a function in a thread, also while the program is cancelled."""
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(fn)


async def _last_attempt(run: Run) -> Execution:
    """Return the execution of the last attempt at an occurrence, once it has ended."""
    await run.wait_over()
    while run.next_attempt is not None:
        run = run.next_attempt
        await run.wait_over()
    return run.execution
