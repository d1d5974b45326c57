"""The dashboard as a person sees and uses it: rows, words and buttons."""

import json
from collections.abc import Sequence

from playwright.sync_api import Locator, expect

from tests.browser.lab import Notebook

# Each state that a row shows, also one that is gone again before a test can look.
RECORD = """root => {
  root.seen = [];
  const note = row => row.dataset.task && root.seen.push([row.dataset.task, row.dataset.status]);
  root.querySelectorAll("[data-task]").forEach(note);
  new MutationObserver(changes => changes.forEach(change => note(change.target)))
    .observe(root, { subtree: true, attributeFilter: ["data-status"] });
}"""


# The rows that can be seen, a height of the table at a time; each is given two frames to be drawn.
READ_ALL = """async table => {
  const seen = new Map();  // a name can be __proto__
  const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  for (let top = 0; ; top += table.clientHeight / 2) {
    table.scrollTop = top;
    await drawn();
    for (const row of table.querySelectorAll("[data-task]")) seen.set(row.dataset.task, row.innerText);
    if (top + table.clientHeight >= table.scrollHeight) break;
  }
  table.scrollTop = 0;
  await drawn();
  return [...seen];
}"""


class Board:
    """A dashboard in the output of a notebook's cell."""

    def __init__(self, notebook: Notebook, index: int) -> None:
        self.notebook = notebook
        self.root: Locator = notebook.output(index).locator(".car-dashboard")

    def wait(self, state: str = "live", timeout_s: float = 15) -> "Board":
        """Wait until the dashboard is `live`, `empty`, `silent` or `loading`; return it."""
        expect(self.root).to_have_attribute("data-state", state, timeout=timeout_s * 1000)
        return self

    def row(self, task: str) -> Locator:
        return self.root.locator(f"[data-task={json.dumps(task)}]")

    def press(self, task: str, verb: str) -> None:
        self.row(task).locator(f"[data-verb={verb}]").click()

    def wait_for(self, task: str, *, status: str | None = None, last: str | None = None, timeout_s: float = 15) -> None:
        """Wait until a row shows a status, or how its last execution ended."""
        if status:
            expect(self.row(task)).to_have_attribute("data-status", status, timeout=timeout_s * 1000)
        if last:
            expect(self.row(task)).to_have_attribute("data-last-status", last, timeout=timeout_s * 1000)

    def record(self) -> None:
        """Note from now on each status that a row shows."""
        self.root.evaluate(RECORD)

    def wait_for_sequence(self, task: str, statuses: Sequence[str], timeout_s: float = 15) -> None:
        """Wait until a row has shown these statuses one after the other, since `record`."""
        self.notebook.page.wait_for_function(
            """([root, task, wanted]) => {
              const seen = root.seen.filter(([name]) => name === task).map(([, status]) => status);
              let at = 0;
              for (const status of seen) if (status === wanted[at]) at += 1;
              return at >= wanted.length;
            }""",
            arg=[self.root.element_handle(), task, list(statuses)],
            timeout=timeout_s * 1000,
        )

    def read_all(self) -> dict[str, str]:
        """Scroll through the table from its top to its end; return each row's text by its task."""
        return dict(self.root.locator(".car-table").evaluate(READ_ALL))
