"""What the other tests of this folder take for granted about their browser."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenNotebook
from tests.browser.lab import App, Theme

FETCH = """
from IPython.display import HTML
HTML('<img src="https://example.org/a.png"><p>shown</p>')
"""


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_a_cell_runs_and_no_request_leaves_the_machine(open_notebook: OpenNotebook, app: App):
    notebook = open_notebook(["1 + 1", "print('two')"], app=app)
    notebook.run(0)
    notebook.run(1)
    assert [notebook.outputs(0), notebook.outputs(1)] == [["2"], ["two"]]
    assert notebook.save().cells[0].outputs[0].data["text/plain"] == "2"
    assert notebook.refused == []
    assert app == "notebook" or notebook.errors == []  # Notebook 7.6 has errors of its own at each start


def test_a_request_to_another_machine_is_refused_and_told(open_notebook: OpenNotebook):
    notebook = open_notebook([FETCH])
    notebook.run(0)
    expect(notebook.output(0)).to_contain_text("shown")
    assert set(notebook.refused) == {"https://example.org/a.png"}  # an output that is drawn again asks again


def test_a_notebook_has_the_folder_and_the_store_of_its_test(open_notebook: OpenNotebook, tmp_path: Path):
    notebook = open_notebook(["import os; print(os.getcwd(), os.environ['CAR_SCHED_NB_STORE'])"])
    notebook.run(0)
    assert notebook.outputs(0)[0].split() == [str(tmp_path), str(tmp_path / "car.db")]


def test_a_cell_can_be_waited_for_interrupted_and_run_again_after_a_restart(open_notebook: OpenNotebook):
    notebook = open_notebook(["import time; time.sleep(60)", "print('again')"])
    notebook.run(0, wait=False)
    expect(notebook.page.locator(".jp-Notebook-ExecutionIndicator[data-status=busy]")).to_have_count(1)
    notebook.interrupt()
    notebook.wait_for_cell(0)
    assert "KeyboardInterrupt" in notebook.outputs(0)[0]
    # Not before the restart: the kernel may drop the first request after an interrupt, without this extension too.
    notebook.restart()
    notebook.write(1, "print('once more')")
    notebook.run(1)
    assert notebook.outputs(1) == ["once more"]


@pytest.mark.parametrize(("theme", "is_light"), [("light", "true"), ("dark", "false")])
def test_the_theme_and_the_size_of_the_page_can_be_chosen(
    open_notebook: OpenNotebook, theme: Theme, is_light: str, tmp_path: Path
):
    notebook = open_notebook(["1"], theme=theme, viewport=(900, 600))
    expect(notebook.page.locator("body")).to_have_attribute("data-jp-theme-light", is_light)
    assert notebook.screenshot(tmp_path / "page.png").stat().st_size > 10_000
