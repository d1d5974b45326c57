"""A notebook's kernel dies with the scheduler that runs it, with all that its cells have started."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from car_sched_nb.processes import end_children
from car_sched_nb.store.owners import reconcile, scratch
from car_sched_nb.store.sqlite import SqliteStore
from tests.crash.test_children import lives, mark

PATIENCE_S = 60
"""Nothing passes or fails by being quicker."""
CELL = """
import os, subprocess, time
subprocess.Popen(["sleep", "1000"])
subprocess.Popen(["timeout", "1000", "sleep", "1000"])  # in a process group of its own
open("ready", "w").close()
time.sleep(1000)
"""
LIFE = """
import sys, anyio, car_sched_nb as car

async def main(store, notebook):
    async with car.Scheduler(store) as scheduler:
        print(scheduler.owner, flush=True)
        await scheduler.add(car.Task("report", notebook, runner="notebook"))
        await scheduler.run_now("report")
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


class Life:
    """A scheduler that runs a notebook, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        book = folder / "report.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(CELL)]), book)
        self.ready = folder / "ready"
        command = [sys.executable, "-c", LIFE, str(folder / "car.db"), str(book)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.owner = self.process.stdout.readline().strip()

    def marked(self) -> list[psutil.Process]:
        """What lives and carries this life's mark."""
        return [process for process in psutil.process_iter() if mark(process) == self.owner and lives(process)]

    def scratch(self) -> list[Path]:
        """Its temporary folders."""
        return [*Path(gettempdir()).glob(f"{scratch(self.owner)}*")]

    def dies(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """Begin a life, and leave nothing of it."""
    life = Life(tmp_path)
    yield life
    life.dies()
    assert life.process.stdout is not None
    life.process.stdout.close()
    for left in life.marked():
        with suppress(psutil.NoSuchProcess):
            left.kill()
    for folder in life.scratch():
        shutil.rmtree(folder)


def until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_killed_scheduler_takes_its_notebooks_along(life: Life):
    until(life.ready.exists)
    assert {process.name() for process in life.marked()} >= {"sleep", "timeout"}
    life.dies()
    until(lambda: not life.marked())
    assert life.scratch()
    store = SqliteStore(life.ready.parent / "car.db")
    assert len(reconcile(store, time.time_ns() // 1000)) == 1
    store.close()
    assert not life.scratch()  # the key of its connection lay there


def test_one_that_is_killed_while_a_kernel_starts_leaves_none(life: Life):
    until(life.marked)
    life.dies()
    until(lambda: not life.marked())
    assert not life.ready.exists()


def test_what_outlives_the_supervisor_too_is_ended_by_its_mark(life: Life):
    until(life.ready.exists)
    for child in psutil.Process(life.process.pid).children():
        if mark(child) != life.owner:
            child.kill()  # the supervisor
    life.dies()
    assert life.marked()
    end_children(life.owner, 0.2)
    assert life.marked() == []
