"""What all tests share: both loops, marks by folder, and the cheap tests first."""

import signal
from pathlib import Path

import pytest

from tests.scale import LONG

HERE = Path(__file__).parent
# Playwright's synchronous interface keeps an event loop running in the main thread, which no other test could bear.
ORDER = ["unit", "matrix", "kernel", "crash", "bench", "browser"]
MARKED = {"kernel", "crash", "browser"}

# A shell that starts the tests in the background has Ctrl+C ignored, by each of their children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """An async test (`pytest.mark.anyio`) is a claim about both of anyio's loops."""
    return str(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = folder_of(item)
        if folder in MARKED:
            item.add_marker(folder)
        if folder == "kernel":
            # A module's tests share a kernel: with several workers (pytest -n) one of them has the whole module.
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        elif item.path.stem == "test_local":
            item.add_marker(pytest.mark.xdist_group("local"))  # one process has the model in memory
    if not LONG:
        items[:] = [item for item in items if not _is_covered(item)]
    items.sort(key=lambda item: ORDER.index(folder_of(item)))


def _is_covered(item: pytest.Item) -> bool:
    """Tell whether the other loop on the other store says as much: a quarter of the cases, for the long run."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return given.get("anyio_backend") == "trio" and given.get("store") == "sqlite"


def folder_of(item: pytest.Item) -> str:
    folder = item.path.relative_to(HERE).parts[0]
    return folder if folder in ORDER else ORDER[0]
