"""What all tests share: both loops, marks by folder, and the cheap tests first."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Playwright's synchronous interface keeps an event loop running in the main thread, which no other test could bear.
ORDER = ["unit", "kernel", "crash", "bench", "browser"]
MARKED = {"kernel", "crash", "browser"}
BROWSER_TIMEOUT_S = 120


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
        if folder == "browser" and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(BROWSER_TIMEOUT_S))
    items.sort(key=lambda item: ORDER.index(folder_of(item)))


def folder_of(item: pytest.Item) -> str:
    folder = item.path.relative_to(HERE).parts[0]
    return folder if folder in ORDER else ORDER[0]
