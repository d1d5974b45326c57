"""A kept conversation, to be read in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import msgspec

_STYLE = "white-space:pre-wrap;margin:0 0 .5em;padding:.3em .6em;border-left:3px solid"


class Transcript:
    """What an agent was asked, what it and its tools said, in order.

    Attributes
    ----------
    model, system, prompt
        The model, and the prompts with their fields filled.
    messages
        Dicts with a `role`: system, user, assistant, thinking, call (`tool`, `arguments`), result (`tool`, `text`),
        retry, note.
    """

    def __init__(self, execution_id: str, kept: str) -> None:
        self.execution_id = execution_id
        found = _decoded(kept)
        self.model = str(found.get("model", ""))
        self.system = str(found.get("system", ""))
        self.prompt = str(found.get("prompt", ""))
        self.messages: list[dict[str, Any]] = [one for one in found.get("messages", []) if isinstance(one, dict)]

    def _said(self) -> Iterator[tuple[str, str]]:
        """Yield (who, what) of each message."""
        for one in self.messages:
            role, tool = str(one.get("role", "?")), str(one.get("tool", ""))
            if role == "call":
                given = one.get("arguments", {})
                listed = ", ".join(f"{k}={v!r}" for k, v in given.items()) if isinstance(given, dict) else str(given)
                yield "→", f"{tool}({listed})"
            elif role == "result":
                outcome = f" {one['outcome']}" if one.get("outcome") else ""
                yield f"← {tool}{outcome}", str(one.get("text", ""))
            elif one.get("text") or role != "assistant":  # a turn that only calls a tool says nothing itself
                yield role + (" (interrupted)" if one.get("interrupted") else ""), str(one.get("text", ""))

    def __repr__(self) -> str:
        head = f"<transcript of {self.execution_id}, {self.model or 'no model'}>"
        return "\n".join([head, *(f"{who}: {what}" if who != "→" else f"→ {what}" for who, what in self._said())])

    def _repr_html_(self) -> str:
        # Each word of it may come from a stranger: a page that a tool has read, a model that was talked over.
        parts = [
            f'<div style="{_STYLE}"><b>{html.escape(who)}</b> {html.escape(what)}</div>' for who, what in self._said()
        ]
        head = html.escape(f"{self.execution_id}, {self.model or 'no model'}")
        return f'<div><div style="opacity:.7;margin-bottom:.5em">{head}</div>{"".join(parts)}</div>'


def _decoded(kept: str) -> dict[str, Any]:
    """Return what is kept; a runner of the user's own may have kept any text."""
    try:
        found = msgspec.json.decode(kept)
    except msgspec.DecodeError:
        found = kept
    if isinstance(found, list):
        return {"messages": found}
    return found if isinstance(found, dict) else {"messages": [{"role": "note", "text": str(found)}]}
