"""The quickstart as its reader runs it, and the pictures of the README."""

import base64
import os
import shutil
from pathlib import Path

import nbformat
from playwright.sync_api import expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook

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

    notebook.run(len(cells))
    assert notebook.outputs(len(cells)) == ["['cancelled'] ['hand', 'hand']"]
    assert (notebook.refused, notebook.errors) == ([], [])


STAND_STILL = """root => root.getAnimations({ subtree: true }).forEach(animation => {
  animation.pause();
  animation.currentTime = 700;
})"""
TRAIN = """%%car_task train
for epoch in range(32):
    print(f"epoch {epoch + 1:2} of 50  loss {1 / (epoch + 2):.4f}")
    car.current().progress(epoch + 1, 50, f"epoch {epoch + 1} of 50")
    await asyncio.sleep(0.005)
await asyncio.Event().wait()
"""
SHOWN = [
    "%load_ext car_sched_nb\n%car namespace markets\nimport asyncio, time\nimport car_sched_nb as car",
    '%%car_task prices --every 5m\n"12 markets, dearest wheat 571.25"',
    '%%car_task orders --every 1h\nawait asyncio.sleep(0.3)\nraise ConnectionError("orders.example.org refused it")',
    TRAIN,
    "%%car_task backup --runner shell --cron '30 18 * * 1-5'\nsleep 600",
    "%car run backup",
    '%%car_task report --cron "0 9 * * *" --tz Europe/London\n"mailed"',
    '%%car_task digest --every "monday at 08:00"\n"sent"',
    '%%car_task reload --watch prices.csv\n"31 rows"',
    '%%car_task totals\nawait asyncio.sleep(0.04)\n"coffee 205.10, sugar 19.02, wheat 571.25"',
    "%car pause digest\n%car run reload",
    "for name in 30 * ['prices', 'totals']:\n    car.run(name)\n    await car.wait(name)",
    "car.dashboard()",
]


def test_the_readme_shows_the_dashboard_in_both_themes(open_notebook: OpenNotebook, tmp_path: Path):
    """Writes docs/dashboard-*.png when SCREENSHOTS=1 is set."""
    shutil.copy(NOTEBOOKS / "prices.csv", tmp_path)
    store = tmp_path / ".local/share/car_sched_nb/tasks.db"
    home = {"HOME": str(tmp_path), "CAR_SCHED_NB_STORE": str(store)}
    notebook = open_notebook(SHOWN, viewport=(1366, 1500), env=home)
    for index in range(len(SHOWN)):
        notebook.run(index)
    board = Board(notebook, len(SHOWN) - 1).wait()
    board.wait_for("orders", last="failed")
    expect(board.row("orders").locator(".car-text")).to_have_text("ConnectionError: orders.example.org refused it")
    for task in ("prices", "reload", "totals"):
        board.wait_for(task, last="completed")
    board.wait_for("digest", status="disabled")
    board.wait_for("backup", status="running")
    expect(board.row("prices").locator(".car-strip [data-execution]")).to_have_count(30)
    expect(board.row("train").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "64")
    expect(board.row("train").locator(".car-progress")).to_contain_text("epoch 32 of 50")
    expect(board.root.locator(".car-place")).to_have_text("markets  ·  ~/.local/share/car_sched_nb/tasks.db")

    folder = REPOSITORY / "docs" if os.environ.get("SCREENSHOTS") == "1" else tmp_path
    write_sharp_picture(board, folder / "dashboard-light.png")
    board.row("train").locator(".car-open").click()
    board.root.locator(".car-executions [data-execution] .car-open").click()
    expect(board.root.locator(".car-output")).to_contain_text("epoch 32 of 50")
    notebook.change_theme("JupyterLab Dark")
    expect(board.root).to_have_css("color-scheme", "dark")
    write_sharp_picture(board, folder / "dashboard-dark.png")
    assert notebook.errors == []


def write_sharp_picture(board: Board, path: Path) -> None:
    """Photograph with two pixels for one: a README is read on such screens."""
    page = board.notebook.page
    page.mouse.move(0, 0)  # no row is shown as pointed at
    board.root.evaluate("root => root.scrollIntoView({ block: 'center' })")
    board.root.evaluate(STAND_STILL)
    clip = {**(board.root.bounding_box() or {}), "scale": 2}
    picture = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"clip": clip})
    path.write_bytes(base64.b64decode(picture["data"]))
