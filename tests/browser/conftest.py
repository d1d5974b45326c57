"""Notebooks in a browser for the tests of this folder; without a browser they are skipped, never silently."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import MISSING, find_chromium, is_required
from tests.browser.lab import App, Lab, Notebook, Theme, Viewport, launched_browser, write_notebook
from tests.isolation import isolated_environment


class OpenNotebook(Protocol):
    def __call__(
        self,
        cells: Sequence[str],
        *,
        name: str = "notebook.ipynb",
        app: App = "lab",
        theme: Theme = "light",
        viewport: Viewport = (1400, 1000),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Notebook: ...


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if not chromium:
        (pytest.fail if is_required() else pytest.skip)(MISSING)
    expect.set_options(timeout=15_000)  # the machines of CI are small and busy; Playwright's own is 5 s
    with launched_browser(chromium) as browser:
        yield browser


@pytest.fixture(scope="session")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from serve(browser, tmp_path_factory, "lab")


@pytest.fixture(scope="session")
def notebook_app(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Notebook 7 as `jupyter notebook` serves it: started only for a test that asks for it."""
    yield from serve(browser, tmp_path_factory, "notebook")


def serve(browser: Browser, tmp_path_factory: pytest.TempPathFactory, app: App) -> Iterator[Lab]:
    # Each test's tmp_path lies below this one's parent, which is what the server serves.
    folder = tmp_path_factory.mktemp(app)
    with Lab(browser, folder.parent, isolated_environment(folder), app) as lab:
        yield lab


@pytest.fixture
def open_notebook(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenNotebook]:
    """Open notebooks of the given cells in the test's folder, with one store for all, and close them at the end."""
    opened = []

    def open_(
        cells: Sequence[str],
        *,
        name: str = "notebook.ipynb",
        app: App = "lab",
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Notebook:
        lab: Lab = request.getfixturevalue("lab" if app == "lab" else "notebook_app")
        own = {"CAR_SCHED_NB_STORE": str(tmp_path / "car.db")} | dict(env or {})
        path = write_notebook(tmp_path / name, cells, own, Path(lab.env["JUPYTER_DATA_DIR"]))
        opened.append(lab.open(path, **options))
        return opened[-1]

    yield open_
    for notebook in opened:
        notebook.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once more, in red, what was not tested: a skip among hundreds of dots is not seen."""
    if not find_chromium():
        terminalreporter.section("the browser's tests did not run", red=True, bold=True)
        terminalreporter.line(MISSING, red=True)
