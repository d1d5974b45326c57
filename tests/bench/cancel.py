"""How soon a cancel works, of everything that runs: `python -m tests.bench.cancel` writes build/cancel.json.

Two times from `cancel`: to the row that says so, and to the moment when the work really does nothing more, by the
work's own last sign of life (a process that is gone, a connection that is closed, a file that is written no more).
In a plain scheduler, and in one whose engine has a thread of its own while the main thread computes or sleeps, as it
has in a notebook. `python -m tests.matrix.table --times build/cancel.json` puts the figures into docs/runners.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import anyio
import psutil

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import CarError
from car_sched_nb.model import Task
from car_sched_nb.runners.python import PythonRunner
from tests.bench.model_server import ModelServer
from tests.bench.rounds import ROOT

PATIENCE_S = 60
FOREVER = "try:\n    while True:\n        sign()\nfinally:\n    sign()"
AWAITS = "try:\n    while True:\n        sign()\n        await anyio.sleep(0.001)\nfinally:\n    sign()"
SLEEPS = "import time\ntry:\n    sign()\n    time.sleep(3600)\nfinally:\n    sign()"
IN_CHILD = "import time\nopen({sign!r}, 'w').write('x')\nwhile True:\n    pass\n"
SHELL = "echo x > {sign}\nsh -c 'sleep 3600 & wait' &\nwait"
NOTEBOOK = "import pathlib\npathlib.Path({sign!r}).write_text('x')\nwhile True:\n    pass"


class What(NamedTuple):
    """Something to cancel."""

    name: str
    body: str
    fields: Mapping[str, Any] = MappingProxyType({})
    sign: str = "call"
    """How it tells that it works: it calls `sign`, writes a file as a process, or asks the model's server."""


WHAT = (
    What("Python, `loop`, the scheduler's own (a kernel's has to be free)", AWAITS, {"executor": "loop"}),
    What("Python, `thread`, computing", FOREVER, {"executor": "thread"}),
    What("Python, `thread`, in `time.sleep`", SLEEPS, {"executor": "thread"}),
    What("Python, `process`", IN_CHILD, {"executor": "process"}, "file"),
    What("`shell` with a grandchild", SHELL, {"runner": "shell"}, "file"),
    What("`shell --argv`", "sleep 3600", {"runner": "shell", "argv": True}, "child"),
    What("`agent` before the first token", "silent", {"runner": "agent", "model": "openai:test"}, "server"),
    What("`agent` in the middle of an answer", "go on", {"runner": "agent", "model": "openai:test"}, "server"),
    What("`agent --model local`", "Count to a thousand.", {"runner": "agent", "model": "local"}, "tokens"),
    What("`notebook`", NOTEBOOK, {"runner": "notebook"}, "file"),
)


OBSERVER = """
import sys, time

def lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

for line in sys.stdin:
    while any(map(lives, line.split())):
        time.sleep(0.0005)
    print(time.monotonic(), flush=True)
"""
"""Looks at processes from a process of its own: beside a main thread that computes, a thread would look too late."""


class Cancelled(NamedTuple):
    """What one cancel took, in seconds."""

    row_s: float
    stop_s: float


