"""Agents in a real kernel: the notebook's functions are their tools, and a cell that sleeps stops neither."""

from collections.abc import Iterator

import pytest

from tests.kernel.conftest import StartKernel
from tests.kernel.kernel import Kernel
from tests.models import NAME, ModelServer, calls, model_server, says

_DEFINE = """
import asyncio, time
import pandas as pd
from pydantic import BaseModel
df = pd.DataFrame({"item": ["tea", "milk"], "left": [2, 0]})
class Order(BaseModel):
    item: str
    count: int
def left(item: str) -> pd.DataFrame:
    "Tell how much of an item is left."
    print("looking for", item)
    return df[df.item == item]
async def ask(whom: str) -> str:
    print("asking", whom, "on", asyncio.get_running_loop() is asyncio.get_event_loop())
    return "two"
"""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as serving:
        yield serving


@pytest.fixture
def kernel(start_kernel: StartKernel, server: ModelServer) -> Kernel:
    kernel = start_kernel(env={"CAR_MODEL": f"openai:{NAME}"})
    assert kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car\n" + _DEFINE).error == ""
    return kernel


def test_an_agent_uses_the_notebooks_functions_and_gives_back_an_object(kernel: Kernel, server: ModelServer):
    server.answers(
        calls(("left", {"item": "milk"}), ("ask", {"whom": "Ana"})),
        calls(("final_result", {"item": "milk", "count": 2})),
    )
    options = f"--runner agent --base-url {server.url} --tools left,ask --output-type Order --into order"
    assert kernel.run(f"%%car_task shop {options}\nWhat is missing?\n{{df}}").error == ""
    told = kernel.run("await car.wait('shop', timeout=60)\nprint(repr(order), car.logs('shop'))").text
    assert "Order(item='milk', count=2)" in told and "looking for milk" in told and "asking Ana on True" in told
    assert "| 1 | milk | 0 |" in server.requests[0]["messages"][-1]["content"]
    shown = kernel.run("%car transcript shop")
    assert "<b>user</b> What is missing?" in shown.outputs[0].data["text/html"]
    row = kernel.run("print(car.history('shop')[['status', 'turns', 'tool_calls', 'tokens_in', 'executor']].values)")
    assert "['completed' 2 2 20 'thread']" in " ".join(row.text.split())


def test_it_streams_and_is_cancelled_while_a_cell_sleeps(kernel: Kernel, server: ModelServer):
    server.answers(says("thinking ", "hard", hold=1))
    cell = kernel.send(
        f"get_ipython().run_cell_magic('car_task', 'think --runner agent --base-url {server.url}', 'Think.')\n"
        "deadline = time.monotonic() + 60\n"
        "while 'thinking' not in car.logs('think') and time.monotonic() < deadline: time.sleep(0.01)\n"
        "print('seen:', car.logs('think'))\n"
        "before = time.monotonic()\n"
        "print(car.cancel('think'), 'cancelled', car.history('think').status.iloc[0], time.monotonic() - before < 5)\n"
    )
    text = kernel.wait(cell).text
    assert "seen: thinking" in text
    assert "1 cancelled cancelled True" in text
    kernel.wait_until(lambda: bool(server.hung_up_at))


def test_an_agent_is_tried_in_its_cell_with_a_tool_and_a_result(kernel: Kernel, server: ModelServer):
    server.answers(calls(("ask", {"whom": "Ana"})), calls(("final_result", {"item": "tea", "count": 3})))
    options = f"--test --runner agent --base-url {server.url} --tools ask --output-type Order --into order"
    tried = kernel.run(f"%%car_task shop {options}\nWhat is missing?")
    assert (tried.error, "asking Ana on True" in tried.text) == ("", True)
    assert kernel.run("print(order, len(car.history()))").text.strip() == "item='tea' count=3 0"
    assert kernel.strays() == []
