"""A cell that blocks the kernel stops neither the dashboard nor its buttons."""

import re
import time
from pathlib import Path

import psutil
from playwright.sync_api import expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

SECONDS = 10  # for children to end
SOON_S = 1  # a click's effect, also on a machine that is busy
# It blocks for as long as the test needs, and no longer.
BLOCK = """\
end = time.monotonic() + 60
while not Path("free").exists() and time.monotonic() < end:
    time.sleep(0.02)"""

CELLS = [
    "%load_ext car_sched_nb\nimport asyncio, time\nfrom pathlib import Path\nimport car_sched_nb as car",
    "%%car_task copy --runner shell\nsleep 1000 &\necho $$ $! > pids\nwait",
    "%%car_task count\nfor step in range(100_000):\n    car.current().progress(step, 100_000)\n    time.sleep(0.01)",
    "%%car_task listen\nawait asyncio.Event().wait()",
    "%%car_task total --no-run\n6 * 7",
    "%%car_task later --no-run\nawait asyncio.sleep(0)\n'it is later'",
    "car.dashboard()",
    BLOCK,
    "for row in car.history().itertuples():\n    print(row.task, row.status, row.finished_at.timestamp())",
]
DASHBOARD, BLOCKING, HISTORY = 6, 7, 8
# When a click reached the page, which can be long after a test has asked for it.
NOTE_CLICKS = """root => {
  root.clicks = {};
  const note = event => { root.clicks[event.target.closest("[data-task]").dataset.task] = Date.now(); };
  root.addEventListener("click", note, true);
}"""


def is_blocked(notebook: Notebook) -> bool:
    return notebook.cell(BLOCKING).locator(".jp-InputArea-prompt").inner_text().startswith("[*]")


def test_the_buttons_work_while_a_cell_blocks_the_kernel(open_notebook: OpenNotebook, tmp_path: Path):
    notebook = open_notebook(CELLS)
    for index in range(DASHBOARD + 1):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait()
    for task in ("copy", "count", "listen"):
        board.wait_for(task, status="running")
    children = [psutil.Process(int(pid)) for pid in read_soon(tmp_path / "pids").split()]
    notebook.run(BLOCKING, wait=False)
    expect(board.root.locator(".car-busy")).to_have_text(re.compile(r"kernel busy since \d"))

    board.root.evaluate(NOTE_CLICKS)

    board.press("copy", "cancel")
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert alive == []
    board.wait_for("copy", last="cancelled")

    board.press("count", "cancel")
    board.wait_for("count", last="cancelled")

    board.press("total", "run")
    board.wait_for("total", status="completed", last="completed")
    expect(board.row("total").locator(".car-text")).to_have_text("42")

    # What lives on the kernel's own loop has to wait for it, and says so.
    board.press("listen", "cancel")
    board.wait_for("listen", status="cancelling")
    expect(board.row("listen").locator(".car-waits")).to_have_text("waits for the kernel: a cell is running")
    board.press("later", "run")
    expect(board.row("later").locator(".car-waits")).to_have_text("waits for the kernel: a cell is running")
    assert is_blocked(notebook), "the cell ended before all was clicked"

    (tmp_path / "free").touch()
    notebook.wait_for_cell(BLOCKING)
    expect(board.root.locator(".car-busy")).to_be_hidden()
    board.wait_for("listen", last="cancelled")
    board.wait_for("later", last="completed")
    notebook.run(HISTORY)
    rows = [line.split() for line in notebook.outputs(HISTORY)[0].splitlines()]
    assert {task: status for task, status, _ in rows} == {
        "copy": "cancelled",
        "count": "cancelled",
        "listen": "cancelled",
        "total": "completed",
        "later": "completed",
    }
    ended = {task: float(at) for task, _, at in rows}
    clicked = board.root.evaluate("root => root.clicks")  # ms, by the clock that the kernel has too
    stopped = {task: ended[task] - clicked[task] / 1000 for task in ("copy", "count")}
    print("stopped after a click, s:", stopped)
    assert max(stopped.values()) < SOON_S
    assert notebook.errors == []


def read_soon(path: Path, timeout_s: float = 15) -> str:
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and (text := path.read_text())):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)  # another program's file gives no event
    return text
