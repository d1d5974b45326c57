"""Matplotlib figures of bodies stay with their execution.

pyplot keeps its open figures in one global table, and the inline backend shows all of them under whatever cell ends
next. Here that table is one for the notebook and one for each execution, told apart by the context variable that
also routes prints.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from car_sched_nb.imported import when_imported
from car_sched_nb.output import Output, current_output

_TABLE = "matplotlib._pylab_helpers"


class _Figures:
    """The table of open figures, by who asks."""

    def __init__(self, notebook: OrderedDict[int, Any]) -> None:
        self.notebook = notebook

    def _mine(self) -> OrderedDict[int, Any]:
        output = current_output.get()
        if output is None:
            return self.notebook
        if output.figures is None:
            output.figures = OrderedDict()
        return output.figures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mine(), name)

    def __len__(self) -> int:
        return len(self._mine())

    def __contains__(self, number: object) -> bool:
        return number in self._mine()

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine())

    def __reversed__(self) -> Iterator[int]:
        yield from reversed(self._mine())

    def __getitem__(self, number: int) -> Any:
        return self._mine()[number]

    def __setitem__(self, number: int, manager: Any) -> None:
        self._mine()[number] = manager

    def __delitem__(self, number: int) -> None:
        del self._mine()[number]


def _divide(module: Any) -> None:
    if not isinstance(module.Gcf.figs, _Figures):
        module.Gcf.figs = _Figures(module.Gcf.figs)


def install() -> Callable[[], None]:
    """Divide pyplot's table of figures, now or when it is made; return what joins it again."""
    forget = when_imported(_TABLE, _divide)

    def restore() -> None:
        forget()
        module: Any = sys.modules.get(_TABLE)
        if module is not None and isinstance(module.Gcf.figs, _Figures):
            module.Gcf.figs = module.Gcf.figs.notebook

    return restore


def show_and_close() -> None:
    """Keep the figures that an execution left open with its output; called in its own context, at its end."""
    output: Output | None = current_output.get()
    if output is None or not output.figures:
        return
    from IPython.display import display

    gcf: Any = sys.modules[_TABLE].Gcf
    for manager in gcf.get_all_fig_managers():
        display(manager.canvas.figure)  # type: ignore[no-untyped-call]
    gcf.destroy_all()
