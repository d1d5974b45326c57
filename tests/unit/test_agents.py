"""Agents: prompts and their fields, models and keys, budgets, structured answers, transcripts."""

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any

import anyio
import pandas as pd
import pytest
from pydantic import BaseModel

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Execution, Status, Task, Trigger
from car_sched_nb.notebook.transcript import Transcript
from car_sched_nb.output import Output
from car_sched_nb.runners import base, transcript
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime, prompt_fields
from car_sched_nb.runners.prompts import LONGEST, as_text
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store import records
from tests.models import NAME, ModelServer, calls, model_server, refuses, says
from tests.unit.world import DAY, HANG_S, MINUTE, advance, clock_at, come_true, pass_time, short

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def served() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def server(served: ModelServer) -> ModelServer:
    served.answers(says("fine"))
    served.requests.clear()
    served.keys.clear()
    return served


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "CAR_MODEL"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def running(names: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Scheduler]:
    with anyio.fail_after(HANG_S):
        async with Scheduler(python=PythonRunner({} if names is None else names), **options) as scheduler:
            yield scheduler


def prompt(server: ModelServer, text: str = "go on", **fields: Any) -> Task:
    given = {"model": f"openai:{NAME}", "base_url": server.url, **fields}
    return Task(given.pop("name", "news"), text, runner="agent", **given)


def asked(server: ModelServer) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in server.requests[-1]["messages"]]


def kept(scheduler: Scheduler, execution: Execution) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(records.transcript(scheduler.store, execution.execution_id) or "{}")
    return found


# Fields


def test_a_field_is_filled_once_and_by_its_plain_name():
    values = {"a": "{b}", "b": "2", "c": "C"}
    assert (
        prompt_fields("{a} {b} {{c}} {c.real} {c!r} {none} {} {0}", values) == "{b} 2 {c} {c.real} {c!r} {none} {} {0}"
    )
    assert prompt_fields('{"a": 1, "b": {"c": [2]}} {{ x }}', values) == '{"a": 1, "b": {"c": [2]}} {{ x }}'


async def test_fields_come_from_params_then_the_run_then_the_notebook(server: ModelServer):
    names = {"city": "Rome", "slot": "no", "region": "no", "who": "Ana"}
    async with running(names) as s:
        text = "{region} {slot} {attempt} {city} /users/{id}"
        await s.run_once(prompt(server, text, params={"region": "{city}"}, system_prompt="You are {who}."))
        slot = s.executions("news")[-1].slot
        assert asked(server) == [("system", "You are Ana."), ("user", f"{{city}} {slot} 1 Rome /users/{{id}}")]


async def test_a_prompt_waits_for_the_names_that_it_needs(server: ModelServer):
    names: dict[str, Any] = {}
    async with running(names) as s:
        task = await s.add(prompt(server, "look at {df} and {{df}}", tools=("find",), output_type="list[Price]"))
        said = "'Price', 'df', 'find' are not defined; run their cell, or write {{df}} for the text {df}"
        assert s.runners["agent"].missing(task) == said
        failed = await s.run_once("news")
        assert (failed.status, failed.error) == ("failed", said)
        names.update(df=1, find=len, Price=int)
        assert s.runners["agent"].missing(task) is None


async def test_an_upstream_answer_is_a_field(server: ModelServer):
    server.answers(says("it rains"), says("take a coat"))
    async with running() as s:
        await s.add(prompt(server, name="sky"))
        await s.add(prompt(server, "The sky: {sky}", name="advice", trigger=Trigger.AFTER, after="sky"))
        await s.run_once("sky")
        await come_true(lambda: [one.answer for one in s.executions("advice")] == ["take a coat"])
        assert asked(server) == [("user", "The sky: it rains")]


def test_a_table_becomes_markdown_with_its_first_rows_and_the_total():
    frame = pd.DataFrame({"a": range(60), "b|c": ["x|y\nz", None] * 30})
    lines = as_text(frame).splitlines()
    assert lines[:4] == ["|  | a | b\\|c |", "| --- | --- | --- |", "| 0 | 0 | x\\|y<br>z |", "| 1 | 1 |  |"]
    assert (len(lines), lines[-1]) == (54, "60 rows, the first 50 are shown")
    series = pd.Series([1.5], index=pd.Index(["tea"], name="item"), name="price")
    assert as_text(series) == "| item | price |\n| --- | --- |\n| tea | 1.5 |\n\n1 row"
    assert as_text(pd.DataFrame()).splitlines()[-1] == "0 rows"


