"""What a process of its own is given and gives back, and the surroundings that a task can name."""

from __future__ import annotations

import ast
import resource
import threading
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb.child.text import plain_text
from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.process import _pipes
from car_sched_nb.model import Task, Trigger
from car_sched_nb.runners.base import Mailbox
from car_sched_nb.runners.needs import reads
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.runners.surroundings import parse_size
from tests.matrix.processes import outcome
from tests.unit.world import Ear, running

asynchronous = pytest.mark.anyio
HERE: dict[str, Any] = {"executor": "process"}


@pytest.mark.parametrize(
    ("body", "surely", "perhaps"),
    [
        ("df = df.dropna()", {"df"}, set()),
        ("df = load()\ndf.head()", {"load"}, set()),
        ("if new:\n    x = 1\nx", {"new"}, {"x"}),
        ("if new:\n    x = 1\nelse:\n    x = 2\nx", {"new"}, set()),
        ("try:\n    x = f()\nexcept Exception:\n    print(x)", {"f", "Exception", "print"}, {"x"}),
        ("for row in rows:\n    last = row\nlast", {"rows"}, {"last"}),
        ("eval('a + b')", {"eval"}, {"a", "b"}),
        ("get_ipython().system('ls {folder}')", {"get_ipython"}, {"ls", "folder"}),
        ("def f():\n    return x\nf()", {"x"}, set()),
        ("[x for x in xs]\nx", {"xs"}, {"x"}),
    ],
)
def test_a_body_takes_along_what_it_reads_and_what_it_may_read(body: str, surely: set[str], perhaps: set[str]):
    found = reads(ast.parse(body))
    assert (set(found.surely), set(found.perhaps)) == (surely, perhaps)


@asynchronous
async def test_a_name_that_is_read_in_one_branch_only_need_not_be_carried():
    names = {"new": True, "lock": threading.Lock()}
    done, _ = await outcome("if new:\n    lock = 7\nlock", names, **HERE)
    assert (done.status, done.answer) == ("completed", "7")


@asynchronous
async def test_exec_finds_the_names_in_its_text():
    done, _ = await outcome("exec('y = x + 1')\ny", {"x": 41}, **HERE)
    assert done.answer == "42"


@asynchronous
async def test_a_large_array_goes_and_comes_back_as_it_was():
    numpy = pytest.importorskip("numpy")
    names: dict[str, Any] = {"a": numpy.arange(3_000_000).reshape(3, -1).T}
    done, _ = await outcome("a + 1", names, into="b", **HERE)
    assert done.status == "completed"
    assert (names["b"] == names["a"] + 1).all()
    names["b"][0, 0] = 5  # it is no view of something that may not be written to


@asynchronous
async def test_the_runtime_reaches_the_kernels_state_mailbox_and_progress():
    class Box(Mailbox):
        async def later(self) -> str:
            await anyio.lowlevel.checkpoint()
            return "it came"

    body = """
run = car.current()
run.state["list"] = [1]
run.progress(1, 2, "half")
run._infra.mailbox("task").send("other", {"hello": 1})
later = await run._infra.mailbox("").later()
(run.state["list"], "list" in run.state, run.params, run.attempt, run.last_success, later)
"""
    async with running(":memory:", python=PythonRunner({})) as s:
        s.infra.mailbox = lambda task, sender=None: Box(task, s.infra._office, sender)  # type: ignore[method-assign]
        done = await s.run_once(Task("task", body, params={"n": 1}, **HERE))
        assert (done.error, done.answer) == (None, "([1], True, {'n': 1}, 1, None, 'it came')")
        assert dict(s.infra.state) == {"list": [1]}
        assert s.infra.mailbox("other").receive() == [{"hello": 1}]


@asynchronous
async def test_a_process_waits_for_mail_as_every_body_does():
    async with running(":memory:", python=PythonRunner({})) as s:
        await s.add(Task("task", "car.current().wait_message(30)", **HERE))
        await s.run_now("task")
        s.infra.mailbox("other").send("task", {"hello": 1})
        await s.wait()
        await s.add(Task("again", "await car.current().message(30)", **HERE))
        await s.run_now("again")
        s.infra.mailbox("other").send("again", 2)
        await s.wait()
        assert [e.answer for e in s.executions()] == ["{'hello': 1}", "2"]


@asynchronous
async def test_a_task_that_follows_others_reads_their_results_in_its_process():
    async with running(":memory:", python=PythonRunner({})) as s:
        await s.define(Task("first", "[1, 2]", **HERE))
        body = "up = car.current().upstream['first']\n(up.status, up.answer, up.result)"
        await s.add(Task("second", body, Trigger.AFTER, after="first", **HERE))
        await s.run_now("first")
        await s.wait()
        await s.wait()
        assert [e.answer for e in s.executions() if e.task == "second"] == ["('completed', '[1, 2]', [1, 2])"]


@asynchronous
@pytest.mark.parametrize("how", ["fork", "spawn"])
async def test_a_body_starts_processes_of_its_own(how: str):
    body = "from multiprocessing import get_context\ndef f(n):\n    return n * k\nk = 2\n"
    body += f"with get_context('{how}').Pool(2) as p:\n    out = p.map(f, range(3))\nout"
    done, _ = await outcome(body, {"__name__": "__main__"}, **HERE)
    assert (done.error, done.answer) == (None, "[0, 2, 4]")


