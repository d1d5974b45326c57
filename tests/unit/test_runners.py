"""Python bodies, shell bodies and runners of the user's own: what they see, what they leave, and how they stop."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import car_sched_nb as car
from car_sched_nb import processes
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput
from car_sched_nb.executors import process
from car_sched_nb.model import Execution, Task, Trigger
from car_sched_nb.output import ANSWER
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, NotInATask, Runtime
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.runners.shell import ShellRunner
from tests.unit.world import HANG_S, Ear, Recorder, agent, come_true, running

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def notebook(**names: Any) -> AsyncIterator[Scheduler]:
    """Enter a scheduler whose Python bodies read these names."""
    async with running(":memory:", python=PythonRunner(names)) as s:
        yield s


async def outcome(body: str, *, names: dict[str, Any] | None = None, **fields: Any) -> Execution:
    """Return the execution of a body."""
    async with running(":memory:", python=PythonRunner({} if names is None else names)) as s:
        return await s.run_once(Task("task", body, **fields))


BOTH = pytest.mark.parametrize("where", ["thread", "loop"])


@BOTH
async def test_a_body_reads_the_notebooks_names_and_keeps_its_own(where: str):
    names: dict[str, Any] = {"x": 20}
    done = await outcome("y = x + 1\nx = 0\ny * 2", names=names, executor=where)
    assert (done.status, done.answer) == ("completed", "42")
    assert names == {"x": 20}


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        "def f():\n    return x\nf()",
        "def f():\n    def g():\n        return x\n    return g()\nf()",
        "(lambda: x)()",
        "[x for _ in range(1)][0]",
        "class A:\n    y = x\nA.y",
        "def f():\n    class B:\n        z = x\n    return B.z\nf()",
        "class A:\n    def m(self):\n        return x\nA().m()",
        "eval('x')",
        "d = {}\nexec('y = x', globals(), d)\nd['y']",
        "import math\ndef f():\n    return math.floor(x)\nf()",
        "total = 0\ndef add():\n    global total\n    total += x\nadd()\ntotal",
        "len([x]) * x",
    ],
)
async def test_names_are_found_wherever_in_a_body_they_are_used(body: str, where: str):
    done = await outcome(body, names={"x": 42}, executor=where)
    assert (done.status, done.answer, done.error) == ("completed", "42", None)


async def test_a_body_sees_what_the_notebook_defines_while_it_runs():
    names: dict[str, Any] = {"stop": False, "asyncio": asyncio}
    async with running(":memory:", python=PythonRunner(names)) as s:
        ear = Ear(s)
        await s.run_now((await s.define(Task("task", "while not stop:\n    pass\n'seen'"))).task.name)
        await ear.hears("started")
        names["stop"] = True
        assert (await ear.hears("finished")).execution.answer == "seen"  # type: ignore[union-attr]


@BOTH
async def test_into_publishes_the_result(where: str):
    names: dict[str, Any] = {}
    await outcome("x = 1\n[1, 2, 3]", names=names, into="prices", executor=where)
    assert names == {"prices": [1, 2, 3]}


@BOTH
async def test_global_at_the_top_publishes_and_a_failed_run_leaves_the_old_value(where: str):
    names: dict[str, Any] = {"x": "old"}
    assert (await outcome("global x\nx = 'new'\n1 / 0", names=names, executor=where)).status == "failed"
    assert names == {"x": "old"}
    assert (await outcome("global x\nx = 'new'\ny = 1", names=names, executor=where)).status == "completed"
    assert names == {"x": "new"}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("1 + 1", "2"),
        ("1 + 1;", None),
        ("1 + 1  # two;", "2"),
        ("x = 5", None),
        ("'text'", "text"),
        ("None", None),
        ("if True:\n    3", None),
        ("import asyncio\nawait asyncio.sleep(0) or 7", "7"),
        ("(\n    1 + 1\n);  # said", None),
    ],
)
async def test_the_last_expression_is_the_answer(body: str, answer: str | None):
    async with notebook() as s:
        if "asyncio" in body and not hasattr(anyio.lowlevel.current_token().native_token, "call_soon"):
            pytest.skip("asyncio's sleep is asyncio's")
        done = await s.run_once(Task("task", body))
    assert (done.status, done.answer) == ("completed", answer)


async def test_a_body_waits_for_a_name_that_nobody_has_defined_and_runs_when_it_is_there():
    names: dict[str, Any] = {}
    async with running(":memory:", python=PythonRunner(names)) as s:
        ear = Ear(s)
        await s.add(Task("task", "prices + 1", Trigger.ONCE))
        waits = await ear.hears("waits")
        assert "'prices' is not defined" in waits.text
        assert await s.wait()
        assert s.executions() == []
        names["prices"] = 41
        await s.recheck()
        await s.wait()
        assert [e.answer for e in s.executions()] == ["42"]


async def test_a_syntax_error_is_refused_with_its_line_and_a_caret():
    async with notebook() as s:
        with pytest.raises(InvalidInput) as caught:
            await s.add(Task("task", "x = 1\ny = (2 +\n"))
        assert "line 2 of the body" in str(caught.value)
        assert "^" in str(caught.value)
        assert s.tasks() == []


@pytest.mark.parametrize(
    ("body", "hinted"), [("Summarize the news of today.", True), ("x = = 1", False), ("for x in range(3)", False)]
)
async def test_words_for_an_agent_are_recognised(body: str, hinted: bool):
    async with notebook() as s:
        with pytest.raises(InvalidInput) as caught:
            await s.add(Task("task", body))
        assert ("add --runner agent" in str(caught.value)) is hinted


@BOTH
@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('odd')", "BaseException"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("next(iter([]))", "StopIteration"),
        ("class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E", "E"),
        ("class E(BaseException):\n    pass\nraise E", "E"),
        ("def f():\n    return f()\nf()", "RecursionError"),
        ("raise ExceptionGroup('many', [ValueError(1)])", "ExceptionGroup"),
    ],
)
async def test_whatever_a_body_raises_ends_as_a_row_and_the_engine_lives_on(body: str, error_type: str, where: str):
    async with notebook() as s:
        done = await s.run_once(Task("task", body, executor=where))
        assert (done.status, done.error_type) == ("failed", error_type)
        assert s.executions()[0].error_type == error_type
        assert (await s.run_once(Task("next", "1 + 1", executor=where))).answer == "2"


async def test_a_body_that_raises_a_cancellation_of_its_own_has_failed():
    done = await outcome("import asyncio\nraise asyncio.CancelledError('mine')", executor="thread")
    assert (done.status, done.error_type) == ("failed", "CancelledError")


async def test_a_traceback_begins_at_the_bodys_own_line():
    async with notebook() as s:
        done = await s.run_once(Task("task", "def f():\n    return 1 / 0\nf()"))
        ((traceback,),) = s.store.rows("SELECT traceback FROM outputs WHERE execution_id = ?", done.execution_id)
        assert 'File "<car_task task>", line 3' in traceback
        assert "return 1 / 0" in traceback
        assert "car_sched_nb" not in traceback


@pytest.mark.parametrize(
    "body",
    [
        "while True:\n    pass",
        "import time\ntime.sleep(60)",
        "from time import sleep\nsleep(60)",
        "while True:\n    try:\n        while True:\n            pass\n    except Exception:\n        pass",
        "import time\ntry:\n    time.sleep(60)\nfinally:\n    1 + 1",
        "x = 0\nfor i in range(10**12):\n    x += i",
        "sum(1 for _ in iter(int, 1))",
    ],
)
async def test_a_body_in_a_thread_is_stopped_by_a_cancel(body: str):
    async with notebook() as s:
        ear = Ear(s)
        await s.define(Task("task", body))
        await s.run_now("task")
        await ear.hears("started")
        assert await s.cancel("task") == 1
        assert [e.status for e in s.executions()] == ["cancelled"]
        assert (await s.run_once(Task("next", "1 + 1"))).answer == "2"


async def test_a_cancelled_body_does_not_go_on_in_another_execution():
    async with notebook(log=[]) as s:
        for _ in range(30):
            ear = Ear(s)
            await s.define(Task("task", "while True:\n    pass"))
            await s.run_now("task")
            await ear.hears("started")
            s.cancel_soon("task")
            fine = await s.run_once(Task("other", "x = 0\nfor i in range(20_000):\n    x += 1\nx"))
            assert fine.answer == "20000"
            await s.wait()
        assert {e.status for e in s.executions("task")} == {"cancelled"}


async def test_a_body_that_swallows_a_cancel_in_its_thread_is_shown_as_what_it_was():
    body = "try:\n    while True:\n        begun.add(1)\nexcept BaseException:\n    pass\n'went on'"
    begun: set[int] = set()
    async with notebook(begun=begun) as s:
        await s.define(Task("task", body))
        await s.run_now("task")
        await come_true(lambda: begun)
        await s.cancel("task")
        (done,) = s.executions()
        assert (done.status, done.answer) == ("completed", "went on")


async def test_a_body_on_the_loop_is_stopped_by_a_cancel():
    async with notebook(anyio=anyio) as s:
        ear = Ear(s)
        await s.define(Task("task", "await anyio.sleep_forever()"))
        await s.run_now("task")
        await ear.hears("started")
        await s.cancel("task")
        assert [e.status for e in s.executions()] == ["cancelled"]


async def test_a_body_on_the_loop_that_swallows_one_cancel_is_stopped_all_the_same():
    body = (
        "try:\n    await anyio.sleep_forever()\nexcept BaseException:\n    swallowed.set()\nawait anyio.sleep_forever()"
    )
    swallowed = anyio.Event()
    async with notebook(anyio=anyio, swallowed=swallowed) as s:
        ear = Ear(s)
        await s.define(Task("task", body))
        await s.run_now("task")
        await ear.hears("started")
        await anyio.lowlevel.checkpoint()
        await s.cancel("task")
        assert [e.status for e in s.executions()] == ["cancelled"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("while True:\n    pass", {}),
        ("import time\ntime.sleep(60)", {}),
        ("await anyio.sleep_forever()", {}),
        ("sleep 60", {"runner": "shell"}),
    ],
)
async def test_a_timeout_stops_the_work(body: str, fields: dict[str, Any]):
    done = await outcome(body, names={"anyio": anyio}, timeout="50ms", **fields)
    assert done.status == "timed_out"
    assert done.error == "did not end within 50ms"


@BOTH
async def test_a_body_knows_its_occurrence(where: str):
    body = "c = car.current()\nf'{c.slot == c.occurrence.slot} {c.attempt} {c.params[\"n\"]} {c.last_success}'"
    done = await outcome(body, params={"n": 5}, executor=where)
    assert done.answer == "True 1 5 None"
    with pytest.raises(NotInATask):
        car.current()


async def test_a_value_that_cannot_be_shown_is_a_failed_row():
    done = await outcome("class A:\n    def __repr__(self):\n        raise ValueError('no')\nA()")
    assert (done.status, done.error_type) == ("failed", "ValueError")


async def test_an_error_that_the_thread_caused_names_the_option_that_avoids_it():
    async with notebook() as s:
        done = await s.run_once(Task("task", "import asyncio\nasyncio.get_running_loop()", executor="thread"))
        ((traceback,),) = s.store.rows("SELECT traceback FROM outputs WHERE execution_id = ?", done.execution_id)
        assert "--executor loop" in traceback


async def test_two_bodies_run_at_the_same_time():
    met = threading.Barrier(2)
    async with notebook(met=met) as s:
        for name in "ab":
            await s.define(Task(name, f"met.wait({HANG_S})\n'met'"))
            await s.run_now(name)
        await s.wait()
        assert [e.answer for e in s.executions()] == ["met", "met"]


# Shell


async def test_a_commands_output_is_its_answer():
    done = await outcome("echo hello; echo world", runner="shell")
    assert (done.status, done.answer, done.executor) == ("completed", "hello\nworld", "process")


async def test_an_exit_code_is_a_failure_with_what_was_said():
    done = await outcome("echo fine; echo broken >&2; exit 3", runner="shell")
    assert (done.status, done.error, done.error_type) == ("failed", "exit code 3: broken", "ExitCode")


async def test_a_signal_is_a_failure_with_its_name():
    done = await outcome("kill -SEGV $$", runner="shell")
    assert (done.status, done.error, done.error_type) == ("failed", "ended by signal SIGSEGV", "SIGSEGV")


async def test_a_command_knows_its_occurrence_and_its_parameters():
    body = 'echo "$CAR_TASK|$CAR_ATTEMPT|$CAR_PARAM_REGION|$CAR_PARAM_EVIL|${CAR_SLOT:+slot}|${CAR_SCHEDULED_AT: -1}"'
    done = await outcome(body, runner="shell", params={"region": "eu", "evil": "$(touch /x); `id`\n'\""})
    assert done.answer == "task|1|eu|$(touch /x); `id`\n'\"|slot|Z"


async def test_a_command_carries_the_marks_by_which_its_processes_are_found():
    async with running(":memory:") as s:
        body = 'echo "$CAR_OWNER|$CAR_EXECUTION|$CAR_GROUP|$$"'
        done = await s.run_once(Task("task", body, runner="shell", executor="process"))
        owner, execution, group, pid = (done.answer or "").split("|")
        assert (owner, execution, group) == (s.owner, done.execution_id, pid)


PROBES = {
    "name and options": 'echo "$0 $# $- $SHLVL $BASH_EXECUTION_STRING $PPID"',
    "set -e": "set -e; false; echo not reached",
    "BASH_ENV, once": "echo $WAS_READ",
    "functions": "said hello",
    "standard input": "cat; readlink /proc/$$/fd/0; read line; echo $?",
    "descriptors": "ls /proc/$$/fd",
    "signals": "grep -E '^Sig(Blk|Ign)' /proc/self/status; trap",
    "limits": "ulimit -a; umask; pwd",
    "environment": "env | grep -v -e ^CAR_ | sort",
    "an exit code": "exit 7",
    "a signal of its own": "kill -TERM $$",
    "no command": "no-such-command",
    "a syntax error": "if",
}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the probes look into /proc")
@pytest.mark.parametrize("body", PROBES.values(), ids=PROBES)
async def test_a_command_finds_what_it_would_find_without_a_gate(
    tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
):
    env = tmp_path / "env"
    env.write_text("WAS_READ=$WAS_READ+")
    monkeypatch.setenv("BASH_ENV", str(env))
    monkeypatch.setenv("BASH_FUNC_said%%", "() {  echo it said $1\n}")
    monkeypatch.setenv("a.name.of-a-kind", "1")
    monkeypatch.setenv("go", "2")
    bare = [ShellRunner()._shell, "-c", body]
    plain = await anyio.run_process(
        bare, stdin=subprocess.DEVNULL, env=dict(os.environ), start_new_session=True, check=False
    )
    done = await outcome(body, runner="shell")
    code, said = plain.returncode, plain.stderr.decode().strip()
    assert done.error == (": ".join(filter(None, [process.ended_by(code), said])) if code else None)
    if not code:
        assert done.answer == plain.stdout.decode().rstrip("\n")


async def test_where_there_is_no_bash_sh_does_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    done = await outcome("exit 3", runner="shell")
    assert (done.error, done.status) == ("exit code 3", "failed")
    done = await outcome('echo "$0"; cat', runner="shell")
    assert done.answer == "/bin/sh"


async def test_where_there_is_no_proc_a_cancel_waits_for_the_group(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "_PROC", False)
    async with notebook() as s:
        ear = Ear(s)
        await s.define(Task("task", "exec sleep 60", runner="shell"))
        await s.run_now("task")
        await ear.hears("started")
        await s.cancel("task")
        assert [e.status for e in s.executions()] == ["cancelled"]


async def test_bytes_that_are_no_text_are_kept_as_far_as_they_are():
    done = await outcome(r"printf 'a\377\000b\303\251\303'", runner="shell")
    assert (done.status, done.answer) == ("completed", "a\ufffd\ufffdb\u00e9\ufffd")


@pytest.mark.parametrize(
    ("length", "answer"),
    [
        (ANSWER, "x" * (ANSWER - 1) + "y"),
        (100_000_000, None),
    ],
)
async def test_a_long_answer_keeps_its_first_and_last_part_and_says_what_is_missing(length: int, answer: str | None):
    done = await outcome(f"head -c {length - 1} /dev/zero | tr '\\0' x; echo y; echo", runner="shell")
    assert done.answer is not None
    if answer:
        assert done.answer == answer
    else:
        assert len(done.answer) <= ANSWER
        first, missing, last = done.answer.split("\n")
        assert (set(first), set(last[:-1]), last[-1]) == ({"x"}, {"x"}, "y")
        assert missing == f"... {length - len(first) - len(last):,} characters not shown ..."


FLOOD = """
import sys
import anyio
import car_sched_nb as car

