"""Libraries that draw by ways of their own: tqdm, rich, and the Output widget of ipywidgets.

In a notebook they use widgets and threads, and both would tell the front end to put the output of whatever cell runs
somewhere else. In a body they write where its prints go. Cells are given what they had.
"""

from __future__ import annotations

import contextvars
import functools
import html
import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import msgspec

from car_sched_nb.imported import when_imported
from car_sched_nb.notebook.patches import Patches
from car_sched_nb.notebook.redirect import Redirected
from car_sched_nb.output import Output, Routed, Stream, current_output
from car_sched_nb.pieces import pieces
from car_sched_nb.returns import plain

_FILE = 4  # where tqdm takes it, among its arguments

_console: ContextVar[tuple[Output, Any] | None] = ContextVar("car_rich_console", default=None)


def install() -> Callable[[], None]:
    """Make them write where their author's prints go, now or when they are imported; return what ends that."""
    patches = Patches()
    forget = [
        when_imported("tqdm.std", lambda module: _bind_bars(module, patches)),
        when_imported("tqdm.notebook", lambda module: _bars_as_text(module, patches)),
        when_imported("rich", lambda module: _own_consoles(module, patches)),
        when_imported("rich.console", lambda module: _in_a_notebook(module, patches)),
        when_imported("rich.live", lambda module: _own_live_displays(module, patches)),
        when_imported("rich.progress", lambda module: _own_thread(module._TrackThread, patches)),  # noqa: SLF001
        when_imported("ipywidgets.widgets.widget_output", lambda module: _regions_for(module, patches)),
    ]

    def restore() -> None:
        for one in forget:
            one()
        patches.take_back()

    return restore


def _bind_bars(module: Any, patches: Patches) -> None:
    """Bind a bar to its author's output: tqdm's own thread and the bars of others write into it too."""
    begin = module.tqdm.__init__

    @functools.wraps(begin)
    def init(self: Any, *args: Any, **options: Any) -> None:
        output = current_output.get()
        if output is not None and len(args) <= _FILE:
            file = options.get("file")
            if file is None or isinstance(file, Routed):
                options["file"] = Stream(output, "stdout" if file is sys.stdout else "stderr")
        begin(self, *args, **options)

    def free_line(cls: Any, instance: Any = None) -> int:
        # Lines are counted from the first bar of the same author, not of all.
        others = [one for one in cls._instances if one is not instance and hasattr(one, "pos")]
        output = current_output.get()
        taken = {int(abs(one.pos)) for one in others if getattr(one, "_car_output", None) is output}
        if instance is not None:
            instance._car_output = output  # noqa: SLF001 - a name of ours on it
        return next(line for line in range(len(taken) + 1) if line not in taken)

    patches.put(module.tqdm, "__init__", init)
    patches.put(module.tqdm, "_get_free_pos", classmethod(free_line))


def _bars_as_text(module: Any, patches: Patches) -> None:
    """Give a body that asks for the notebook's bar the one of text."""
    bar = module.tqdm_notebook
    make = bar.__new__

    def new(cls: Any, *args: Any, **options: Any) -> Any:
        if current_output.get() is None:
            return make(cls, *args, **options)
        from tqdm.asyncio import tqdm_asyncio

        options.pop("display", None)
        return tqdm_asyncio(*args, **options)  # not one of `cls`, so that `__init__` is not called

    patches.put(bar, "__new__", new)


def _own_consoles(module: Any, patches: Patches) -> None:
    """Give each execution a console: on a common one the bars of two would be drawn together."""
    common = module.get_console

    @functools.wraps(common)
    def get_console() -> Any:
        output = current_output.get()
        if output is None:
            return common()
        mine = _console.get()
        if mine is None or mine[0] is not output:
            from rich.console import Console

            mine = (output, Console())
            _console.set(mine)
        return mine[1]

    for name, one in list(sys.modules.items()):  # those that have imported it by its name
        if name.partition(".")[0] == "rich" and vars(one).get("get_console") is common:
            patches.put(one, "get_console", get_console)


