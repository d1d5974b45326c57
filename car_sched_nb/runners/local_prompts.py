"""What a local model is told in one step, and the form that its answer is held to.

A small model calls a tool when examples show it how (measured on SmolLM2-135M: 20 of 20 tools chosen with examples,
13 of 20 with a list of them), and uses the result when question and result are put to it anew, with one example.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    SystemPromptPart,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings, ToolOrOutput
from pydantic_ai.tools import ToolDefinition

from car_sched_nb.errors import InvalidInput
from car_sched_nb.runners.local_schema import Schema, bounded, choice, example, grammar

_CHOOSE = "You turn a question into a tool call, or answer it."
_USE = "Answer the question with the result, in one short sentence."
_ANSWER_SHOWN = (
    "user Example: Hello, who are you?",
    'assistant {"answer": "Hello! I am your assistant."}',
)
_USE_SHOWN = (
    "user Question: How high is the tower?\nResult of height(name=tower): 52 m",
    "assistant The tower is 52 m high.",
)
_SPECIAL = re.compile(r"<(?=[|/]?\w*\|?>)|<(?=\|)")


class Step(NamedTuple):
    """One request to the engine."""

    messages: list[dict[str, str]]
    grammar: str | None
    chooses: bool
    """The answer is a JSON object with `tool` and `arguments`, or with `answer`."""


class Turn(NamedTuple):
    who: str
    """user, assistant, call, result or retry"""
    text: str
    name: str = ""


def plan(
    messages: Sequence[ModelMessage],
    settings: ModelSettings,
    parameters: ModelRequestParameters,
    *,
    small: bool,
) -> Step:
    """Return the next step of a conversation.

    Parameters
    ----------
    small
        The model is helped along: after a tool's result it answers, instead of calling tools for ever.
    """
    system, turns = _system(messages, parameters), _turns(messages)
    last = max((number for number, turn in enumerate(turns) if turn.who == "user"), default=0)
    known = any(turn.who == "result" for turn in turns[last:])
    tools = _offered(settings, parameters, known=known and small)
    answer = _answer_schema(settings, parameters, tools)
    if tools:
        schema = choice({tool.name: bounded(tool.parameters_json_schema, tool.name) for tool in tools}, answer)
        return Step(_choosing(system, turns, tools, answer), grammar(schema), chooses=True)
    shown = _answering(system, turns, known=known)
    if parameters.output_object is None:
        return Step(shown, None, chooses=False)
    form = json.dumps(example(parameters.output_object.json_schema))
    shown[-1]["content"] += f"\nReply with JSON like {form}"
    assert answer is not None
    return Step(shown, grammar(answer), chooses=False)


def _offered(settings: ModelSettings, parameters: ModelRequestParameters, *, known: bool) -> list[ToolDefinition]:
    """Return the tools of this step; `known`: one has brought its result, and what is wanted now is the answer."""
    chosen = settings.get("tool_choice")
    functions, outputs = list(parameters.declared_function_tools), list(parameters.output_tools)
    if isinstance(chosen, ToolOrOutput):
        functions = [tool for tool in functions if tool.name in chosen.function_tools]
    elif isinstance(chosen, list) and chosen:
        return [tool for tool in (*functions, *outputs) if tool.name in chosen]
    elif chosen == "required":
        return functions
    elif chosen in ("none", []):
        functions = []
    return outputs if known and (outputs or _may_answer(parameters)) else functions + outputs


def _may_answer(parameters: ModelRequestParameters) -> bool:
    return parameters.allow_text_output or parameters.output_object is not None


def _answer_schema(
    settings: ModelSettings, parameters: ModelRequestParameters, tools: Sequence[ToolDefinition]
) -> Schema | None:
    chosen = settings.get("tool_choice")
    forced = chosen == "required" or (isinstance(chosen, list) and bool(chosen))
    if not _may_answer(parameters) or (forced and tools):
        return None
    if parameters.output_object is not None:
        return bounded(parameters.output_object.json_schema, parameters.output_object.name or "the answer")
    return {"type": "string"}  # not bounded: a text that is cut off is a text


# What it reads


def _choosing(
    system: str, turns: Sequence[Turn], tools: Sequence[ToolDefinition], answer: Schema | None
) -> list[dict[str, str]]:
    said = [f"system {system}\n{_CHOOSE}" if system else f"system {_CHOOSE}"]
    if answer is not None and answer.get("type") == "string":
        said += _ANSWER_SHOWN
    elif answer is not None:
        said += ["user Example: Answer.", f"assistant {json.dumps({'answer': example(answer)})}"]
    for tool in tools:
        does = (tool.description or tool.name.replace("_", " ")).strip().partition("\n\n")[0].replace("\n", " ")
        said += [f"user Example: {does}", f"assistant {_call(tool.name, example(tool.parameters_json_schema))}"]
    for turn in turns:
        match turn.who:
            case "user":
                said.append(f"user Question: {turn.text}")
            case "call":
                said.append(f"assistant {_call(turn.name, json.loads(turn.text))}")
            case "assistant":
                said.append(f"assistant {json.dumps({'answer': turn.text})}")
            case "result":
                said.append(f"user Result of {turn.name}: {turn.text}")
            case _:
                said.append(f"user {turn.text}")
    return _joined(said)


def _call(name: str, arguments: Any) -> str:
    return json.dumps({"tool": name, "arguments": arguments})


def _answering(system: str, turns: Sequence[Turn], *, known: bool) -> list[dict[str, str]]:
    """Return the conversation as plain talk, each tool's result put beside the question that it belongs to."""
    said = [f"system {' '.join(filter(None, (system, _USE if known else '')))}"] if system or known else []
    said += _USE_SHOWN if known else ()
    called = ""
    for turn in turns:
        match turn.who:
            case "user":
                said.append(f"user {'Question: ' if known else ''}{turn.text}")
            case "call":
                called = ", ".join(f"{name}={value}" for name, value in json.loads(turn.text).items())
            case "result":
                said.append(f"user Result of {turn.name}({called}): {turn.text}")
            case "assistant":
                said.append(f"assistant {turn.text}")
            case _:
                said.append(f"user {turn.text}")
    return _joined(said)


