"""Texts as the dashboard shows them: clean, and clipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from car_sched_nb.engine.edges import error_text
from car_sched_nb.output import clean, clip

LINE = 300
"""Characters of a line in a row."""


def said(given: Any, most: int = LINE) -> str | None:
    """Return a short text that a page said, such as an id; None for anything else."""
    return given if isinstance(given, str) and 0 < len(given) <= most and clean(given) == given else None


def first_line(error: str | None, error_type: str | None, answer: str | None) -> str:
    """Return the first line of an error with its type, else of an answer."""
    return clip((error_text(error, error_type) or answer or "").strip().partition("\n")[0], LINE)


def from_home(path: str) -> str:
    """Return a path with `~` for the home folder."""
    home = str(Path.home())
    return clean("~" + path.removeprefix(home) if path.startswith(home + os.sep) else path)
