"""Synchronous Python bodies in a thread."""

from __future__ import annotations

import threading

import anyio
import pytest

from car_sched_nb.model import Task
from car_sched_nb.runners.python import PythonRunner
from tests.matrix.python_rows import outcome, stopped
from tests.unit.world import Ear, running

pytestmark = pytest.mark.anyio
COUNTS = "while True:\n    tick()"
SLEEPS = "import time\nfor _ in range(3):\n    tick()\ntime.sleep(3600)"
IN_TRY = "try:\n    while True:\n        tick()\nfinally:\n    tick()"
IN_C = "while True:\n    tick()\n    sum(range(100_000))"


async def test_thread_completes():
    done, _ = await outcome("x = 20\nx * 2 + 2")
    assert (done.status, done.answer, done.executor) == ("completed", "42", "thread")


async def test_thread_fails_with_a_traceback():
    done, text = await outcome("def f():\n    return 1 / 0\n\nf()")
    assert (done.status, done.error_type, done.error) == ("failed", "ZeroDivisionError", "division by zero")
    assert 'File "<car_task task>", line 4, in <module>' in text
    assert 'File "<car_task task>", line 2, in f' in text


@pytest.mark.parametrize("body", [COUNTS, SLEEPS, IN_TRY, IN_C])
async def test_thread_times_out(body: str):
    done = await stopped(body, by="timeout")
    assert (done.status, done.error) == ("timed_out", "did not end within 100ms")


@pytest.mark.parametrize("body", [COUNTS, SLEEPS, IN_TRY, IN_C])
async def test_thread_is_cancelled(body: str):
    assert (await stopped(body, by="cancel")).status == "cancelled"


async def test_thread_is_cancelled__while_it_swallows_it_is_cancelling():
    go_on = threading.Event()
    body = (
        "while not go_on.is_set():\n    try:\n        while not go_on.is_set():\n            tick()\n"
        "    except BaseException:\n        caught.append(1)"
    )
    ticks: list[int] = []
    caught: list[int] = []
    names = {"go_on": go_on, "tick": lambda: ticks.append(1) if len(ticks) < 5 else None, "caught": caught}
    async with running(":memory:", python=PythonRunner(names)) as s:
        ear = Ear(s)
        await s.define(Task("task", body))
        await s.run_now("task")
        await ear.hears("started")
        while not ticks:  # noqa: ASYNC110 - the body tells nobody
            await anyio.sleep(0.001)
        s.cancel_soon("task")
        while not caught:  # noqa: ASYNC110 - the same
            await anyio.sleep(0.001)
        await anyio.sleep(0.2)
        assert [run.state for run in s.live()] == ["cancelling"]
        assert len(caught) == 1  # raised once
        go_on.set()
        await s.wait()
        assert [e.status for e in s.executions()] == ["completed"]


async def test_thread_output_is_captured():
    done, text = await outcome("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert done.status == "completed"
    assert "out\n" in text and "err\n" in text


@pytest.mark.parametrize("body", ["import sys\nsys.exit(3)", "exit(3)", "raise SystemExit(3)"])
async def test_thread_system_exit(body: str):
    done, _ = await outcome(body, names={"exit": exit})
    assert (done.status, done.error_type, done.error) == ("failed", "SystemExit", "3")


async def test_thread_unpicklable_answer():
    """Any object is kept: it never leaves this process."""
    names: dict[str, object] = {}
    async with running(":memory:", python=PythonRunner(names)) as s:
        assert (await s.run_once(Task("task", "lambda: 42", into="f"))).status == "completed"
    assert names["f"]() == 42  # type: ignore[operator]


async def test_thread_prints_100_mb():
    done, text = await outcome("for n in range(100):\n    print(str(n) + 'x' * 1_000_000)\n'done'")
    assert (done.status, done.answer) == ("completed", "done")
    assert len(text) < 2_000_000


async def test_thread_broken_utf8():
    done, text = await outcome("print('\\udcff broken')\nraise ValueError('\\udcff')")
    assert (done.status, done.error_type) == ("failed", "ValueError")
    assert "broken" in text
