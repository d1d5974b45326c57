"""Python bodies in a process of their own: the kernel's side. `car_sched_nb.child` is the other."""

from __future__ import annotations

import inspect
import linecache
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread
import cloudpickle
import msgspec
from anyio.abc import TaskGroup

from car_sched_nb.errors import BodyFailed
from car_sched_nb.executors import wire
from car_sched_nb.executors.process import Session, ended_by, follow, signal_name, start
from car_sched_nb.model import Execution
from car_sched_nb.runners.base import Work
from car_sched_nb.runners.carried import CannotBeCarried, Unpickler, send_values
from car_sched_nb.runners.surroundings import environment, folder, memory_of
from car_sched_nb.tracebacks import words_of

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); import car_sched_nb; del sys.path[0]; "
    "from car_sched_nb.child.main import main; main(int(sys.argv[2]))"
)
"""Finds this very package, wherever the kernel has it from."""
_ROOT = str(Path(__file__).parents[2])

_ANSWERING = 16
"""Questions of one body that may wait for their answers at the same time."""

_FATAL = "Fatal Python error: "
"""How faulthandler begins."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do, without the values."""

    filename: str
    source: str
    code: bytes = b""
    """The compiled body, marshalled; empty for a function."""
    name: str = "builtins"
    """What `__name__` is."""
    published: tuple[str, ...] = ()
    notebook: bool = False
    """Whether answers look as in a notebook, and magics work."""


class Left(msgspec.Struct, frozen=True):
    """What a body left that ran to its end."""

    answer: str
    values: dict[str, Any]
    """The published names, and the result under the name ''; one that could not be carried is None."""
    refused: dict[str, str]
    """What could not be carried, each with its type and the reason."""


async def run_in_process(
    work: Work, job: Job, values: Mapping[str, Any], perhaps: Mapping[str, Any] = MappingProxyType({})
) -> Left:
    """Run a body in a process; a cancellation returns when all of it is gone.

    Parameters
    ----------
    values
        The names that it reads; a function's job has one, `function`.
    perhaps
        Names that it may read.

    Raises
    ------
    BodyFailed
        However it failed: its own exception, a value that cannot be carried, a crash.
    """
    ours, theirs = socket.socketpair()
    with ours:
        # Shielded: a cancel while it starts would not find what has started by then.
        with theirs, anyio.CancelScope(shield=True):
            session = await start(
                [*_python(), "-c", _PROGRAM, _ROOT, str(theirs.fileno())],
                environment(work),
                work.runtime.output,
                cwd=folder(work.task),
                memory=memory_of(work.task),
                keep=[theirs.fileno()],
            )
        run = _Run(work, session, wire.Link(ours))
        run.to_send = partial(run.send, _settings(work, job), values, perhaps)
        session.streams.before = run.take
        try:
            await follow(session, run)
        finally:
            await session.close()
        return run.left()


def _python() -> list[str]:
    return [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does


def _settings(work: Work, job: Job) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(job),
        "lines": job.source.splitlines(keepends=True),
        "path": [part or os.getcwd() for part in sys.path],  # noqa: PTH109 - a path entry is text
        "occurrence": work.runtime.occurrence,
        "params": work.runtime.params,
        "function": not job.code,
    }


