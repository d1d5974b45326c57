"""One agent's talk with its model, by pydantic-ai; imported and run in the agents' thread only."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from pydantic_ai import Agent, Tool, UsageLimits, exceptions
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage, RunUsage
from pydantic_core import to_json

from car_sched_nb.errors import BodyFailed
from car_sched_nb.output import Output
from car_sched_nb.runners import transcript
from car_sched_nb.runners.base import AgentOutput, Work
from car_sched_nb.runners.budget import Budget, Used
from car_sched_nb.runners.tools import RETRIES, Toolbox
from car_sched_nb.runners.user import AgentFailed

__all__ = ["Conversation", "Tool"]

_LINE = 160
"""Characters of a tool's call or result in the output."""


class Conversation:
    """A run of an agent: what it is asked, what is shown of it while it goes on, and what is kept of it.

    Parameters
    ----------
    local
        The model runs in this process and costs nothing.
    """

    def __init__(self, work: Work, model: Model, box: Toolbox, system: str, prompt: str, *, local: bool) -> None:
        self._work = work
        self._model = model
        self._box = box
        self._system, self._prompt = system, prompt
        self._local = local
        self._used = Used(0.0 if local else None)
        self._budget = Budget(work.task, work.tokens_today)
        self._shown = _Shown(work.runtime.output)
        self._messages: list[Any] = []
        self._tools_used: dict[str, None] = {}
        self._model_name: str | None = None

    async def hold(self, tools: list[Any], output_type: Any) -> tuple[AgentOutput, Any]:
        """Talk until the model has answered.

        Raises
        ------
        AgentFailed
            With what was used, and the transcript, in one line of words.
        """
        try:
            try:
                result = await self._held(tools, output_type)
            finally:
                self._work.note(self._output(""))
        except Exception as error:
            raise self._failed(error) from error
        answer = result if isinstance(result, str) else to_json(result, fallback=str).decode()
        if not isinstance(result, str):
            self._shown.line(answer)
        return self._output(answer), result

    async def _held(self, tools: list[Any], output_type: Any) -> Any:
        self._budget.check(self._used)
        if self._work.task.max_cost and not self._local:
            self._check_price()
        agent: Agent[Any, Any] = Agent(
            self._model,
            tools=tools,
            output_type=output_type,
            system_prompt=self._system or (),
            retries={"tools": RETRIES, "output": RETRIES},
            name=self._work.task.name,
        )
        limits = UsageLimits(request_limit=self._work.task.max_turns, total_tokens_limit=self._budget.most_tokens())
        run = None
        try:
            async with _opened(self._model), agent.iter(self._prompt, usage_limits=limits) as run:
                async for node in run:
                    if Agent.is_model_request_node(node):
                        await self._request(run, node)
                    elif Agent.is_call_tools_node(node):
                        self._take(run)
                        self._budget.check(self._used)
                        async with node.stream(run.ctx) as events:
                            async for event in events:
                                self._show_tool(event)
        finally:
            if run is not None:
                self._take(run)  # only now it has what an answer that was cut off had said
        assert run.result is not None
        return run.result.output

    def _check_price(self) -> None:
        """Refuse a limit on the cost of a model whose price nobody knows."""
        asked = ModelResponse(
            parts=[],
            usage=RequestUsage(input_tokens=1, output_tokens=1),
            model_name=self._model.model_name,
            provider_name=self._model.system,
            provider_url=self._model.base_url,
        )
        try:
            asked.cost()
        except (LookupError, ValueError):
            raise BodyFailed(
                f"nobody knows the price of {self._model.model_name}, so --max-cost cannot be kept; "
                "use --total-tokens instead",
                "UnknownPrice",
            ) from None

    async def _request(self, run: Any, node: Any) -> None:
        """Ask the model once, and show its words while they come."""
        self._used.turns += 1
        stream = None
        try:
            async with node.stream(run.ctx) as stream:
                async for event in stream:
                    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                        self._shown.text(event.part.content)
                    elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                        self._shown.text(event.delta.content_delta)
        except exceptions.UsageLimitExceeded:
            self._used.turns -= stream is None  # it was not asked at all
            raise
        finally:
            if stream is not None:
                self._count(stream.usage)  # of an answer that was cut off, the run itself knows nothing
            self._shown.end_line()

    def _take(self, run: Any) -> None:
        """Take over what the run has said and used until now."""
        self._messages = run.all_messages()
        self._count(run.usage)
        answered = [one.model_name for one in self._messages if isinstance(one, ModelResponse) and one.model_name]
        self._model_name = answered[-1] if answered else self._model_name
        self._work.note(self._output("", transcript_too=False))

    def _count(self, usage: RunUsage) -> None:
        used = self._used
        used.tokens_in = max(used.tokens_in, usage.input_tokens)
        used.tokens_out = max(used.tokens_out, usage.output_tokens)
        if usage.cost is not None and not self._local:
            used.cost = float(usage.cost)

    def _show_tool(self, event: Any) -> None:
        if isinstance(event, FunctionToolCallEvent):
            self._used.tool_calls += 1
            self._tools_used[event.part.tool_name] = None
            given = transcript.arguments(event.part)
            listed = ", ".join(f"{k}={v!r}" for k, v in given.items()) if isinstance(given, dict) else str(given)
            self._shown.line(f"→ {event.part.tool_name}({listed})")
        elif isinstance(event, FunctionToolResultEvent):
            brief = event.part.metadata if isinstance(event.part.metadata, str) else None
            failed = "" if event.part.outcome == "success" else f"{event.part.outcome}: "
            self._shown.line(f"← {failed}{transcript.result_text(event.part) if brief is None else brief}")

    def _output(self, answer: str, *, transcript_too: bool = True) -> AgentOutput:
        used, masked = self._used, self._work.runtime.output.masked
        kept = None
        name = masked(self._model_name or self._model.model_name)
        if transcript_too:
            told = transcript.told(self._messages)
            kept = transcript.as_json(name, self._system, self._prompt, told, masked)
        return AgentOutput(
            name=self._work.task.name,
            answer=masked(answer),
            turns=used.turns,
            tool_calls=used.tool_calls,
            tokens_in=used.tokens_in if used.tokens else None,
            tokens_out=used.tokens_out if used.tokens else None,
            cost=used.cost if used.tokens or self._local else None,
            model=name,
            tools_used=tuple(self._tools_used),
            transcript=kept,
        )

    def _failed(self, error: Exception) -> AgentFailed:
        """Return an error as one line of words, with what was used until then."""
        passed = self._budget.passed(self._used)
        if isinstance(error, exceptions.UsageLimitExceeded) and passed:
            said, kind, trace = passed, "BudgetExceeded", None
        elif isinstance(error, exceptions.UnexpectedModelBehavior) and (tool := self._tired_of(error)):
            said, kind, trace = str(tool), tool.error_type, tool.traceback
        else:
            said, kind, trace = _in_words(error, self._work)
        masked = self._work.runtime.output.masked
        failed = AgentFailed(self._output(self._shown.last))
        failed.args = (masked(said),)
        failed.error_type, failed.traceback = kind, trace
        return failed

    def _tired_of(self, error: exceptions.UnexpectedModelBehavior) -> BodyFailed | None:
        """Return the last failure of the tool that the model has tried too often, if that is the error."""
        name = next((name for name in self._box.failed if f"{name!r}" in error.message), None)
        if name is None or "max retries" not in error.message:
            return None
        failed = self._box.failed[name]
        said = str(failed).replace(" failed:", f" failed {RETRIES + 1} times:", 1)
        return BodyFailed(said, failed.error_type, failed.traceback)