def test_a_long_value_is_clipped_and_says_so():
    text = as_text("x" * (LONGEST + 1234))
    assert text.endswith("x\n... 1,234 more characters are not shown ...")
    assert len(text) < LONGEST + 100


# Models and keys


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "", "base_url": ""}, "no model is named: add --model openai:gpt-5-mini"),
        ({"model": "gpt-5-mini", "base_url": ""}, "--model needs the provider too: openai:gpt-5-mini"),
        ({"key_env": "sk-123"}, "--key-env takes the name of an environment variable, never a key"),
        ({"base_url": "localhost:80"}, "--base-url is where a server answers"),
        ({"base_url": "http://me:secret@host/v1"}, "--base-url must hold no password"),
        ({"base_url": "http://host/v1?key=secret"}, "--base-url must hold no password or key"),
        ({"model": "anthropic:x"}, "set ANTHROPIC_BASE_URL"),
        ({"max_turns": 0}, "--max-turns is a whole number from 1"),
        ({"tools": ("a.b",)}, "--tools takes names of functions"),
        ({"tools": ("number",)}, "--tools number: it is no function but int"),
        ({"output_type": "number"}, "--output-type number: number is no type"),
        ({"output_type": "int[str]"}, "--output-type int\\[str\\]: type 'int' is not subscriptable"),
        ({"output_type": "1 +"}, "--output-type names a type"),
        ({"executor": "loop"}, "--executor is for Python bodies"),
        ({"into": "a b"}, "--into needs a variable's name"),
    ],
)
async def test_what_can_never_run_is_refused(server: ModelServer, fields: dict[str, Any], said: str):
    async with running({"number": 1}) as s:
        with pytest.raises(InvalidInput, match=said):
            await s.add(prompt(server, **fields))
        assert s.tasks() == []


@pytest.mark.parametrize("option", ["model", "base_url", "tools", "total_tokens", "max_cost", "system_prompt"])
@pytest.mark.parametrize("runner", ["python", "shell"])
async def test_what_is_for_agents_goes_with_no_other_runner(option: str, runner: str):
    value: Any = {"tools": ("a",), "total_tokens": 1, "max_cost": 1.0}.get(option, "http://x")
    flag = {"system_prompt": "system"}.get(option, option.replace("_", "-"))
    async with running() as s:
        with pytest.raises(InvalidInput, match=f"--{flag} is for agents, and this is a {runner} task"):
            await s.add(Task("a", "1", runner=runner, **{option: value}))


async def test_a_runner_of_the_users_own_is_told_what_was_given():
    seen: list[AgentSpec] = []

    async def run(spec: AgentSpec, text: str, runtime: Runtime, mailbox: Mailbox) -> str:
        seen.append(spec)
        return ""

    async with running(runner=run) as s:
        fields = {"tools": ("a", "b"), "model": "mine", "agent_metadata": {"x": 1}}
        await s.run_once(Task("a", "go", runner="agent", **fields))  # type: ignore[arg-type]
        assert (seen[0].tools, seen[0].metadata) == (("a", "b"), {"model": "mine", "x": 1})


