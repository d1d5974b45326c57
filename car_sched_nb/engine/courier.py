"""Sends messages and pings: joined, in a thread of its own, and again until they arrive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import msgspec

from car_sched_nb.clock import Clock
from car_sched_nb.durations import format_duration
from car_sched_nb.engine import targets
from car_sched_nb.engine.edges import Turn
from car_sched_nb.engine.messages import body, masked, named, of_task, secrets_of, title
from car_sched_nb.engine.targets import Attempt
from car_sched_nb.errors import InvalidInput, StoreError
from car_sched_nb.loops import OwnThread
from car_sched_nb.model import Execution, Task, to_us
from car_sched_nb.store import outbox, settings
from car_sched_nb.store.ops import Call
from car_sched_nb.store.outbox import Delivery
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.writer import Writer

GATHER_S = 2.0
"""Seconds after a notice in which others join it."""
APART_S = 60.0
"""Seconds between two messages."""
RETRY_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 3 * 3600.0, 6 * 3600.0)
"""Seconds until a message is tried again; the last of them again and again."""
PING_APART_S = 1.0
"""Seconds between two pings of a task."""
PING_AGAIN_S = 5.0
PING_ENDS_S = 2 * targets.PING_S
"""Seconds after which nobody waits for a ping's answer: its own limit is for each piece of it."""

_LOOK_S = 60.0  # between two looks at what others have left
_REFUSED_S = 5.0  # until a store that was in trouble is asked again

Trouble = Callable[[str, Task, str, str], None]
"""Takes (about what, whose, the execution id, why); without a why it is well again."""


class _Ping(msgspec.Struct):
    """A ping that waits."""

    task: Task
    execution_id: str
    due_s: float
    tries: int = 0


