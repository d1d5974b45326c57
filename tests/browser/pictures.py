"""Pictures of the dashboard and of charts to be looked at: `python -m tests.browser.pictures FOLDER`."""

import base64
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect

from tests.browser import chart_stores
from tests.browser.board import Board
from tests.browser.chromium import MISSING, find_chromium
from tests.browser.lab import Lab, Notebook, launched_browser, write_notebook
from tests.isolation import isolated_environment

STAND_STILL = """root => root.getAnimations({ subtree: true }).forEach(animation => {
  animation.pause();
  animation.currentTime = 700;
})"""
LOAD = "%load_ext car_sched_nb\n%car namespace markets\nimport asyncio\nimport car_sched_nb as car"
SHOW = "car.dashboard()"
TRAIN = """%%car_task train
import random, sys
from IPython.display import HTML, display
display(HTML("<table><tr><th>epoch</th><th>loss</th></tr><tr><td>1</td><td>0.93</td></tr></table>"))
for epoch in range(32):
    print(f"epoch {epoch + 1:2} of 50  loss {1 / (epoch + 2):.4f}")
    car.current().progress(epoch + 1, 50, f"epoch {epoch + 1} of 50")
    await asyncio.sleep(0.03)
await asyncio.Event().wait()"""
PRICES = """%%car_task prices --every 5m
for n in range(9):
    car.current().progress(n, 12)
    await asyncio.sleep(0.05)
await asyncio.Event().wait()"""
REINDEX = """%%car_task reindex --every "monday at 08:00"
for n in range(4_200):
    car.current().progress(n + 1)
await asyncio.Event().wait()"""
FIVE = [
    TRAIN,
    "%%car_task backup --runner shell --cron '30 18 * * 1-5'\nfor i in 1 2 3; do echo part $i of 7; done; sleep 600",
    PRICES,
    "%%car_task listen\nawait asyncio.Event().wait()",
    REINDEX,
    "%car run backup\n%car run reindex",
]
RUNS = """for n in range(12):
    car.run("totals")
    await car.wait("totals")
for name in ("prices", "orders", "import"):
    for n in range(3):
        car.run(name)
        await car.wait(name)"""
ENDED = [
    '%%car_task prices --every 5m\n"12 markets, dearest wheat 571.25"',
    '%%car_task orders --every 1h\nawait asyncio.sleep(0.3)\nraise ConnectionError("orders.example.org refused it")',
    "%%car_task import --runner shell\necho reading; echo no such file >&2; exit 3",
    '%%car_task report --cron "0 9 * * *" --tz Europe/London\n"mailed"',
    "%%car_task totals --no-run\nawait asyncio.sleep(0.04)\n'coffee 205.10, sugar 19.02, wheat 571.25'",
    RUNS,
]
MANY = """\
from car_sched_nb.notebook.session import current_session

@car.runner("quick")
async def quick(spec, prompt, runtime, mailbox):
    return "done"

async def define(scheduler):
    names = [f"load-{n:05}" for n in range(10_000)]
    await asyncio.gather(*(scheduler.define(car.Task(name, prompt="x", runner="quick")) for name in names))
    await scheduler.arm_all()
    await asyncio.gather(*(scheduler.run_now(name) for name in names[:600]))

current_session().call(define)
await car.wait()"""


CHARTS = {
    "timeline": {"usual": 'since="5d"', "hard": "", "one": "", "many": "", "empty": ""},
    "durations": {"usual": '"load"', "hard": '"load-07"', "one": "", "slower": '"nightly"'},
    "calendar": {"usual": '"backup"', "hard": "", "one": ""},
    "plan": {"usual": "", "hard": "", "one": ""},
    "graph": {"usual": "", "hard": "", "empty": ""},
}
WHOLE = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
PLAIN = "import sys\nsys.modules['plotly'] = None"
"""From then on as where plotly is not installed."""


