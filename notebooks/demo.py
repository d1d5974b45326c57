"""Runs a notebook without a browser, as Run All does, and shows the history that its tasks leave."""

import argparse
import copy
import os
import shutil
import sys
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

import car_sched_nb as car

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "demo"
INPUT = ["prices.csv", "report.ipynb", "year.py"]
CELL_TIMEOUT_S = 120

COLUMNS = ["task", "trigger", "slot", "status", "started", "late ms", "took ms", "answer"]

# nbconvert's page loads MathJax, Mermaid and RequireJS from the network; this one loads nothing.
OFFLINE_PAGE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""


def main() -> int:
    """Run the notebook, print the history, write the page; 1 when a cell raises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="?", type=Path, default=HERE / "00_quickstart.ipynb")
    source = parser.parse_args().notebook.resolve()
    store, page = BUILD / "car.db", BUILD / f"{source.stem}.html"

    path = copy_with_input(source, BUILD / "work")
    notebook = nbformat.read(path, as_version=4)
    print(f"Running {source.name} in a kernel of {sys.prefix}", flush=True)
    error = run(notebook, path, store)
    page.write_text(as_html(notebook, source.stem), encoding="utf-8")
    if error:
        print(f"{source.name} stopped:\n{error}")
    elif store.exists():  # a notebook that only reads has none
        print(f"\nIts history:\n\n{history_table(store)}")
    print(f"\nThe notebook with its outputs: {page.relative_to(HERE.parent)}")
    return 1 if error else 0


def copy_with_input(source: Path, folder: Path) -> Path:
    """Return the notebook's copy in a new folder, with the files that it reads beside it."""
    shutil.rmtree(BUILD, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in INPUT:
        if (source.parent / name).exists():
            shutil.copy(source.parent / name, folder)
    return Path(shutil.copy(source, folder))


def run(notebook: NotebookNode, path: Path, store: Path) -> str:
    """Fill the notebook's outputs; return the traceback of the cell that raised, or nothing."""
    # No folders to search: the one kernel that is left is this interpreter's own, whatever is installed beside it.
    specs = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=CELL_TIMEOUT_S,
        extra_arguments=["--log-level=ERROR"],  # ipykernel 7.4 warns of TCP at each start, also on loopback
        resources={"metadata": {"path": path.parent}},
    )
    environment = {
        "CAR_SCHED_NB_STORE": str(store),
        "IPYTHONDIR": str(BUILD / "ipython"),  # nobody's start-up files and profile
    }
    try:
        client.execute(env=os.environ | environment, cleanup_kc=True)
    except CellExecutionError as error:
        return str(error)
    return ""


def history_table(store: Path) -> str:
    """Return what ran, a line each."""
    history = car.history(store=str(store))
    history["started"] = history["started_at"].dt.strftime("%H:%M:%S")
    history["late ms"] = (history["lateness"].dt.total_seconds() * 1000).round(1)
    history["took ms"] = (history["duration"].dt.total_seconds() * 1000).round(1)
    said = history["answer"].fillna(history["error"]).fillna(history["reason"]).fillna("")
    history["answer"] = said.str.strip().str.split("\n").str[-1].str.slice(0, 50)
    history["slot"] = history["slot"].str.slice(0, 16)
    return history[COLUMNS].to_string(index=False)


def as_html(notebook: NotebookNode, title: str) -> str:
    """Return one page that needs no network: widgets show their text or HTML, which needs no script."""
    still = copy.deepcopy(notebook)
    still.metadata.pop("widgets", None)
    shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "text/latex", "text/plain"]
    exporter = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": shown}}),
        extra_loaders=[DictLoader({"offline.html.j2": OFFLINE_PAGE})],
        template_file="offline.html.j2",
        embed_images=True,
    )
    page, _ = exporter.from_notebook_node(still, resources={"metadata": {"name": title}})
    return str(page)


if __name__ == "__main__":
    sys.exit(main())
