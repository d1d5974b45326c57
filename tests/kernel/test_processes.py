"""Bodies in processes of their own, as a notebook uses them: what they are given, and what comes back."""

from collections.abc import Iterator

import pytest

from tests.kernel.kernel import Kernel
from tests.kernel.notebook import executions, lives, loaded_kernel, ok, refused, text_of, wait_ended

CELLS = """
import pandas as pd, numpy as np, sqlite3, os
print(car.__file__)
df = pd.DataFrame({"a": [1, 2, 3]})
weights = np.arange(3)
rate = 2
class Point:
    made = 0
    def __init__(self, x):
        self.x = x
    def doubled(self):
        return Point(self.x * rate)
def scale(frame):
    return frame * rate
twice = lambda n: n * rate
point = Point(20)
before = Point.doubled
connection = sqlite3.connect(":memory:")
opened = open("notes.txt", "w")
numbers = (n for n in range(3))
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    for kernel in loaded_kernel(
        tmp_path_factory.mktemp("processes"), {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    ):
        ok(kernel, CELLS)
        yield kernel


def run(kernel: Kernel, line: str, body: str) -> tuple[str, str, str]:
    """Run a body in a process; return its status with its error, its answer, and what it printed."""
    name = line.split(maxsplit=1)[0]
    ok(kernel, f"%%car_task {line} --executor process\n{body}")
    wait_ended(kernel, name)
    done = executions(kernel, name)[-1]
    return f"{done.status} {done.error or ''}".strip(), done.answer or "", ok(kernel, f"%car logs {name}")


def test_what_cells_define_goes_along(kernel: Kernel):
    body = "there = os.path.exists('notes.txt')\n"
    body += "int(scale(df)['a'].sum()), int(weights.sum()), twice(4), point.doubled().x, __name__, there"
    assert run(kernel, "given", body)[:2] == ("completed", "(12, 3, 8, 40, '__main__', True)")


def test_a_result_of_a_class_of_the_notebook_is_of_that_very_class_and_leaves_it_as_it_was(kernel: Kernel):
    assert run(kernel, "point2 --into back", "Point.made = 5\npoint.doubled()")[0] == "completed"
    assert ok(kernel, "(type(back) is Point, back.x, Point.doubled is before, Point.made)") == "(True, 40, True, 0)"


def test_a_frame_comes_back_into_a_variable_and_looks_as_in_a_cell(kernel: Kernel):
    status, answer, _ = run(kernel, "frame --into scaled", "scale(df)")
    assert (status, answer) == ("completed", ok(kernel, "scale(df)"))
    assert ok(kernel, "scaled.equals(scale(df))") == "True"
    assert ok(kernel, "scaled.loc[0, 'a'] = 100; int(scaled.a.sum())") == "110"


def test_what_cannot_go_along_is_named_with_its_type(kernel: Kernel):
    for name, kind in (("connection", "sqlite3.Connection"), ("opened", "_io.TextIOWrapper"), ("numbers", "generator")):
        status, _, _ = run(kernel, f"takes_{name}", f"len(str({name}))")
        assert status.startswith(f"failed cannot be carried into a process: '{name}' ({kind}: "), status
        assert status.endswith("Make it inside the body, or leave --executor process away")


def test_commands_magics_displays_and_figures_work(kernel: Kernel):
    body = """
from IPython.display import HTML
!echo from the shell
found = !echo listed
%time pass
display(HTML("<b>SHOWN</b>"))
import matplotlib.pyplot as plt
plt.plot([1, 2])
class Bare: pass
{"list": found, "sets": {3, 1, 2}, "bare": Bare()}
"""
    status, answer, logs = run(kernel, "magical", body)
    assert status == "completed", status
    assert answer.startswith("{'list': ['listed'],\n 'sets': {1, 2, 3},\n 'bare': <__main__.Bare at 0x")
    assert logs.startswith("from the shell\n")
    assert "Wall time" in logs


def test_the_lines_of_a_cells_function_stand_in_the_traceback(kernel: Kernel):
    status, _, logs = run(kernel, "fails", "\ntwice(None)")
    assert status.startswith("failed unsupported operand")
    shown = ok(kernel, "%car logs fails") + logs
    assert 'File "<car_task fails>", line 2' in shown
    assert "twice = lambda n: n * rate" in shown


def test_a_decorated_function_runs_in_a_process(kernel: Kernel):
    ok(kernel, "@car.task(executor='process', param={'n': 4})\ndef counted(n):\n    return os.getpid(), n * rate")
    ok(kernel, "car.run('counted'); await car.wait('counted')")
    done = executions(kernel, "counted")[-1]
    assert (done.status, done.executor) == ("completed", "process")
    assert (done.answer or "").endswith(", 8)")
    assert ok(kernel, f"{done.answer}[0] == os.getpid()") == "False"


def test_options_that_do_not_go_together_are_refused(kernel: Kernel):
    for line, said in (
        ("bad --argv", "--argv goes with --runner shell"),
        ("bad --memory 2GB", "--memory goes with a process; add --executor process"),
        ("bad --memory 2 --executor process", "write 2MB or 2GB"),
        ("bad --executor process --cwd /no/such", "there is no such folder"),
        ("bad --env KEY=secret", "write --env KEY"),
    ):
        message = refused(kernel, f"%%car_task {line}\n1")
        assert said in message
        assert "secret" not in message
    failed = kernel.run("@car.task(memory='2GB')\ndef f(): pass")
    assert "--memory goes with a process" in failed.error


def test_a_body_in_a_process_sends_and_shares_as_one_in_the_kernel_does(kernel: Kernel):
    assert run(kernel, "tells", "car.send('notebook', 'hi')\ncar.state()['told'] = 7")[0] == "completed"
    assert ok(kernel, "[(one.message, one.sender) for one in car.mailbox().letters()]") == "[('hi', 'tells')]"
    assert ok(kernel, "car.state()['told']") == "7"
    assert "--executor process" in run(kernel, "asks", "car.run('tells')")[0]


def test_a_test_run_is_one_attempt(kernel: Kernel):
    said = _refused_after(kernel, "%%car_task tried --test --executor process --retries 2 --retry-delay 1h\n1 / 0")
    assert said.endswith("tried failed: division by zero; nothing was stored\n")


def _refused_after(kernel: Kernel, code: str) -> str:
    result = kernel.run(code)
    assert result.status == "error"
    return text_of(result)


def test_a_command_of_a_thread_ends_with_its_cancelled_body(kernel: Kernel):
    ok(kernel, "import gc; gc.disable()")  # it may not be what ends the command
    ok(kernel, "%%car_task commands\nseconds = 600\n!echo $$ > pid; sleep {seconds}")
    pid = kernel.workdir / "pid"
    kernel.wait_until(lambda: pid.exists() and bool(pid.read_text().strip()))
    ok(kernel, "car.cancel('commands')")
    wait_ended(kernel, "commands")
    assert executions(kernel, "commands")[-1].status == "cancelled"
    assert not lives(int(pid.read_text()))
    ok(kernel, "gc.enable()")
