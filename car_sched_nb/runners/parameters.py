"""Parameters of a notebook: papermill's convention, an injected cell after the one tagged `parameters`."""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Mapping
from typing import Any

from car_sched_nb.errors import BodyFailed

TAG = "parameters"
INJECTED = "injected-parameters"
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def inject(notebook: Any, params: Mapping[str, Any]) -> None:
    """Put an assignment of each parameter after the cell tagged `parameters`, or first when there is none.

    A cell that was injected before is replaced. Text becomes the number or the truth value that the parameters'
    cell assigns to the name; values are written as literals, so that nothing in them is ever code.

    Raises
    ------
    BodyFailed
        For text that cannot be what the cell assigns.
    """
    from nbformat.v4 import new_code_cell

    cells = [cell for cell in notebook.cells if INJECTED not in tags(cell)]
    at = next((index for index, cell in enumerate(cells) if TAG in tags(cell)), None)
    defaults = literals(cells[at].source) if at is not None else {}
    lines = [f"{name} = {literal(typed(name, value, defaults))}" for name, value in params.items()]
    cell = new_code_cell("\n".join(["# Parameters", *lines]), metadata={"tags": [INJECTED]})
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        del cell["id"]
    where = 0 if at is None else at + 1
    notebook.cells = [*cells[:where], cell, *cells[where:]]


def tags(cell: Any) -> list[str]:
    """Return a cell's tags."""
    return list(cell.metadata.get("tags") or ())


def literals(source: str) -> dict[str, Any]:
    """Return what a cell assigns to plain names, where that is a literal."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}  # a magic in it; text stays text
    found: dict[str, Any] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                try:
                    found[target.id] = ast.literal_eval(value)
                except (ValueError, TypeError):
                    continue
    return found


def typed(name: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    """Return a value as the notebook's default of that name has it: only text is changed."""
    if keyword.iskeyword(name):
        raise BodyFailed(f"--param {name}=...: no variable can be called {name!r}", "InvalidInput")
    default = defaults.get(name)
    if not isinstance(value, str) or not isinstance(default, bool | int | float):
        return value
    text = value.strip().lower()
    try:
        if isinstance(default, bool):
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text]
        return float(text) if isinstance(default, float) else _number(text)
    except (KeyError, ValueError):
        kind = type(default).__name__
        raise BodyFailed(
            f"--param {name}={value}: the notebook's own {name} = {default!r} is of type {kind}, and that is none",
            "InvalidInput",
        ) from None


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def literal(value: Any) -> str:
    """Return Python that has this value; params are plain values (JSON)."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)
