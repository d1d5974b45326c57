"""The program that runs one Python body in a process of its own; `runners/process.py` talks to it.

Its start is part of every run, so it imports little: pandas, IPython and asyncio only when the body needs them.
"""

from __future__ import annotations

import builtins
import faulthandler
import functools
import inspect
import linecache
import marshal
import os
import pickle
import signal
import socket
import sys
import types
from collections.abc import Awaitable
from importlib import import_module
from typing import Any

import cloudpickle

from car_sched_nb import tracebacks
from car_sched_nb.child import figures, imports
from car_sched_nb.child.asking import Kernel
from car_sched_nb.child.printing import install_streams
from car_sched_nb.child.runtime import runtime_of
from car_sched_nb.child.text import plain_text
from car_sched_nb.displayed import text_of
from car_sched_nb.executors import wire
from car_sched_nb.output import clip
from car_sched_nb.runners.base import current_runtime
from car_sched_nb.runners.carried import type_name

ANSWER = "__car_answer__"
"""The name under which a body's compiled code leaves its last expression."""


def main(fd: int) -> None:
    """Run what the other end of a socket asks for."""
    pid = os.getpid()
    # What the kernel ignores or blocks is nothing to inherit: TERM ends a body at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.enable(all_threads=False)
    os.set_inheritable(fd, False)
    link = wire.Link(socket.socket(fileno=fd))
    try:
        _, job = link.receive()
    except EOFError:
        return  # the kernel is gone
    Child(link, pickle.loads(job), pid).run()  # noqa: S301 - it comes from the kernel


class Child:
    """One body on its way."""

    def __init__(self, link: wire.Link, job: dict[str, Any], pid: int) -> None:
        self._link = link
        self._job = job
        self._pid = pid
        self._kernel = Kernel(link)
        sys.path[:] = job["path"]
        self._flush = install_streams(link)
        self._module = types.ModuleType("__main__")
        sys.modules["__main__"] = self._module
        self._names = self._module.__dict__
        self._names.update(__name__=job["name"], __builtins__=builtins)
        linecache.cache[job["filename"]] = (len(job["source"]), None, job["lines"], job["filename"])

    def run(self) -> None:
        """Run the body, and tell how it ended."""
        try:
            result = self._body()
            self._leave_if_forked(0)
            end = self._done(result)
        except BaseException as error:  # noqa: BLE001 - a body may raise anything; it ends as a row
            self._leave_if_forked(1)
            end = self._failed(error)
        self._flush()
        self._link.send_object(wire.END, end)

    def _leave_if_forked(self, code: int) -> None:
        if os.getpid() != self._pid:  # a copy came back from the body: only the first process goes on
            self._flush()
            os._exit(code)

    def _body(self) -> Any:
        job = self._job
        self._surround()
        inlet = wire.Inlet(self._link.receive)
        values = pickle.Unpickler(inlet, buffers=inlet.buffers()).load()  # noqa: S301 - it comes from the kernel
        inlet.finish()
        if job["function"]:
            return self._waited_for(values["function"](**job["params"]))
        self._names.update(values)
        code = marshal.loads(job["code"])  # noqa: S302 - compiled by the kernel that runs this very Python
        self._waited_for(eval(code, self._names))  # noqa: S307 - running the user's code is the purpose
        return self._names.get(ANSWER)

    def _waited_for(self, result: Any) -> Any:
        if not inspect.isawaitable(result):
            return result
        import asyncio

        async def wait(result: Awaitable[Any]) -> Any:
            return await result

        return asyncio.run(wait(result))

    def _surround(self) -> None:
        """Give the body what it finds in a kernel."""
        import car_sched_nb

        car_sched_nb.task = _plain  # a module that defines tasks can be imported here
        given: dict[str, Any] = {"car": car_sched_nb, "input": _no_input, "exit": sys.exit, "quit": sys.exit}
        if "asyncio" in self._job["source"]:
            given["asyncio"] = import_module("asyncio")
        os.environ.setdefault("MPLBACKEND", "Agg")  # nobody looks at a window
        imports.carry_to_started_processes(self._job["name"])
        if self._job["notebook"]:
            imports.make_shell_when_needed(self._shell)
            given |= {"get_ipython": self._shell, "display": _display}
        vars(builtins).update(given)
        current_runtime.set(runtime_of(self._kernel, self._job, self._show))

    @functools.cached_property
    def _make_shell(self) -> Any:
        from car_sched_nb.child import shell

        return shell.make(self._module, self._show, self._clear)

    def _shell(self) -> Any:
        """Return the notebook's shell; made when something asks for it first."""
        return self._make_shell

    def _clear(self) -> None:
        self._flush()
        self._link.send(wire.CLEAR)

    def _show(self, bundle: dict[str, Any], **options: Any) -> None:
        self._flush()
        self._link.send_object(wire.SHOW, {"bundle": bundle, **options})

    def _done(self, result: Any) -> dict[str, Any]:
        figures.show_open(self._show)
        answer = "" if result is None else clip(result if isinstance(result, str) else self._text(result))
        values = {name: self._names[name] for name in self._job["published"] if name in self._names}
        return {"answer": answer, "refused": self._send_values({**values, "": result})}

    def _text(self, result: Any) -> str:
        """Return what the notebook would print."""
        text = plain_text(result) if self._job["notebook"] else repr(result)
        if text is None:
            text = text_of(self._shell(), result)
        return text

    def _send_values(self, values: dict[str, Any]) -> dict[str, str]:
        """Send what the body leaves; return what could not be sent, each with the reason."""
        if (list(values) == [""] and values[""] is None) or self._send_value(values) is None:
            return {}
        refused = {}
        for name, value in values.items():
            reason = self._send_value({name: value})
            if reason is not None:
                refused[name] = f"({type_name(value)}: {reason})"
        return refused

    def _send_value(self, value: dict[str, Any]) -> str | None:
        self._flush()
        self._link.send(wire.VALUE)
        outlet = wire.Outlet(self._link.send)
        try:
            cloudpickle.Pickler(outlet, 5, buffer_callback=outlet.buffer).dump(value)
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
            self._link.send(wire.BROKEN)
            return tracebacks.words_of(error)
        self._link.send(wire.WHOLE)
        return None

    def _failed(self, error: BaseException) -> dict[str, Any]:
        error = tracebacks.the_bodys_own(error)
        figures.show_open(self._show)
        for filename in _unknown_files(error):
            lines = self._kernel.ask("run", "source", filename)
            linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
        return {
            "error": clip(tracebacks.words_of(error)),
            "error_type": clip(type(error).__name__),
            "traceback": clip(tracebacks.traceback_of(error, self._job["filename"])),
            "memory": isinstance(error, MemoryError),
        }


def _unknown_files(error: BaseException) -> set[str]:
    """Return the files of its tracebacks that only the kernel knows: cells."""
    found, left, seen = set(), [error], set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        where = one.__traceback__
        while where is not None:
            found.add(where.tb_frame.f_code.co_filename)
            where = where.tb_next
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return {name for name in found if name not in linecache.cache and not os.path.exists(name)}  # noqa: PTH110


def _display(*values: Any, **options: Any) -> Any:
    """Display values as the notebook's own `display` does, which is loaded when it is used."""
    from IPython.display import display

    return display(*values, **options)  # type: ignore[no-untyped-call]


def _plain(*_: Any, **__: Any) -> Any:
    """Stand for `@car.task`: the tasks are the kernel's."""
    return lambda function: function


def _no_input(*_: object) -> str:
    raise EOFError("a task cannot ask for input; give it what it needs with --param NAME=VALUE")
