"""Figures of a body stay with its execution."""

from tests.kernel.kernel import Kernel

BODY = """%%car_task {}
import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
{}
print(len(plt.get_fignums()), "open")
"""


def test_a_figure_of_a_body_is_kept_with_it_and_shown_in_no_cell(kernel: Kernel):
    kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car")
    kernel.run(BODY.format("in_thread", "import time; time.sleep(0.1)"))
    kernel.run(BODY.format("on_loop", "await asyncio.sleep(0.1)"))
    assert "Figure" not in kernel.run("await car.wait()").text
    assert "Figure" not in kernel.run("1 + 1").text
    for name in ("in_thread", "on_loop"):
        said = kernel.run(f"print(car.logs({name!r}))").text
        assert "1 open" in said
        assert "<Figure" in said
    kept = "car.scheduler().store.rows('SELECT count(*) FROM outputs WHERE display LIKE ?', '%image/png%')"
    assert kernel.run(kept).text == "[(2,)]"


def test_the_notebook_keeps_its_own_figures(kernel: Kernel):
    kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car")
    kernel.run(BODY.format("plot", ""))
    kernel.run("await car.wait()")
    shown = kernel.run("import matplotlib.pyplot as plt\nplt.plot([3, 2, 1]);")
    assert shown.text.count("Figure") == 1
