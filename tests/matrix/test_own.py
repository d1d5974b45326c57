"""The row `own`: a runner that the user has registered."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest

from car_sched_nb.model import Execution, Task
from car_sched_nb.output import HEAD, TAIL
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from tests.unit.world import come_true, running

pytestmark = pytest.mark.anyio


class Done(NamedTuple):
    """An execution, and what was kept of it."""

    execution: Execution
    text: str
    traceback: str
    path: str | None


async def run(folder: Path, runner: Any, **fields: Any) -> Done:
    """Run a task by a runner that is registered as `own`."""
    async with running(str(folder / "car.db")) as s:
        s.register("own", runner)
        execution = await s.run_once(Task("task", "do it", runner="own", **fields))
        found = s.store.rows("SELECT text, traceback, path FROM outputs WHERE execution_id = ?", execution.execution_id)
        return Done(execution, *(found[0] if found else ("", "", None)))


async def test_own_completes(tmp_path: Path):
    async def own(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer=f"{prompt} by {spec.name}", turns=2, tokens_in=7)

    done = (await run(tmp_path, own)).execution
    assert (done.status, done.answer, done.turns, done.tokens_in) == ("completed", "do it by task", 2, 7)


async def test_own_fails_with_a_traceback(tmp_path: Path):
    async def own(*_: object) -> str:
        return str(1 / 0)

    done = await run(tmp_path, own)
    assert (done.execution.status, done.execution.error_type) == ("failed", "ZeroDivisionError")
    frames = [line for line in done.traceback.splitlines() if line.startswith("  File")]
    assert [Path(__file__).name in frame and "in own" in frame for frame in frames] == [True]


class Counter:
    """A runner that counts until it is stopped."""

    def __init__(self) -> None:
        self.count = 0
        self.ended = False

    async def __call__(self, *_: object) -> None:
        try:
            while True:
                self.count += 1
                await anyio.sleep(0.001)
        finally:
            self.ended = True


async def still(counter: Counter) -> bool:
    """Tell whether it counts no more: a loop that goes on would have its turns."""
    seen = counter.count
    await anyio.sleep(0.05)
    return counter.ended and counter.count == seen


async def test_own_times_out(tmp_path: Path):
    counter = Counter()
    done = (await run(tmp_path, counter, timeout="100ms")).execution
    assert (done.status, done.error) == ("timed_out", "did not end within 100ms")
    assert counter.count > 0
    assert await still(counter)


async def test_own_is_cancelled(tmp_path: Path):
    counter = Counter()
    async with running(str(tmp_path / "car.db")) as s:
        s.register("own", counter)  # type: ignore[arg-type]
        await s.define(Task("task", "count", runner="own"))
        await s.run_now("task")
        await come_true(lambda: counter.count)
        assert await s.cancel("task") == 1
        assert await still(counter)
        assert s.executions("task")[-1].status == "cancelled"


async def test_own_is_cancelled__while_it_waits_for_mail(tmp_path: Path):
    waits = threading.Event()

    async def own(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        waits.set()
        return str(await mailbox.message())

    async with running(str(tmp_path / "car.db")) as s:
        s.register("own", own)
        await s.define(Task("task", "wait", runner="own"))
        await s.run_now("task")
        await come_true(waits.is_set)
        await s.cancel("task")
        assert s.executions("task")[-1].status == "cancelled"
        s.infra.mailbox("other").send("task", "late")  # nobody waits: it stays
        assert s.infra.mailbox("task").receive() == ["late"]


async def test_own_output_is_captured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    async def own(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> None:
        print("out")
        await anyio.lowlevel.checkpoint()
        print("err", file=sys.stderr)

    assert (await run(tmp_path, own)).text == "out\nerr\n"
    assert capsys.readouterr() == ("", "")


async def test_own_system_exit(tmp_path: Path):
    async def own(*_: object) -> None:
        sys.exit(3)

    done = (await run(tmp_path, own)).execution
    assert (done.status, done.error_type, done.error) == ("failed", "SystemExit", "3")


async def test_own_killed_child(tmp_path: Path):
    async def own(*_: object) -> None:
        await anyio.run_process(["sh", "-c", "kill -9 $$"])

    done = (await run(tmp_path, own)).execution
    assert (done.status, done.error_type) == ("failed", subprocess.CalledProcessError.__name__)
    assert "SIGKILL" in str(done.error)


async def test_own_unpicklable_answer(tmp_path: Path):
    lock = threading.Lock()

    async def own(*_: object) -> object:
        return lock

    done = (await run(tmp_path, own)).execution
    assert (done.status, done.answer) == ("completed", repr(lock))


async def test_own_prints_100_mb(tmp_path: Path):
    async def own(*_: object) -> None:
        for _line in range(100):
            print("x" * 1_000_000)

    done = await run(tmp_path, own)
    assert done.execution.status == "completed"
    assert len(done.text) < 2 * (HEAD + TAIL)
    assert (await anyio.Path(str(done.path)).stat()).st_size >= 100_000_000


async def test_own_broken_utf8(tmp_path: Path):
    async def own(*_: object) -> str:
        text = b"caf\xe9".decode("utf-8", "surrogateescape")
        print(text)
        return text

    done = await run(tmp_path, own)
    assert done.execution.status == "completed"
    assert done.text.startswith("caf")
    assert str(done.execution.answer).startswith("caf")