def peak_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

async def main(store, body):
    async with car.Scheduler(store) as s:
        await s.run_once(car.Task("first", "echo", runner="shell"))
        before = peak_kb()
        done = await s.run_once(car.Task("task", body, runner="shell"))
        print(done.status, len(done.answer), peak_kb() - before)

anyio.run(main, *sys.argv[2:], backend=sys.argv[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing here tells the peak of one program")
@pytest.mark.parametrize("stored", [":memory:", "car.db"])
@pytest.mark.parametrize("body", ["head -c 100000000 /dev/zero", "yes '\u00e4\u20ac' | head -c 100000000"])
async def test_memory_stays_bounded_whatever_comes_out(anyio_backend_name: str, tmp_path: Path, stored: str, body: str):
    store = stored if stored == ":memory:" else str(tmp_path / stored)
    command = [sys.executable, "-c", FLOOD, anyio_backend_name, store, body]
    said = (await anyio.run_process(command, cwd=Path(__file__).parents[2])).stdout.decode()
    status, answer, added_kb = said.split()
    assert status == "completed"
    assert int(answer) <= ANSWER
    assert int(added_kb) < 60_000


async def test_output_can_be_read_while_a_command_runs(tmp_path: Path):
    go = tmp_path / "go"
    os.mkfifo(go)
    async with notebook() as s:
        ear = Ear(s)
        await s.define(Task("task", f"echo first; cat {go}", runner="shell"))
        await s.run_now("task")
        await ear.hears("started")
        (live,) = s.live("task")
        while live.output.text() != "first\n":  # noqa: ASYNC110 - nobody tells of it
            await anyio.sleep(0.01)
        await anyio.Path(go).write_text("second\n")
        assert (await ear.hears("finished")).execution.answer == "first\nsecond"  # type: ignore[union-attr]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    "body",
    [
        "sleep 60 & echo $! > {pids}; sleep 60 & echo $! >> {pids}; echo $$ >> {pids}; touch {ready}; wait",
        "bash -c 'sleep 60 & echo $! > {pids}; echo $$ >> {pids}; touch {ready}; wait'",
        "trap '' TERM; (trap '' TERM; echo $BASHPID > {pids}; touch {ready}; while :; do sleep 0.05; done)",
        "timeout 60 bash -c 'echo $$ > {pids}; echo $PPID >> {pids}; touch {ready}; sleep 60; :'; :",
        "sleep 60 & echo $! > {pids}; kill -STOP $!; touch {ready}; wait",
    ],
    ids=["children", "grandchildren", "TERM is trapped", "a group of its own", "stopped"],
)
async def test_a_cancel_leaves_no_process_behind(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    pids, ready = tmp_path / "pids", tmp_path / "ready"
    async with notebook() as s:
        await s.define(Task("task", body.format(pids=pids, ready=ready), runner="shell"))
        await s.run_now("task")
        while not ready.exists():  # noqa: ASYNC110 - a shell says it with a file
            await anyio.sleep(0.01)
        await s.cancel("task")
        assert [e.status for e in s.executions()] == ["cancelled"]
        assert [pid for pid in pids.read_text().split() if not gone(int(pid))] == []


async def test_a_command_is_cancelled_only_when_it_is_really_gone(monkeypatch: pytest.MonkeyPatch):
    """A process that the system holds (a disk that does not answer) outlives KILL, for as long as it takes."""
    held, told = {0: 0}, []

    def living(sessions: Collection[int]) -> dict[int, int]:
        return processes.living(sessions) | held

    def tell(group: int, signum: int) -> bool:
        told.append(signum)
        return group in held or processes.tell(group, signum)

    monkeypatch.setattr(process, "GRACE_S", 0.05)
    monkeypatch.setattr(process, "living", living)
    monkeypatch.setattr(process, "tell", tell)
    async with notebook() as s:
        await s.define(Task("task", "sleep 60", runner="shell"))
        ear = Ear(s)
        await s.run_now("task")
        await ear.hears("started")
        s.cancel_soon("task")
        while told.count(signal.SIGKILL) < 4:  # noqa: ASYNC110 - nobody tells of a signal
            await anyio.sleep(0.01)
        assert [e.status for e in s.executions()] == ["running"]
        held.clear()
        await s.wait("task")
        assert [e.status for e in s.executions()] == ["cancelled"]


async def test_what_a_command_leaves_in_the_background_ends_with_it(tmp_path: Path):
    pids = tmp_path / "pids"
    done = await outcome(f"sleep 60 & echo $! > {pids}; echo started", runner="shell")
    assert (done.status, done.answer) == ("completed", "started")
    assert gone(int(pids.read_text()))


async def test_an_interrupt_of_this_process_does_not_reach_a_command():
    done = await outcome("ps -o pgid= -p $$ | tr -d ' '", runner="shell")
    assert done.answer != str(os.getpgid(0))
    assert signal.getsignal(signal.SIGINT) is not None


# The user's own


async def a_function(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
    return f"{spec.name}: {prompt}"


class ARunner:
    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer=f"{spec.name}: {prompt}")


class ACallable:
    async def __call__(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        return f"{spec.name}: {prompt}"


@pytest.mark.parametrize(
    "runner",
    [a_function, ARunner, ARunner(), ACallable(), partial(a_function)],
    ids=["function", "class", "object", "callable", "partial"],
)
async def test_a_runner_is_a_class_an_object_or_a_function(runner: Any):
    async with running(":memory:") as s:
        s.register("mine", runner)
        done = await s.run_once(Task("task", "for {region} at {scheduled_at}", runner="mine", params={"region": "eu"}))
        assert done.status == "completed"
        assert (done.answer or "").startswith("task: for eu at 20")


@pytest.mark.parametrize("fields", [{"executor": "process"}, {"into": "x"}, {"memory": "1GB"}, {"argv": True}])
async def test_an_option_that_a_runner_of_ones_own_cannot_heed_is_refused(fields: dict[str, Any]):
    async with running(":memory:") as s:
        s.register("mine", a_function)
        with pytest.raises(InvalidInput, match="leave --"):
            await s.define(Task("task", "a prompt", runner="mine", **fields))


@pytest.mark.parametrize("runner", [lambda *a: "no", 5, print, object()], ids=["lambda", "number", "builtin", "object"])
async def test_a_runner_that_is_not_async_is_refused(runner: Any):
    async with running(":memory:") as s:
        with pytest.raises(InvalidInput, match="async def"):
            s.register("mine", runner)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AgentOutput(answer=42),  # type: ignore[arg-type]
        lambda: AgentOutput(answer="fine", turns=object()),  # type: ignore[arg-type]
        lambda: AgentOutput(answer="fine", model="\ud800"),
        lambda: AgentOutput(answer="fine", cost="cheap"),  # type: ignore[arg-type]
        lambda: AgentOutput(error=5),  # type: ignore[arg-type]
        lambda: "\ud800 and \x00",
        object,
        lambda: b"bytes",
        lambda: None,
    ],
    ids=["answer", "turns", "model", "cost", "error", "text", "object", "bytes", "None"],
)
async def test_whatever_a_runner_gives_back_ends_as_a_row_and_the_engine_lives_on(make: Callable[[], Any]):
    async def odd(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> Any:
        return make()

    async with running(":memory:") as s:
        s.register("odd", odd)
        done = await s.run_once(Task("task", "do", runner="odd"))
        assert done.status in ("completed", "failed")
        assert [e.status for e in s.executions()] == [done.status]
        assert (await s.run_once(Task("next", "1 + 1"))).answer == "2"


async def test_a_runner_may_not_name_what_a_prompt_does_not_give():
    recorder = Recorder()
    async with running(":memory:", recorder) as s:
        await s.run_once(agent(prompt="{region.__class__} {0} {region!r} {x}", params={"region": "eu"}))
        assert recorder.prompts == ["{region.__class__} {0} {region!r} {x}"]


async def test_messages_go_from_task_to_task_by_name():
    got: list[Any] = []

    async def talk(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        got.extend(mailbox.receive())
        mailbox.send("b", f"from {spec.name}")
        runtime.state["count"] = runtime.state.get("count", 0) + 1
        return str(runtime.state["count"])

    async with running(":memory:") as s:
        s.register("talk", talk)
        answers = [(await s.run_once(Task(name, "talk", runner="talk"))).answer for name in "aab"]
        assert got == ["from a", "from a"]
        assert answers == ["1", "2", "3"]