class Pictures:
    """Opens notebooks, and photographs the dashboard in their last cell."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._number = 0

    @contextmanager
    def opened(self, cells: Sequence[str]) -> Iterator[Board]:
        self._number += 1
        folder = self._lab.root / str(self._number)
        path = folder / "markets.ipynb"
        env = {"CAR_SCHED_NB_STORE": str(folder / "tasks.db")}
        write_notebook(path, [LOAD, *cells, SHOW], env, Path(self._lab.env["JUPYTER_DATA_DIR"]))
        notebook = self._lab.open(path, viewport=(1366, 1800))
        try:
            for index in range(len(cells) + 2):
                notebook.run(index, timeout_s=90)
            yield Board(notebook, len(cells) + 1)
        finally:
            notebook.close()

    def take(self, board: Board, name: str) -> None:
        """Photograph the dashboard with two pixels for one, its moving parts standing still."""
        page = board.notebook.page
        page.mouse.move(0, 0)
        board.root.evaluate("root => root.scrollIntoView({ block: 'start' })")
        board.root.evaluate(STAND_STILL)
        clip = {**(board.root.bounding_box() or {}), "scale": 2}
        picture = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"clip": clip})
        (self._folder / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))
        print(self._folder / f"{name}.png", flush=True)

    def empty(self) -> None:
        with self.opened([]) as board:
            self.take(board.wait("empty"), "empty")

    def five(self) -> None:
        """Five tasks run; then one is opened, in each theme and narrow."""
        with self.opened(FIVE) as board:
            board.wait()
            for task in ("train", "backup", "prices", "listen", "reindex"):
                board.wait_for(task, status="running")
            expect(board.row("train")).to_contain_text("epoch 32")
            self.take(board, "five-running")
            board.row("train").locator(".car-open").click()
            board.root.locator(".car-executions [data-execution] .car-open").first.click()
            expect(board.root.locator(".car-detail .car-output")).to_contain_text("epoch 32 of 50")
            self.take(board, "live-output")
            for theme, name in (("JupyterLab Dark", "dark"), ("JupyterLab Dark High Contrast", "high-contrast")):
                board.notebook.change_theme(theme)
                self.take(board, name)
            board.notebook.change_theme("JupyterLab Light")
            narrow(board.notebook)
            self.take(board, "narrow-opened")
            board.root.locator(".car-close").first.click()
            self.take(board, "narrow")

    def failures(self) -> None:
        with self.opened(["early = car.dashboard()", *ENDED]) as board:  # from then on notices are taken down
            board.wait()
            for task, last in (
                ("orders", "failed"),
                ("import", "failed"),
                ("prices", "completed"),
                ("totals", "completed"),
            ):
                board.wait_for(task, last=last)
            expect(board.root.locator(".car-notices [data-notice]").first).to_be_visible()
            self.take(board, "failures")
            board.row("orders").locator(".car-open").click()
            board.root.locator(".car-executions [data-execution] .car-open").first.click()
            expect(board.root.locator(".car-detail .car-traceback")).to_contain_text("ConnectionError")
            self.take(board, "failed-execution")

    def many(self) -> None:
        with self.opened([MANY]) as board:
            board.wait()
            board.wait_for("load-00003", last="completed")
            self.take(board, "ten-thousand")

    def charts(self) -> None:
        """Each chart of each store, as plotly's figure and as a still picture, in light and dark."""
        folder = self._lab.root / "charts"
        for store in dict.fromkeys(store for stores in CHARTS.values() for store in stores):
            getattr(chart_stores, store)(folder / f"{store}.db")
        calls = {
            f"{chart}-{store}": f"car.plot.{chart}({given}{', ' * bool(given)}store={str(folder / store)!r} + '.db')"
            for chart, stores in CHARTS.items()
            for store, given in stores.items()
        }
        for kind, first in (("figure", ""), ("still", PLAIN)):
            cells = [f"import car_sched_nb as car\n{first}", *calls.values()]
            path = folder / f"{kind}.ipynb"
            write_notebook(path, cells, {}, Path(self._lab.env["JUPYTER_DATA_DIR"]))
            notebook = self._lab.open(path, viewport=(1366, 1500), settings=WHOLE)
            try:
                for index in range(len(cells)):
                    notebook.run(index, timeout_s=90)
                for theme in ("Light", "Dark"):
                    if theme == "Dark":
                        notebook.change_theme("JupyterLab Dark")
                    for index, name in enumerate(calls, 1):
                        notebook.page.mouse.move(0, 0)
                        notebook.output(index).scroll_into_view_if_needed()
                        taken = self._folder / f"{name}-{kind}-{theme.lower()}.png"
                        notebook.output(index).screenshot(path=taken)
                        print(taken, flush=True)
            finally:
                notebook.close()


def narrow(notebook: Notebook) -> None:
    """Make the page so narrow that the dashboard has about 400 pixels."""
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+b")  # Lab's list of files
    notebook.page.set_viewport_size({"width": 540, "height": 2400})


def main(arguments: Sequence[str]) -> int:
    """Take all pictures, or those that are named after the folder: empty, five, failures, many, charts."""
    chromium = find_chromium()
    if not arguments or not chromium:
        print(__doc__ if chromium else MISSING, file=sys.stderr)
        return 1
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp())
    try:
        with launched_browser(chromium) as browser, Lab(browser, root, isolated_environment(root / "home")) as lab:
            expect.set_options(timeout=30_000)
            pictures = Pictures(lab, folder)
            takes: dict[str, Callable[[], None]] = {
                "empty": pictures.empty,
                "five": pictures.five,
                "failures": pictures.failures,
                "many": pictures.many,
                "charts": pictures.charts,
            }
            for name in arguments[1:] or takes:
                takes[name]()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
