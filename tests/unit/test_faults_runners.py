"""Bodies and runners that misbehave: the row says it, and another task runs afterwards."""

import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import msgspec
import psutil
import pytest

from car_sched_nb.engine import ending
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import BodyFailed
from car_sched_nb.model import Execution, Task
from car_sched_nb.output import ANSWER, HEAD, TAIL, clip
from car_sched_nb.runners.base import AgentOutput
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import Recorder, agent, running

pytestmark = pytest.mark.anyio

MANY = 100 * 2**20
GROWTH = 3.5 * MANY
"""Bytes that a process may grow by while 100 MB pass through it: the text itself and the copies that are under way."""


class Own(BaseException):
    """An error that is no `Exception`."""


class Mute(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Shy:
    """A result that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Loud:
    """A result of 100 MB."""

    def __repr__(self) -> str:
        return "x" * MANY


ODD_NAME = type("Odd" + "x" * 100_000, (Exception,), {})

ERRORS: list[BaseException] = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    Own("mine"),
    Mute(),
    ExceptionGroup("several", [ValueError("one"), Mute()]),
    BaseExceptionGroup("several", [SystemExit(), Own()]),
    ODD_NAME("odd"),
    BodyFailed("\ud800", "\ud800" * 100_000),
    ValueError("\ud800\0" + "x" * 1_000_000),
    StopAsyncIteration(),
    RecursionError("deep"),
    MemoryError(),
]


@asynccontextmanager
async def living(store: SqliteStore | str, **names: Any) -> AsyncIterator[Scheduler]:
    """Enter a scheduler, and have another task run in it at the end."""
    recorder = Recorder()
    async with running(store, recorder, python=PythonRunner(names)) as s:
        yield s
        s.register("agent", recorder)
        await s.run_once(agent("another"))
        assert len(recorder.seen) == 1
        assert [e.status for e in s.executions("another")] == ["completed"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__[:20])
@pytest.mark.parametrize("where", ["thread", "loop", "agent"])
async def test_whatever_a_body_raises_is_told_in_its_row(error: BaseException, where: str):
    def fail() -> None:
        raise error

    async def runner(spec, prompt, runtime, mailbox) -> str:
        fail()
        return ""

    body = {"thread": "fail()", "loop": "await pause()\nfail()", "agent": "go"}[where]
    async with living(":memory:", fail=fail, pause=anyio.lowlevel.checkpoint) as s:
        s.register("agent", runner)
        task = Task("task", body, runner="agent" if where == "agent" else "python")
        execution = await s.run_once(task)
        assert execution.status == "failed"
        told = error.error_type if isinstance(error, BodyFailed) else type(error).__name__
        assert execution.error_type == clip(told)
        assert execution.error
        assert s.executions("task") == [execution]
        traceback = records.output_text(s.store, execution.execution_id)
        assert type(error).__name__[:3] in traceback or isinstance(error, BodyFailed)


async def test_a_result_that_cannot_be_shown_fails_and_says_so(store: SqliteStore):
    async def runner(spec, prompt, runtime, mailbox) -> Any:
        return Shy()

    async with living(store, Shy=Shy) as s:
        assert (await s.run_once(Task("task", "Shy()"))).error == "no text"
        s.register("agent", runner)
        assert (await s.run_once(agent("other"))).error == "no text"


ODD_OUTPUTS: list[Callable[[], Any]] = [
    lambda: AgentOutput(answer="x", turns=2**64 - 1),
    lambda: AgentOutput(answer="x", tokens_in=10**30),
    lambda: AgentOutput(answer="x", cost=float("nan")),
    lambda: AgentOutput(answer="x\ud800\0", model="\ud800"),
    lambda: AgentOutput(answer="x", turns="many"),  # type: ignore[arg-type]
    lambda: AgentOutput(answer=b"bytes"),  # type: ignore[arg-type]
    lambda: AgentOutput(answer="x", error="\ud800"),
    object,
]


@pytest.mark.parametrize("make", ODD_OUTPUTS)
async def test_whatever_a_runner_returns_its_history_can_be_read(store: SqliteStore, make: Callable[[], Any]):
    async def runner(spec, prompt, runtime, mailbox) -> Any:
        return make()

    async with living(store) as s:
        s.register("agent", runner)
        execution = await s.run_once(agent())
        assert execution.status in ("completed", "failed")
        assert [e.status for e in s.executions("task")] == [execution.status]


async def test_what_can_never_be_stored_takes_no_other_end_along(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    async with living(store) as s:
        finish_of = ending.finish_of

        def poisoned(run, owner, closing):
            finish = finish_of(run, owner, closing)
            if run.task.name == "poison":
                # What a mistake of ours would let through.
                return msgspec.structs.replace(finish, end=msgspec.structs.replace(finish.end, answer="\ud800"))
            return finish

        monkeypatch.setattr(ending, "finish_of", poisoned)
        async with anyio.create_task_group() as group:
            for name in ("poison", "one", "two"):
                group.start_soon(s.run_once, Task(name, "1"))
        assert {e.task: e.answer for e in s.executions()} == {"poison": None, "one": "1", "two": "1"}
        (told,) = s.executions("poison")
        assert (told.status, told.error_type) == ("completed", "Unstorable")
        assert "could not be stored" in (told.error or "")


async def test_a_runner_that_swallows_cancellations_is_cancelling_until_it_ends(store: SqliteStore):
    begun = anyio.Event()
    swallowed: list[BaseException] = []

    async def stubborn(spec, prompt, runtime, mailbox) -> str:
        begun.set()
        while len(swallowed) < 50:
            try:
                await anyio.sleep(30)
            except BaseException as error:  # noqa: BLE001 - that is the point
                swallowed.append(error)
        return "in my own time"

    async with living(store) as s:
        s.register("agent", stubborn)
        await s.run_now((await s.add(agent())).name)
        await begun.wait()
        assert await s.cancel("task") == 1
        (ended,) = s.executions("task")
        assert len(swallowed) == 50
        assert ended.status in ("completed", "cancelled")


async def test_a_body_in_a_thread_that_swallows_a_cancellation_ends_in_its_own_time(store: SqliteStore):
    go, begun = threading.Event(), threading.Event()
    body = """
begun.set()
while not go.is_set():
    try:
        for _ in range(1000): pass
    except BaseException:
        go.set()
'stubborn'
"""
    async with living(store, go=go, begun=begun) as s:
        await s.add(Task("task", body))
        await s.run_now("task")
        await anyio.to_thread.run_sync(begun.wait)
        assert await s.cancel("task") == 1
        assert s.executions("task")[0].status in ("completed", "cancelled")


async def test_a_thread_that_never_gives_way_does_not_stop_the_engine(store: SqliteStore):
    async with living(store) as s:
        await s.add(Task("spin", "while True: pass", timeout="300ms"))
        await s.run_now("spin")
        assert (await s.run_once(Task("task", "1"))).status == "completed"
        await s.wait()
        assert s.executions("spin")[0].status == "timed_out"


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


class Peak:
    """The most memory that this process had while it was looked at."""

    def __enter__(self) -> Self:
        self.start, self.most, self._ended = resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            self.most = max(self.most, psutil.Process().memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self.most - self.start


async def ended(s: Scheduler, body: str) -> Execution:
    with Peak() as peak:
        execution = await s.run_once(Task("task", body))
    assert peak.growth < GROWTH
    assert len(execution.answer or "") <= ANSWER
    return execution


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ("for _ in range(1600): print('x' * 65535)", MANY / 5),  # printed line by line it is never all in memory
        (f"print('x' * {MANY})", GROWTH),
    ],
    ids=["in lines", "at once"],
)
async def test_printing_100_mb_keeps_both_ends_and_the_rest_in_a_file(path: Path, body: str, most: float):
    async with living(str(path)) as s:
        with Peak() as peak:
            execution = await s.run_once(Task("task", body))
        assert peak.growth < most
        assert execution.status == "completed"
        text = records.output_text(s.store, execution.execution_id)
        assert HEAD + TAIL <= len(text) < HEAD + TAIL + 100
        ((file,),) = s.store.rows("SELECT path FROM outputs")
    assert (await anyio.Path(file).stat()).st_size == MANY + ("range" not in body)


async def test_answers_of_100_mb_are_clipped(store: SqliteStore):
    async def runner(spec, prompt, runtime, mailbox) -> AgentOutput:
        return AgentOutput(answer="x" * MANY)

    async with living(store, Loud=Loud) as s:
        assert (await ended(s, "Loud()")).status == "completed"
        assert (await ended(s, f"'x' * {MANY}")).status == "completed"
        s.register("agent", runner)
        with Peak() as peak:
            execution = await s.run_once(agent("other"))
        assert peak.growth < GROWTH
        assert len(execution.answer or "") <= ANSWER


async def test_what_is_no_text_is_refused_where_it_is_printed(store: SqliteStore):
    async with living(store) as s:
        execution = await s.run_once(Task("task", "import sys\nprint('\\ud800 \\x00')\nsys.stdout.write(b'bytes')"))
        assert execution.error == "write() argument must be str, not bytes"
        assert records.output_text(s.store, execution.execution_id).startswith("? \ufffd\n")
