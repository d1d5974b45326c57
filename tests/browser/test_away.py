"""A dashboard that was not looked at for a while, or has no kernel: it tells what is true, or that it does not know."""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook

CHANGES = """\
from pathlib import Path
while not Path("go").exists():
    await asyncio.sleep(0.02)
for n in range(30):
    car.run("health")
    await car.wait("health")
car.pause("broken")"""
CELLS = [
    "%load_ext car_sched_nb\nimport asyncio\nimport car_sched_nb as car",
    "%%car_task health --every 1h\n'<b>ok</b>'",
    "%%car_task broken --every 1h\nraise ValueError('no such <i>market</i>')",
    "await car.wait('health', 'broken')\ncar.dashboard()",
    CHANGES,
]
DASHBOARD, CHANGE = 3, 4


def test_a_page_that_was_frozen_or_offline_catches_up(open_notebook: OpenNotebook, tmp_path: Path):
    notebook = open_notebook(CELLS)
    for index in range(DASHBOARD + 1):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait()
    board.wait_for("health", last="completed")
    page = notebook.page
    session = page.context.new_cdp_session(page)
    notebook.run(CHANGE, wait=False)
    # As a tab in the background, or a lid that is closed.
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    page.context.set_offline(True)
    (tmp_path / "go").touch()
    notebook.wait_kernel_idle()
    session.send("Page.setWebLifecycleState", {"state": "active"})
    page.context.set_offline(False)
    expect(board.row("health").locator(".car-served")).to_have_text("31", timeout=60_000)
    board.wait_for("broken", status="disabled")
    board.wait()
    board.press("broken", "resume")
    board.wait_for("broken", status="scheduled")


def test_a_saved_notebook_shows_the_last_state_without_a_kernel_and_exported(
    open_notebook: OpenNotebook, browser: Browser, tmp_path: Path
):
    notebook = open_notebook(CELLS)
    for index in range(DASHBOARD + 1):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait()
    board.wait_for("broken", last="failed")
    still = notebook.page.locator(".car-still:visible")
    expect(still).to_have_count(0)  # not beside the living one
    board.press("health", "pause")
    board.wait_for("health", status="disabled")
    notebook.run(DASHBOARD)
    board.wait()
    saved = notebook.save()

    path = tmp_path / "saved.ipynb"
    saved.metadata.kernelspec = {"name": "nowhere", "display_name": "Nowhere", "language": "python"}
    nbformat.write(saved, path)
    page = notebook.lab.open(path, kernel=False)
    try:
        told = page.output(DASHBOARD)
        check_table(told.inner_text())
        expect(told.locator(".car-still:visible")).to_have_count(1)
        assert "Error displaying widget" not in told.inner_text()
        assert page.refused == []
    finally:
        page.close()

    body, _ = HTMLExporter(template_name="lab").from_notebook_node(saved)
    exported = tmp_path / "saved.html"
    exported.write_text(body)
    context = browser.new_context(offline=True)
    shown = context.new_page()
    shown.goto(exported.as_uri())
    expect(shown.locator(".car-still:visible")).to_have_count(1)
    check_table(shown.locator(".car-still").inner_text())
    shown.screenshot(path=tmp_path / "exported.png")
    context.close()


def check_table(text: str) -> None:
    for said in ("health", "disabled", "<b>ok</b>", "broken", "failed", "no such <i>market</i>"):
        assert said in text, (said, text)
