"""Two hundred tasks of all kinds at once: nothing is lost, nothing is mixed up, nothing is left."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil  # it ships no types
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import CarError
from car_sched_nb.model import Task
from car_sched_nb.store.sqlite import SqliteStore
from tests.bench.model_server import ModelServer
from tests.kernel.kernel import Kernel
from tests.kernel.notebook import LOAD, executions, loaded_kernel, ok
from tests.scale import by_scale

LASTS_S = by_scale(10, 60)
TASKS = 200
MOST_MORE_MB = 80
"""How much the kernel may grow after its warm-up. Some thousand executions leave a few kB each in caches, and
malloc keeps what a burst took; what is kept per execution by mistake (its frames, its output) would be far more."""

SET_UP = """
import os, random
from car_sched_nb.executors import thread
thread._IDLE_S = 0.5  # threads that idle are to be gone when the test looks
def note():
    now = car.current()
    print(f"{now.occurrence.task} {now.occurrence.execution_id}")
    with open("begun.log", "a") as log:
        log.write(f"{now.occurrence.execution_id}\\n")
@car.runner("mine")
async def mine(spec, prompt, runtime, mailbox):
    note()
    await asyncio.sleep(0.05)
    return prompt
def define(name, line, body):
    get_ipython().run_cell_magic("car_task", f"{name} {line}", body)
