"""A notebook that works with the extension: its kernel, and what its store says when it is read from outside."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil  # it ships no types

from car_sched_nb.model import Execution
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from tests.isolation import isolated_environment
from tests.kernel.kernel import PATIENCE_S, Kernel, Result

ROOT = Path(__file__).parents[2]
# The kernel finds the package where the tests do, installed or not.
ENV = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}

LOAD = """
%load_ext car_sched_nb
%car namespace t
import asyncio, sys, threading, time
import car_sched_nb as car
"""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def loaded_kernel(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Kernel]:
    """Yield a kernel with the extension loaded, its files in `folder / "work"`, its store in `folder / "car.db"`."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    kernel = Kernel(work, isolated_environment(folder) | ENV | dict(env or {}))
    try:
        ok(kernel, LOAD)
        yield kernel
    finally:
        kernel.stop()


def ok(kernel: Kernel, code: str, timeout_s: float = PATIENCE_S) -> str:
    """Run a cell that has to work; return what it showed."""
    result = kernel.run(code, timeout_s)
    assert result.status == "ok", text_of(result)
    return text_of(result)


def refused(kernel: Kernel, code: str) -> str:
    """Run a cell that has to be refused in a few lines, without a traceback; return the message."""
    result = kernel.run(code)
    text = text_of(result)
    assert (result.status, "Traceback" in text) == ("error", False), text
    assert text.startswith("UsageError: "), text
    assert len(text.splitlines()) <= 6, text
    return text.removeprefix("UsageError: ").rstrip("\n")


def text_of(result: Result) -> str:
    return COLOUR.sub("", result.text)


def lives(pid: int) -> bool:
    """Tell whether a process has not ended; a zombie has, whoever reaps it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_ended(kernel: Kernel, *names: str) -> None:
    """Wait until what runs or is due of these tasks has ended."""
    listed = ", ".join(map(repr, names))
    assert ok(kernel, f"await car.wait({listed}{', ' if listed else ''}timeout={PATIENCE_S})") == "True"


def executions(kernel: Kernel, name: str) -> list[Execution]:
    """Read a task's executions as another process does, oldest first."""
    store = SqliteStore(kernel.workdir.parent / "car.db")
    try:
        return records.executions(store, "t.name = ?", name)
    finally:
        store.close()


def wait_for_executions(
    kernel: Kernel, name: str, status: str, count: int = 1, timeout_s: float = PATIENCE_S
) -> list[Execution]:
    """Wait until a task has so many executions of a status; return those."""
    found: list[Execution] = []

    def there() -> bool:
        found[:] = [execution for execution in executions(kernel, name) if execution.status == status]
        return len(found) >= count

    kernel.wait_until(there, timeout_s)
    return found