async def test_without_the_extra_the_error_names_it(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    async with running() as s:
        with pytest.raises(InvalidInput, match=r'pip install "car-sched-nb\[agents\]"'):
            await s.add(prompt(server))


async def test_a_task_waits_for_its_key(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    async with running() as s:
        task = await s.add(prompt(server, model="openai:x", base_url=""))
        said = "OPENAI_API_KEY is not set; %env OPENAI_API_KEY=..., or --model local"
        assert s.runners["agent"].missing(task) == said
        assert (await s.run_once("news")).error == said
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
        assert s.runners["agent"].missing(task) is None
        task = await s.add(prompt(server, key_env="MY_KEY"))
        assert s.runners["agent"].missing(task) == "MY_KEY is not set; %env MY_KEY=..., or --model local"
        monkeypatch.setenv("MY_KEY", "sk-2")
        await s.run_once("news")
        await s.run_once(prompt(server, model="any:thing", key_env=""))
        assert server.keys[0] == "sk-2"
        assert server.keys[1] != "sk-1"  # a server of somebody else's is not told OpenAI's
        assert server.requests[1]["model"] == "any:thing"
        assert s.executions("news")[-1].cost is None  # nobody knows what it costs


async def test_a_key_is_masked_wherever_it_comes_back(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    hidden: list[str] = []

    def masked(self: Output, text: str) -> str:
        for value in hidden:
            text = text.replace(value, "***")
        return text

    monkeypatch.setattr(Output, "hide", lambda self, *values: hidden.extend(values))
    monkeypatch.setattr(Output, "masked", masked)
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    server.answers(refuses(401, "Incorrect API key provided: sk-very-secret"))
    async with running({"where": lambda: os.environ["MY_KEY"]}) as s:
        failed = await s.run_once(prompt(server, key_env="MY_KEY", tools=("where",)))
        assert (failed.error, failed.error_type) == (
            f"HTTP 401 from {NAME}: Incorrect API key provided: ***",
            "ModelAuthenticationError",
        )
        server.answers(calls(("where", {})), says("it is sk-very-secret"))
        done = await s.run_once("news")
        assert done.answer == "it is ***"
        sql = "SELECT e.*, o.transcript, o.traceback FROM executions e JOIN outputs o USING (execution_id)"
        assert "***" in str(s.store.rows(sql)) and "sk-very-secret" not in str(s.store.rows(sql))


async def test_a_secret_is_masked_before_its_text_is_cut_or_put_into_one_line(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", "sk-first-part\nsk-second-part")
    whole = "sk-first-part\nsk-second-part"
    server.answers(calls(("long", {})), refuses(400, f"it was {whole}"))
    async with running({"long": lambda: "x" * 150 + whole}) as s:
        failed = await s.run_once(prompt(server, env=("MY_KEY",), tools=("long",)))
        assert failed.error == f"HTTP 400 from {NAME}: it was ***"
        server.answers(says("fine", model=whole))
        assert (await s.run_once("news")).model == "***"
        for sql in ("SELECT * FROM executions", "SELECT * FROM outputs"):
            assert "sk-" not in str(s.store.rows(sql))


async def test_the_model_comes_from_the_surroundings_when_none_is_given(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    async with running() as s:
        s.runners["agent"].default_model = lambda: "openai:theirs"  # type: ignore[attr-defined]
        await s.run_once(prompt(server, model=""))
        monkeypatch.setenv("CAR_MODEL", "openai:mine")
        await s.run_once("news")
        assert [one["model"] for one in server.requests] == ["theirs", "mine"]


async def test_a_local_model_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    from pydantic_ai.models.function import AgentInfo, DeltaToolCalls, FunctionModel

    paths: list[str | None] = []

    async def speak(messages: list[Any], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        yield "small "
        yield "talk"

    def local_model(path: str | None) -> FunctionModel:
        paths.append(path)
        return FunctionModel(stream_function=speak, model_name="small")

    stand_in = ModuleType("car_sched_nb.runners.local")
    stand_in.local_model = local_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "car_sched_nb.runners.local", stand_in)
    async with running() as s:
        done = await s.run_once(Task("a", "hello", runner="agent", model="local", max_cost=0.01))
        await s.run_once(Task("b", "hello", runner="agent", model="local:/x/y.gguf"))
        assert (done.answer, done.model, done.cost) == ("small talk", "small", 0.0)
        assert paths == [None, "/x/y.gguf"]


# Answers


class Offer(BaseModel):
    item: str
    price: float


def _price(offer: "Offer", rebate: float) -> float:
    """What is asked for."""
    return offer.price - rebate


@pytest.mark.parametrize(
    ("output_type", "given", "answer", "result"),
    [
        ("Offer", {"item": "tea", "price": 2.5}, '{"item":"tea","price":2.5}', Offer(item="tea", price=2.5)),
        ("list[Offer]", {"response": []}, "[]", []),
        ("int", {"response": 3}, "3", 3),
        ("bool", {"response": True}, "true", True),
        ("bool | None", {"response": False}, "false", False),
        ("Perhaps", {"item": "tea", "price": 2.5}, '{"item":"tea","price":2.5}', Offer(item="tea", price=2.5)),
    ],
)
async def test_an_answer_fits_the_type_that_was_asked_for(
    server: ModelServer, output_type: str, given: dict[str, Any], answer: str, result: Any
):
    def answered(request: dict[str, Any]) -> Any:
        names = [tool["function"]["name"] for tool in request["tools"]]
        return calls((names[0], given))

    names: dict[str, Any] = {"Offer": Offer, "Perhaps": Offer | None}
    server.answers(answered)
    async with running(names) as s:
        done = await s.run_once(prompt(server, output_type=output_type, into="got"))
        assert (done.error, done.answer, names["got"]) == (None, answer, result)
        assert records.output_text(s.store, done.execution_id).splitlines()[-1] == answer


async def test_a_model_may_say_that_there_is_nothing(server: ModelServer):
    names: dict[str, Any] = {"Offer": Offer, "got": 1}
    server.answers(lambda request: calls((request["tools"][-1]["function"]["name"], {"response": None})))
    async with running(names) as s:
        done = await s.run_once(prompt(server, output_type="Offer | None", into="got"))
        assert (done.error, done.answer, names["got"]) == (None, "null", None)


class Shop:
    """Knows prices."""

    def __init__(self, town: str) -> None:
        self.town = town


@pytest.mark.parametrize(
    ("tool", "given", "known"),
    [
        (partial(_price, rebate=1), {"offer": {"item": "tea", "price": 3}}, "What is asked for."),
        (Shop, {"town": "Rome"}, "Knows prices."),
        (abs, {"x": -2}, "Return the absolute value of the argument."),
    ],
)
async def test_whatever_can_be_called_is_a_tool(server: ModelServer, tool: Any, given: dict[str, Any], known: str):
    server.answers(calls(("tool", given)), says("done"))
    async with running({"tool": tool}) as s:
        done = await s.run_once(prompt(server, tools=("tool",)))
        assert (done.error, done.tool_calls) == (None, 1)
        assert server.requests[0]["tools"][0]["function"]["description"] == known
        assert [one["role"] for one in kept(s, done)["messages"]] == ["user", "call", "result", "assistant"]


async def test_a_tool_that_fails_may_be_tried_again(server: ModelServer):
    tries = 0

    def flaky() -> pd.DataFrame:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ValueError("not yet")
        return pd.DataFrame({"a": [1, 2, 3]})

    server.answers(calls(("flaky", {})), calls(("flaky", {})), says("done"))
    async with running() as s:
        s.infra.tools["flaky"] = flaky
        done = await s.run_once(prompt(server, tools=("flaky",)))
        printed = records.output_text(s.store, done.execution_id).splitlines()
        assert (done.answer, printed[0], printed[2:]) == ("done", "→ flaky()", ["→ flaky()", "← 3 rows", "done"])
        assert printed[1].startswith("← retried: ValueError: not yet")
        assert "| 2 | 3 |" in server.requests[2]["messages"][-1]["content"]


async def test_arguments_that_do_not_fit_are_told_to_the_model(server: ModelServer):
    server.answers(calls(("half", {"of": "x"})), calls(("half", "{broken")), says("I give up"))

    def half(of: int) -> float:
        return of / 2

    async with running({"half": half}) as s:
        done = await s.run_once(prompt(server, tools=("half",)))
        assert (done.answer, done.turns) == ("I give up", 3)
        assert "valid integer" in server.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("reply", "error_type", "said"),
    [
        (says(finish="content_filter"), "ContentFilterError", "the provider's content filter stopped it"),
        (says(), "UnexpectedModelBehavior", "Exceeded maximum output retries"),
        (refuses(404, "no such model"), "ModelNotFoundError", f"HTTP 404 from {NAME}: no such model"),
    ],
)
async def test_a_providers_error_is_one_clear_line(server: ModelServer, reply: Any, error_type: Any, said: Any):
    server.answers(reply)
    async with running() as s:
        failed = await s.run_once(prompt(server))
        assert failed.error_type == error_type
        assert said in (failed.error or "") and "\n" not in (failed.error or "")


async def test_an_answer_that_is_no_json_is_a_clear_error(server: ModelServer):
    server.answers(base_reply := says(body="<html>not a model</html>"))
    assert base_reply.status == 200
    async with running() as s:
        failed = await s.run_once(prompt(server))
        assert failed.status is Status.FAILED
        assert "\n" not in (failed.error or "\n")


async def test_nobody_at_the_address_is_a_clear_error():
    async with running() as s:
        failed = await s.run_once(Task("a", "x", runner="agent", model="m", base_url="http://127.0.0.1:9/v1"))
        assert failed.error_type == "ModelConnectionError"
        assert "onnection" in (failed.error or "")


# Budgets


async def test_turns_are_limited(server: ModelServer):
    server.answers(calls(("look", {})))
    async with running({"look": lambda: "nothing"}) as s:
        failed = await s.run_once(prompt(server, tools=("look",), max_turns=2))
        assert failed.error == "it was not done after 2 turns; allow more with --max-turns"
        assert (failed.error_type, failed.turns, failed.tokens_in) == ("UsageLimitExceeded", 2, 20)


async def test_a_run_that_passes_its_tokens_is_ended(server: ModelServer):
    server.answers(calls(("look", {}), tokens=(900, 200)))
    looked: list[int] = []
    async with running({"look": lambda: looked.append(1)}) as s:
        failed = await s.run_once(prompt(server, tools=("look",), total_tokens=1000))
        assert failed.error == "the run used 1,100 tokens of --total-tokens 1,000"
        assert (failed.error_type, failed.tokens_in, failed.tokens_out) == ("BudgetExceeded", 900, 200)
        assert (looked, len(server.requests)) == ([], 1)
        assert kept(s, failed)["messages"][-1]["tool"] == "look"


async def test_a_run_that_passes_its_cost_is_ended(server: ModelServer):
    server.answers(says("dear", tokens=(1_000_000, 0)))
    async with running() as s:
        failed = await s.run_once(prompt(server, max_cost=0.1))
        assert (failed.error, failed.cost) == ("the run cost $0.250000 of --max-cost $0.1", 0.25)
        assert (failed.error_type, failed.answer) == ("BudgetExceeded", "dear")
        failed = await s.run_once(prompt(server, max_cost=0.1, model="whose"))
        assert "nobody knows the price of whose" in (failed.error or "")
        assert (failed.error_type, len(server.requests)) == ("UnknownPrice", 1)


async def test_a_days_tokens_used_up_skip_the_slots_until_tomorrow(server: ModelServer):
    server.answers(says("x", tokens=(60, 0)))
    clock = clock_at()  # 09:00 UTC
    async with running(clock=clock) as s:
        await s.add(prompt(server, trigger=Trigger.INTERVAL, schedule="1h", daily_tokens=100))
        await s.wait()
        await advance(s, clock, timedelta(hours=5))
        assert short(s.executions("news")) == [("completed", "0", 1), ("failed", "1", 1), ("skipped", "2", 4)]
        _, over, gap = s.executions("news")
        assert (over.error_type, over.error) == ("BudgetExceeded", "120 tokens are used today of --daily-tokens 100")
        said = "120 tokens are used today of --daily-tokens 100; it runs again tomorrow"
        assert (gap.reason, gap.error) == ("budget", said)
        by_hand = await s.run_now("news")
        assert (by_hand.status, by_hand.reason, by_hand.error) == ("skipped", "budget", said)
        with pytest.raises(InvalidInput, match="120 tokens are used today"):
            await s.backfill("news")
        await advance(s, clock, DAY)
        assert s.executions("news")[4].status == "completed"


async def test_a_slot_beyond_the_days_tokens_replaces_nothing(server: ModelServer):
    server.answers(calls(("find", {}), tokens=(100, 0)), says("x", hold=0, tokens=(0, 0)))
    every = {"trigger": Trigger.INTERVAL, "schedule": "1h", "overlap": "replace"}
    clock = clock_at()
    async with running({"find": lambda: "it"}, clock=clock) as s:
        await s.add(prompt(server, daily_tokens=100, tools=("find",), **every))
        await come_true(server.held.is_set)
        clock.set(clock.now_us() + timedelta(hours=1) // timedelta(microseconds=1))
        await anyio.wait_all_tasks_blocked()
        server.let_go()
        await come_true(lambda: len(s.executions("news")) == 2)
        assert [(str(one.status), one.reason) for one in s.executions("news")] == [
            ("completed", None),
            ("skipped", "budget"),
        ]


async def test_a_retry_does_not_start_beyond_the_days_tokens(server: ModelServer):
    server.answers(says("x", tokens=(120, 0)))
    clock = clock_at()
    async with running(clock=clock) as s:
        await s.add(prompt(server, trigger=Trigger.ONCE, daily_tokens=100, retries=3, retry_delay="1s"))
        await pass_time(MINUTE, s)
        assert [(one.attempt, str(one.status), one.reason) for one in s.executions("news")] == [
            (1, "failed", None),
            (2, "skipped", "budget"),
        ]
        assert len(server.requests) == 1


# Transcripts


async def test_a_transcript_has_what_was_said_however_it_ended(server: ModelServer):
    server.answers(calls(("add", {"a": 1, "b": 2})), says("thr", "ee", hold=1))
    async with running({"add": lambda a, b: a + b, "n": 1}) as s:
        await s.add(prompt(server, "add {n} and 2", tools=("add",), system_prompt="Be brief."))
        await s.run_now("news")
        await come_true(lambda: s.live("news")[0].output.text().endswith("thr"))
        await s.cancel("news")
        stopped = s.executions("news")[-1]
        assert (stopped.status, stopped.turns, stopped.tool_calls, stopped.tokens_in) == ("cancelled", 2, 1, 10)
        found = kept(s, stopped)
        assert (found["model"], found["system"], found["prompt"]) == (NAME, "Be brief.", "add 1 and 2")
        assert found["messages"][2:] == [
            {"role": "call", "tool": "add", "arguments": {"a": 1, "b": 2}},
            {"role": "result", "tool": "add", "text": "3"},
            {"role": "assistant", "text": "thr", "interrupted": True},
        ]


@pytest.mark.parametrize("count", [3, 3000])
def test_a_transcript_is_bounded_and_says_what_is_missing(count: int):
    messages = [{"role": "user", "text": "x" * 3_000_000 if count == 3 else f"{n} " + "é" * 900} for n in range(count)]
    text = transcript.as_json("m", "s", "p", messages, str)
    assert len(text.encode()) <= transcript.MOST
    assert "not shown" in text
    shown = json.loads(text)["messages"]
    assert shown[0]["text"][:2] == messages[0]["text"][:2] and shown[-1]["text"][:4] == messages[-1]["text"][:4]


def test_a_transcript_shows_hostile_text_as_text():
    said = [{"role": "<b>", "text": "<script>alert(1)</script>"}, {"role": "call", "tool": "<i>", "arguments": "<u>"}]
    shown = Transcript("id", json.dumps({"model": "<m>", "messages": said}))
    page = shown._repr_html_()
    assert (
        not {"<script", "<b>&", "<i>", "<u>", "<m>"} & {part for part in page.split() if part} and "<script" not in page
    )
    assert "&lt;script&gt;" in page and "→ <i>(<u>)" in repr(shown)
    assert repr(Transcript("id", "just words")).endswith("note: just words")


def test_a_turn_that_only_calls_a_tool_is_no_empty_line_of_a_transcript():
    said = [{"role": "assistant", "text": ""}, {"role": "call", "tool": "f", "arguments": {}}]
    assert repr(Transcript("id", json.dumps({"messages": said}))).splitlines()[1:] == ["→ f()"]


async def test_figures_that_a_runner_of_the_users_own_keeps_are_kept_with_its_transcript():
    async def run(spec: AgentSpec, text: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer="x", transcript='{"messages": []}')

    async with running(runner=run) as s:
        done = await s.run_once(Task("a", "go", runner="agent"))
        assert kept(s, done) == {"messages": []}
        assert base.field_names("{a} {{b}} {a} {c}") == ["a", "c"]