"""
SHELL = 'echo "$CAR_TASK $CAR_EXECUTION"; echo "$CAR_EXECUTION" >> begun.log'
IN_CHILD = (
    "import os, time\nprint(os.environ['CAR_TASK'], os.environ['CAR_EXECUTION'])\n"
    "with open('begun.log', 'a') as log:\n    log.write(os.environ['CAR_EXECUTION'] + '\\n')\ntime.sleep(0.05)"
)
KINDS = {
    "thread": ("--executor thread", "note()\ntime.sleep(0.05)", 60),
    "computes": ("--executor thread", "note()\nsum(number for number in range(20_000))", 10),
    "fails": ("--executor thread", "note()\n1 / 0", 10),
    "loop": ("", "note()\nawait asyncio.sleep(0.05)", 40),
    "mine": ("--runner mine", "go on", 20),
    "shell": ("--runner shell", SHELL, 25),
    "breaks": ("--runner shell", SHELL + "; exit 3", 5),
    "argv": ("--runner shell --argv", "sleep 0.05", 10),
    "process": ("--executor process", IN_CHILD, 8),
    "agent": ("--runner agent --model openai:test --base-url {url}/v1", "short", 8),
    "notebook": ("--runner notebook", "work.ipynb", 2),
}
"""By kind: options, body, how many of 200. What this version has not is made up for by `thread`."""
LOGGED = ("thread", "computes", "fails", "loop", "mine", "shell", "breaks", "process", "slow", "sleeps")
NEVER_END = {
    "slow": ("--executor thread", "note()\ntime.sleep(3600)"),
    "sleeps": ("--runner shell", SHELL + "; sleep 3600"),
}


def is_there(kind: str) -> bool:
    """Tell whether this version has what a kind needs."""
    fields = {
        "process": Task("x", "1", executor="process"),
        "agent": Task("x", "1", runner="agent", model="openai:test"),
        "notebook": Task("x", "work.ipynb", runner="notebook"),
    }
    if kind not in fields:
        return True
    scheduler = Scheduler(":memory:")
    try:
        scheduler.runners[fields[kind].runner].check(fields[kind])
    except KeyError:
        return False
    except CarError as error:
        return "executor" not in str(error)
    return True


def cells(url: str) -> list[tuple[str, str]]:
    """Return the definitions of all tasks: kind and cell."""
    counts = {kind: count if is_there(kind) else 0 for kind, (_, _, count) in KINDS.items()}
    counts["thread"] += TASKS - sum(counts.values()) - 2
    lines = []
    for kind, count in counts.items():
        options, body, _ = KINDS[kind]
        every_s = by_scale(3, 4) if kind not in ("process", "notebook", "agent") else 8
        for number in range(count):
            line = f"{options.format(url=url)} --every {every_s}s"
            lines.append((f"{kind}_{number}", f"define({kind + '_' + str(number)!r}, {line!r}, {body!r})"))
    for kind, (options, body) in NEVER_END.items():
        lines.append((f"{kind}_0", f"define({kind + '_0'!r}, {options + ' --every 1s'!r}, {body!r})"))
    return lines


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    yield from loaded_kernel(tmp_path, {"OPENAI_API_KEY": "none"})


@pytest.mark.slow
def test_two_hundred_tasks_of_all_kinds_at_once(kernel: Kernel):
    import nbformat

    cell = nbformat.v4.new_code_cell("print('ran')")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), kernel.workdir / "work.ipynb")
    chance = random.Random(5)
    process = psutil.Process(kernel.pid)
    with ModelServer() as server:
        ok(kernel, LOAD.replace("%load_ext car_sched_nb\n", "") + SET_UP)
        tasks = cells(server.url)
        assert len(tasks) == TASKS
        sent = [kernel.send("\n".join(cell for _, cell in tasks))]
        kernel.wait(sent[0], 120)
        warm_at, end_at = time.monotonic() + LASTS_S / 3, time.monotonic() + LASTS_S
        before_mb = 0.0
        while time.monotonic() < end_at:
            victims = [name for name, _ in chance.sample(tasks, 3)] + ["slow_0", "sleeps_0"]
            sent.append(
                kernel.send("\n".join(f"%car cancel {name}" for name in victims) + "\nawait asyncio.sleep(0.2)")
            )
            kernel.wait(sent[-1], 120)
            if not before_mb and time.monotonic() > warm_at:
                before_mb = process.memory_info().rss / 1e6
        sent.append(kernel.send("%car pause --all\n%car cancel --all\nprint(await car.wait(timeout=60))"))
        kernel.wait(sent[-1], 120)
        assert "True" in kernel.outputs_of(sent[-1])[-1].text
    assert process.memory_info().rss / 1e6 - before_mb < MOST_MORE_MB

    rows = {name: executions(kernel, name) for name, _ in tasks}
    outputs = texts(kernel)
    begun = Counter((kernel.workdir / "begun.log").read_text().split())
    assert not [id_ for id_, times in begun.items() if times > 1]
    ended: Counter[str] = Counter()
    for name, found in rows.items():
        kind = name.partition("_")[0]
        slots = sorted(slot for e in found for slot in range(int(e.slot), int(e.slot) + e.slots))
        assert slots == list(range(len(slots))), name  # each planned slot has one row
        assert {str(e.status) for e in found} <= {"completed", "failed", "cancelled", "skipped"}, name
        assert slots, name
        for e in found:
            ended[f"{kind} {e.status}"] += 1
            ran = e.status in ("completed", "failed")
            if kind in LOGGED and ran:
                assert begun.pop(e.execution_id, 0) == 1, (name, e)
                assert outputs[e.execution_id] == f"{name} {e.execution_id}\n", name
            elif kind in LOGGED:
                started = begun.pop(e.execution_id, 0)
                assert not started or e.status == "cancelled", (name, e)
                assert outputs.get(e.execution_id, "") in ("", f"{name} {e.execution_id}\n"), name
            if ran:
                assert (e.status == "failed") == (kind in ("fails", "breaks")), (name, e.error)
    assert not begun  # what ran has a row
    print(dict(sorted(ended.items())))
    assert ended["slow cancelled"] and ended["sleeps cancelled"]

    shown = "".join(output.text for cell in sent for output in kernel.outputs_of(cell))
    assert not [id_ for id_ in outputs if id_ in shown]
    assert kernel.strays() == []
    idle = "any(t.name == 'car-body' for t in threading.enumerate())"
    ok(kernel, f"until = time.monotonic() + 30\nwhile {idle} and time.monotonic() < until: time.sleep(0.1)")
    assert ok(kernel, "[t.name for t in threading.enumerate() if t.name == 'car-body']") == "[]"
    left = [child.cmdline() for child in process.children(recursive=True)]
    assert [line for line in left if not any(word.endswith("processes.py") for word in line)] == []


def texts(kernel: Kernel) -> dict[str, str]:
    """Return what each execution printed."""
    store = SqliteStore(kernel.workdir.parent / "car.db")
    try:
        return {id_: text or "" for id_, text in store.rows("SELECT execution_id, text FROM outputs")}
    finally:
        store.close()
