"""The link to an executed notebook, and the debugger, as they are used in JupyterLab."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

from tests.browser.conftest import OpenNotebook

LOAD = "%load_ext car_sched_nb\nimport car_sched_nb as car"


def test_the_link_opens_the_executed_notebook_and_the_debugger_asks(open_notebook: OpenNotebook, tmp_path: Path):
    report = new_notebook(cells=[new_code_cell("print('made by', 6 * 7)\nthe_answer = 'x'")])
    nbformat.write(report, tmp_path / "a report.ipynb")
    notebook = open_notebook(
        [
            LOAD,
            "%%car_task report --runner notebook\na report.ipynb",
            "await car.wait()\ncar.artifact('report')",
            "%%car_task fails\nn = 21\nn / 0",
            "await car.wait()",
            "%car debug fails",
        ]
    )
    for index in range(5):
        notebook.run(index)
    page = notebook.page
    notebook.run(5, wait=False)
    box = page.locator(".jp-Stdin-input").last
    box.fill("p n * 2")
    box.press("Enter")
    expect(notebook.output(5)).to_contain_text("42")
    box.fill("q")
    box.press("Enter")
    notebook.wait_for_cell(5)

    notebook.output(2).get_by_role("link").click()
    opened = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(opened.locator(".jp-OutputArea-output").first).to_contain_text("made by 42")
    assert (notebook.refused, notebook.errors) == ([], [])
