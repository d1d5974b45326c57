"""What the rows of Python bodies share: a scheduler of their own, and a body that is stopped while it counts."""

from __future__ import annotations

from typing import Any

import anyio

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Execution, Task
from car_sched_nb.runners.python import PythonRunner
from tests.unit.world import Ear, running


async def outcome(body: str, names: dict[str, Any] | None = None, **fields: Any) -> tuple[Execution, str]:
    """Return the execution of a body, and what is kept of its output and traceback."""
    async with running(":memory:", python=PythonRunner({"anyio": anyio, **(names or {})})) as s:
        done = await s.run_once(Task("task", body, **fields))
        return done, kept(s, done)


def kept(s: Scheduler, done: Execution) -> str:
    """Return the output and the traceback that the store has of an execution."""
    rows = s.store.rows("SELECT text, traceback FROM outputs WHERE execution_id = ?", done.execution_id)
    return "".join(text or "" for row in rows for text in row)


async def stopped(body: str, by: str, **fields: Any) -> Execution:
    """Stop a body by `cancel` or `timeout` and check that it counts no more; return its execution.

    `tick` is what it calls as it goes.
    """
    count = [0]

    def tick() -> None:
        count[0] += 1

    limit: dict[str, Any] = {"timeout": "100ms"} if by == "timeout" else {}
    async with running(":memory:", python=PythonRunner({"anyio": anyio, "tick": tick})) as s:
        ear = Ear(s)
        await s.define(Task("task", body, **limit, **fields))
        await s.run_now("task")
        if by == "cancel":
            await ear.hears("started")
            while count[0] < 3:  # noqa: ASYNC110 - the body tells nobody
                await anyio.sleep(0.001)
            assert await s.cancel("task") == 1
        else:
            await s.wait()
        (done,) = s.executions()
        at_the_end = count[0]
        assert at_the_end >= 3
        await anyio.sleep(0.05)
        assert count[0] == at_the_end
        return done
