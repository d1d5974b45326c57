"""What the runner of notebooks refuses, finds and keeps; its runs in a kernel are in tests/matrix."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.model import Task
from car_sched_nb.runners.base import AgentOutput, Work
from car_sched_nb.runners.notebook import NotebookRunner
from tests.unit.world import DAY, Ear, clock_at, jump, running

pytestmark = pytest.mark.anyio


def task(body: str, **fields: object) -> Task:
    return Task("report", body, runner="notebook", **fields)  # type: ignore[arg-type]


def test_paths_begin_at_the_calling_notebook_and_may_be_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    runner = NotebookRunner(str(tmp_path / "sub" / "calling.ipynb"))
    (tmp_path / "sub").mkdir()
    assert runner.source(task("'my report.ipynb'\n")) == tmp_path / "sub" / "my report.ipynb"
    assert runner.source(task("../other.ipynb")) == tmp_path / "other.ipynb"
    assert runner.source(task("~/home.ipynb")) == tmp_path / "home.ipynb"
    with pytest.raises(InvalidInput, match="cannot run itself"):
        runner.source(task("calling.ipynb"))
    monkeypatch.chdir(tmp_path)
    assert NotebookRunner("prices").source(task("a.ipynb")) == tmp_path / "a.ipynb"


REFUSED = {
    "": "is one line",
    "gone.ipynb": "there is no notebook",
    ".": "cannot be read",
    "text.ipynb": "no valid JSON",
    "list.ipynb": "no nbformat",
    "bare.ipynb": "no cells",
    "r.ipynb": "its kernel 'ir' is not installed here; there are",
}


@pytest.mark.parametrize(("body", "said"), REFUSED.items(), ids=REFUSED.values())
def test_what_can_never_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str):
    monkeypatch.chdir(tmp_path)
    Path("text.ipynb").write_text("hello")
    Path("list.ipynb").write_text("[]")
    Path("bare.ipynb").write_text('{"nbformat": 4}')
    other = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    nbformat.write(new_notebook(metadata=other), "r.ipynb")
    with pytest.raises(InvalidInput, match=said):
        NotebookRunner().check(task(body))


@pytest.mark.parametrize("fields", [{"into": "x"}, {"executor": "thread"}, {"argv": True}, {"cwd": "nowhere"}])
def test_options_that_do_nothing_here_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
):
    monkeypatch.chdir(tmp_path)
    nbformat.write(new_notebook(), "a.ipynb")
    NotebookRunner().check(task("a.ipynb"))
    with pytest.raises(InvalidInput):
        NotebookRunner().check(task("a.ipynb", **fields))


async def test_parameters_are_for_python_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = tmp_path / "jupyter" / "kernels" / "other"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["x"], "display_name": "R", "language": "R"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    other = {"kernelspec": {"name": "other", "display_name": "R", "language": "R"}}
    nbformat.write(new_notebook(metadata=other, cells=[new_code_cell("1")]), tmp_path / "r.ipynb")
    async with running(":memory:") as s:
        await s.define(task(str(tmp_path / "r.ipynb")))
        with pytest.raises(InvalidInput, match=r"r\.ipynb is in R"):
            await s.define(task(str(tmp_path / "r.ipynb"), params={"n": 1}))
        failed = await s.run_once("report", params={"n": 1})
        assert (failed.status, failed.error) == ("failed", "--param is for notebooks in Python; r.ipynb is in R")


class Leaver:
    """A runner of the engine that leaves a file and then ends as it is told."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def run(self, work: Work) -> tuple[AgentOutput, None]:
        path = anyio.Path(work.file(".ipynb"))
        await path.parent.mkdir(parents=True, exist_ok=True)
        await path.write_text("{}")
        work.note(AgentOutput(artifact=str(path), turns=3))
        raise self.error


async def test_what_is_noted_is_kept_when_the_work_fails_and_removed_with_its_execution(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = clock_at()
    async with running(str(path), clock=clock) as s:
        monkeypatch.setattr(s.runners["shell"], "run", Leaver(BodyFailed("no", "Never")).run)
        failed = await s.run_once(Task("task", "x", runner="shell"))
        assert (failed.error_type, failed.turns) == ("Never", 3)
        artifact = anyio.Path(s.store.rows("SELECT artifact FROM outputs")[0][0])
        assert (str(artifact.parent), await artifact.exists()) == (f"{path}.d/outputs", True)
        await jump(2 * DAY, s)
        await s.run_once("task")
        assert (await s.archive("1d"), await artifact.exists()) == (1, False)


async def test_a_store_in_memory_takes_its_files_along(monkeypatch: pytest.MonkeyPatch):
    async with running(":memory:") as s:
        monkeypatch.setattr(s.runners["shell"], "run", Leaver(BodyFailed("no")).run)
        await s.run_once(Task("task", "x", runner="shell"))
        artifact = anyio.Path(s.store.rows("SELECT artifact FROM outputs")[0][0])
        assert await artifact.exists()
    assert not await artifact.exists()


async def test_an_exception_is_told_with_its_end_and_kept_by_nobody():
    async with running(":memory:") as s:
        ear = Ear(s)
        await s.define(Task("task", "1 / 0"))
        await s.run_now("task")
        (run,) = s.live()
        event = await ear.hears("finished")
        assert isinstance(event.exception, ZeroDivisionError)
        assert run.exception is None
