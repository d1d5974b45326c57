"""Matplotlib figures of bodies stay with their execution.

pyplot keeps its open figures in one global table, and the inline backend shows all of them under whatever cell ends
next. Here that table is one for the notebook and one for each execution, told apart by the context variable that
also routes prints.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from car_sched_nb.output import Output, current_output

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

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


class _Finder(importlib.abc.MetaPathFinder):
    """Divides the table as soon as matplotlib makes it, whoever imports it first."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _divide(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _divide(module: Any) -> None:
    if not isinstance(module.Gcf.figs, _Figures):
        module.Gcf.figs = _Figures(module.Gcf.figs)


def install() -> Callable[[], None]:
    """Divide pyplot's table of figures, now or when it is made; return what joins it again."""
    finder = _Finder()
    if _TABLE in sys.modules:
        _divide(sys.modules[_TABLE])
    else:
        sys.meta_path.insert(0, finder)

    def restore() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
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