class _Run:
    """One body on its way in its process; on the engine's loop, but for what says otherwise."""

    def __init__(self, work: Work, session: Session, link: wire.Link) -> None:
        self._work = work
        self._session = session
        self._link = link
        self._output = work.runtime.output
        self._asked = _Asked(work)
        self._group: TaskGroup | None = None
        self._limit = anyio.CapacityLimiter(_ANSWERING)
        self._answering: dict[int, anyio.CancelScope] = {}
        """By the number of the question."""
        self._loading = False
        """A value is coming in: what follows belongs to it."""
        self._gone = False
        self._values: dict[str, Any] = {}
        self._unreadable = ""
        self._end: dict[str, Any] | None = None
        self._failure: CannotBeCarried | None = None
        self.to_send: partial[None]

    # The line

    async def listen(self) -> None:
        """Send the job, take what comes and answer questions until the other side is gone."""
        async with anyio.create_task_group() as self._group:
            self._group.start_soon(self._send_job)
            while not self._gone:
                await anyio.wait_readable(self._link.end)
                self.take()
                while self._loading:
                    await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
                    self._loading = False
                    self.take()
            self._group.cancel_scope.cancel()

    async def over(self) -> None:
        """Let go of the line when the process is gone: a daemon that left its session may hold the other end."""
        while wire.unread(self._link.end.fileno()) and not self._gone:  # noqa: ASYNC110 - the reader tells of no progress
            await anyio.sleep(0.001)
        self._link.end.shutdown(socket.SHUT_RDWR)

    async def _send_job(self) -> None:
        try:
            await anyio.to_thread.run_sync(self.to_send, abandon_on_cancel=True)
        except CannotBeCarried as error:
            self._failure = error
            await self._session.end()
        except OSError:
            pass  # it is gone, and its end tells why

    def send(self, settings: dict[str, Any], values: Mapping[str, Any], perhaps: Mapping[str, Any]) -> None:
        """Send the job; in a thread."""
        self._link.send_object(wire.JOB, settings)
        send_values(self._link, values, perhaps)

    def take(self) -> None:
        """Take what has come."""
        if self._loading:
            return
        texts: list[bytes | bytearray] = []
        of = wire.OUT
        try:
            for kind, body in self._link.waiting():
                if texts and kind != of:
                    self._print(of, texts)
                if kind in (wire.OUT, wire.ERR):
                    of = kind
                    texts.append(body)
                elif kind == wire.VALUE:
                    self._loading = True
                    return
                else:
                    self._take_one(kind, body)
        except EOFError:
            self._gone = True
        finally:
            self._print(of, texts)

    def _print(self, kind: bytes, texts: list[bytes | bytearray]) -> None:
        if texts:
            self._output.write(b"".join(texts).decode("utf-8", "replace"), "stdout" if kind == wire.OUT else "stderr")
            texts.clear()

    def _take_one(self, kind: bytes, body: bytearray) -> None:
        if kind == wire.SHOW:
            shown = pickle.loads(body)  # noqa: S301 - it comes from the notebook's own code
            self._output.show(shown.pop("bundle"), **shown)
        elif kind == wire.CLEAR:
            self._output.clear()
        elif kind == wire.PROGRESS:
            self._work.runtime.progress(*pickle.loads(body))  # noqa: S301 - the same
        elif kind == wire.ASK and self._group is not None:
            (number,) = wire.NUMBER.unpack_from(body)
            self._answering[number] = anyio.CancelScope()
            self._group.start_soon(self._answer, number, body)
        elif kind == wire.DROP:
            scope = self._answering.get(*wire.NUMBER.unpack(body))
            if scope is not None:
                scope.cancel()
        elif kind == wire.END:
            self._end = pickle.loads(body)  # noqa: S301 - the same

    def _load(self) -> None:
        """Read a value; in a thread."""
        inlet = wire.Inlet(self._link.receive)
        try:
            value = Unpickler(inlet, buffers=inlet.buffers()).load()
            inlet.finish()
            self._values.update(value)
        except (wire.Broken, EOFError):
            return  # given up there: the end tells of it
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
            self._unreadable = f"{type(error).__name__}: {words_of(error)}"
            try:
                inlet.finish()
            except (wire.Broken, EOFError):
                return

    # Questions

    async def _answer(self, number: int, asked: bytearray) -> None:
        try:
            with self._answering[number]:
                good, body = await self._called(memoryview(asked)[wire.NUMBER.size :])
                answer = partial(self._link.send_object, wire.ANSWER, (number, good, body))
                await anyio.to_thread.run_sync(answer, abandon_on_cancel=True)
        except OSError:
            return  # it is gone
        finally:
            del self._answering[number]

    async def _called(self, asked: memoryview) -> tuple[bool, bytes]:
        try:
            of, method, args, options = pickle.loads(asked)  # noqa: S301 - the same
            if (of, method) == ("mailbox", "wait"):
                method = "message"  # a thread of this process would wait on for a body that is gone
            call = partial(getattr(self._asked.of(of), method), *args, **options)
            if inspect.iscoroutinefunction(call):
                value = await call()
            else:
                value = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limit)
            if isinstance(value, Iterator | KeysView | ValuesView | ItemsView):
                value = list(value)
            return True, _dumped(value)
        except Exception as error:  # noqa: BLE001 - it is the body's to handle
            return False, _dumped_error(error)

    # The end

    def left(self) -> Left:
        """Return what the body left, or raise how it failed."""
        if self._failure is not None:
            raise self._failure
        code = self._session.process.returncode or 0
        if self._end is None:
            raise self._died(code)
        if "error" in self._end:
            raise self._failed(self._end)
        if code:
            self._output.write(f"[{ended_by(code)}, after the body had ended]\n", "stderr")
        refused = dict(self._end["refused"])
        if self._unreadable:
            refused = {"": f"it cannot be read here: {self._unreadable}", **refused}
        return Left(self._end["answer"], self._values, refused)

    def _failed(self, end: dict[str, Any]) -> BodyFailed:
        said, error_type = end["error"], end["error_type"]
        if end["memory"] and self._work.task.memory:
            said, error_type = f"{said} (this process was given --memory {self._work.task.memory})", "MemoryError"
        return BodyFailed(said, error_type, end["traceback"])

    def _died(self, code: int) -> BodyFailed:
        """Return the failure of a process that ended before its body did."""
        errors = self._session.streams.kept[1].text(self._output.masked).strip()
        memory = self._work.task.memory
        said = ended_by(code)
        if code >= 0:
            said += ": the process ended itself before the body had ended, as os._exit does"
        elif signal_name(code) == "SIGKILL":
            said += ", which nobody here has sent: most likely the system's out-of-memory killer"
        if memory and code:
            said += f" (it was given --memory {memory}, and may have needed more)"
        _, fatal, trace = errors.rpartition(_FATAL)
        if code < 0 and fatal:
            return BodyFailed(said, signal_name(code), _body_lines(fatal + trace))
        return BodyFailed(f"{said}\n{errors}" if errors else said, signal_name(code) if code < 0 else "ExitCode")