@asynchronous
async def test_a_fork_that_comes_back_from_the_body_ends_there():
    done, text = await outcome("import os\npid = os.fork()\nprint('here')\nif pid:\n    os.wait()\nbool(pid)", **HERE)
    assert (done.status, done.answer, text) == ("completed", "True", "here\nhere\n")


@asynchronous
@pytest.mark.parametrize(("runner", "body"), [("shell", "pwd -P"), ("python", "import os\nos.getcwd()")])
async def test_a_folder_is_where_it_runs_and_has_to_be_there(tmp_path: Path, runner: str, body: str):
    fields: dict[str, Any] = {"runner": runner, "executor": "process", "cwd": str(tmp_path / "a")}
    with pytest.raises(InvalidInput, match="no such folder"):
        await outcome(body, **fields)
    (tmp_path / "a").mkdir()
    done, _ = await outcome(body, **fields)
    assert done.answer == str((tmp_path / "a").resolve())
    async with running(":memory:") as s:
        await s.define(Task("task", body, **fields))
        (tmp_path / "a").rmdir()
        await s.run_now("task")
        await s.wait()
        (done,) = s.executions()
        assert "there is no such folder" in (done.error or "")


@asynchronous
@pytest.mark.parametrize(
    "fields", [{"runner": "shell"}, {"executor": "process"}, {"executor": "thread"}], ids=["shell", "process", "thread"]
)
async def test_a_task_waits_for_its_environment(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAR_TEST_KEY", raising=False)
    body = "echo ${#CAR_TEST_KEY}" if "runner" in fields else "import os\nlen(os.environ['CAR_TEST_KEY'])"
    async with running(":memory:") as s:
        ear = Ear(s)
        await s.add(Task("task", body, Trigger.ONCE, env=("CAR_TEST_KEY",), **fields))
        assert (await ear.hears("waits")).text.endswith("CAR_TEST_KEY is not set; set it with %env CAR_TEST_KEY=...")
        monkeypatch.setenv("CAR_TEST_KEY", "12345")
        await s.recheck()
        await s.wait()
        assert [e.answer for e in s.executions()] == ["5"]


@pytest.mark.parametrize(
    "fields",
    [
        {"argv": True},
        {"memory": "2GB"},
        {"memory": "2GB", "executor": "thread"},
        {"cwd": "."},
        {"memory": "plenty", "executor": "process"},
        {"memory": "2", "executor": "process"},
        {"memory": "1MB", "executor": "process"},
        {"env": ("A=1",)},
        {"runner": "shell", "argv": True, "body": "echo 'open"},
        {"runner": "shell", "executor": "thread"},
        {"executor": "moon"},
    ],
)
@asynchronous
async def test_options_that_do_not_go_together_are_refused(fields: dict[str, Any]):
    with pytest.raises(InvalidInput, match="--"):
        await outcome(**{"body": "1", **fields})


@asynchronous
async def test_a_published_name_that_is_none_is_published():
    names = {"found": 7}
    done, _ = await outcome("global found\nfound = None", names, **HERE)
    assert done.status == "completed"
    assert names["found"] is None


WAITS = """
import asyncio
try:
    await asyncio.wait_for(car.current().message(), 0.05)
except TimeoutError:
    car.current().send("task", "later")
await car.current().message(5)
"""


@asynchronous
async def test_a_wait_for_a_message_that_is_given_up_neither_holds_the_body_nor_takes_the_next_message():
    done, _ = await outcome(WAITS, **HERE, timeout="20s")
    assert (done.status, done.answer) == ("completed", "later")


@asynchronous
async def test_the_last_progress_that_a_body_tells_is_what_is_known_of_it():
    async with running(":memory:", python=PythonRunner({})) as s:
        body = "for one in range(2000): car.progress(one + 1, 2000)\ncar.current().receive()"
        await s.define(Task("task", body, **HERE))
        await s.run_now("task")
        (run,) = s.running.of(s.task("task").id)
        await run.wait_over()
    assert run.progress is not None
    assert run.progress.done == 2000


@asynchronous
async def test_a_parameter_that_no_variable_can_hold_reaches_a_body_and_is_named_where_it_cannot():
    for value in ("x" * 200_000, "a\0b"):
        done, _ = await outcome("car.current().params['text']", **HERE, params={"text": value})
        assert done.status == "completed", done.error
        done, _ = await outcome("echo", runner="shell", params={"text": value})
        assert (done.status, str(done.error)[:15]) == ("failed", "CAR_PARAM_TEXT ")


def test_where_no_more_files_can_be_opened_a_start_leaves_none_open():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = _open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(there) + 4, before[1]))
    try:
        with pytest.raises(BodyFailed, match="could not be started"):
            _pipes(3000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert _open_files() == there


def _open_files() -> set[int]:
    return {int(one.name) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()}


@given(st.integers(64, 10**6), st.sampled_from(["MB", "M", "mb", " MB", "MiB"]))
def test_a_size_is_a_number_with_its_unit(number: int, unit: str):
    assert parse_size(f"{number}{unit}") == number * (1024**2 if "i" in unit else 1000**2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # IPython is imported with the first
@given(VALUES)
def test_an_answer_without_ipython_reads_as_with_it(value: Any):
    pretty = pytest.importorskip("IPython.lib.pretty")
    text = plain_text(value)
    assert text is None or text == pretty.pretty(value)
