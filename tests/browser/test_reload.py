"""A dashboard after the page is loaded again, after its kernel is gone, and beside another one."""

import re

from playwright.sync_api import expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

CELLS = [
    "%load_ext car_sched_nb\nimport asyncio\nimport car_sched_nb as car",
    "%%car_task health --every 2s\nawait asyncio.sleep(0.4)\n'ok'",
    "%%car_task digest --cron @daily\n'sent'",
    "board = car.dashboard()\nboard",
    "board",
    "car.dashboard()",
]
FIRST, VIEW, SECOND = 3, 4, 5


def opened(open_notebook: OpenNotebook, last: int) -> Notebook:
    notebook = open_notebook(CELLS)
    for index in range(last + 1):
        notebook.run(index)
    return notebook


def restart_in_lab(notebook: Notebook) -> None:
    page = notebook.page
    page.locator(".lm-MenuBar-item", has_text="Kernel").click()
    page.locator(".lm-Menu-item[data-command='kernelmenu:restart']").click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    notebook.wait_idle()


def open_new_view(notebook: Notebook, index: int) -> Board:
    """Lab's "Create New View for Cell Output", in a panel of its own."""
    page = notebook.page
    notebook.cell(index).locator(".jp-OutputArea-promptOverlay").first.click(button="right")
    page.locator(".lm-Menu-item[data-command='notebook:create-output-view']").click()
    board = Board(notebook, index)
    board.root = page.locator(".jp-LinkedOutputView .car-dashboard")
    return board


def test_a_dashboard_is_alive_again_after_the_page_is_reloaded(open_notebook: OpenNotebook):
    notebook = opened(open_notebook, FIRST)
    Board(notebook, FIRST).wait()
    notebook.save()
    notebook.page.reload()
    board = Board(notebook, FIRST).wait(timeout_s=60)
    board.record()
    board.wait_for_sequence("health", ["scheduled", "running", "scheduled"])
    board.press("health", "pause")
    board.wait_for("health", status="disabled")
    assert (notebook.refused, notebook.errors) == ([], [])


def test_two_dashboards_and_two_views_of_one_show_the_same_and_fall_silent_together(open_notebook: OpenNotebook):
    notebook = opened(open_notebook, SECOND)
    boards = [Board(notebook, index).wait() for index in (FIRST, VIEW, SECOND)]
    boards[0].press("health", "pause")
    for board in boards:
        board.wait_for("health", status="disabled")
    boards[1].press("digest", "run")
    for board in boards:
        board.wait_for("digest", last="completed")
        expect(board.row("digest").locator(".car-served")).to_have_text("1")
    boards[2].press("health", "resume")
    for board in boards:
        board.wait_for("health", status="scheduled")
    boards.append(open_new_view(notebook, VIEW).wait())
    expect(boards[-1].row("digest").locator(".car-served")).to_have_text("1")
    # Each view of one dashboard has its own filter.
    boards[0].root.get_by_label("Search tasks by name").fill("dig")
    expect(boards[0].row("health")).to_have_count(0)
    expect(boards[1].row("health")).to_have_count(1)
    notebook.restart()  # by the server, of which no widget is told: that nothing comes of what is due has to do
    for board in boards:
        board.wait("silent")
    assert notebook.errors == []


def test_a_dashboard_whose_kernel_was_restarted_says_so_instead_of_pretending(open_notebook: OpenNotebook):
    notebook = opened(open_notebook, FIRST)
    board = Board(notebook, FIRST).wait()
    board.press("health", "pause")
    board.wait_for("health", status="disabled")  # nothing is due: only the restart itself can tell
    restart_in_lab(notebook)
    board.wait("silent")
    expect(board.root.get_by_role("status")).to_have_text(re.compile("No answer from the kernel.*run this cell again"))
    for index in range(FIRST + 1):
        notebook.run(index)
    board.wait()
    expect(board.row("health")).to_have_attribute("data-status", "disabled")  # a pause survives
    assert notebook.errors == []
