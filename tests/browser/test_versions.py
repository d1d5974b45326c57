"""Cancel while a cell blocks the kernel: on each version of ipykernel, in both applications."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import expect

from tests.browser import kernels
from tests.browser.board import Board
from tests.browser.chromium import is_required
from tests.browser.conftest import OpenNotebook
from tests.browser.lab import App

TASKS = """\
%load_ext car_sched_nb
import time
from importlib.metadata import version
from pathlib import Path
import ipykernel
import car_sched_nb as car

def define(line, body):
    get_ipython().run_cell_magic("car_task", line, body)

define("copy --runner shell", "sleep 1000")
define("count", "for step in range(100_000):\\n    time.sleep(0.01)")
car.dashboard()"""
# It blocks for as long as the test needs, and no longer.
BLOCK = """\
end = time.monotonic() + 60
while not Path("free").exists() and time.monotonic() < end:
    time.sleep(0.02)
print(time.monotonic() < end)"""
ENDED = """\
print(ipykernel.__version__, version("ipykernel"), sorted(zip(car.history().task, car.history().status)))"""


class Case(NamedTuple):
    """Where it is tried, and whether a click's command comes through beside a cell that blocks."""

    ipykernel: str
    app: App = "lab"
    settings: Mapping[str, Mapping[str, Any]] | None = None
    at_once: bool = True


CASES = {
    "6.30": Case("6.30", at_once=False),  # it has no subshells
    "7.2": Case("7.2"),
    "7.3": Case("7.3"),
    "notebook-7": Case("7.4", "notebook"),
    "without-subshells": Case(
        "7.4",
        settings={"@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"}},
        at_once=False,
    ),
}


def kernel_environment(version: str) -> dict[str, str]:
    if version == "7.4":  # the one of the lock file
        return {}
    try:
        return kernels.environment(version)
    except kernels.NotInstalled as reason:
        (pytest.fail if is_required() else pytest.skip)(str(reason))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_cancel_stops_the_work_while_a_cell_blocks(open_notebook: OpenNotebook, tmp_path: Path, case: Case):
    notebook = open_notebook(
        [TASKS, BLOCK, ENDED], app=case.app, settings=case.settings, env=kernel_environment(case.ipykernel)
    )
    notebook.run(0)
    board = Board(notebook, 0).wait()
    tasks = ["copy", "count"]
    for task in tasks:
        board.wait_for(task, status="running")
    notebook.run(1, wait=False)
    expect(board.root.locator(".car-busy")).to_have_text(re.compile(r"kernel busy since \d"))
    for task in tasks:
        board.press(task, "cancel")
    for task in tasks:
        if case.at_once:
            board.wait_for(task, last="cancelled")
        else:
            board.wait_for(task, status="cancelling")  # the browser's own word
    prompt = notebook.cell(1).locator(".jp-InputArea-prompt")
    expect(prompt).to_contain_text("[*]")
    (tmp_path / "free").touch()
    notebook.wait_for_cell(1)
    for task in tasks:
        board.wait_for(task, last="cancelled")
    notebook.run(2)
    version, by_metadata, rows = notebook.outputs(2)[0].split(maxsplit=2)
    assert version == by_metadata and version.startswith(case.ipykernel + ".")
    assert rows == "[('copy', 'cancelled'), ('count', 'cancelled')]"
    assert notebook.outputs(1) == ["True"]
    assert notebook.refused == []
    assert case.app == "notebook" or notebook.errors == []  # Notebook 7.6 has errors of its own at each start
