"""What the other tests of this folder take for granted about their kernel."""

from pathlib import Path

import pytest

from tests.kernel.conftest import StartKernel
from tests.kernel.kernel import Kernel, KernelGoneError

LATER = """
import threading
opened = threading.Event()
def say():
    opened.wait()
    print("from the first cell")
import asyncio
task = asyncio.get_running_loop().create_task(asyncio.to_thread(say))
"""


def test_a_cell_returns_its_outputs_and_its_error(kernel: Kernel):
    assert kernel.run("print('one'); 1 + 1").text == "one\n2"
    result = kernel.run("1 / 0")
    assert (result.status, result.error) == ("error", "ZeroDivisionError: division by zero")


def test_an_output_that_comes_late_belongs_to_the_cell_that_started_it(kernel: Kernel):
    first = kernel.run(LATER)
    second = kernel.run("opened.set(); await task; print('from the second cell')")
    assert kernel.wait_for_text(first.cell, "first") == "from the first cell\n"
    assert (first.text, second.text) == ("", "from the second cell\n")


def test_a_kernel_has_the_folder_and_the_store_of_its_test(kernel: Kernel, tmp_path: Path):
    seen = kernel.run("import os; print(os.getcwd(), os.environ['CAR_SCHED_NB_STORE'])").text
    assert seen.split() == [str(tmp_path / "work"), str(tmp_path / "car.db")]


def test_interrupt_stops_the_cell_and_keeps_the_kernel(kernel: Kernel):
    kernel.run("import time; x = 1")
    sleeping = kernel.send("print('asleep', flush=True); time.sleep(60)")
    kernel.wait_for_text(sleeping, "asleep")
    kernel.interrupt()
    assert kernel.wait(sleeping).error.startswith("KeyboardInterrupt")
    assert kernel.run("x").text == "1"


def test_a_restarted_kernel_has_forgotten_its_names_and_kept_its_folder(kernel: Kernel):
    before, pid = kernel.run("x = 1; import os; print(os.getcwd())").text, kernel.pid
    kernel.restart()
    assert kernel.pid != pid
    assert kernel.run("import os; print(os.getcwd())").text == before
    assert kernel.run("x").error.startswith("NameError")


def test_a_killed_kernel_is_gone_at_once_and_can_be_started_again(kernel: Kernel):
    sleeping = kernel.send("import time; print('asleep', flush=True); time.sleep(60)")
    kernel.wait_for_text(sleeping, "asleep")
    kernel.kill9()
    assert not kernel.alive
    with pytest.raises(KernelGoneError):
        kernel.wait(sleeping)
    kernel.restart()
    assert kernel.run("1 + 1").text == "2"


def test_two_kernels_of_one_test_share_its_store(start_kernel: StartKernel):
    one, two = start_kernel(), start_kernel()
    assert one.pid != two.pid
    ask = "import os; print(os.environ['CAR_SCHED_NB_STORE'])"
    assert one.run(ask).text == two.run(ask).text
