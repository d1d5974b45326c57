"""Texts as the dashboard shows them: clean, and clipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from car_sched_nb.output import clean, clip

LINE = 300
"""Characters of a line in a row."""

_WORDED = ("BodyFailed", "ExitCode", "SIG", "Interrupted")  # what begins so says a sentence already


def said(given: Any, most: int = LINE) -> str | None:
    """Return a short text that a page said, such as an id; None for anything else."""
    return given if isinstance(given, str) and 0 < len(given) <= most and clean(given) == given else None


def first_line(error: str | None, error_type: str | None, answer: str | None) -> str:
    """Return the first line of an error with its type, without which a KeyError's says nothing, else of an answer."""
    text = error or ""
    if text and error_type not in (None, text) and not (error_type or "").startswith(_WORDED):
        text = f"{error_type}: {text}"
    return clip((text or answer or "").strip().partition("\n")[0], LINE)


def from_home(path: str) -> str:
    """Return a path with `~` for the home folder."""
    home = str(Path.home())
    return clean("~" + path.removeprefix(home) if path.startswith(home + os.sep) else path)
