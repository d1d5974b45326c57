"""A capture catches what its own author writes."""

from tests.kernel.kernel import Kernel

LOUD = """%%car_task loud
import time
from IPython.display import display
for step in range(10):
    print("from the body", step)
    display(step)
    time.sleep(0.05)
"""


def test_a_cell_that_captures_does_not_catch_a_body(kernel: Kernel):
    kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car, contextlib, io, time")
    kernel.run(LOUD)
    kernel.run("%%capture caught\nprint('mine')\ntime.sleep(0.3)")
    kernel.run("with contextlib.redirect_stdout(io.StringIO()) as mine:\n    print('too')\n    time.sleep(0.3)")
    kernel.run("await car.wait()")
    assert kernel.run("print(repr(caught.stdout), repr(mine.getvalue()), len(caught.outputs))").text == (
        "'mine\\n' 'too\\n' 0\n"
    )
    assert kernel.run("print(car.logs('loud').count('from the body'))").text == "10\n"


def test_a_body_that_redirects_does_not_catch_a_cell(kernel: Kernel):
    kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car")
    kernel.run(
        "%%car_task quiet\nimport contextlib, io, time\n"
        "with contextlib.redirect_stdout(io.StringIO()) as kept:\n    print('inside')\n    time.sleep(1)\n"
        "kept.getvalue()"
    )
    assert kernel.run("import time; time.sleep(0.2); print('the cell')").text == "the cell\n"
    kernel.run("await car.wait()")
    assert kernel.run("print(car.history('quiet').answer.iloc[0])").text == "inside\n\n"
