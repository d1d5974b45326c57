"""A dashboard where no kernel answers: in a notebook that was executed and saved, and in a page made of it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter

from tests.isolation import isolated_environment
from tests.kernel.notebook import ENV, LOAD

WIDGET = "application/vnd.jupyter.widget-view+json"
CELLS = [
    LOAD,
    "%%car_task prices --every 1h\n'<b>priced</b>'",
    "await car.wait(timeout=20)",
    "car.dashboard()",
    "display(car.dashboard())",
]


@pytest.fixture(scope="module", params=[True, False], ids=["widget state", "no widget state"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A notebook as it is saved after it was executed, with or without the state of its widgets."""
    folder: Path = tmp_path_factory.mktemp("saved")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbformat.write(notebook, folder / "board.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "board.ipynb"]
    state = f"--ExecutePreprocessor.store_widget_state={request.param}"
    subprocess.run([*command, state], cwd=folder, env=isolated_environment(folder) | ENV, check=True, timeout=50)
    return nbformat.read(folder / "board.ipynb", as_version=4)


def test_a_saved_notebook_keeps_the_live_view_and_a_table_beside_it(saved: Any):
    for cell in saved.cells[3:5]:
        live, still = cell.outputs
        assert WIDGET in live.data
        assert "priced" not in str(live.data)
        assert "&lt;b&gt;priced&lt;/b&gt;" in still.data["text/html"]
        assert "prices  ◷ scheduled  python · every 1 h  ✓ completed: <b>priced</b>" in still.data["text/plain"]


def test_a_page_made_of_it_shows_each_table_once_and_runs_nothing_of_it(saved: Any):
    page, _ = HTMLExporter().from_notebook_node(saved)
    tables = re.findall(r'<div class="car-still car-still-[0-9a-f]{8}">.*?</table>', page, re.DOTALL)
    assert len(tables) == 2
    assert all(table.count("&lt;b&gt;priced&lt;/b&gt;") == 1 for table in tables)
    assert "<b>priced</b>" not in page
    # Without its state a widget is told in words, not as an empty box.
    told = page.count("live while its kernel runs")
    assert told == (0 if "widgets" in saved.metadata else 2)


def test_what_is_saved_has_no_clock_times(saved: Any):
    for cell in saved.cells[3:5]:
        text = cell.outputs[1].data["text/plain"] + re.sub(r"style=\"[^\"]*\"", "", cell.outputs[1].data["text/html"])
        assert not re.search(r"\d\d:\d\d", text)
