"""Asynchronous Python bodies, and others with `--executor loop`."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from car_sched_nb.model import Task
from car_sched_nb.runners.python import PythonRunner
from tests.matrix.python_rows import outcome, stopped
from tests.unit.world import Ear, running

pytestmark = pytest.mark.anyio
PLAIN = "while True:\n    tick()\n    await anyio.sleep(0.001)"
SWALLOWS = (
    "async def wait():\n    try:\n        await anyio.sleep(0.001)\n    except BaseException:\n        return\n"
    "while True:\n    tick()\n    await wait()\n    await anyio.lowlevel.checkpoint()"
)
IN_A_GROUP = (
    "async def count():\n    while True:\n        tick()\n        await anyio.sleep(0.001)\n"
    "async with anyio.create_task_group() as group:\n    group.start_soon(count)\n    group.start_soon(count)"
)
IN_A_LIMIT = "with anyio.move_on_after(3600):\n    while True:\n        tick()\n        await anyio.sleep(0.001)"
BODIES = pytest.mark.parametrize("body", [PLAIN, SWALLOWS, IN_A_GROUP, IN_A_LIMIT])
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_loop_completes():
    done, _ = await outcome("await anyio.sleep(0)\n6 * 7")
    assert (done.status, done.answer, done.executor) == ("completed", "42", "loop")


async def test_loop_completes__a_synchronous_body():
    done, _ = await outcome("6 * 7", executor="loop")
    assert (done.status, done.answer, done.executor) == ("completed", "42", "loop")


async def test_loop_fails_with_a_traceback():
    done, text = await outcome("async def f():\n    return 1 / 0\n\nawait f()")
    assert (done.status, done.error_type) == ("failed", "ZeroDivisionError")
    assert 'File "<car_task task>", line 4, in <module>' in text
    assert 'File "<car_task task>", line 2, in f' in text


@BODIES
async def test_loop_times_out(body: str):
    done = await stopped(body, by="timeout")
    assert (done.status, done.error) == ("timed_out", "did not end within 100ms")


@BODIES
async def test_loop_is_cancelled(body: str):
    assert (await stopped(body, by="cancel")).status == "cancelled"


COUNTS = "import asyncio\nasync def f():\n    while True:\n        tick()\n        await asyncio.sleep(0.001)\n"


@ASYNCIO
@pytest.mark.parametrize(
    "around",
    [
        "async with asyncio.timeout(3600):\n    await f()",
        "await asyncio.gather(f(), f())",
        "async with asyncio.TaskGroup() as group:\n    group.create_task(f())",
    ],
)
async def test_loop_is_cancelled__with_what_asyncio_has_around_it(around: str):
    assert (await stopped(COUNTS + around, by="cancel")).status == "cancelled"


@ASYNCIO
async def test_loop_is_cancelled__and_a_shielded_end_is_waited_for():
    ended: list[int] = []
    body = (
        "try:\n    begun.set()\n    await anyio.sleep_forever()\nfinally:\n"
        "    with anyio.CancelScope(shield=True):\n        await anyio.sleep(0.05)\n        ended.append(1)"
    )
    begun = anyio.Event()
    async with running(":memory:", python=PythonRunner({"anyio": anyio, "ended": ended, "begun": begun})) as s:
        handle = s.spawn(Task("task", body))
        await begun.wait()
        handle.cancel()
        (done,) = await handle
        assert (done.status, ended) == ("cancelled", [1])


@ASYNCIO
async def test_loop_is_cancelled__but_not_a_task_that_it_has_let_go():
    """As in a cell: what `create_task` started and nobody awaits is its own. A task group's tasks end with it."""
    ticks: list[int] = []
    kept: list[asyncio.Task[None]] = []

    async def count() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    names = {"asyncio": asyncio, "count": count, "kept": kept}
    async with running(":memory:", python=PythonRunner(names)) as s:
        ear = Ear(s)
        await s.define(Task("task", "kept.append(asyncio.create_task(count()))\nawait asyncio.sleep(3600)"))
        await s.run_now("task")
        await ear.hears("started")
        while not ticks:  # noqa: ASYNC110 - the body tells nobody
            await asyncio.sleep(0.001)
        await s.cancel("task")
        assert [e.status for e in s.executions()] == ["cancelled"]
        before = len(ticks)
        while len(ticks) == before:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.001)
        kept[0].cancel()


async def test_loop_output_is_captured():
    done, text = await outcome("import sys\nprint('out')\nawait anyio.sleep(0)\nprint('err', file=sys.stderr)")
    assert done.status == "completed"
    assert "out\n" in text and "err\n" in text


@pytest.mark.parametrize("body", ["import sys\nsys.exit(3)", "await anyio.sleep(0)\nraise SystemExit(3)"])
async def test_loop_system_exit(body: str):
    done, _ = await outcome(body, executor="loop")
    assert (done.status, done.error_type, done.error) == ("failed", "SystemExit", "3")


async def test_loop_unpicklable_answer():
    """Any object is kept: it never leaves this process."""
    names: dict[str, object] = {"anyio": anyio}
    async with running(":memory:", python=PythonRunner(names)) as s:
        assert (await s.run_once(Task("task", "await anyio.sleep(0)\nlambda: 42", into="f"))).status == "completed"
    assert names["f"]() == 42  # type: ignore[operator]


async def test_loop_prints_100_mb():
    body = "for n in range(100):\n    print(str(n) + 'x' * 1_000_000)\n    await anyio.sleep(0)\n'done'"
    done, text = await outcome(body)
    assert (done.status, done.answer) == ("completed", "done")
    assert len(text) < 2_000_000


async def test_loop_broken_utf8():
    done, text = await outcome("print('\\udcff broken')\nawait anyio.sleep(0)\nraise ValueError('\\udcff')")
    assert (done.status, done.error_type) == ("failed", "ValueError")
    assert "broken" in text
