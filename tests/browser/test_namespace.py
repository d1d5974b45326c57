"""Whose tasks they are when a notebook is new, renamed while it runs, restarted, or a copy of another one."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

LOAD = "%load_ext car_sched_nb"
NAMESPACE = "%car namespace"
KEEP = "%%car_task keep\n'kept'"
HISTORY = "[(row.task, row.status, row.answer) for row in car.history().itertuples()]"
KEPT = "[('keep', 'completed', 'kept')]"
CELLS = [f"{LOAD}\nimport car_sched_nb as car", NAMESPACE, KEEP, "await car.wait('keep')", HISTORY, "pass"]


def say(notebook: Notebook, index: int, source: str) -> str:
    """Return what a cell answers to this source."""
    notebook.write(index, source)
    notebook.run(index)
    return "\n".join(notebook.outputs(index))


def said_namespace(path: Path) -> str:
    return f"namespace {path} (this notebook's path)"


def rename_in_lab(notebook: Notebook, name: str) -> None:
    page = notebook.page
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_role("menuitem", name="Rename Notebook").click()
    finish_renaming(notebook, name)


def finish_renaming(notebook: Notebook, name: str) -> None:
    """Fill in the dialog that either application shows."""
    dialog = notebook.page.locator(".jp-Dialog")
    dialog.locator("input").fill(name)
    dialog.get_by_role("button", name="Rename").click()
    expect(dialog).to_have_count(0)
    notebook.path = str(Path(notebook.path).with_name(name))


def replace_by_new_notebook(notebook: Notebook) -> None:
    """Make a notebook from Lab's menu, with the same kernel, and close the one that was open."""
    page = notebook.page
    kernel = notebook.lab.api("GET", f"contents/{notebook.path}")["content"]["metadata"]["kernelspec"]["name"]
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_role("menuitem", name="New", exact=True).click()
    page.get_by_role("menuitem", name="Notebook", exact=True).click()
    choice = page.locator(".jp-Dialog select")
    choice.select_option(choice.locator(f"option[value*='{kernel}']").get_attribute("value"))
    page.get_by_role("button", name="Select Kernel").click()
    page.get_by_role("tab", name=Path(notebook.path).name).locator(".lm-TabBar-tabCloseIcon").click()
    expect(page.locator(".jp-Notebook")).to_have_count(1)
    notebook.path = str(Path(notebook.path).with_name("Untitled.ipynb"))
    notebook.wait_idle()


def test_in_lab_a_new_notebook_is_renamed_restarted_adopts_its_tasks_and_is_copied(
    open_notebook: OpenNotebook, tmp_path: Path
):
    notebook = open_notebook(["1"], name="start.ipynb")
    replace_by_new_notebook(notebook)
    untitled, prices = tmp_path / "Untitled.ipynb", tmp_path / "prices.ipynb"
    page = notebook.page
    assert say(notebook, 0, f"{CELLS[0]}\n{NAMESPACE}") == said_namespace(untitled)
    page.screenshot(path="/tmp/shots/ns.png")
