"""The dashboard without a mouse, for a screen reader, in each theme and at each width."""

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect

from tests.browser.axe import violations
from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

LOAD = """\
%load_ext car_sched_nb
%car namespace markets
import asyncio
import car_sched_nb as car

def define(line, body):
    get_ipython().run_cell_magic("car_task", line, body)"""
TASKS = """\
define("prices --every 5m", '"12 markets"')
define("orders --every 1h", "await asyncio.sleep(0.05)\\nraise ConnectionError('orders.example.org refused it')")
define("train", '''
from IPython.display import HTML, display
display(HTML("<table><tr><th>epoch</th></tr><tr><td>1</td></tr></table>"))
for epoch in range(32):
    print(f"epoch {epoch + 1} of 50")
    car.current().progress(epoch + 1, 50, f"epoch {epoch + 1} of 50")
await asyncio.Event().wait()''')
define("digest --every 'monday at 08:00'", '"sent"')
define("report --cron '0 9 * * *' --tz Europe/London", '"mailed"')
car.pause("digest")
car.run("prices")
await car.wait("prices", "orders", "report")"""
DASHBOARD, DEFINE, UPDATE = 1, 2, 2
THEMES = ["JupyterLab Dark", "JupyterLab Dark High Contrast", "JupyterLab Light"]


def open_task(board: Board, task: str) -> Locator:
    board.row(task).locator(".car-open").click()
    executions = board.root.locator(".car-executions")
    expect(executions.locator("[data-execution]").first).to_be_visible()
    return executions


def open_all(board: Board) -> None:
    """Open the execution of `train` with what it printed, and select two tasks."""
    open_task(board, "train").locator("[data-execution] .car-open").first.click()
    expect(board.root.locator(".car-detail .car-output")).to_contain_text("epoch 32 of 50")
    for task in ("prices", "digest"):
        board.row(task).locator(".car-select").check()
    expect(board.root.locator(".car-selection")).to_be_visible()


def test_axe_finds_nothing_in_any_state_or_theme(open_notebook: OpenNotebook):
    notebook = open_notebook([LOAD, "car.dashboard()", TASKS], viewport=(1400, 1400))
    for index in (0, DASHBOARD):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait("empty")
    found = {}

    def look(state: str) -> None:
        found[state] = violations(board.root)

    def look_in_all_themes(state: str) -> None:
        for theme in THEMES:
            notebook.change_theme(theme)
            look(f"{state}, {theme}")
        notebook.page.emulate_media(forced_colors="active")
        look(f"{state}, forced colours")
        notebook.page.emulate_media(forced_colors="none")

    look_in_all_themes("empty")
    notebook.run(DEFINE)
    board.wait()
    board.wait_for("orders", last="failed")
    expect(board.root.locator(".car-notices [data-notice]").first).to_be_visible()
    look("five tasks and a notice")
    executions = open_task(board, "orders")
    look("an opened task")
    executions.locator(".car-open").first.click()
    expect(board.root.locator(".car-detail .car-traceback")).to_contain_text("ConnectionError")
    look("a failed execution")
    open_all(board)
    look_in_all_themes("opened execution and selection")
    assert not any(found.values()), "\n\n".join(f"{state}: {what}" for state, all_ in found.items() for what in all_)
    assert notebook.errors == []


def test_axe_would_find_what_cannot_be_read(open_notebook: OpenNotebook):
    notebook = open_notebook([LOAD, "car.dashboard()"])
    for index in (0, DASHBOARD):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait("empty")
    board.root.evaluate("root => root.querySelectorAll('.car-empty *').forEach(node => { node.style.color = '#ddd'; })")
    board.root.locator(".car-empty button").evaluate("button => button.replaceChildren()")
    found = {what.partition(":")[0] for what in violations(board.root)}
    assert found >= {"color-contrast", "button-name"}


# What has the focus, as a person sees it: what it is called, of which task, and how it is marked.
FOCUSED = """() => {
  const node = document.activeElement, style = getComputedStyle(node);
  const drawn = parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== "none";
  return {
    name: node.getAttribute("aria-label") ?? node.textContent,
    task: node.closest("[data-task]")?.dataset.task ?? null,
    verb: node.dataset.verb ?? null,
    inside: Boolean(node.closest(".car-dashboard")),
    marked: drawn || style.boxShadow !== "none",
    place: `${node.tagName} ${node.className}`,
  };
}"""
TICKS = """\
%load_ext car_sched_nb
import asyncio
from pathlib import Path
import car_sched_nb as car

@car.runner("quick")
async def quick(spec, prompt, runtime, mailbox):
    print("ran", runtime.slot)
    return "done"

for name in ("first", "second", "third", "fourth", "fifth"):
    car.scheduler().add(car.Task(name, prompt="x", runner="quick"))
    car.scheduler().arm(name)
car.scheduler().add(car.Task("broken", prompt="1/0"))
car.scheduler().arm("broken")
car.run("third")
car.run("broken")
await car.wait("third", "broken")"""
UPDATES = """\
while not Path("go").exists():
    await asyncio.sleep(0.02)
for n in range(20):
    for name in ("fourth", "first", "fifth", "second", "third"):
        car.run(name)
        await car.wait(name)
    await asyncio.sleep(0.2)"""