class _Asked:
    """What a body's own process may ask of its run; from any thread."""

    def __init__(self, work: Work) -> None:
        self._runtime = runtime = work.runtime
        self._objects = {"run": self, "state": runtime.state, "tools": runtime.tools, "mailbox": work.mailbox}

    def of(self, name: str) -> Any:
        """Return one of the objects whose methods may be called."""
        return self._objects[name]

    def is_async(self, name: str, method: str) -> bool:
        """Tell whether a method has to be awaited."""
        return inspect.iscoroutinefunction(getattr(self.of(name), method))

    def last_success(self) -> Any:
        """Return when the task last completed."""
        return self._runtime.last_success

    def upstream(self) -> dict[str, tuple[Execution, Any]]:
        """Return what the run follows; a result that cannot be carried is None there."""
        found = {}
        for name, one in self._runtime.upstream.items():
            try:
                cloudpickle.dumps(one.result, 5)
            except Exception:  # noqa: BLE001 - a value's own code may raise anything
                found[name] = (one.execution, None)
            else:
                found[name] = (one.execution, one.result)
        return found

    def source(self, filename: str) -> list[str]:
        """Return the lines of a cell."""
        return linecache.getlines(filename)


def _dumped(value: Any) -> bytes:
    data: bytes = cloudpickle.dumps(value, 5)
    return data


def _dumped_error(error: Exception) -> bytes:
    try:
        return _dumped(error)
    except Exception:  # noqa: BLE001 - an exception's own values may be anything
        return _dumped(RuntimeError(f"{type(error).__name__}: {words_of(error)}"))


def _body_lines(trace: str) -> str:
    """Return faulthandler's lines without those of the program around the body."""
    lines = trace.splitlines()
    ours = (f'File "{_ROOT}/car_sched_nb/child/', 'File "<string>"', "Extension modules: ")
    return "\n".join(line for line in lines if not line.lstrip().startswith(ours)) + "\n"
