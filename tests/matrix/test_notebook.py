"""The row `notebook`: another notebook, in a kernel of its own."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Execution, Task
from car_sched_nb.output import HEAD, TAIL
from car_sched_nb.runners.cells import MOST
from tests.unit.world import Ear, come_true, running

pytestmark = pytest.mark.anyio
SLOW = "import subprocess, time\nsubprocess.Popen(['sleep', '1000'])\nprint('begun', flush=True)\ntime.sleep(1000)"

DEAF = """import time
print('begun', flush=True)
while True:
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        pass
"""


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """A kernel takes a second to start, and runs on a loop of its own: one test below is about trio."""
    return str(request.param)


def book(path: Path, *cells: str) -> str:
    """Write a notebook; return its path as text. Cells that begin with `# raises` are tagged as such."""
    tagged = [(cell, ["raises-exception"] if cell.startswith("# raises") else []) for cell in cells]
    nbformat.write(new_notebook(cells=[new_code_cell(cell, metadata={"tags": tags}) for cell, tags in tagged]), path)
    return str(path)


class Done:
    """An execution, and what was kept of it."""

    def __init__(self, scheduler: Scheduler, execution: Execution) -> None:
        self.execution = execution
        sql = "SELECT text, traceback, display, path, artifact FROM outputs WHERE execution_id = ?"
        self.text, self.traceback, self.display, self.path, artifact = scheduler.store.rows(
            sql, execution.execution_id
        )[0]
        self.notebook: Any = nbformat.reads(Path(artifact).read_text(), as_version=4)

    def said(self, cell: int) -> str:
        """What a cell of the kept notebook shows."""
        return json.dumps(self.notebook.cells[cell].outputs)


async def run(folder: Path, *cells: str, **fields: Any) -> Done:
    """Run a notebook; nothing of its kernel is left."""
    async with running(str(folder / "car.db")) as s:
        task = Task("report", book(folder / "report.ipynb", *cells), runner="notebook", **fields)
        done = Done(s, await s.run_once(task))
        assert left(s) == []
        return done


def left(scheduler: Scheduler) -> list[psutil.Process]:
    """What lives and carries this scheduler's mark."""
    return [
        process
        for process in psutil.process_iter(["environ", "status"])
        if (process.info["environ"] or {}).get("CAR_OWNER") == scheduler.owner
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


TALKER = (
    "import os, sys, threading\nprint('out')\nprint('err', file=sys.stderr)",
    "from IPython.display import HTML\ndisplay(HTML('<b>bold</b>'))",
    "for _ in range(100):\n    print('x' * 1_000_000)",
    "print(b'caf\\xe9 broken'.decode('utf-8', 'surrogateescape'))",
    "# raises\nraise ValueError('on purpose')",
    "threading.Lock()",
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One kernel for all that a notebook may say."""
    return anyio.run(partial(run, tmp_path_factory.mktemp("talker"), *TALKER))


def test_notebook_completes(talker: Done):
    assert (talker.execution.status, talker.execution.error) == ("completed", None)
    assert [cell.execution_count for cell in talker.notebook.cells] == [1, 2, 3, 4, 5, 6]


def test_notebook_completes__with_a_cell_that_is_meant_to_raise(talker: Done):
    assert "ValueError: on purpose" in talker.text
    assert "on purpose" in talker.said(4)


def test_notebook_output_is_captured(talker: Done):
    assert talker.text.startswith(("out\nerr\n", "err\nout\n"))
    assert "<b>bold</b>" in talker.display
    assert "out" in talker.said(0)
    assert "<b>bold</b>" in talker.said(1)


def test_notebook_prints_100_mb(talker: Done):
    assert len(talker.text) < 2 * (HEAD + TAIL)
    assert Path(talker.path).stat().st_size > 100_000_000
    assert len(talker.said(2)) < 2 * MOST
    assert "the rest is in the task's log" in talker.said(2)


def test_notebook_broken_utf8(talker: Done):
    assert "broken" in talker.text
    assert "broken" in talker.said(3)


def test_notebook_unpicklable_answer(talker: Done):
    assert str(talker.execution.answer).startswith("<unlocked _thread.lock")


async def test_notebook_fails_with_a_traceback(tmp_path: Path):
    done = await run(tmp_path, "x = 1", "y = 0\nx / y", "print('never')")
    assert (done.execution.status, done.execution.error_type) == ("failed", "ZeroDivisionError")
    assert done.execution.error == "cell 2: division by zero"
    assert "Cell In[2], line 2" in done.traceback
    assert "----> 2 x / y" in done.traceback
    assert "\x1b" not in done.traceback
    assert "division by zero" in done.said(1)
    assert done.notebook.cells[2].execution_count is None


async def test_notebook_fails_with_a_traceback__when_it_asks(tmp_path: Path):
    done = await run(tmp_path, "input('name? ')")
    assert done.execution.error == (
        "cell 1: nobody is there to answer input(); give the notebook what it needs: --param NAME=VALUE"
    )
    assert "----> 1 input('name? ')" in done.traceback


@pytest.mark.parametrize("words", ["raise SystemExit(3)", "exit()"])
async def test_notebook_system_exit(tmp_path: Path, words: str):
    done = await run(tmp_path, "1", words, "print('never')")
    assert (done.execution.status, done.execution.error_type) == ("failed", "SystemExit")
    assert str(done.execution.error).startswith("cell 2: ")
    assert "never" not in done.text


async def test_notebook_killed_child(tmp_path: Path):
    done = await run(tmp_path, f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})")
    assert (done.execution.status, done.execution.error_type) == ("failed", "DeadKernelError")
    assert "cell 1: the kernel died (ended by signal SIGKILL" in str(done.execution.error)


async def test_notebook_times_out(tmp_path: Path):
    done = await run(tmp_path, SLOW, timeout="2s")
    assert (done.execution.status, done.execution.error) == ("timed_out", "did not end within 2s")


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
async def test_notebook_is_cancelled(tmp_path: Path):
    async with running(str(tmp_path / "car.db")) as s:
        await s.define(Task("report", book(tmp_path / "report.ipynb", SLOW), runner="notebook"))
        await s.run_now("report")
        await come_true(lambda: "begun" in s.live()[0].output.text())
        assert {process.name() for process in left(s)} >= {"sleep"}
        assert await s.cancel("report") == 1
        assert left(s) == []
        done = Done(s, s.executions("report")[-1])
    assert done.execution.status == "cancelled"
    assert "begun" in done.said(0)
    assert "KeyboardInterrupt" in done.said(0)


async def test_notebook_is_cancelled__while_its_kernel_starts(tmp_path: Path):
    async with running(str(tmp_path / "car.db")) as s:
        ear = Ear(s)
        await s.define(Task("report", book(tmp_path / "report.ipynb", SLOW), runner="notebook"))
        for there in (lambda: True, lambda: left(s)):  # before there is a process, and as soon as there is
            await s.run_now("report")
            await ear.hears("started")
            await come_true(there)
            await s.cancel("report")
            assert left(s) == []
        assert [str(e.status) for e in s.executions("report")] == ["cancelled", "cancelled"]


async def test_notebook_is_cancelled__when_it_does_not_listen(tmp_path: Path):
    async with running(str(tmp_path / "car.db")) as s:
        await s.define(Task("report", book(tmp_path / "report.ipynb", DEAF), runner="notebook"))
        await s.run_now("report")
        await come_true(lambda: "begun" in s.live()[0].output.text())
        await s.cancel("report")
        assert left(s) == []
        assert s.executions("report")[-1].status == "cancelled"
