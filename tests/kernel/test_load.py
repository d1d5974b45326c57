"""Loading is quick and quiet, and ending leaves nothing behind."""

import subprocess
import sys
import time

import psutil  # it ships no types
import pytest

from tests.kernel.conftest import StartKernel
from tests.kernel.kernel import Kernel
from tests.kernel.notebook import ENV, LOAD, ROOT, executions, lives, ok, wait_ended, wait_for_executions

HEAVY = {"pandas", "numpy", "pyarrow", "IPython", "ipywidgets", "anywidget", "apsw", "anyio", "msgspec", "watchfiles"}
TIMED = "begun = time.process_time()\n%load_ext car_sched_nb\nprint(time.process_time() - begun)"
LOADED = "import sys\nprint(*{name.partition('.')[0] for name in sys.modules})"


@pytest.fixture
def kernel(start_kernel: StartKernel) -> Kernel:
    return start_kernel(env=ENV)


def test_importing_the_package_imports_nothing_heavy():
    code = f"import car_sched_nb\ndir(car_sched_nb)\n{LOADED}"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(loaded.split()) == set()


def test_load_ext_is_little_work_in_a_fresh_kernel(kernel: Kernel):
    ok(kernel, "import time")
    took_s = float(ok(kernel, TIMED))  # of the processor: a busy machine makes it no longer
    print(f"%load_ext: {took_s:.3f} s")
    assert took_s <= 2


def test_load_ext_says_nothing_and_loads_no_pandas_and_no_widgets(kernel: Kernel):
    assert ok(kernel, "%load_ext car_sched_nb") == ""
    assert {"pandas", "ipywidgets", "anywidget"} & set(ok(kernel, LOADED).split()) == set()
    assert "already loaded" in ok(kernel, "%load_ext car_sched_nb")


def test_unload_ends_the_engine_and_takes_everything_off(kernel: Kernel):
    ok(kernel, "import sys\nbefore = sys.stdout, sys.stderr, get_ipython().display_pub.publish")
    ok(kernel, LOAD)
    ok(kernel, "%%car_task naps\ntime.sleep(300)")
    ok(kernel, "%%car_task ticks --every 200ms\n1")
    wait_for_executions(kernel, "ticks", "completed")
    ok(kernel, "%unload_ext car_sched_nb")
    assert ok(kernel, "[t.name for t in threading.enumerate() if t.name in ('car-engine', 'car-writer')]") == "[]"
    assert [e.status for e in executions(kernel, "naps")] == ["interrupted"]
    count = len(executions(kernel, "ticks"))
    after = "(sys.stdout, sys.stderr, get_ipython().display_pub.publish)"
    assert ok(kernel, f"time.sleep(0.6)\n{after} == before") == "True"
    assert len(executions(kernel, "ticks")) == count
    for cell in ("%car list", "%%car_task x\n1"):
        assert "not found" in kernel.run(cell).text
    assert "run %load_ext car_sched_nb first" in kernel.run("car.run('ticks')").error


def test_reload_ext_goes_on_with_what_is_stored(kernel: Kernel):
    ok(kernel, LOAD)
    ok(kernel, "%%car_task ticks --every 300ms\nprint('tick')")
    wait_for_executions(kernel, "ticks", "completed")
    ok(kernel, "%reload_ext car_sched_nb")
    assert "1 task stored here, not running" in ok(kernel, "%car namespace t")
    count = len(executions(kernel, "ticks"))
    assert ok(kernel, "%car arm") == "armed 1: planned in this kernel from now on\n"
    kernel.wait_until(lambda: len(executions(kernel, "ticks")) > count + 1)
    ok(kernel, "%car pause --all")
    wait_ended(kernel)
    assert ok(kernel, "%car logs ticks") == "tick\n"


def test_a_kernel_with_running_tasks_ends_promptly_and_leaves_no_process(kernel: Kernel):
    ok(kernel, LOAD)
    ok(kernel, "%%car_task shell --runner shell\nsh -c 'sleep 300 & wait' & wait")
    ok(kernel, "%%car_task thread\ntime.sleep(300)")
    ok(kernel, "%%car_task spins\nwhile True: pass")
    ok(kernel, "%%car_task loop\nawait asyncio.sleep(300)")
    # Two shells and what they sleep in, and the supervisor of such children.
    kernel.wait_until(lambda: len(psutil.Process(kernel.pid).children(recursive=True)) == 4)
    family = [kernel.pid, *(child.pid for child in psutil.Process(kernel.pid).children(recursive=True))]
    assert len(family) == 5
    kernel.stop()  # it kills after 5 s, and then the rows would say that they run
    while any(map(lives, family)):
        time.sleep(0.01)
    for name in ("shell", "thread", "spins", "loop"):
        assert [e.status for e in executions(kernel, name)] == ["interrupted"], name
