"""The row `agent` of the matrix: prompts for a model that a real server streams."""

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Execution, Status, Task
from car_sched_nb.output import HEAD, TAIL
from car_sched_nb.runners.base import current
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store import records
from tests.models import NAME, ModelServer, calls, model_server, refuses, says
from tests.unit.world import HANG_S, come_true

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def served() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def server(served: ModelServer) -> ModelServer:
    served.answers(says("fine"))
    served.requests.clear()
    served.hung_up_at.clear()
    return served


@asynccontextmanager
async def running(server: ModelServer, task: Task | None = None, **names: Any) -> AsyncIterator[Scheduler]:
    with anyio.fail_after(HANG_S):
        async with Scheduler(python=PythonRunner(names)) as scheduler:
            await scheduler.add(task or prompt(server, tools=(*names,)))
            yield scheduler


def prompt(server: ModelServer, text: str = "go on", **fields: Any) -> Task:
    return Task("news", text, runner="agent", model=f"openai:{NAME}", base_url=server.url, **fields)


def printed(scheduler: Scheduler, execution: Execution) -> str:
    return records.output_text(scheduler.store, execution.execution_id)


async def in_the_end(scheduler: Scheduler) -> Execution:
    await scheduler.wait()
    return scheduler.executions("news")[-1]


async def test_agent_completes(server: ModelServer):
    def price(item: str) -> float:
        """Tell what an item costs."""
        return len(item) * 1.5

    server.answers(calls(("price", {"item": "tea"})), says("It is ", "4.5.", model="gpt-5-mini-2025-08-07"))
    async with running(server, price=price) as s:
        done = await s.run_once("news")
        assert (done.status, done.answer, done.executor) == ("completed", "It is 4.5.", "thread")
        assert (done.turns, done.tool_calls, done.tokens_in, done.tokens_out) == (2, 1, 20, 10)
        assert done.model == "gpt-5-mini-2025-08-07"
        assert done.cost == pytest.approx(2 * (10 * 0.25e-6 + 5 * 2e-6))
        (schema,) = server.requests[0]["tools"]
        assert schema["function"]["description"] == "Tell what an item costs."
        assert schema["function"]["parameters"]["properties"] == {"item": {"type": "string"}}
        assert server.requests[1]["messages"][-1]["content"] == "4.5"


async def test_agent_fails_with_a_traceback(server: ModelServer):
    def divide(by: int) -> float:
        return 1 / by

    server.answers(calls(("divide", {"by": 0})))
    async with running(server, divide=divide) as s:
        failed = await s.run_once("news")
        assert (failed.status, failed.error_type) == ("failed", "ZeroDivisionError")
        assert failed.error == "the tool divide failed 4 times: ZeroDivisionError: division by zero"
        assert "return 1 / by" in printed(s, failed)
        assert (failed.turns, failed.tool_calls, failed.tokens_in) == (4, 4, 40)


async def test_agent_times_out(server: ModelServer):
    server.answers(says("never", " ends", hold=1, tokens=(7, 3)))
    async with running(server, prompt(server, timeout="300ms")) as s:
        late = await s.run_once("news")
        assert (late.status, late.turns) == ("timed_out", 1)
        assert printed(s, late) == "never\n"
        await come_true(lambda: server.hung_up_at)


@pytest.mark.parametrize("piece", [0, 1])
async def test_agent_is_cancelled(server: ModelServer, piece: int):
    server.answers(says("a", "b", hold=piece))
    async with running(server) as s:
        await s.run_now("news")
        await come_true(server.held.is_set)
        await s.cancel("news")
        stopped = s.executions("news")[-1]
        assert (stopped.status, stopped.turns, stopped.model) == ("cancelled", 1, NAME)
        await come_true(lambda: server.hung_up_at)
        assert len(server.requests) == 1


async def test_agent_is_cancelled__inside_a_synchronous_tool(server: ModelServer):
    inside, count = threading.Event(), 0

    def spin() -> None:
        nonlocal count
        inside.set()
        while True:
            count += 1

    server.answers(calls(("spin", {})))
    async with running(server, spin=spin) as s:
        await s.run_now("news")
        await come_true(inside.is_set)
        await s.cancel("news")
        counted = count
        stopped = s.executions("news")[-1]
        assert (stopped.status, stopped.tokens_in, stopped.tool_calls) == ("cancelled", 10, 1)
        await anyio.sleep(0.02)
        assert count == counted


async def test_agent_is_cancelled__inside_an_asynchronous_tool(server: ModelServer):
    here = threading.get_ident()
    seen: list[object] = []
    inside = threading.Event()

    async def wait() -> None:
        seen.append(threading.get_ident())
        inside.set()
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("ended")

    server.answers(calls(("wait", {})))
    async with running(server, wait=wait) as s:
        await s.run_now("news")
        await come_true(inside.is_set)
        await s.cancel("news")
        assert seen == [here, "ended"]  # on the scheduler's own loop
        assert s.executions("news")[-1].status is Status.CANCELLED


