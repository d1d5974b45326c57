"""A conversation as it is kept: plain words, bounded, without secrets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from car_sched_nb.output import clean, clip

MOST = 1_000_000
"""Bytes of JSON that are kept of a conversation."""
_CLIPS = (100_000, 20_000, 4_000, 1_000)
"""Characters of one text, tried in turn until all of it fits."""


def as_json(
    model: str, system: str, prompt: str, messages: Iterable[dict[str, Any]], masked: Callable[[str], str]
) -> str:
    """Return a conversation as JSON of at most `MOST` bytes; what was left out is said where it stood."""
    whole = _each_text(
        {"model": model, "system": system, "prompt": prompt, "messages": [*messages]}, lambda text: clean(masked(text))
    )
    kept, text = whole, msgspec.json.encode(whole)
    for most in _CLIPS:
        if len(text) <= MOST:
            return text.decode()
        kept = _each_text(whole, functools.partial(clip, most=most))
        text = msgspec.json.encode(kept)
    said = kept["messages"]
    while len(text) > MOST:  # many messages: the first and the last are kept
        third = len(said) // 3
        said = [*said[:third], *said[-third:]]
        note = {"role": "note", "text": f"... {len(whole['messages']) - len(said)} messages not shown ..."}
        text = msgspec.json.encode({**kept, "messages": [*said[:third], note, *said[third:]]})
    return text.decode()


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(key)): _each_text(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(one, change) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else change(str(value))


def told(messages: Iterable[Any]) -> list[dict[str, Any]]:
    """Return pydantic-ai's messages in plain words: who said what, which tool was asked what, and what it gave."""
    return [said for message in messages for part in message.parts if (said := _said(part, message))]


def _said(part: Any, message: Any) -> dict[str, Any] | None:
    kind = part.part_kind
    if kind in ("system-prompt", "user-prompt"):
        return {"role": kind.partition("-")[0], "text": _text(part.content)}
    if kind == "text":
        ended = {"interrupted": True} if getattr(message, "state", "") == "interrupted" else {}
        return {"role": "assistant", "text": part.content, **ended}
    if kind == "thinking":
        return {"role": "thinking", "text": part.content}
    if kind == "tool-call":
        return {"role": "call", "tool": part.tool_name, "arguments": arguments(part)}
    if kind == "tool-return":
        outcome = {} if part.outcome == "success" else {"outcome": part.outcome}
        return {"role": "result", "tool": part.tool_name, "text": result_text(part), **outcome}
    if kind in ("retry-prompt", "retry-feedback"):
        return {"role": "retry", "text": _text(part.content)}
    return {"role": kind, "text": _text(getattr(part, "content", ""))}


def arguments(part: Any) -> Any:
    """Return a tool call's arguments; as they came when they are no JSON."""
    if not isinstance(part.args, str):
        return part.args or {}
    try:
        return msgspec.json.decode(part.args or "{}")
    except msgspec.DecodeError:
        return part.args


def result_text(part: Any) -> str:
    """Return what a tool gave, as the model was told it."""
    return str(part.model_response_str(wrap_if_error=False))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    try:
        return msgspec.json.encode(content).decode()
    except TypeError:
        return str(content)