class Keys:
    """A person at the keyboard."""

    def __init__(self, notebook: Notebook) -> None:
        self._page = notebook.page

    def press(self, *keys: str) -> dict[str, Any]:
        """Press keys one after the other; return what has the focus then."""
        for key in keys:
            self._page.keyboard.press(key)
        return self.focused()

    def focused(self) -> dict[str, Any]:
        focused: dict[str, Any] = self._page.evaluate(FOCUSED)
        return focused

    def walk(self, key: str = "Tab", most: int = 200) -> list[dict[str, Any]]:
        """Press a key until the focus leaves the dashboard or stands still; return what had it."""
        seen = [self.focused()]
        while len(seen) < most and (focused := self.press(key))["inside"] and focused != seen[-1]:
            seen.append(focused)
        return seen

    def go(self, label: str, key: str = "Tab", most: int = 60) -> dict[str, Any]:
        """Press a key until what has the focus is called so."""
        for _ in range(most):
            if re.search(label, self.focused()["name"]):
                return self.focused()
            self.press(key)
        raise AssertionError(f"{label!r} was not reached with {key}: {self.focused()}")


def test_everything_can_be_reached_and_used_by_keyboard(open_notebook: OpenNotebook):
    notebook = open_notebook([TICKS, "car.dashboard()", UPDATES], viewport=(1400, 1400))
    for index in (0, DASHBOARD):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait()
    board.wait_for("third", last="completed")
    board.wait_for("broken", last="failed")
    keys = Keys(notebook)

    # Tab goes through the head, the tools, one row and out again; everything that has the focus shows it.
    board.root.locator(".car-search").first.focus()
    stops = keys.walk()
    assert [stop for stop in stops if not stop["marked"]] == []
    names = [stop["name"] for stop in stops]
    for wanted in ("Search", "status", "Run now", "Cancel", "Pause", "Select", "More"):
        assert any(wanted.lower() in name.lower() for name in names), (wanted, names)
    assert len({stop["task"] for stop in stops if stop["task"]}) == 1, "the rows are one stop, arrows lead through them"

    # Arrows lead from row to row and keep to the same button.
    board.row("broken").locator(".car-open").focus()
    assert [keys.press("ArrowDown")["task"] for _ in range(3)] == ["fifth", "first", "fourth"]
    assert keys.press("End")["task"] == "third"
    assert keys.press("Home")["task"] == "broken"
    keys.go("^Run now broken$")
    assert keys.press("ArrowDown")["name"] == "Run now fifth"

    # A button is used with Enter and with Space.
    keys.press("Enter")
    board.wait_for("fifth", last="completed")
    keys.go("^Pause fifth$")
    keys.press("Space")
    board.wait_for("fifth", status="disabled")
    assert keys.focused()["name"] == "Resume fifth"
    keys.press("Enter")
    expect(board.row("fifth").locator("[data-verb=pause]")).to_have_count(1)

    # An execution is opened, its output is reached, and Escape closes what was opened last.
    board.row("third").locator(".car-open").focus()
    keys.press("Enter")
    executions = board.root.locator(".car-executions")
    expect(executions.locator("[data-execution]").first).to_be_visible()
    keys.go("^completed")
    keys.press("Enter")
    expect(board.root.locator(".car-detail .car-output")).to_contain_text("ran")
    assert keys.go("^Output$")["marked"]
    stops = keys.walk()
    assert [stop for stop in stops if not stop["marked"]] == []
    board.root.locator(".car-detail .car-output").focus()
    keys.press("Escape")
    expect(board.root.locator(".car-detail")).to_be_hidden()
    assert keys.focused()["inside"]
    keys.press("Escape")
    expect(executions).to_be_hidden()
    assert keys.focused()["task"] == "third"

    # The cell is shown, and a task is deleted, from the row's menu; it asks once.
    keys.go("^More for third$")
    keys.press("Enter")
    keys.go("^Delete third", "ArrowDown")
    keys.press("Enter")
    expect(board.row("third")).to_have_count(1)
    keys.press("Escape")
    assert keys.focused()["name"] == "More for third"
    expect(board.row("third")).to_have_count(1)

    # A selection is made, used and let go.
    board.row("first").locator(".car-select").focus()
    keys.press("Space", "ArrowDown", "Space")
    expect(board.root.locator(".car-selection")).to_contain_text("2 selected")
    keys.go("^Pause 2$")
    keys.press("Enter")
    for task in ("first", "fourth"):
        board.wait_for(task, status="disabled")
    expect(board.root.locator(".car-selection")).to_contain_text("Resume 2")
    keys.go("^Resume 2$")
    keys.press("Enter")
    for task in ("first", "fourth"):
        expect(board.row(task).locator("[data-verb=pause]")).to_have_count(1)
    assert (notebook.refused, notebook.errors) == ([], [])


