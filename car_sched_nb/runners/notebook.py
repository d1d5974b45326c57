"""Notebooks as tasks: another notebook, run with parameters in a kernel of its own and kept with all that it shows."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec as module_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.apart import run_apart
from car_sched_nb.model import Task
from car_sched_nb.output import clip
from car_sched_nb.processes import GRACE_S
from car_sched_nb.runners.base import AgentOutput, Progress, Work
from car_sched_nb.runners.parameters import inject
from car_sched_nb.runners.surroundings import check_surroundings, environment, unset

if TYPE_CHECKING:
    from car_sched_nb.executors.kernel import Kernel

_START_S = 60.0
_REFUSED = {
    "into": "--into takes the result of a Python body; the executed notebook is there with car.artifact(NAME)",
    "argv": "--argv is for shell tasks; the body is the notebook's path",
    "memory": "--memory is for Python bodies and shell tasks; leave it away",
}


class NotebookRunner:
    """Runs the notebook that a body names; an error in a cell fails the execution with that cell.

    Parameters
    ----------
    namespace
        Whose tasks these are: relative paths begin at the folder of that notebook, when it is one, else at the
        working folder.
    """

    def __init__(self, namespace: str = "") -> None:
        self._caller = Path(namespace) if namespace.endswith(".ipynb") else None

    def check(self, task: Task) -> None:
        for name, why in _REFUSED.items():
            if getattr(task, name):
                raise InvalidInput(why)
        if task.executor not in ("", "process"):
            raise InvalidInput("a notebook always runs in a kernel of its own; leave --executor away")
        if module_spec("nbclient") is None:
            raise InvalidInput('notebooks need nbclient: pip install "car-sched-nb[notebooks]"')
        check_surroundings(msgspec.structs.replace(task, cwd=""), process=True)  # its folder has another base
        path = self.source(task)
        _check_kernel(_read(path), path, task.params)
        if task.cwd and not self._resolved(task.cwd).is_dir():
            raise InvalidInput(f"--cwd: there is no folder {self._resolved(task.cwd)}")

    def executor(self, task: Task) -> str:
        return "process"

    def missing(self, task: Task) -> str | None:
        return unset(task)

    def waits_for_loop(self, task: Task) -> bool:
        return False

    def on_own_loop(self) -> NotebookRunner:
        return self

    def source(self, task: Task) -> Path:
        """Return the path that a body names.

        Raises
        ------
        InvalidInput
            When it names none, or the calling notebook itself.
        """
        lines = [line.strip() for line in task.prompt.splitlines() if line.strip()]
        if len(lines) != 1:
            raise InvalidInput("the body of a notebook task is one line, the notebook's path: reports/daily.ipynb")
        text = lines[0]
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            text = text[1:-1]
        path = self._resolved(text)
        if self._caller is not None and path == self._caller:
            raise InvalidInput("a notebook cannot run itself; name another one")
        return path

    def _resolved(self, text: str) -> Path:
        base = self._caller.parent if self._caller is not None and self._caller.parent.is_dir() else Path.cwd()
        return Path(os.path.normpath(base / Path(text).expanduser()))

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        path = self.source(work.task)
        cwd = self._resolved(work.task.cwd) if work.task.cwd else path.parent
        output = await run_apart(lambda stop: _Reading(work, path, cwd).run(stop))
        return output, Path(output.artifact or "")


class _Reading:
    """One execution of a notebook."""

    def __init__(self, work: Work, path: Path, cwd: Path) -> None:
        self._work, self._path, self._cwd = work, path, cwd
        self._output = work.runtime.output
        self._kept = Path(work.file(".ipynb"))
        self._notebook: Any = None
        self._unsaved = False

    async def run(self, stop: asyncio.Event) -> AgentOutput:
        from car_sched_nb.executors.kernel import Kernel

        spec = self._read()
        kernel = Kernel(spec, str(self._cwd), self._environment())
        cells = asyncio.create_task(self._cells(kernel))
        stopped = asyncio.create_task(stop.wait())
        polite = False
        try:
            await asyncio.wait({cells, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not cells.done():
                await self._interrupt(kernel, cells)
                raise asyncio.CancelledError
            polite = True
            answer = await cells
        finally:
            stopped.cancel()
            await kernel.end(polite)
        return AgentOutput(answer=clip(answer), artifact=str(self._kept))

    def _read(self) -> Any:
        """Read the notebook, put the parameters in, and keep it before anything runs."""
        import nbformat

        params = self._work.runtime.params
        try:
            found = _read(self._path)
            spec = _check_kernel(found, self._path, params)
        except InvalidInput as error:
            raise BodyFailed(str(error), "InvalidInput") from None
        notebook = nbformat.from_dict(found)
        if notebook.nbformat != 4:
            notebook = nbformat.convert(notebook, 4)
        for cell in notebook.cells:
            cell.source = "".join(cell.source)
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        if params:
            inject(notebook, params)
        self._notebook = notebook
        self._save()
        self._work.note(AgentOutput(artifact=str(self._kept)))
        return spec

    async def _cells(self, kernel: Kernel) -> str:
        from car_sched_nb.runners.cells import Cells

        try:
            await kernel.start(_START_S)
        except (RuntimeError, OSError) as error:
            raise BodyFailed(f"the kernel did not start: {kernel.last_words() or error}", "DeadKernelError") from None
        answer = await Cells(self._notebook, kernel, self._output, self._report, self._save).run()
        self._save()
        return answer

    async def _interrupt(self, kernel: Kernel, cells: asyncio.Task[str]) -> None:
        """Give the cell that runs the time to end by itself: what it shows on the way is kept too."""
        if kernel.ready:
            await kernel.interrupt()
            await asyncio.wait({cells}, timeout=GRACE_S)
        cells.cancel()
        await asyncio.gather(cells, return_exceptions=True)
        self._save()

    def _report(self, progress: Progress) -> None:
        self._work.runtime.progress(progress.done, progress.total, progress.note)

    def _environment(self) -> dict[str, str]:
        # The notebook's own path: otherwise a scheduler in it would take the calling notebook for itself.
        return {**environment(self._work), "JPY_SESSION_NAME": str(self._path)}

    def _save(self) -> None:
        """Write the notebook as it is now, in one step; a disk that takes no more does not end the work."""
        from nbformat.v4 import writes

        part = self._kept.with_suffix(".part")
        try:
            text = self._output.masked(writes(self._notebook))
            self._kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.touch(mode=0o600)
            part.write_text(text + "\n", encoding="utf-8", errors="replace")
            part.replace(self._kept)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            if not self._unsaved:
                self._unsaved = True
                self._output.write(f"the executed notebook could not be kept: {error}\n", "stderr")


def _read(path: Path) -> dict[str, Any]:
    """Return a notebook's JSON.

    Raises
    ------
    InvalidInput
        When there is none at that path.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"there is no notebook {path}; relative paths begin at this notebook's folder") from None
    except OSError as error:
        raise InvalidInput(f"the notebook {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not a notebook (no valid JSON: {error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("nbformat"), int):
        raise InvalidInput(f"{path} is not a notebook (its JSON has no nbformat)")
    if not isinstance(found.get("cells", found.get("worksheets")), list):
        raise InvalidInput(f"{path} is not a notebook (its JSON has no cells)")
    return found


def _check_kernel(found: Mapping[str, Any], path: Path, params: Mapping[str, Any]) -> Any:
    """Return the kernel that a notebook asks for."""
    from car_sched_nb.executors.kernel import find_spec, is_python

    named = (found.get("metadata") or {}).get("kernelspec") or {}
    try:
        spec = find_spec(str(named.get("name") or ""))
    except InvalidInput as error:
        raise InvalidInput(f"{path.name}: {error}") from None
    if params and not is_python(spec):
        raise InvalidInput(f"--param is for notebooks in Python; {path.name} is in {spec.language}")
    return spec