def children() -> set[int]:
    """Return the processes below this one that have not ended."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


class Measure:
    """Cancels one thing in one scheduler, again and again."""

    def __init__(self, what: What, place: Path, server: ModelServer) -> None:
        self.what = what
        self.sign = place / "sign"
        self.place = place
        self.server = server
        self.last = [0.0]
        self.names: dict[str, Any] = {"anyio": anyio, "sign": self._signed}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.observer = subprocess.Popen([sys.executable, "-c", OBSERVER], **pipes)  # type: ignore[call-overload]

    def _signed(self) -> None:
        self.last[0] = time.monotonic()

    def task(self) -> Task:
        body, fields = self.what.body.replace("{sign!r}", repr(str(self.sign))), dict(self.what.fields)
        body = body.replace("{sign}", str(self.sign))
        if self.what.sign == "server":
            os.environ.setdefault("OPENAI_API_KEY", "none")
            fields["base_url"] = f"{self.server.url}/v1"
        if fields.get("runner") == "notebook":
            import nbformat

            path = self.place / "work.ipynb"
            cells = [nbformat.v4.new_code_cell(body)]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
            body = str(path)
        return Task("work", body, **fields)

    def begin(self) -> None:
        """Forget the last run."""
        self.last[0] = 0.0
        self.sign.unlink(missing_ok=True)
        self.server.forget()
        self.before = children()

    def works(self, scheduler: Scheduler) -> bool:
        """Whether the work really goes on."""
        match self.what.sign:
            case "call":
                return self.last[0] > 0
            case "file":
                return self.sign.exists()
            case "child":
                return any(run.begun for run in scheduler.live()) and bool(children() - self.before)
            case "server":
                return self.server.asked.is_set()
            case _:
                return any(run.output.text() for run in scheduler.live())

    def stopped_at(self) -> float | None:
        """When the work did nothing more; None while it may go on."""
        match self.what.sign:
            case "call":
                return self.last[0]
            case "file" | "child":
                return float(self.observer.stdout.readline())
            case "server":
                return self.server.closed_at
            case _:
                return time.monotonic()

    def _family(self) -> set[int]:
        return {pid for pid in children() - self.before - {self.observer.pid} if not _is_supervisor(pid)}

    def close(self) -> None:
        """End the observer."""
        self.observer.communicate()

    async def once(self, scheduler: Scheduler) -> Cancelled:
        """Run it, cancel it; return what that took."""
        self.begin()
        await scheduler.run_now("work")
        with anyio.fail_after(PATIENCE_S):
            while not self.works(scheduler):
                if not scheduler.live():
                    raise UnfitError(scheduler.executions()[-1].error or "it ended by itself")
                await anyio.sleep(0.002)
            await anyio.sleep(0.01)
            if self.what.sign in ("file", "child"):
                self.observer.stdin.write(f"{' '.join(map(str, self._family()))}\n")
                self.observer.stdin.flush()
            asked = time.monotonic()
            await scheduler.cancel("work")
            row_s = time.monotonic() - asked
            if self.what.sign == "server":
                while self.server.closed_at is None:  # noqa: ASYNC110 - another thread notes it
                    await anyio.sleep(0.001)
        newest = scheduler.executions(newest=1)[0]
        if newest.status != "cancelled":
            raise UnfitError(f"it ended as {newest.status}: {newest.error}")
        stopped = self.stopped_at() or time.monotonic()
        if self.what.sign == "call":
            await anyio.sleep(0.002)
            if self.last[0] > stopped:
                raise UnfitError("it went on after its end")
        return Cancelled(row_s, max(0.0, stopped - asked))


class UnfitError(Exception):
    """Raised when there is nothing to measure."""


def _is_supervisor(pid: int) -> bool:
    try:
        return any(word.endswith("processes.py") for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return True


def there(what: What) -> str:
    """Return why something cannot be measured here, or nothing."""
    scheduler = Scheduler(":memory:")
    name = what.fields.get("runner", "python")
    if name not in scheduler.runners:
        return "not there"
    try:
        with (
            tempfile.TemporaryDirectory() as place,
            ModelServer() as server,
            closing(Measure(what, Path(place), server)) as measure,
        ):
            scheduler.runners[name].check(measure.task())
    except (CarError, ImportError, OSError) as error:
        return f"not there: {str(error).splitlines()[0]}"
    return ""


async def measured(what: What, times: int, place: Path, server: ModelServer) -> list[Cancelled]:
    """Cancel something many times in a scheduler on this thread's loop."""
    measure = Measure(what, place, server)
    with closing(measure):
        return await _measured(measure, times)


async def _measured(measure: Measure, times: int) -> list[Cancelled]:
    place = measure.place
    async with Scheduler(place / "car.db", python=PythonRunner(measure.names)) as scheduler:
        await scheduler.define(measure.task())
        return [await measure.once(scheduler) for _ in range(times)]


def busy(over: threading.Event) -> None:
    while not over.is_set():
        sum(number for number in range(1_000))


def asleep(over: threading.Event) -> None:
    while not over.is_set():
        time.sleep(0.5)


KERNELS: dict[str, Callable[[threading.Event], None] | None] = {"idle": None, "computes": busy, "sleeps": asleep}


def beside(what: What, times: int, main_thread: Callable[[threading.Event], None] | None) -> list[Cancelled]:
    """Measure with the engine in a thread, as in a notebook, while the main thread does something."""
    found: list[list[Cancelled] | BaseException] = []
    over = threading.Event()

    def engine() -> None:
        try:
            with tempfile.TemporaryDirectory() as place, ModelServer() as server:
                found.append(anyio.run(measured, what, times, Path(place), server))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            found.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=engine)
    thread.start()
    if main_thread:
        main_thread(over)
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def figures(taken: list[Cancelled]) -> dict[str, float]:
    """Return median and worst of both times, in milliseconds."""
    kinds = {"row": [one.row_s * 1000 for one in taken], "stop": [one.stop_s * 1000 for one in taken]}
    return {
        f"{kind}_{name}_ms": choose(values)
        for kind, values in kinds.items()
        for name, choose in (("p50", statistics.median), ("max", max))
    }


def rows(times: int, only: list[str]) -> Iterator[dict[str, Any]]:
    """Measure everything; yield a row of the table for each."""
    for what in WHAT:
        if only and not any(word in what.name for word in only):
            continue
        why_not = there(what)
        for kernel, main_thread in KERNELS.items():
            row: dict[str, Any] = {"what": what.name, "kernel": kernel}
            try:
                said = {"said": why_not} if why_not else figures(beside(what, times, main_thread))
            except (UnfitError, TimeoutError, CarError) as error:
                said = {"said": f"failed: {error}"}
            yield row | said
            if why_not:
                break
    yield {
        "what": "`concurrent.futures`, ipyparallel, APScheduler",
        "kernel": "any",
        "said": "no: only before it begins",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cancel", description=__doc__)
    parser.add_argument("--times", type=int, default=50, metavar="N", help="cancels of each (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="what has a word in its name")
    parser.add_argument(
        "--into", type=Path, default=ROOT / "build" / "cancel.json", metavar="FILE", help="(%(default)s)"
    )
    asked = parser.parse_args()
    found = []
    for row in rows(asked.times, asked.only):
        print(json.dumps(row), file=sys.stderr, flush=True)
        found.append(row)
    machine = f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores"
    asked.into.parent.mkdir(parents=True, exist_ok=True)
    asked.into.write_text(json.dumps({"machine": machine, "times": asked.times, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