def test_the_focus_stays_on_its_task_while_rows_change_places(open_notebook: OpenNotebook, tmp_path: Path):
    notebook = open_notebook([TICKS, "car.dashboard()", UPDATES])
    for index in (0, DASHBOARD):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait()
    notebook.run(UPDATE, wait=False)
    # By keyboard: while a pointer moves over the table, its rows stay where they are.
    board.root.locator("[role=columnheader] button", has_text="Last result").press("Enter")
    board.row("second").locator("[data-verb=pause]").focus()
    board.root.evaluate(
        """root => {
          root.order = [];
          root.strayed = [];
          new MutationObserver(() => {
            const order = [...root.querySelectorAll("[data-task]")].map(row => row.dataset.task).join();
            if (order !== root.order.at(-1)) root.order.push(order);
            const row = document.activeElement.closest("[data-task]");
            if (row?.dataset.task !== "second") root.strayed.push(document.activeElement.className);
          }).observe(root, { subtree: true, childList: true, attributes: true });
        }"""
    )
    (tmp_path / "go").touch()
    expect(board.row("second").locator(".car-served")).to_have_text("20", timeout=60_000)
    order, strayed = board.root.evaluate("root => [root.order, root.strayed]")
    assert len(order) > 1, "rows changed places"
    assert strayed == []
    assert notebook.errors == []


CONTROLS = """root => [...root.querySelectorAll("button, input, select, [tabindex='0']")]
  .filter(node => node.checkVisibility({ visibilityProperty: true }) && !node.closest(".car-menu"))
  .map(node => [node.getAttribute("aria-label") ?? node.className, node.getBoundingClientRect()])
  .map(([name, { left, right }]) => [name, left, right])"""


def set_width(board: Board, width: int) -> None:
    """Make the window as wide as the dashboard needs to have this width."""
    page, now = board.notebook.page, 0.0
    for _ in range(20):  # a scroll bar can come or go, and Lab lays out after a while
        now, window = board.root.evaluate("root => [root.getBoundingClientRect().width, innerWidth]")
        if round(now) == width:
            return
        page.set_viewport_size({"width": round(window + width - now), "height": 1000})
        page.wait_for_timeout(300)
    raise AssertionError(f"the dashboard is {now} px wide, not {width}")


def test_nothing_is_cut_off_and_everything_works_at_each_width(open_notebook: OpenNotebook):
    notebook = open_notebook([LOAD, "car.dashboard()", TASKS])
    for index in (0, DEFINE, DASHBOARD):
        notebook.run(index)
    board = Board(notebook, DASHBOARD).wait()
    open_all(board)
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+b")  # Lab's own list of files
    for width in (1600, 400):
        set_width(board, width)
        expect(board.row("train")).to_be_visible()
        board.root.locator(".car-table").scroll_into_view_if_needed()
        box = board.root.bounding_box()
        assert box
        assert board.root.evaluate("root => root.scrollWidth - root.clientWidth") <= 0
        for name, left, right in board.root.evaluate(CONTROLS):
            assert box["x"] <= left < right <= box["x"] + box["width"] + 1, (width, name, left, right, box)
    board.press("train", "cancel")
    board.wait_for("train", last="cancelled")
    for verb, status in (("pause", "disabled"), ("resume", "scheduled")):
        board.press("report", verb)
        board.wait_for("report", status=status)
    board.press("prices", "run")
    board.row("digest").locator(".car-more").click()
    window = notebook.page.viewport_size
    for verb in ("source", "delete"):
        item = board.root.locator(f".car-menu [data-verb={verb}]").bounding_box()
        assert item and window and item["x"] >= 0 and item["x"] + item["width"] <= window["width"]
    for _ in range(2):  # it asks once
        board.root.locator(".car-menu [data-verb=delete]").click()
    expect(board.row("digest")).to_have_count(0)
    assert notebook.errors == []
