"""Whose tasks they are when a notebook is new, renamed while it runs, restarted, or a copy of another one."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

LOAD = "%load_ext car_sched_nb\nimport car_sched_nb as car"
NAMESPACE = "%car namespace"
KEEP = "%%car_task keep\n'kept'"
ENDED = "await car.wait('keep')"
HISTORY = "print([(row.task, row.status, row.answer) for row in car.history().itertuples()], list(car.tasks().index))"
KEPT = "[('keep', 'completed', 'kept')] ['keep']"
NOTHING = "[] []"


def say(notebook: Notebook, source: str) -> str:
    """Return what the first cell answers to this source."""
    notebook.write(0, source)
    notebook.run(0)
    return "\n".join(notebook.outputs(0))


def said_namespace(path: Path) -> str:
    return f"namespace {path} (this notebook's path)"


def choose_in_lab(notebook: Notebook, command: str, *, submenu: str = "") -> None:
    """Choose from the menu File."""
    page = notebook.page
    page.locator(".lm-MenuBar-item", has_text="File").click()
    if submenu:
        page.locator(".lm-Menu-item[data-type=submenu]", has_text=submenu).first.hover()
    page.locator(f".lm-Menu-item[data-command='{command}']").click()


def name_it(notebook: Notebook, name: str) -> None:
    """Fill in the dialog with which either application asks for another name."""
    dialog = notebook.page.locator(".jp-Dialog")
    dialog.locator("input").fill(name)
    dialog.get_by_role("button", name="Rename").click()
    expect(dialog).to_have_count(0)
    notebook.path = str(Path(notebook.path).with_name(name))
    notebook.wait_idle()  # as the server knows it: under the new path


def leave_for(notebook: Notebook, name: str) -> None:
    """Close the tab of one notebook, whose kernel stays, in favour of the other that is open beside it."""
    page = notebook.page
    tab = page.locator(".lm-DockPanel .lm-TabBar-tab", has_text=Path(notebook.path).name)
    tab.locator(".lm-TabBar-tabCloseIcon").click()
    expect(page.locator(".jp-Notebook")).to_have_count(1)
    notebook.path = str(Path(notebook.path).with_name(name))
    notebook.wait_idle()


def replace_by_new_notebook(notebook: Notebook) -> None:
    """Make a notebook from Lab's menu, with the kernel of the one that was open."""
    page = notebook.page
    kernel = notebook.save().metadata.kernelspec.name
    choose_in_lab(notebook, "notebook:create-new", submenu="New")
    choice = page.locator(".jp-Dialog select")
    choice.select_option(choice.locator(f"option[value*='{kernel}']").get_attribute("value"))
    page.locator(".jp-Dialog").get_by_role("button", name="Select Kernel").click()
    expect(page.locator(".jp-Notebook")).to_have_count(2)
    leave_for(notebook, "Untitled.ipynb")


def test_in_lab_a_new_notebook_can_be_renamed_and_its_copy_takes_nothing_over(
    open_notebook: OpenNotebook, tmp_path: Path
):
    notebook = open_notebook(["1"], name="start.ipynb")
    replace_by_new_notebook(notebook)
    assert say(notebook, f"{LOAD}\n{NAMESPACE}") == said_namespace(tmp_path / "Untitled.ipynb")
    say(notebook, KEEP)
    say(notebook, ENDED)
    assert say(notebook, HISTORY) == KEPT

    choose_in_lab(notebook, "docmanager:rename")
    name_it(notebook, "prices.ipynb")
    assert say(notebook, NAMESPACE) == said_namespace(tmp_path / "Untitled.ipynb"), "fixed for the kernel's life"
    check_adoption(notebook, tmp_path)

    notebook.save()
    choose_in_lab(notebook, "docmanager:duplicate")
    copy = "prices-Copy1.ipynb"
    notebook.page.locator(".jp-DirListing-item", has_text=copy).dblclick()
    expect(notebook.page.locator(".jp-Notebook")).to_have_count(2)
    leave_for(notebook, copy)
    told = say(notebook, f"{LOAD}\n{NAMESPACE}")
    assert told.splitlines()[0] == said_namespace(tmp_path / copy)
    assert "adopt" not in told
    assert say(notebook, HISTORY) == NOTHING
    refused = say(notebook, "%car adopt prices.ipynb")
    assert f"{tmp_path / 'prices.ipynb'} still exists, so this notebook is a copy of it" in refused
    assert say(notebook, HISTORY) == NOTHING


def test_in_notebook_7_a_new_notebook_can_be_renamed(open_notebook: OpenNotebook, tmp_path: Path):
    notebook = open_notebook([f"{LOAD}\n{NAMESPACE}"], name="Untitled.ipynb", app="notebook")
    notebook.run(0)
    assert notebook.outputs(0) == [said_namespace(tmp_path / "Untitled.ipynb")]
    say(notebook, KEEP)
    say(notebook, ENDED)
    notebook.page.locator("#jp-title h1").click()
    name_it(notebook, "prices.ipynb")
    assert say(notebook, NAMESPACE) == said_namespace(tmp_path / "Untitled.ipynb"), "fixed for the kernel's life"
    check_adoption(notebook, tmp_path)


def check_adoption(notebook: Notebook, folder: Path) -> None:
    """After a rename and a restart the notebook is told of its former tasks, and takes them over."""
    notebook.restart()
    told = say(notebook, f"{LOAD}\n{NAMESPACE}")
    assert told.splitlines() == [
        "Untitled.ipynb is gone and left tasks; if this notebook is it under a new name: %car adopt 'Untitled.ipynb'",
        said_namespace(folder / "prices.ipynb"),
        f"  also in this store: {folder / 'Untitled.ipynb'}, 1 task",
    ]
    assert say(notebook, HISTORY) == NOTHING
    assert say(notebook, "%car adopt 'Untitled.ipynb'").startswith("adopted 1 task;")
    assert say(notebook, HISTORY) == KEPT
