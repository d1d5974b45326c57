"""Runs measurements: each in a process and a folder of its own, everybody once a round."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.bench.figures import Figures
from tests.bench.plan import TIME_LIMIT_S, Call, Row

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "bench"


class Cell(NamedTuple):
    """A place for one line in the table."""

    row: str
    contestant: str
    label: str


class MeasurementError(Exception):
    """Raised when a measurement ends without figures."""


@dataclass(slots=True)
class Found:
    """What the rounds found for one cell."""

    figures: list[Figures] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> Figures:
        """The median of each figure over the rounds that have it."""
        names = {name: None for figures in self.figures for name in figures}
        return {name: statistics.median(f[name] for f in self.figures if name in f) for name in names}


def python_of(contestant: str) -> Path:
    """Return the interpreter of a contestant; peers have environments of their own."""
    if contestant in ("ours", "floor"):
        return Path(sys.executable)
    return PEERS / contestant / "bin" / "python"


class Rounds:
    """Measures rows for contestants.

    Parameters
    ----------
    folder
        Where working folders and filled stores lie; they are removed with it.
    tell
        Takes a line about each measurement.
    """

    def __init__(self, folder: Path, quick: bool, tell: Callable[[str], None]) -> None:
        self.found: dict[Cell, Found] = {}
        self._folder = folder
        self._quick = quick
        self._tell = tell
        self._stores: dict[str, Path] = {}

    def run(self, rows: Iterable[Row], contestants: Iterable[str], rounds: int) -> None:
        """Measure everything once, then everything again."""
        cells = [
            (Cell(row.key, contestant, label), call)
            for row in rows
            for contestant in contestants
            for label, call in _calls(row, contestant).items()
        ]
        for number in range(1, rounds + 1):
            for cell, call in cells:
                self._measure(cell, call, f"round {number} of {rounds}")

    def _measure(self, cell: Cell, call: Call, when: str) -> None:
        found = self.found.setdefault(cell, Found())
        began = time.monotonic()
        try:
            figures = self._figures(cell.contestant, call)
        except MeasurementError as error:
            found.failures.append(str(error))
            said = f"FAILED: {error}"
        else:
            found.figures.append(figures)
            said = json.dumps({name: round(value, 3) for name, value in figures.items()})
        name = " ".join(filter(None, cell))
        self._tell(f"{when}, {time.monotonic() - began:.0f} s: {name}: {said}")

    def _figures(self, contestant: str, call: Call) -> Figures:
        if call.against is None:
            return self._once(contestant, call)
        before, after = self._once(contestant, call.against), self._once(contestant, call)
        return {**after, "ratio": before["per_s"] / after["per_s"], "against_per_s": before["per_s"]}

    def _once(self, contestant: str, call: Call) -> Figures:
        place = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            if call.filled:
                shutil.copytree(self._store(contestant, call.filled), place, dirs_exist_ok=True)
            return self._child(contestant, call, place)
        finally:
            shutil.rmtree(place)

    def _store(self, contestant: str, fill: Call) -> Path:
        """Return a folder with a filled store; made when it is first asked for."""
        key = f"{contestant} {fill}"
        if key not in self._stores:
            place = Path(tempfile.mkdtemp(dir=self._folder))
            self._child(contestant, fill, place)
            self._stores[key] = place
        return self._stores[key]

    def _child(self, contestant: str, call: Call, place: Path) -> Figures:
        module = call.module or f"contestants.{contestant}"
        given = json.dumps(call.sized(self._quick))
        python = python_of(call.environment or contestant)
        command = [str(python), "-m", "tests.bench.child", module, call.function, given]
        out = finish(command, place)
        figures: Figures = json.loads(out.splitlines()[-1])
        return figures


def finish(command: list[str], place: Path) -> str:
    """Run a process in a folder, with its children; return what it printed.

    Raises
    ------
    MeasurementError
        When it fails, prints nothing or takes too long.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, cwd=place, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
    except FileNotFoundError:
        raise MeasurementError("no environment; `make bench` sets it up") from None
    with process:
        try:
            out, err = process.communicate(timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"not done in {TIME_LIMIT_S:.0f} s") from None
        finally:
            _kill_group(process.pid)
    if process.returncode or not out.strip():
        last = err.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
        raise MeasurementError(last[0].removeprefix("tests.bench.figures."))
    return out


def _kill_group(pid: int) -> None:
    """End a measurement with all that it left running."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _calls(row: Row, contestant: str) -> Mapping[str, Call]:
    calls = row.cells[contestant]
    return {} if isinstance(calls, str) else calls


def version_of(contestant: str, place: Path) -> str:
    """Return what a contestant says of its version, or why it could not."""
    module = f"contestants.{contestant}"
    command = [str(python_of(contestant)), "-m", "tests.bench.child", module, "version", "{}"]
    try:
        return str(json.loads(finish(command, place)))
    except MeasurementError as error:
        return f"not there ({error})"
