"""What is displayed, in the words of Jupyter's messages and of IPython, as an execution keeps it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any


def as_kept(data: Mapping[str, Any], metadata: Any, transient: Mapping[str, Any] | None, update: Any) -> dict[str, Any]:
    """Return what `Output.show` takes, for what a display publisher or a message has."""
    return {
        "bundle": {mime: _plain(value) for mime, value in data.items()},
        "text": str(data.get("text/plain", "")),
        "metadata": metadata or None,
        "display_id": (transient or {}).get("display_id"),
        "update": bool(update),
    }


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def text_of(shell: Any, result: Any) -> str:
    """Return a result as IPython's shell would print it."""
    if shell.display_formatter is None:
        return repr(result)
    formatted, _ = shell.display_formatter.format(result, include={"text/plain"})
    return str(formatted.get("text/plain", repr(result)))