async def test_agent_output_is_captured(server: ModelServer, capsys: pytest.CaptureFixture[str]):
    def look(at: str) -> list[str]:
        print("looking at", at, "for", current().occurrence.task)
        return ["x", "y"]

    async def ask(whom: str) -> str:
        print("asking", whom, "for", current().occurrence.task)
        return "yes"

    server.answers(calls(("look", {"at": "it"})), calls(("ask", {"whom": "Ana"})), says("so", " be it", hold=1))
    async with running(server, look=look, ask=ask) as s:
        await s.run_now("news")
        await come_true(server.held.is_set)
        (run,) = s.live("news")
        await come_true(lambda: run.output.text().endswith("so"))  # while it is still being said
        server.let_go()
        done = await in_the_end(s)
        assert printed(s, done).splitlines() == [
            "→ look(at='it')",
            "looking at it for news",
            "← ['x', 'y']",
            "→ ask(whom='Ana')",
            "asking Ana for news",
            "← yes",
            "so be it",
        ]
    assert capsys.readouterr() == ("", "")


async def test_agent_system_exit(server: ModelServer):
    server.answers(calls(("leave", {})))
    async with running(server, leave=lambda: sys.exit("no more")) as s:
        failed = await s.run_once("news")
        assert (failed.status, failed.error_type) == ("failed", "SystemExit")
        assert failed.error == "the tool leave failed: SystemExit: no more"
        server.answers(says("still here"))
        assert (await s.run_once("news")).answer == "still here"  # the thread of the agents lives on


async def test_agent_system_exit__of_an_asynchronous_tool(server: ModelServer):
    async def leave() -> None:
        sys.exit("no more")

    server.answers(calls(("leave", {})))
    async with running(server, leave=leave) as s:
        failed = await s.run_once("news")
        assert (failed.status, failed.error_type) == ("failed", "SystemExit")


async def test_agent_killed_child__a_server_that_dies_in_the_middle(server: ModelServer):
    server.answers(says("half", " of it", dies=1))
    async with running(server) as s:
        failed = await s.run_once("news")
        assert (failed.status, failed.error_type) == ("failed", "ModelConnectionError")
        assert printed(s, failed).startswith("half\n")


class Answer(BaseModel):
    """What is asked for."""

    price: float
    stops: list[str]


async def test_agent_unpicklable_answer(server: ModelServer):
    class Local(Answer):
        lock: Any = None

        def model_post_init(self, _: Any) -> None:
            self.lock = threading.Lock()

    server.answers(calls(("final_result", {"price": 2.5, "stops": ["a"]})))
    task = prompt(server, output_type="Local", into="got")
    names: dict[str, Any] = {"Local": Local}
    with anyio.fail_after(HANG_S):
        async with Scheduler(python=PythonRunner(names)) as s:
            await s.add(task)
            done = await s.run_once("news")
            assert (done.status, done.error) == ("completed", None)
            assert '"price":2.5,"stops":["a"]' in (done.answer or "")
            assert isinstance(names["got"], Local)


async def test_agent_prints_100_mb(server: ModelServer):
    def shout() -> str:
        for _ in range(100):
            print("x" * 1_000_000)
        return "y" * 1_000_000

    server.answers(calls(("shout", {})), says("enough"))
    async with running(server, shout=shout) as s:
        done = await s.run_once("news")
        assert done.answer == "enough"
        assert len(printed(s, done)) < HEAD + TAIL + 100
        assert len(server.requests[1]["messages"][-1]["content"]) < 110_000  # what the model is told is clipped too


async def test_agent_broken_utf8(server: ModelServer):
    def speak() -> str:
        print("\ud800 and \x00")
        return "\udfff"

    server.answers(calls(("speak", {})), says("it said \ud800"))
    async with running(server, speak=speak) as s:
        done = await s.run_once("news")
        assert (done.status, done.answer) == ("completed", "it said ?")
        assert "? and \ufffd" in printed(s, done)


async def test_agent_fails_with_a_traceback__in_the_providers_words(server: ModelServer):
    server.answers(refuses(429, "Slow down,\nplease"), refuses(500, "It broke"), says("third time lucky"))
    async with running(server, prompt(server, retries=2, retry_delay="10ms")) as s:
        done = await s.run_once("news")
        tried = s.executions("news")
        assert (done.attempt, done.answer) == (3, "third time lucky")
        assert [(one.error, one.error_type) for one in tried[:2]] == [
            (f"HTTP 429 from {NAME}: Slow down, please", "ModelRateLimitError"),
            (f"HTTP 500 from {NAME}: It broke", "ModelServerError"),
        ]