class _Shown:
    """What is shown in the output: the model's words as they come, and a line for each call of a tool."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._in_line = False
        self.last = ""
        """The words of the newest answer."""

    def text(self, text: str) -> None:
        if not self._in_line:
            self.last = ""
        if text:
            self._in_line = True
            self.last += text
            self._output.write(text)

    def end_line(self) -> None:
        if self._in_line:
            self._output.write("\n")
            self._in_line = False

    def line(self, text: str) -> None:
        self.end_line()
        one = " ".join(self._output.masked(text).split())  # first: half a secret, or one in other words, is not known
        self._output.write((one if len(one) <= _LINE else f"{one[: _LINE - 3]}...") + "\n")


@asynccontextmanager
async def _opened(model: Model) -> AsyncIterator[None]:
    """Hold a model's connections open; they are closed also in the middle of a cancellation."""
    stack = AsyncExitStack()
    await stack.enter_async_context(model)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await stack.aclose()


def _in_words(error: Exception, work: Work) -> tuple[str, str, str | None]:
    """Return (message, type, traceback) of what went wrong: the status, and the provider's own text."""
    if isinstance(error, BodyFailed):
        return str(error), error.error_type, error.traceback

    def one_line(text: str) -> str:  # masked first: a secret of several lines is not known in one
        return re.sub(r"\s+", " ", work.runtime.output.masked(text)).strip()

    if isinstance(error, exceptions.UsageLimitExceeded):
        said = f"it was not done after {work.task.max_turns} turns; allow more with --max-turns"
        return (said if "request_limit" in error.message else one_line(error.message)), _kind(error), None
    if isinstance(error, exceptions.ModelHTTPError):
        return (
            f"HTTP {error.status_code} from {error.model_name}: {one_line(_provider_text(error.body))}",
            _kind(error),
            None,
        )
    if isinstance(error, exceptions.ContentFilterError):
        return f"the provider's content filter stopped it: {one_line(error.message)}", _kind(error), None
    if isinstance(error, exceptions.AgentRunError):
        cause = error.__cause__
        more = f" ({one_line(str(cause))})" if cause is not None and str(cause) not in error.message else ""
        return one_line(error.message) + more, _kind(error), None
    if isinstance(error, exceptions.UserError):
        return one_line(str(error)), _kind(error), None
    raise error


def _provider_text(body: object) -> str:
    inner = body.get("error", body) if isinstance(body, dict) else body
    text = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(text) if text else "no text"


def _kind(error: Exception) -> str:
    """Return the most telling public name of an error's class."""
    public = [one.__name__ for one in type(error).__mro__ if not one.__name__.startswith("_")]
    name = next((name for name in public if name != "ModelHTTPError"), public[0])
    return public[0] if name == "ModelAPIError" else name
