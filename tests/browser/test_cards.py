"""The card under a cell, what a saved notebook keeps of it, and text that would like to be more than text."""

import re
from typing import Any

from nbformat import NotebookNode
from playwright.sync_api import Locator, expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

CARDS = [
    "%load_ext car_sched_nb\n%car namespace markets",
    "%%car_task prices --every 5m --into prices\n[571.25]",
    '%%car_task report --every "weekday at 09:00" --tz Europe/London\n"mailed"',
    "%%car_task backup --runner shell --cron '30 18 * * *'\nls",
    "%%car_task totals\n42",
]
CLOCK_TIME = re.compile(r"\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d")


def card(notebook: Notebook, index: int) -> Locator:
    return notebook.output(index).locator(".jp-RenderedHTMLCommon > div")


def run_all(notebook: Notebook) -> None:
    """Run all cells from the menu, and wait until what a saved notebook keeps is shown."""
    page = notebook.page
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()
    for index in range(len(CARDS)):
        notebook.wait_for_cell(index)


def wait_until_quiet(notebook: Notebook) -> None:
    for index in range(1, len(CARDS)):
        expect(card(notebook, index).locator("span")).to_have_count(0)  # what is true now stands beside the name


def kept(notebook: Notebook) -> list[Any]:
    """Save; return the outputs of the cards' cells without their execution counts."""
    saved: NotebookNode = notebook.save()
    return [[dict(output, execution_count=None) for output in cell.outputs] for cell in saved.cells[1:]]


def test_a_card_tells_the_next_fires_and_a_saved_one_no_clock_time(open_notebook: OpenNotebook):
    notebook = open_notebook(CARDS)
    run_all(notebook)
    fires = card(notebook, 2)
    expect(fires).to_contain_text(re.compile(r"next \w+ \d{4}-\d\d-\d\d 09:00:00 (GMT|BST)"))
    wait_until_quiet(notebook)
    first = kept(notebook)
    assert len(first) == len(CARDS) - 1
    assert not CLOCK_TIME.search(str(first))
    run_all(notebook)
    expect(card(notebook, 1)).to_contain_text("unchanged: nothing happens")
    wait_until_quiet(notebook)
    assert kept(notebook) == first
    assert (notebook.refused, notebook.errors) == ([], [])


IMAGE = "<img src=x onerror=window.hacked=1>"
MARKUP = IMAGE + "<script>window.hacked=2</script>"
HOSTILE = MARKUP + r" \x1b[31mred\x1b[0m \u202efdp.exe\u2066 \x07"
SEEN = MARKUP + " ^[[31mred^[[0m ‹U+202E›fdp.exe‹U+2066› ^G"  # noqa: RUF001 - what does something is named
ATTACKS = [
    f'%load_ext car_sched_nb\n%car namespace "{MARKUP}"\nimport asyncio\nimport car_sched_nb as car',
    f"%%car_task answers --watch '{IMAGE}'\nprint('{HOSTILE}')\n'{HOSTILE}'",
    f"%%car_task errors\nclass Broken(Exception):\n    pass\nraise Broken('{HOSTILE}')",
    f"%%car_task notes\ncar.current().progress(1, 2, '{HOSTILE}')\nawait asyncio.Event().wait()",
    "%car run answers",
    "car.dashboard()",
    "car.history()[['task', 'status', 'answer', 'error']]",
    "%car list",
    "%car logs answers",
]


def test_hostile_text_is_shown_and_never_carried_out(open_notebook: OpenNotebook):
    notebook = open_notebook(ATTACKS)
    for index in range(len(ATTACKS) - 3):
        notebook.run(index)
    board = Board(notebook, len(ATTACKS) - 4).wait()
    board.wait_for("answers", last="completed")
    board.wait_for("errors", last="failed")
    expect(board.row("answers").locator(".car-text")).to_have_text(SEEN)
    expect(board.row("errors").locator(".car-text")).to_have_text(f"Broken: {SEEN}")
    expect(board.row("notes").locator(".car-done")).to_contain_text(SEEN)
    for index in range(len(ATTACKS) - 3, len(ATTACKS)):
        notebook.run(index)
    expect(card(notebook, 1)).to_contain_text(MARKUP)
    expect(notebook.output(len(ATTACKS) - 3)).to_contain_text(IMAGE)  # pandas cuts the rest off
    assert notebook.page.evaluate("window.hacked") is None
    assert notebook.page.locator(".jp-OutputArea img, .jp-OutputArea script").count() == 0
    assert (notebook.refused, notebook.errors) == ([], [])