def _joined(said: Sequence[str]) -> list[dict[str, str]]:
    """Make messages of lines that begin with a role; many templates want the roles to take turns."""
    joined: list[dict[str, str]] = []
    for line in said:
        role, _, text = line.partition(" ")
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += f"\n{text}"
        else:
            joined.append({"role": role, "content": text})
    return joined


# What was said


def _system(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> str:
    parts = [
        part.content
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, SystemPromptPart)
    ]
    if parameters.instruction_parts:
        parts.append(InstructionPart.join(parameters.instruction_parts) or "")
    return _plain("\n".join(filter(None, parts)))


def _turns(messages: Sequence[ModelMessage]) -> list[Turn]:
    turns = []
    for message in messages:
        for part in message.parts:
            match part:
                case UserPromptPart():
                    turns.append(Turn("user", _plain(_text(part))))
                case ToolReturnPart() if part.outcome == "success":
                    turns.append(Turn("result", _plain(part.model_response_str()), part.tool_name))
                case ToolReturnPart():
                    turns.append(Turn("retry", _plain(part.model_response_str()), part.tool_name))
                case ToolCallPart():
                    turns.append(Turn("call", json.dumps(part.args_as_dict()), part.tool_name))
                case TextPart() if part.content:
                    turns.append(Turn("assistant", _plain(part.content)))
                case _ if part.part_kind in ("retry-feedback", "retry-prompt"):
                    turns.append(Turn("retry", _plain(part.model_response())))
                case _:
                    pass  # thoughts, and what concerns other providers
    return turns


def _text(part: UserPromptPart) -> str:
    if isinstance(part.content, str):
        return part.content
    texts = []
    for item in part.content:
        if isinstance(item, str | TextContent):
            texts.append(item if isinstance(item, str) else item.content)
        else:
            raise InvalidInput(f"a local model reads text only, not {type(item).__name__}")
    return "\n".join(texts)


def _plain(text: str) -> str:
    """Return a text in which no model's special token is left: `<|im_end|>` in a prompt would end it."""
    return _SPECIAL.sub("< ", text)
