"""Failures reach someone: a task's command, the notebook's hooks, messages and pings, at the ends that are worth it."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Coroutine
from typing import Any

import anyio

from car_sched_nb.clock import Clock
from car_sched_nb.engine.command import run_command
from car_sched_nb.engine.courier import Courier
from car_sched_nb.engine.edges import Notice, Turn, worth
from car_sched_nb.engine.events import Event, Events
from car_sched_nb.engine.hooks import Hook, Hooks
from car_sched_nb.engine.messages import masked, of_task, said, secrets_of
from car_sched_nb.engine.run import Run
from car_sched_nb.engine.running import Running
from car_sched_nb.engine.targets import Attempt
from car_sched_nb.executors.loop import LoopHost
from car_sched_nb.loops import Spawn
from car_sched_nb.model import Task
from car_sched_nb.output import Output, current_output
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer

LEAVE_S = 10.0
"""Seconds that leaving a scheduler waits for what is being told."""
LEAVE_KERNEL_S = 1.0
"""The same for a kernel, whose manager does not wait for long; its messages are kept for the next."""

_COMMANDS = 4  # at a time
_TROUBLES = 50  # kept for a dashboard that is opened later
_log = logging.getLogger(__name__)


class Telling:
    """Tells of ends; on the engine's loop only."""

    def __init__(
        self,
        running: Running,
        hooks: Hooks,
        events: Events,
        store: SqliteStore,
        writer: Writer,
        clock: Clock,
        spawn: Spawn,
        host: LoopHost,
        namespace: str,
    ) -> None:
        self._running = running
        self._hooks = hooks
        self._events = events
        self._clock = clock
        self._spawn = spawn
        self._host = host
        self.troubles: dict[str, Event] = {}
        """What did not reach somebody and has not since, oldest first, by what it is about."""
        self._courier = Courier(store, writer, clock, namespace, running.owner, self._trouble)
        self.run = self._courier.run
        self._places = anyio.Semaphore(_COMMANDS)
        self._scopes: set[anyio.CancelScope] = set()
        """Of what is under way."""
        self._idle = anyio.Event()
        self._closed = False
        running.turned = self._turned

    def _turned(self, run: Run, turned: Turn) -> None:
        task = run.task
        hooks = self._hooks.wanting(task.name, turned)
        kind = worth(task, turned)
        command = bool(task.on_failure) and turned.failed and turned.edge
        if task.ping and not turned.failed:
            self._courier.ping(task, run.execution_id)
        if not (hooks or kind or command):
            return
        execution = run.execution
        secrets = secrets_of(of_task(task))
        text = masked(run.output.masked(said(execution)), secrets)
        if command:
            error = masked(run.output.masked(execution.error or ""), secrets)
            self._start(self._command(run, turned, error))
        for hook in hooks:
            hook.waiting.append(
                Notice(task=task.name, kind=hook.kind, execution=execution, in_a_row=turned.in_a_row, text=text)
            )
            if not hook.busy:
                hook.busy = True
                self._start(self._call(hook))
        if kind is not None:
            self._courier.put(task, execution, turned, kind, text)

    async def test(self) -> list[Attempt]:
        """Send a test message; see `Courier.test`."""
        return await self._courier.test()

    # What is under way

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            work.close()
            return
        # Shielded: a program that is cancelled still tells what failed, in the time that leaving gives it.
        scope = anyio.CancelScope(shield=True)
        self._scopes.add(scope)
        self._spawn(self._within(scope, work))

    async def _within(self, scope: anyio.CancelScope, work: Coroutine[Any, Any, None]) -> None:
        try:
            with scope:
                await work
        finally:
            work.close()
            self._scopes.discard(scope)
            if not self._scopes:
                self._idle.set()

    async def _command(self, run: Run, turned: Turn, error: str) -> None:
        async with self._places:
            reason = await run_command(self._running, run, turned, self._running.owner, error)
        text = f"its command --on-failure: {reason}" if reason else ""
        self._trouble(f"command:{run.task.id}", run.task, run.execution_id, text)

    async def _call(self, hook: Hook) -> None:
        try:
            while hook.waiting:
                notice = hook.waiting.popleft()
                reason = await hook.call(notice, self._host)
                execution = notice.execution
                task = Task(execution.task, id=execution.task_id, namespace=execution.namespace)
                text = f"the hook {hook.name}: {reason}" if reason else ""
                self._trouble(f"hook:{hook.name}:{task.id}", task, execution.execution_id, text)
        finally:
            hook.busy = False

    async def close(self) -> None:
        """Wait a bounded time until what is under way has been told; messages that were not sent stay in the store."""
        with anyio.move_on_after(LEAVE_KERNEL_S if self._host.foreign else LEAVE_S, shield=True):
            while self._scopes:
                self._idle = anyio.Event()
                await self._idle.wait()
            await self._courier.close()
        self._closed = True
        self._courier.give_up()
        self._hooks.rest()
        for scope in tuple(self._scopes):
            scope.cancel()
        with anyio.CancelScope(shield=True):
            while self._scopes:  # a command is ended by TERM, then KILL
                self._idle = anyio.Event()
                await self._idle.wait()

    # What did not arrive

    def _trouble(self, about: str, task: Task, execution_id: str, text: str) -> None:
        """Warn that somebody was not told, or take that back."""
        known = self.troubles.pop(about, None)
        if not text and known is None:
            return
        event = Event(
            kind="delivery",
            task=task,
            execution_id=execution_id,
            text=text,
            about=about,
            at_us=self._clock.now_us(),
        )
        if text:
            self.troubles[about] = event
            while len(self.troubles) > _TROUBLES:
                del self.troubles[next(iter(self.troubles))]
            self._log(f"{task.name}: a notice was not delivered: {text}")
        self._events.tell(event)

    def _log(self, text: str) -> None:
        if self._host.foreign:  # in a kernel a handler that prints would print into whatever cell runs
            contextvars.copy_context().run(_log_aside, text)
        else:
            _log.warning(text)


def _log_aside(text: str) -> None:
    current_output.set(Output())
    _log.warning(text)
