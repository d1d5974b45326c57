"""`--runner agent --model local`: the small real model as a task."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("pydantic_ai")

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Task
from car_sched_nb.runners import local_engine
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store import records
from tests.small_model import use_small_model
from tests.unit.world import HANG_S

STORY = "Write a very long story about the sea."

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # pydantic-ai's own


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_small_model(patch)
        yield
    local_engine.engine.close()


@asynccontextmanager
async def notebook(**names: Any) -> AsyncIterator[Scheduler]:
    """Enter a scheduler whose agents call these functions."""
    with anyio.fail_after(HANG_S):
        async with Scheduler(":memory:", python=PythonRunner(names)) as scheduler:
            yield scheduler


def ask(prompt: str, **fields: Any) -> Task:
    return Task("ask", prompt, runner="agent", model="local", **fields)


def speaks() -> bool:
    return local_engine.engine._running is not None


async def test_local_completes():
    def sales(region: str) -> int:
        """Return the total sales of a region."""
        return len(region)

    async with notebook(sales=sales) as s:
        done = await s.run_once(ask("What are the sales of the north region?", tools=("sales",)))
    assert done.status == "completed"
    assert done.answer
    assert done.tool_calls == 1
    assert done.tokens_in is not None and done.tokens_in > 50
    assert done.tokens_out is not None and done.tokens_out > 5
    assert (done.model, done.cost) == ("local:SmolLM2-135M-Instruct", 0.0)


async def test_local_output_is_captured():
    async with notebook() as s:
        done = await s.run_once(ask("What is a cat?"))
        printed = records.output_text(s.store, done.execution_id)
    assert done.answer
    assert done.answer in printed


async def test_local_fails_with_a_traceback():
    def sales(region: str) -> int:
        """Return the total sales of a region."""
        raise ZeroDivisionError(region)

    async with notebook(sales=sales) as s:
        done = await s.run_once(ask("What are the sales of the north region?", tools=("sales",)))
        printed = records.output_text(s.store, done.execution_id)
    assert (done.status, done.error_type) == ("failed", "ZeroDivisionError")
    assert str(done.error).startswith("the tool sales failed 4 times: ZeroDivisionError: ")
    assert ", in sales\n" in printed


async def test_local_is_cancelled():
    async with notebook() as s:
        await s.add(ask(STORY))
        await s.run_now("ask")
        while not speaks():  # noqa: ASYNC110 - a thread makes it so
            await anyio.sleep(0.01)
        await s.cancel("ask")
        await s.wait("ask")
        assert s.executions("ask")[-1].status == "cancelled"
        await _stops_speaking()


async def test_local_times_out():
    async with notebook() as s:
        done = await s.run_once(ask(STORY, timeout="1s"))
        assert done.status == "timed_out"
        await _stops_speaking()


async def _stops_speaking() -> None:
    """The engine's thread says that it is free a moment after the run knows; a generation that goes on never does."""
    with anyio.fail_after(1):
        while speaks():  # noqa: ASYNC110 - a thread makes it so
            await anyio.sleep(0.01)
