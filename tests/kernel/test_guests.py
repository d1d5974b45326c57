"""Libraries that draw by ways of their own write where their author's prints go, and into no cell."""

import json

import pytest

from tests.kernel.kernel import Kernel

WAIT = "import time\nfor _ in range(100):\n    time.sleep(0.02)\n    if not car.scheduler().live():\n        break"

BODIES = {
    "bar": "from tqdm import tqdm\nimport time\nfor k in tqdm(range(20), mininterval=0): time.sleep(0.005)",
    "widget_bar": "from tqdm.auto import tqdm\nimport time\nfor k in tqdm(range(20), mininterval=0): time.sleep(0.005)",
    "rich_bar": (
        "from rich.progress import track\nimport time\nprint('begun')\n"
        "for k in track(range(20), description='work'): time.sleep(0.02)"
    ),
    "rich_print": "import rich, time\ntime.sleep(0.1)\nrich.print('[bold]strong[/]')",
    "handler": "import logging, time\ntime.sleep(0.1)\nlogging.getLogger('of a cell').warning('logged')",
    "basic": (
        "import logging, time, warnings\nlogging.basicConfig(force=True)\ntime.sleep(0.1)\n"
        "logging.warning('logged'); warnings.warn('careful')"
    ),
    "update": (
        "import time\nfrom IPython.display import display, HTML\nh = display(HTML('<b>0</b>'), display_id=True)\n"
        "for k in range(1, 5):\n    time.sleep(0.03)\n"
        "    h.update(HTML(f'<b>{k}</b>'))\n    of_a_cell.update(f'mine {k}')"
    ),
    "clear": (
        "import time\nfrom IPython.display import clear_output\nprint('taken back')\ntime.sleep(0.1)\n"
        "clear_output()\nprint('stays')"
    ),
    "output": (
        "import ipywidgets, time\nfrom IPython.display import display\nbox = ipywidgets.Output()\ndisplay(box)\n"
        "with box:\n    print('in the box')\n    time.sleep(0.2)\n    1 / 0\nprint('beside it')"
    ),
    "interact": (
        "import time\nfrom ipywidgets import interact\ntime.sleep(0.1)\ninteract(lambda x: print('x', x), x=(0, 5))\n1"
    ),
    "bytes": "import sys, time\ntime.sleep(0.1)\nsys.stdout.buffer.write('h\\u00e9llo\\n'.encode())\n1",
    "magics": "!echo from the shell\n%timeit -n1 -r1 pass",
}
SAYS = {
    "bar": ["100%", "20/20"],
    "widget_bar": ["100%", "20/20"],
    "rich_bar": ["begun\n", "work", "100%"],
    "rich_print": ["strong\n"],
    "handler": ["logged\n"],
    "basic": ["WARNING:root:logged\n", "UserWarning: careful\n"],
    "update": ["<IPython.core.display.HTML object>\n", "mine 4"],
    "clear": ["stays\n"],
    "output": ["in the box\n", "ZeroDivisionError", "beside it\n"],
    "interact": ["x 2\n"],
    "bytes": ["héllo\n"],
    "magics": ["from the shell\n", "per loop"],
}


def test_whatever_a_body_draws_with_is_its_own_and_a_cell_that_runs_meanwhile_shows_nothing(kernel: Kernel):
    kernel.run(
        "import logging, sys\nlogging.getLogger('of a cell').addHandler(logging.StreamHandler())\n"
        "%load_ext car_sched_nb\nimport car_sched_nb as car\n"
        "from IPython.display import display\nof_a_cell = display('mine', display_id=True)"
    )
    for name, body in BODIES.items():
        kernel.run(f"%%car_task {name} --no-run\n{body}")
    kernel.run("for name in car.tasks().index: car.run(name)")
    assert kernel.run(WAIT).outputs == ()  # a cell that blocks, and that their threads might write into
    kernel.run("await car.wait()")
    logs = json.loads(kernel.run("import json\nprint(json.dumps({n: car.logs(n) for n in car.tasks().index}))").text)
    ended = json.loads(kernel.run("print(json.dumps(dict(car.tasks().status.astype(str))))").text)
    assert ended == dict.fromkeys(BODIES, "completed"), logs
    for name, words in SAYS.items():
        assert all(word in logs[name] for word in words), (name, logs[name])
        assert "\r" not in logs[name] and "\x1b" not in logs[name]
    assert "taken back" not in logs["clear"]
    for name in ("bar", "widget_bar"):
        assert logs[name].count("\n") == 1, logs[name]
    assert kernel.strays() == []

    shown = kernel.run("car.outputs('update')").outputs
    assert next(one.data.get("text/html") for one in shown if one.kind == "display_data") == "<b>4</b>"
    assert [one.kind for one in kernel.run("%car outputs rich_print").outputs] == ["display_data"]


def test_a_cell_keeps_its_own_bars_and_consoles(kernel: Kernel):
    kernel.run("%load_ext car_sched_nb")
    bar = kernel.run("from tqdm.auto import tqdm\nprint(type(tqdm(range(3), display=False)).__mro__[1].__module__)")
    assert bar.text == "tqdm.notebook\n"
    assert [one.kind for one in kernel.run("import rich; rich.print('[bold]x[/]')").outputs] == ["display_data"]
    box = kernel.run("import ipywidgets\nbox = ipywidgets.Output()\nwith box:\n    print(box.msg_id != '')")
    assert box.text == "True\n"


@pytest.mark.parametrize("full", [False, True])
def test_the_log_of_a_deleted_task_and_a_given_execution_is_still_there(kernel: Kernel, full: bool):
    kernel.run("%load_ext car_sched_nb\nimport car_sched_nb as car")
    kernel.run("%%car_task long\nprint('x' * 200_000)")
    kernel.run("await car.wait()\none = car.scheduler().executions('long')[-1]\ncar.delete('long')")
    asked = f"len(car.logs({{}}, full={full}))"
    listed = ", ".join(asked.format(one) for one in ("'long'", "one", "one.execution_id"))
    sizes = kernel.run(f"print({listed})")
    sizes_of = {int(size) for size in sizes.text.split()}
    assert len(sizes_of) == 1
    assert (sizes_of == {200_001}) is full