class Courier:
    """Brings messages to their services; on the engine's loop only, but for what blocks."""

    def __init__(
        self, store: SqliteStore, writer: Writer, clock: Clock, namespace: str, owner: str, trouble: Trouble
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._namespace = namespace
        self._owner = owner
        self._trouble = trouble
        self._thread = OwnThread("car-courier")
        self._more = anyio.Event()
        self._pings: dict[str, _Ping] = {}
        self._pinged_s: dict[str, float] = {}
        """When each task was pinged last, on the loop's clock."""
        self._sent_s: float | None = None
        """When the last message was sent."""
        self._troubled: set[str] = set()
        self._turn = anyio.Lock()
        self._scope: anyio.CancelScope | None = None
        """Around what is being sent."""
        self._writing = 0

    # What is to be sent

    def put(self, task: Task, execution: Execution, turned: Turn, kind: str, text: str) -> None:
        """Keep a message and send it before long; nothing when no target is set."""
        try:
            target = settings.read(self._store, self._namespace, "notify")
        except StoreError:
            return  # whoever writes next says so
        if target is None:
            return
        now_us = self._clock.now_us()
        secrets = secrets_of([*of_task(task), named(target)])

        def write(db: Any) -> None:
            since_us = outbox.failing_since(db, task.id, execution.execution_id) if kind == "recovered" else None
            delivery = Delivery(
                id=0,
                task=task.name,
                task_id=task.id,
                execution_id=execution.execution_id,
                kind=kind,
                title=title(task.name, turned, kind),
                body=masked(body(execution, text, since_us), secrets),
                at_us=to_us(execution.finished_at) if execution.finished_at else now_us,
                due_us=now_us + int(GATHER_S * 1e6),
            )
            outbox.add(db, self._namespace, self._owner, delivery)

        def answered(result: object) -> None:
            self._writing -= 1
            if isinstance(result, BaseException):
                about = f"notify:{execution.execution_id}"
                self._trouble(about, task, execution.execution_id, f"its message could not be kept: {result}")
            self._more.set()

        self._writing += 1
        self._writer.submit(Call(write), answered)

    def ping(self, task: Task, execution_id: str) -> None:
        """Fetch a task's address before long; of several in a second the latest."""
        now_s = anyio.current_time()
        due_s = max(now_s, self._pinged_s.get(task.id, -PING_APART_S) + PING_APART_S)
        self._pings[task.id] = _Ping(task, execution_id, due_s)
        self._more.set()

    async def test(self) -> list[Attempt]:
        """Send a message now and return what became of it at each service.

        Raises
        ------
        InvalidInput
            When there is no target, or nothing can be sent to it.
        """
        target = settings.read(self._store, self._namespace, "notify")
        if target is None:
            raise InvalidInput("no target is set; write %car config --notify env:NAME first")
        text = f"This is a test; notices of {self._namespace} will arrive here."
        now_us = self._clock.now_us()
        message = Delivery(0, "car_sched_nb", "", "", "test", "car_sched_nb: a test", text, now_us, now_us)
        return await self._thread.call(partial(targets.deliver, target, [message]))

    # Sending

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._more = anyio.Event()
            wait_s = await self._guarded(leaving=False)
            with anyio.move_on_after(wait_s):
                await self._more.wait()

    async def close(self) -> None:
        """Send what has not been tried yet."""
        while self._writing:  # noqa: ASYNC110 - the store's answers come by themselves
            await anyio.sleep(0.001)
        await self._guarded(leaving=True)

    def give_up(self) -> None:
        """Leave behind what is being sent: its message stays in the store."""
        if self._scope is not None:
            self._scope.cancel()
        self._thread.end()

    async def _guarded(self, leaving: bool) -> float:
        async with self._turn:
            # What was sent is noted also when the program is cancelled meanwhile; `give_up` bounds that.
            with anyio.CancelScope(shield=not leaving) as self._scope:
                try:
                    return await self._send_due(leaving)
                except StoreError:
                    return _REFUSED_S  # whoever writes next says so
        return _LOOK_S

    async def _send_due(self, leaving: bool) -> float:
        """Send what is due; return the seconds until something is again."""
        wait_s = min(await self._send_messages(leaving), _LOOK_S)
        now_s = anyio.current_time()
        for ping in sorted(self._pings.values(), key=lambda one: one.due_s):
            if ping.due_s > now_s and not (leaving and not ping.tries):
                return min(wait_s, ping.due_s - now_s)
            await self._send_ping(ping)
            if not leaving:
                return 0  # a slow one does not hold a message up for longer than itself
        return wait_s

    async def _send_messages(self, leaving: bool) -> float:
        if outbox.left_behind(self._store, self._namespace):
            await self._write(partial(outbox.take_over, namespace=self._namespace, owner=self._owner))
        waiting = outbox.waiting(self._store, self._owner)
        if leaving:
            waiting = [one for one in waiting if not one.tries]
        if not waiting:
            return _LOOK_S
        target = settings.read(self._store, self._namespace, "notify")
        if target is None:
            await self._write(partial(outbox.remove, ids=[one.id for one in waiting]))
            return _LOOK_S
        wait_s = (min(one.due_us for one in waiting) - self._clock.now_us()) / 1e6
        if wait_s > max(*RETRY_S, GATHER_S):
            wait_s = 0  # the clock was set back
        if self._sent_s is not None:
            wait_s = max(wait_s, self._sent_s + APART_S - anyio.current_time())
        if wait_s > 0 and not leaving:
            return wait_s
        self._sent_s = anyio.current_time()
        await self._send(target, waiting)
        return 0

    async def _send(self, target: str, waiting: list[Delivery]) -> None:
        try:
            attempts = await self._thread.call(partial(targets.deliver, target, waiting))
        except InvalidInput as error:
            attempts = [Attempt(-1, target, str(error))]
        except Exception as error:  # noqa: BLE001 - a plugin that cannot even be loaded is a delivery that failed
            attempts = [Attempt(-1, target, type(error).__name__)]
        arrived = {one.place for one in attempts if not one.reason}
        missed = [one for one in attempts if one.reason]
        now_us = self._clock.now_us()
        if missed:
            later = []
            for one in waiting:
                due_us = now_us + int(RETRY_S[min(one.tries, len(RETRY_S) - 1)] * 1e6)
                later.append((one.id, due_us, sorted(arrived | one.done)))
            await self._write(partial(outbox.postpone, later=later))
            self._sent_s = None if not arrived else self._sent_s  # nothing arrived: nothing to keep apart from
        else:
            await self._write(partial(outbox.remove, ids=[one.id for one in waiting]))
        self._tell(waiting, missed)

    def _tell(self, waiting: list[Delivery], missed: list[Attempt]) -> None:
        first = waiting[0]
        task = Task(first.task, id=first.task_id, namespace=self._namespace)
        again_s = RETRY_S[min(first.tries, len(RETRY_S) - 1)]
        again = f"tried again in {format_duration(int(again_s * 1e6))}"
        troubled = {f"notify:{one.service}": f"{one.service}: {one.reason}; {again}" for one in missed}
        for about in self._troubled - troubled.keys():
            self._trouble(about, task, first.execution_id, "")
        for about, text in troubled.items():
            self._trouble(about, task, first.execution_id, text)
        self._troubled = set(troubled)

    async def _send_ping(self, ping: _Ping) -> None:
        task = ping.task
        del self._pings[task.id]
        self._pinged_s[task.id] = anyio.current_time()
        attempt = Attempt(0, f"the ping ({task.ping})", f"no answer within {PING_ENDS_S:g} s")
        with anyio.move_on_after(PING_ENDS_S) as limit:
            attempt = await self._thread.call(partial(targets.ping, task.ping))
        if limit.cancelled_caught:  # a server that never comes to an end must not keep messages waiting
            self._thread.end()
            self._thread = OwnThread("car-courier")
        text = f"{attempt.service}: {attempt.reason}" if attempt.reason else ""
        if text and not ping.tries and task.id not in self._pings:
            due_s = anyio.current_time() + PING_AGAIN_S
            self._pings[task.id] = _Ping(task, ping.execution_id, due_s, 1)
            text += f"; tried once more in {PING_AGAIN_S:g} s"
        self._trouble(f"ping:{task.id}", task, ping.execution_id, text)

    async def _write(self, change: Callable[..., Any]) -> None:
        await self._writer.write(Call(change))
