"""What `spawn` returns at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from car_sched_nb.model import Execution


class TaskHandle:
    """A task that runs in the background; from any thread.

    Dropping the handle changes nothing. `await handle` gives its executions; interrupting the wait does not
    stop the task.
    """

    def __init__(self, task_id: str, name: str, cancel: Callable[[], None]) -> None:
        self.task_id = task_id
        self.name = name
        self._cancel = cancel
        self._engine = current_token().native_token
        self._ended = anyio.Event()
        self._future: concurrent.futures.Future[list[Execution]] = concurrent.futures.Future()
        self._executions: list[Execution] = []
        self.status = "scheduled"
        self.result: Any = None
        """The live result of the newest execution that completed."""

    def __repr__(self) -> str:
        return f"<TaskHandle {self.name} {self.status}, {len(self._executions)} executions>"

    @property
    def executions(self) -> list[Execution]:
        """Its executions so far, oldest first."""
        return list(self._executions)

    def cancel(self) -> None:
        """Stop what runs and start nothing more."""
        self._cancel()

    def __await__(self) -> Generator[Any, None, list[Execution]]:
        return self._wait().__await__()

    async def _wait(self) -> list[Execution]:
        if current_token().native_token is self._engine:
            await self._ended.wait()
        else:
            await asyncio.shield(asyncio.wrap_future(self._future))
        return self._future.result()

    def add(self, execution: Execution, result: Any) -> None:
        """Take an execution that ended; the engine calls it."""
        self._executions.append(execution)
        self.status = str(execution.status)
        if execution.status == "completed":
            self.result = result

    def end(self, error: BaseException | None = None) -> None:
        """No more executions come; the engine calls it."""
        if error is None:
            self._future.set_result(self.executions)
        else:
            self.status = "failed"
            self._future.set_exception(error)
        self._ended.set()
