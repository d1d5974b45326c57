"""A kernel that ends and comes back: nothing runs twice, nothing vanishes, nothing starts by itself."""

import re
from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.kernel.conftest import StartKernel
from tests.kernel.kernel import Kernel
from tests.kernel.notebook import ENV, LOAD, executions, ok, wait_ended, wait_for_executions

TICK = """%%car_task tick --every 500ms
with open("tick.log", "a") as log:
    log.write(car.current().occurrence.execution_id + "\\n")
"""
ONCE = "%%car_task one --once\nopen('once.log', 'a').write('x')"
HOURLY = "%%car_task hourly --every 1h\n'hour'"
RUN_ALL = (LOAD, TICK, ONCE, HOURLY)


def run_all(kernel: Kernel, cells: tuple[str, ...] = RUN_ALL) -> list[str]:
    return [ok(kernel, cell) for cell in cells]


def served(kernel: Kernel) -> list[str]:
    """Return what the bodies themselves noted, whatever the store says."""
    return (kernel.workdir / "tick.log").read_text().split()


def slots_without_a_row(kernel: Kernel, name: str) -> set[int]:
    """Return the slots up to the newest that no row covers."""
    rows = [e for e in executions(kernel, name) if e.trigger == "interval"]
    covered = {int(e.slot) + n for e in rows for n in range(e.slots)}
    return set(range(max(covered) + 1)) - covered


