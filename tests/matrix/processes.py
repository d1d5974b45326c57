"""What the rows of processes share: an execution with its output, and a stop that is looked into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Execution, Task
from car_sched_nb.runners.python import PythonRunner
from tests.unit.world import running


async def outcome(body: str, names: dict[str, Any] | None = None, **fields: Any) -> tuple[Execution, str]:
    """Return the execution of a body, and what is kept of its output and traceback."""
    async with running(":memory:", python=PythonRunner({} if names is None else names)) as s:
        done = await s.run_once(Task("task", body, **fields))
        return done, kept(s, done)


def kept(s: Scheduler, done: Execution) -> str:
    """Return the output and the traceback that the store has of an execution."""
    rows = s.store.rows("SELECT text, traceback FROM outputs WHERE execution_id = ?", done.execution_id)
    return "".join(text or "" for row in rows for text in row)


async def stopped(folder: Path, body: str, by: str, **fields: Any) -> Execution:
    """Stop a body by `cancel` or `timeout` and check that nothing of it is left; return its execution.

    The body writes the ids of its processes into `{pids}` and then makes `{ready}`; `{end}` is what it ends with.
    """
    pids, ready = folder / "pids", folder / "ready"
    # It may not be over before it is ready, however slow the machine is.
    limit: dict[str, Any] = {"timeout": "3s"} if by == "timeout" else {}
    async with running(":memory:", python=PythonRunner({})) as s:
        await s.define(Task("task", body.format(pids=pids, ready=ready), **limit, **fields))
        await s.run_now("task")
        while not ready.exists():  # noqa: ASYNC110 - another process says it with a file
            await anyio.sleep(0.005)
        if by == "cancel":
            await s.cancel("task")
        else:
            await s.wait()
        (done,) = s.executions()
        left = [pid for pid in pids.read_text().split() if not gone(int(pid))]
        assert left == []
        return done


def gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has, whoever reaps it."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
