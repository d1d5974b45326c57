"""A cell that blocks the kernel delays no schedule and no cancel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from car_sched_nb.model import Execution
from tests.kernel.kernel import Cell, Kernel
from tests.kernel.notebook import executions, lives, loaded_kernel, ok, wait_ended, wait_for_executions

# A synchronous cell that the test ends by making a file.
BLOCK = """
import pathlib
print("blocked", flush=True)
until = time.monotonic() + 120
while not pathlib.Path("go-on").exists() and time.monotonic() < until:
    time.sleep(0.02)
"""
GRANDCHILDREN = """
sh -c 'sleep 300 & echo $! >> family; sleep 301 & echo $! >> family; wait' &
echo $! >> family
echo $$ >> family
wait
"""
SECOND_ROUTE = """
import pathlib, threading
from car_sched_nb.notebook.session import current_session
def click():
    while not pathlib.Path("click").exists():
        time.sleep(0.01)
    for name in ("family", "spinning", "asleep"):
        current_session().soon(lambda scheduler, name=name: scheduler.cancel_soon(name))
threading.Thread(target=click, daemon=True).start()
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    yield from loaded_kernel(tmp_path_factory.mktemp("busy"))


def block(kernel: Kernel) -> Cell:
    (kernel.workdir / "go-on").unlink(missing_ok=True)
    cell = kernel.send(BLOCK)
    kernel.wait_for_text(cell, "blocked")
    return cell


def unblock(kernel: Kernel, cell: Cell) -> None:
    (kernel.workdir / "go-on").touch()
    assert kernel.wait(cell).status == "ok"


def pids(file: Path, count: int, kernel: Kernel) -> list[int]:
    kernel.wait_until(lambda: file.exists() and len(file.read_text().split()) == count)
    return [int(pid) for pid in file.read_text().split()]


def test_shell_and_thread_slots_are_served_while_a_cell_blocks(kernel: Kernel):
    ok(kernel, "%%car_task shell --runner shell --every 300ms\necho $CAR_SLOT")
    ok(kernel, "%%car_task thread --every 300ms\ncar.current().slot")
    cell = block(kernel)
    for name in ("shell", "thread"):
        wait_for_executions(kernel, name, "completed", len(executions(kernel, name)) + 5)
    assert not (kernel.workdir / "go-on").exists()  # the cell was still blocked
    unblock(kernel, cell)
    ok(kernel, "%car delete shell\n%car delete thread")
    for name in ("shell", "thread"):
        rows = executions(kernel, name)
        assert {str(e.status) for e in rows} <= {"completed", "skipped", "cancelled"}, name
        slots = [slot for e in rows for slot in range(int(e.slot), int(e.slot) + e.slots)]
        assert slots == list(range(len(slots))), name
        assert [e.answer for e in completed(kernel, name)] == [e.slot for e in completed(kernel, name)], name


def completed(kernel: Kernel, name: str) -> list[Execution]:
    return [e for e in executions(kernel, name) if e.status == "completed"]


def test_a_body_of_the_kernels_loop_waits_for_the_cell_and_says_so(kernel: Kernel):
    ok(kernel, "%%car_task awaits --no-run\nawait asyncio.sleep(0)\n'ran'")
    (kernel.workdir / "go-on").unlink(missing_ok=True)
    cell = kernel.send(f"car.run('awaits')\n{BLOCK}")
    kernel.wait_for_text(cell, "blocked")
    [waiting] = wait_for_executions(kernel, "awaits", "waiting")
    assert (waiting.wait_reason, waiting.started_at) == ("kernel busy", None)
    unblock(kernel, cell)
    [ran] = wait_for_executions(kernel, "awaits", "completed")
    assert (ran.execution_id, ran.answer) == (waiting.execution_id, "ran")
    assert ran.lateness is not None and ran.duration is not None
    assert ran.lateness > ran.duration  # the wait counts as lateness, not as work


def test_an_interval_on_the_loop_runs_once_after_the_cell_and_its_other_slots_are_one_row(kernel: Kernel):
    ok(kernel, "%%car_task beat --every 200ms\nawait asyncio.sleep(0)")
    wait_for_executions(kernel, "beat", "completed", 2)
    ok(kernel, "time.sleep(2)")
    kernel.wait_until(lambda: executions(kernel, "beat")[-1].slots == 1)
    ok(kernel, "%car pause beat")
    wait_ended(kernel, "beat")
    rows = executions(kernel, "beat")
    [skipped] = [e for e in rows if e.status == "skipped" and e.slots > 5]
    assert skipped.reason == "overlap"
    assert sum(e.slots for e in rows) == max(int(e.slot) + e.slots for e in rows)