def _in_a_notebook(module: Any, patches: Patches) -> None:
    """Draw in a body as in a cell; rich finds out by a builtin that is there while a cell runs."""
    found = module._is_jupyter  # noqa: SLF001 - it has no public name
    patches.put(module, "_is_jupyter", lambda: current_output.get() is not None or found())


def _own_thread(thread: Any, patches: Patches) -> None:
    """Let a thread that draws a live display draw it where its author writes."""
    begin = thread.start

    def start(self: Any) -> None:
        if current_output.get() is not None:
            self.run = functools.partial(contextvars.copy_context().run, self.run)
        begin(self)

    patches.put(thread, "start", start)


def _own_live_displays(module: Any, patches: Patches) -> None:
    _own_redirection(module.Live, patches)
    _own_thread(module._RefreshThread, patches)  # noqa: SLF001 - it has no public name


def _own_redirection(live: Any, patches: Patches) -> None:
    """Keep what a live display does to `sys.stdout` to its author: to a cell; a body's prints are its own already."""
    redirect = live._enable_redirect_io  # noqa: SLF001 - it has no public name

    def enable(self: Any) -> None:
        if current_output.get() is not None:
            return
        before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        redirect(self)
        for name, stream in before.items():
            if getattr(sys, name) is not stream:
                setattr(sys, name, Redirected(getattr(sys, name), stream))

    patches.put(live, "_enable_redirect_io", enable)


class Region(Output):
    """What an Output widget of a body holds: a display of the execution, which later ones replace."""

    def __init__(self, outer: Output, display_id: str) -> None:
        super().__init__()
        self.outer = outer
        self.display_id = display_id
        if outer.figures is not None:
            self.figures = outer.figures

    def bundle(self) -> tuple[dict[str, str], str]:
        """Return what it shows, as a MIME bundle and as text."""
        kept = self.kept()
        text = plain(kept.text).strip("\n") if kept else ""
        if kept is None or kept.displays is None:
            return {"text/plain": text}, text
        shown = msgspec.json.decode(kept.displays)
        parts = [
            _as_html(one.text if one.display is None else shown[one.display])
            for one in pieces(kept.text, kept.marks, len(shown))
            if one.display is not None or one.text.strip()
        ]
        return {"text/plain": text, "text/html": "".join(parts)}, text


def _as_html(shown: str | dict[str, Any]) -> str:
    if isinstance(shown, dict):
        for mime in ("text/html", "image/svg+xml"):
            if mime in shown:
                return f"<div>{shown[mime]}</div>"
        if "image/png" in shown:
            return f'<img src="data:image/png;base64,{html.escape(str(shown["image/png"]))}">'
        shown = str(shown.get("text/plain", ""))
    return f"<pre>{html.escape(plain(shown))}</pre>"


_regions: weakref.WeakValueDictionary[str, Region] = weakref.WeakValueDictionary()


def region_of(model_id: str) -> Region | None:
    """Return what an Output widget holds that a body has used."""
    return _regions.get(model_id)


def _regions_for(module: Any, patches: Patches) -> None:
    enter, leave = module.Output.__enter__, module.Output.__exit__

    def entered(self: Any) -> Any:
        outer = current_output.get()
        if outer is None:
            return enter(self)
        mine = _regions.get(self.model_id)
        if mine is None or mine.outer is not outer:
            mine = self.car_region = _regions[self.model_id] = Region(outer, self.model_id)
        current_output.set(mine)
        return self

    def left(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        region = current_output.get()
        if not isinstance(region, Region):
            return leave(self, kind, error, trace)
        shown = kind is not None and issubclass(kind, Exception)
        if shown:  # as in a cell; a cancel goes on
            module.get_ipython().showtraceback((kind, error, trace), tb_offset=0)
        current_output.set(region.outer)
        bundle, text = region.bundle()
        region.outer.show(bundle, text=text, display_id=region.display_id, update=True)
        return shown or None

    patches.put(module.Output, "__enter__", entered)
    patches.put(module.Output, "__exit__", left)
