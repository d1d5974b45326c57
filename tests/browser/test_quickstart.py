"""The quickstart as its reader runs it, and the pictures of the README."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook, Theme

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"


def quickstart() -> list[str]:
    notebook = nbformat.read(NOTEBOOKS / "00_quickstart.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def where(cells: list[str], start: str) -> int:
    return next(index for index, source in enumerate(cells) if source.startswith(start))


def test_the_quickstart_can_be_watched_and_used_from_its_dashboard(open_notebook: OpenNotebook, tmp_path: Path):
    shutil.copy(NOTEBOOKS / "prices.csv", tmp_path)
    cells = quickstart()
    shown, crunch = where(cells, "car.dashboard()"), where(cells, "%%car_task crunch")
    asked = 'print(car.history("crunch").status.tolist(), car.history("report").cause.tolist())'
    notebook = open_notebook([*cells, asked])
    for index in range(shown + 1):
        notebook.run(index)
    board = Board(notebook, shown).wait()
    board.record()
    board.wait_for("report", status="completed", last="completed")

    board.wait_for_sequence("health", ["scheduled", "running", "scheduled"])
    board.wait_for("health", last="completed")

    notebook.run(crunch)
    board.wait_for("crunch", status="running")
    expect(board.row("crunch").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")
    board.press("crunch", "cancel")
    board.wait_for("crunch", last="cancelled")
    expect(board.row("crunch").locator(".car-last-status")).to_have_text("cancelled")

    board.press("report", "run")
    expect(board.row("report").locator(".car-served")).to_have_text("2")
    board.press("health", "pause")
    board.wait_for("health", status="disabled")
    board.press("health", "resume")
    board.wait_for_sequence("health", ["disabled", "scheduled", "running", "scheduled"])

    notebook.screenshot(Path("/tmp/shots/quick.png"))
    notebook.screenshot(Path("/tmp/shots/quick-board.png"), shown)
    notebook.run(len(cells))
    assert notebook.outputs(len(cells)) == ["['cancelled'] ['hand', 'hand']"]
    assert (notebook.refused, notebook.errors) == ([], [])
