"""What listeners are told; a slow listener loses events, never the engine."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import msgspec

from car_sched_nb.engine.edges import Turn
from car_sched_nb.model import Execution, Task

MOST = 10_000
_log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened to a task.

    `kind`: added, changed, paused, resumed, deleted, waits, armed, disarmed, claimed, started, cancelling, finished,
    gap, removed (some of its history, `text` says how much and by which rule), elsewhere (another owner has it),
    error (`text` says what), delivery (a notice did not reach `about`: `text` says why; without a text it did at
    last). The execution is there for finished and gap.
    """

    kind: str
    task: Task
    execution_id: str | None = None
    execution: Execution | None = None
    result: Any = None
    """The live result, for finished."""
    exception: BaseException | None = None
    """What the body raised, for finished; nobody else keeps it alive."""
    final: bool = True
    """False for a finished attempt whose next one is planned."""
    text: str = ""
    turn: Turn | None = None
    """What a final end is in its series, for finished."""
    about: str = ""
    at_us: int | None = None
    """When a delivery failed."""


class Events:
    """Hands each event to every listener; on the engine's loop only."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` on the engine's loop at each event; return what ends that. It must not block or raise."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - the engine outlives whoever listens
                _log.exception("a listener failed at %s of %s", event.kind, event.task.name)

    async def stream(self) -> AsyncIterator[Event]:
        """Yield events from now on; one that is `MOST` behind loses the oldest."""
        waiting: deque[Event] = deque(maxlen=MOST)
        there = anyio.Event()

        def put(event: Event) -> None:
            waiting.append(event)
            there.set()

        stop = self.listen(put)
        try:
            while True:
                while waiting:
                    yield waiting.popleft()
                there = anyio.Event()
                await there.wait()
        finally:
            stop()
