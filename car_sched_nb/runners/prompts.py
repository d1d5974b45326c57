"""A prompt's `{name}` fields: who fills them, and how a value reads, tables as Markdown."""

from __future__ import annotations

import builtins
import keyword
import sys
from collections.abc import Mapping
from typing import Any

from car_sched_nb.model import Task
from car_sched_nb.output import clean
from car_sched_nb.runners.base import Runtime, field_names, prompt_fields

ROWS = 50
"""Rows of a table that a prompt takes."""
LONGEST = 100_000
"""Characters of a value that a prompt takes."""
_OF_THE_RUN = frozenset({"scheduled_at", "slot", "attempt"})


def missing(task: Task, names: Mapping[str, Any]) -> list[str]:
    """Return the fields of a task's prompts that nobody fills.

    A builtin's or keyword's name is no field unless somebody defines it: `/users/{id}` is text.
    """
    known = {*task.params, *_OF_THE_RUN, *task.after.split()}
    fields = field_names(f"{task.prompt}\n{task.system_prompt}")
    return [name for name in fields if name not in known and name not in names and not _is_text(name)]


def _is_text(name: str) -> bool:
    return hasattr(builtins, name) or keyword.iskeyword(name)


def filled(text: str, runtime: Runtime, names: Mapping[str, Any]) -> str:
    """Fill the fields of a prompt: parameters come first, then the run's own words, upstream answers, the notebook."""
    fields = field_names(text)
    if not fields:
        return prompt_fields(text, {})
    own = {name: getattr(runtime, name) for name in _OF_THE_RUN}
    own["scheduled_at"] = runtime.scheduled_at.isoformat()
    answers = {name: one.answer for name, one in runtime.upstream.items()}
    values: dict[str, str] = {}
    for name in fields:
        for source in (runtime.params, own, answers, names):
            if name in source:
                values[name] = as_text(source[name])
                break
    return prompt_fields(text, values)


def as_text(value: Any) -> str:
    """Return a value as a prompt has it: a DataFrame or Series as Markdown, anything else by `str`; clipped."""
    text = clean(markdown(value) if is_table(value) else str(value))
    if len(text) > LONGEST:
        return f"{text[:LONGEST]}\n... {len(text) - LONGEST:,} more characters are not shown ..."
    return text


def is_table(value: Any) -> bool:
    """Tell whether a value is a DataFrame or Series; there can only be one when somebody has imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series)


def markdown(frame: Any) -> str:
    """Return the first `ROWS` rows of a table as Markdown, its index first, with the total stated."""
    if frame.ndim == 1:
        frame = frame.to_frame("value" if frame.name is None else frame.name)
    first = frame.iloc[:ROWS]
    index = ["" if name is None else name for name in frame.index.names]
    heads = [*index, *frame.columns]
    parts = (first.index.to_frame(index=False), first)
    rows = zip(*(_cells(part.iloc[:, n]) for part in parts for n in range(part.shape[1])), strict=True)
    lines = [_line(heads), _line(["---"] * len(heads)), *map(_line, rows)]
    total, shown = len(frame), len(first)
    lines += ["", f"{total:,} row{'s' * (total != 1)}" + (f", the first {shown} are shown" if shown < total else "")]
    return "\n".join(lines)


def _cells(column: Any) -> list[str]:
    return ["" if gone else str(value) for value, gone in zip(column, column.isna(), strict=True)]


def _line(cells: Any) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "<br>")