def test_run_all_after_a_restart_runs_nothing_again_and_keeps_the_grid(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    run_all(kernel)
    wait_for_executions(kernel, "tick", "completed", 3)
    before = executions(kernel, "tick")
    kernel.restart()
    shown = run_all(kernel)
    assert all("unchanged" in text for text in shown[1:])
    last = max(int(e.slot) for e in before)
    kernel.wait_until(lambda: int(executions(kernel, "tick")[-1].slot) > last + 2)

    after = executions(kernel, "tick")
    assert Counter(served(kernel)).most_common(1)[0][1] == 1
    assert after[: len(before) - 1] == before[:-1]  # the newest may still have run when it was read
    assert {e.task_id for e in after} == {before[0].task_id}
    origin = before[0].scheduled_at
    assert all(e.scheduled_at == origin + int(e.slot) * timedelta(milliseconds=500) for e in after)
    assert slots_without_a_row(kernel, "tick") == set()
    assert (kernel.workdir / "once.log").read_text() == "x"
    assert [e.slot for e in executions(kernel, "hourly")] == ["0"]


def test_what_is_stored_is_told_and_does_not_run_until_it_is_armed(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    run_all(kernel)
    wait_ended(kernel, "hourly", "one")
    kernel.restart()
    told = ok(kernel, LOAD)
    assert "3 tasks stored here, not running" in told
    assert re.search(r"; in the last 24 h: \d+ missed: kernel gone since (.* )?\d\d:\d\d\.", told)
    assert "%car arm" in told
    count = len(executions(kernel, "tick"))
    assert ok(kernel, "time.sleep(1.5); len(car.history('tick'))") == str(count)
    assert ok(kernel, "list(car.history('hourly').status)") == "['completed']"
    assert ok(kernel, "%car arm") == "armed 3: planned in this kernel from now on\n"
    kernel.wait_until(lambda: len(executions(kernel, "tick")) > count + 2)
    gap = next(e for e in executions(kernel, "tick") if e.status == "missed")
    assert (gap.reason, gap.slots > 1) == ("no_owner", True)
    assert slots_without_a_row(kernel, "tick") == set()
    assert [e.slot for e in executions(kernel, "hourly")] == ["0"]


def test_a_kernel_killed_in_the_middle_leaves_interrupted_rows_and_no_slot_is_served_twice(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    ok(kernel, LOAD)
    ok(kernel, f"{TICK}time.sleep(0.3)")
    ok(kernel, "%%car_task long --runner shell --every 1h\necho $$ > long.pid; sleep 300")
    for life in range(3):
        started = len(served(kernel)) if life else 0
        kernel.wait_until(partial(_longer_than, kernel.workdir / "tick.log", started))
        kernel.kill9()  # just after a body noted its slot: it sleeps
        kernel.restart()
        told = ok(kernel, LOAD)
        assert f"{life + 1 + 1} interrupted" in told
        running = [e for e in executions(kernel, "tick") if e.status in ("running", "waiting")]
        assert running == []
        ok(kernel, "%car arm")
    interrupted = [e for e in executions(kernel, "tick") if e.status == "interrupted"]
    assert len(interrupted) == 3
    assert {e.execution_id for e in interrupted} <= set(served(kernel))
    assert {e.error for e in interrupted} == {"the kernel that ran it went away"}
    assert [e.status for e in executions(kernel, "long")] == ["interrupted"]
    assert Counter(served(kernel)).most_common(1)[0][1] == 1
    assert slots_without_a_row(kernel, "tick") == set()


def _longer_than(file: Path, lines: int) -> bool:
    return file.exists() and len(file.read_text().splitlines()) > lines


def test_a_task_waits_for_the_names_it_needs_and_runs_after_the_cell_that_defines_them(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    ok(kernel, LOAD)
    ok(kernel, "engine = 'sqlite'")
    ok(kernel, "%%car_task needs --every 300ms\nengine.upper()")
    ok(kernel, "%%car_task needs_two --every 300ms\nawait asyncio.sleep(0)\n(engine, table)")
    wait_for_executions(kernel, "needs", "completed")
    kernel.restart()
    ok(kernel, LOAD)
    armed = ok(kernel, "%car arm")
    assert armed.count("needs waits: 'engine' is not defined; run its cell\n") == 1
    assert "needs_two waits: 'engine', 'table' are not defined" in armed
    count = len(executions(kernel, "needs"))
    assert ok(kernel, "time.sleep(1)\nlen(car.history('needs'))") == str(count)
    assert ok(kernel, "engine = 'postgres'") == ""
    kernel.wait_until(lambda: executions(kernel, "needs")[-1].answer == "POSTGRES")
    assert [e for e in executions(kernel, "needs") if e.status == "failed"] == []
    assert executions(kernel, "needs_two") == []
    ok(kernel, "table = 'prices'")
    wait_for_executions(kernel, "needs_two", "completed")
    assert [e for e in executions(kernel, "needs_two") if e.error] == []
    assert slots_without_a_row(kernel, "needs") == set()


def test_a_task_whose_runner_is_not_registered_yet_waits_for_it_too(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    register = "@car.runner('echo')\nasync def echo(spec, prompt, runtime, mailbox):\n    return prompt"
    ok(kernel, LOAD)
    ok(kernel, register)
    ok(kernel, "%%car_task asked --runner echo --every 300ms\nhello")
    wait_for_executions(kernel, "asked", "completed")
    kernel.restart()
    ok(kernel, LOAD)
    assert "asked waits: " in ok(kernel, "%car arm")
    count = len(executions(kernel, "asked"))
    ok(kernel, register)
    kernel.wait_until(lambda: len(executions(kernel, "asked")) > count + 1)
    assert [e for e in executions(kernel, "asked") if e.error] == []


def test_a_pause_survives_a_restart_and_run_all_and_the_card_says_so(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    run_all(kernel)
    wait_for_executions(kernel, "tick", "completed")
    ok(kernel, "%car pause tick")
    wait_ended(kernel, "tick")
    count = len(executions(kernel, "tick"))
    kernel.restart()
    shown = run_all(kernel)
    assert "paused, and stays so: %car resume tick" in shown[1]
    assert ok(kernel, "time.sleep(1.2)\nlen(car.history('tick'))") == str(count)
    ok(kernel, "%car resume tick")
    kernel.wait_until(lambda: len(executions(kernel, "tick")) > count + 2)
    skipped = [e for e in executions(kernel, "tick") if e.status == "skipped"]
    assert [e.reason for e in skipped] == ["paused"]
    assert slots_without_a_row(kernel, "tick") == set()


def test_two_kernels_with_the_same_tasks_share_the_slots_and_serve_none_twice(start_kernel: StartKernel):
    one, two = start_kernel(env=ENV), start_kernel(env=ENV)
    run_all(one)
    assert "unchanged" in run_all(two)[1]
    wait_for_executions(one, "tick", "completed", 6)
    assert Counter(served(one)).most_common(1)[0][1] == 1
    assert slots_without_a_row(one, "tick") == set()
    assert (one.workdir / "once.log").read_text() == "x"
    starts = sorted(e.scheduled_at for e in executions(one, "tick"))
    assert all(later - earlier >= timedelta(milliseconds=500) for earlier, later in pairwise(starts))


def test_a_file_changed_while_no_kernel_lived_fires_when_its_task_is_armed(start_kernel: StartKernel):
    kernel = start_kernel(env=ENV)
    ok(kernel, LOAD)
    file = kernel.workdir / "data.csv"
    file.write_text("1")
    ok(kernel, "%%car_task watched --watch data.csv\nopen('data.csv').read()")
    kernel.kill9()
    file.write_text("2")
    kernel.restart()
    ok(kernel, LOAD)
    assert executions(kernel, "watched") == []
    ok(kernel, "%car arm watched")
    [execution] = wait_for_executions(kernel, "watched", "completed")
    assert execution.answer == "2"