def test_a_cancel_by_another_route_stops_processes_and_threads_while_a_cell_blocks(kernel: Kernel):
    ok(kernel, f"%%car_task family --runner shell\n{GRANDCHILDREN}")
    ok(kernel, "%%car_task spinning\nopen('spinning', 'w').close()\nwhile True:\n    pass")
    ok(kernel, "%%car_task asleep\nopen('asleep', 'w').close()\ntime.sleep(300)")
    family = pids(kernel.workdir / "family", 4, kernel)
    kernel.wait_until(lambda: all((kernel.workdir / name).exists() for name in ("spinning", "asleep")))
    ok(kernel, SECOND_ROUTE)
    cell = block(kernel)
    assert all(map(lives, family))
    (kernel.workdir / "click").touch()
    for name in ("family", "spinning", "asleep"):
        wait_for_executions(kernel, name, "cancelled")
    assert not any(map(lives, family))
    assert not (kernel.workdir / "go-on").exists()  # the cell was still blocked
    unblock(kernel, cell)


def test_a_thread_of_the_notebook_may_cancel_while_a_cell_blocks(kernel: Kernel):
    ok(kernel, "%%car_task nap\ntime.sleep(300)")
    ok(kernel, "counts = []\ncanceller = threading.Thread(target=lambda: counts.append(car.cancel('nap')))")
    assert ok(kernel, "canceller.start()\ncanceller.join()\ncounts") == "[1]"
    assert [e.status for e in executions(kernel, "nap")] == ["cancelled"]


def test_a_body_of_the_loop_that_waits_for_the_cell_can_be_cancelled_meanwhile(kernel: Kernel):
    ok(kernel, "%%car_task never --no-run\nawait asyncio.sleep(0)\nopen('never', 'w').close()")
    shown = ok(kernel, "car.run('never')\nprint(car.cancel('never'))\ntime.sleep(1)")
    assert shown == "1\n"
    wait_ended(kernel, "never")
    assert [(e.status, e.started_at) for e in executions(kernel, "never")] == [("cancelled", None)]
    assert not (kernel.workdir / "never").exists()


def test_stop_ends_the_cell_and_no_task(kernel: Kernel):
    ok(kernel, "import pathlib")
    ok(kernel, "%%car_task kept_shell --runner shell\nuntil [ -e enough ]; do sleep 0.1; done; echo done")
    ok(kernel, "%%car_task kept_thread\nwhile not pathlib.Path('enough').exists():\n    time.sleep(0.1)\n'done'")
    ok(kernel, "%%car_task kept_loop\nwhile not pathlib.Path('enough').exists():\n    await asyncio.sleep(0.1)\n'done'")
    for _ in range(2):
        cell = block(kernel)
        kernel.interrupt()
        assert kernel.wait(cell).error.startswith("KeyboardInterrupt")
    waiting = kernel.send("print('waits', flush=True)\nawait car.wait('kept_shell', 'kept_thread', 'kept_loop')")
    kernel.wait_for_text(waiting, "waits")
    kernel.interrupt()
    kernel.client.kernel_info()  # ipykernel 7.4 looks at an interrupt of an awaiting cell when its loop wakes
    assert "CancelledError" in kernel.wait(waiting).error
    (kernel.workdir / "enough").touch()
    wait_ended(kernel, "kept_shell", "kept_thread", "kept_loop")
    for name in ("kept_shell", "kept_thread", "kept_loop"):
        assert [(e.status, e.answer) for e in executions(kernel, name)] == [("completed", "done")], name


def test_a_synchronous_body_does_not_hold_up_the_next_cell(kernel: Kernel):
    ok(kernel, "%%car_task holds\ntime.sleep(300)")
    wait_for_executions(kernel, "holds", "running")
    assert ok(kernel, "1 + 1") == "2"
    assert [e.status for e in executions(kernel, "holds")] == ["running"]
    ok(kernel, "%car cancel holds")
