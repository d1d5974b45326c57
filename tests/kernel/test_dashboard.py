"""The dashboard's kernel side: what a view is sent, and what its buttons do, from whatever thread they come."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.kernel import Kernel
from tests.kernel.notebook import executions, loaded_kernel, ok, wait_ended, wait_for_executions

# The widget's own `send` is replaced, so that what a browser would get is kept; clicks come from a thread, as those of
# a subshell do.
BOARD = """
import json
board = car.dashboard()
sent = []
board.send = lambda content, buffers=None: sent.append((time.monotonic(), content))
def receive(content):
    worker = threading.Thread(target=board._handle_custom_msg, args=(content, []))
    worker.start()
    worker.join()
def find(kind, after=0):
    return [content for _, content in sent[after:] if content["type"] == kind]
def ask(content, kind, **wanted):
    seen = len(sent)
    receive(content)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for found in find(kind, seen):
            if all(found.get(key) == value for key, value in wanted.items()):
                return found
        time.sleep(0.01)
    raise TimeoutError(f"no {kind}")
def snapshot():
    return ask({"type": "hello"}, "snapshot")
def command(verb, *names):
    ids = [car.tasks().loc[name].task_id for name in names]
    return ask({"type": "command", "verb": verb, "tasks": ids, "id": verb}, "ack", id=verb)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    for kernel in loaded_kernel(tmp_path_factory.mktemp("dashboard")):
        ok(kernel, "%%car_task prices --every 1h\n'priced'")
        ok(kernel, "%%car_task naps --no-run\ntime.sleep(300)")
        wait_ended(kernel, "prices")
        ok(kernel, BOARD)
        yield kernel


def answer(kernel: Kernel, code: str) -> dict[str, Any]:
    """Return the message that a line of code evaluates to."""
    found: dict[str, Any] = json.loads(ok(kernel, f"print(json.dumps({code}))"))
    return found


def row(kernel: Kernel, name: str) -> dict[str, Any]:
    return next(row for row in answer(kernel, "snapshot()")["rows"] if row["name"] == name)


def test_a_view_that_says_hello_gets_all_rows_and_the_head(kernel: Kernel):
    message = answer(kernel, "snapshot()")
    assert [r["name"] for r in message["rows"]][:2] == ["prices", "naps"]
    assert message["head"]["namespace"] == "t"
    assert message["head"]["store"].endswith("car.db")
    prices = message["rows"][0]
    assert (prices["status"], prices["trigger"], prices["enabled"], prices["armed"]) == (
        "scheduled",
        "every 1 h",
        True,
        True,
    )
    assert (prices["last"]["status"], prices["last"]["text"]) == ("completed", "priced")
    assert prices["next_at_us"] > message["now_us"]


def test_messages_are_numbered_without_a_gap(kernel: Kernel):
    answer(kernel, "snapshot()")
    numbers = ok(kernel, "snapshot()\nprint(*[c['seq'] for _, c in sent if 'seq' in c])").split()
    assert [int(n) for n in numbers] == list(range(int(numbers[0]), int(numbers[0]) + len(numbers)))


def test_run_and_cancel_are_acknowledged_and_done_while_the_cell_blocks(kernel: Kernel):
    # `ask` blocks the kernel's thread until the answer is there.
    assert answer(kernel, "command('run', 'naps')")["ok"] is True
    wait_for_executions(kernel, "naps", "running")
    assert row(kernel, "naps")["status"] == "running"
    assert answer(kernel, "command('run', 'naps')")["text"] == "still running"
    assert answer(kernel, "command('cancel', 'naps')")["ok"] is True
    wait_for_executions(kernel, "naps", "cancelled")
    assert answer(kernel, "command('cancel', 'naps')")["text"] == "nothing was running"
    assert row(kernel, "naps")["last"]["status"] == "cancelled"


def test_pause_and_resume_are_acknowledged_and_done(kernel: Kernel):
    assert answer(kernel, "command('pause', 'prices', 'naps')")["ok"] is True
    assert [row(kernel, name)["status"] for name in ("prices", "naps")] == ["disabled", "disabled"]
    assert answer(kernel, "command('resume', 'prices', 'naps')")["ok"] is True
    assert row(kernel, "prices")["status"] == "scheduled"


def test_an_unknown_button_is_answered_and_nothing_happens(kernel: Kernel):
    before = executions(kernel, "prices")
    ack = answer(kernel, "command('explode', 'prices')")
    assert ack["ok"] is False
    assert "explode" in ack["text"]
    ok(kernel, "receive('junk'); receive({}); receive({'type': 'command'}); receive(None)")
    assert executions(kernel, "prices") == before


def test_a_task_that_comes_and_goes_is_told_without_being_asked(kernel: Kernel):
    ok(kernel, "seen = len(sent)")
    ok(kernel, "%%car_task passing --no-run\n1")
    kernel.wait_until(lambda: "passing" in ok(kernel, "[r['name'] for u in find('update', seen) for r in u['rows']]"))
    ok(kernel, "gone_id = car.tasks().loc['passing'].task_id; seen = len(sent)")
    ok(kernel, "%car delete passing")
    kernel.wait_until(lambda: ok(kernel, "any(gone_id in u['gone'] for u in find('update', seen))") == "True")
    assert "passing" not in [r["name"] for r in answer(kernel, "snapshot()")["rows"]]


def test_progress_reaches_the_view(kernel: Kernel):
    ok(kernel, "%%car_task slow\ncar.current().progress(3, 10, 'files')\ntime.sleep(300)")
    kernel.wait_until(lambda: (row(kernel, "slow")["run"] or {}).get("progress") is not None)
    progress = {"done": 3.0, "total": 10.0, "note": "files", "rate": None, "left_us": None}
    assert row(kernel, "slow")["run"]["progress"] == progress
    ok(kernel, "%car cancel slow")


def test_a_waiting_task_says_what_it_waits_for(kernel: Kernel):
    ok(kernel, "%%car_task lacks --every 200ms\nnowhere_defined + 1")
    kernel.wait_until(lambda: row(kernel, "lacks")["waits"] is not None)
    assert row(kernel, "lacks")["waits"] == "'nowhere_defined' is not defined; run its cell"
    ok(kernel, "%car delete lacks")


def test_fifty_ticking_tasks_send_about_ten_messages_a_second_at_most(kernel: Kernel):
    ok(
        kernel,
        "for n in range(50):\n"
        "    car.scheduler().add(car.Task(f'tick{n}', '1', trigger='interval', schedule='100ms'))\n"
        "time.sleep(0.5)",
    )
    counted = ok(kernel, "seen = len(sent); begun = time.monotonic(); time.sleep(3)\nprint(len(sent) - seen)")
    took_s = float(ok(kernel, "time.monotonic() - begun"))
    runs = int(ok(kernel, "len(car.history([f'tick{n}' for n in range(50)]))"))
    ok(kernel, "for n in range(50): car.delete(f'tick{n}')")
    assert runs > 500
    assert 10 <= int(counted) <= 12 * took_s + 2
    told = ok(kernel, "print(*{r['name'] for u in find('update', seen) for r in u['rows']})").split()
    assert {f"tick{n}" for n in range(50)} <= set(told)


def look(kernel: Kernel, part: str, **content: Any) -> dict[str, Any]:
    """Say what a view shows, and return the first that it gets of a part: executions, detail, output."""
    ok(kernel, "seen = len(sent)")
    ok(kernel, f"receive({{'type': 'look', 'view': 'v', **json.loads({json.dumps(json.dumps(content))})}})")
    code = f"[u['views']['v'] for u in find('update', seen) if {part!r} in u.get('views', {{}}).get('v', {{}})]"
    kernel.wait_until(lambda: ok(kernel, code) != "[]")
    return dict(answer(kernel, f"{code}[0]"))


def test_an_opened_task_and_execution_are_shown_with_all_that_is_kept(kernel: Kernel):
    body = "print('one')\ndisplay({'text/html': '<b>2</b>'}, raw=True)\n1 / 0"
    ok(kernel, f"%%car_task talks --no-run\n{body}")
    ok(kernel, "car.run('talks')")
    wait_ended(kernel, "talks")
    id_ = row(kernel, "talks")["id"]
    listed = look(kernel, "executions", rows=[id_], task=id_)
    (execution,) = listed["executions"]
    assert (listed["whole"], listed["more"]) == (True, False)
    assert (execution["status"], execution["can"]) == ("failed", ["retry"])
    shown = look(kernel, "detail", rows=[id_], task=id_, execution=execution["execution_id"])
    assert shown["detail"]["traceback"].rstrip().endswith("ZeroDivisionError: division by zero")
    assert shown["detail"]["displays"] == [{"text/html": "<b>2</b>"}]
    ok(kernel, "receive({'type': 'look', 'view': 'v', 'rows': []})")
    shown = look(kernel, "output", rows=[id_], execution=execution["execution_id"])
    assert shown["output"]["text"].startswith("one\n")
    assert (shown["output"]["at"], shown["output"]["reset"]) == (0, True)
    asked = {"type": "command", "verb": "retry", "id": "r", "execution": execution["execution_id"]}
    assert answer(kernel, f"ask({asked!r}, 'ack', id='r')")["ok"] is True
    wait_for_executions(kernel, "talks", "failed", 2)


def test_what_a_body_prints_is_followed_while_the_cell_blocks(kernel: Kernel):
    ok(kernel, "%%car_task counts --no-run\nfor n in range(3000):\n    print(n)\n    time.sleep(0.1)")
    execution_id = ok(kernel, "print(car.run('counts').execution_id)").strip()
    look(kernel, "output", rows=[], execution=execution_id)
    # The cell blocks the kernel until more than one increment came.
    got = ok(
        kernel,
        "until = time.monotonic() + 20\n"
        "def text(): return ''.join(u['views']['v']['output']['text'] for u in find('update', seen)"
        " if 'output' in u.get('views', {}).get('v', {}))\n"
        "while '12\\n' not in text() and time.monotonic() < until: time.sleep(0.05)\n"
        "print(text())",
    )
    numbers = [int(line) for line in got.split()]
    assert numbers[:13] == list(range(13))
    ok(kernel, "%car cancel counts")


def test_the_cell_of_a_task_is_what_show_says(kernel: Kernel):
    id_ = row(kernel, "prices")["id"]
    said = answer(kernel, f"ask({{'type': 'source', 'task': {id_!r}, 'id': 's'}}, 'source', id='s')")
    assert said["ok"] is True
    assert said["text"] == ok(kernel, "print(car.show('prices'))").rstrip("\n")
    assert said["text"].startswith("%%car_task prices --every ")


def test_two_dashboards_share_what_they_are_told_from(kernel: Kernel):
    ok(kernel, "other = car.dashboard()")
    assert ok(kernel, "other._feed is board._feed") == "True"
    assert ok(kernel, "other.still != board.still") == "True"
    ok(kernel, "other.close()")


@pytest.mark.parametrize("cell", ["car.dashboard()", "display(car.dashboard())", "%car dashboard"])
def test_a_dashboard_is_shown_with_a_table_for_where_no_kernel_answers(kernel: Kernel, cell: str):
    live, still = kernel.run(cell).outputs
    assert "application/vnd.jupyter.widget-view+json" in live.data
    assert "text/html" not in live.data
    assert still.data["text/html"].startswith('<div class="car-still car-still-')
    assert "prices" in still.data["text/html"]
    assert "completed: priced" in still.data["text/plain"]


def test_the_table_is_replaced_under_its_cell_while_somebody_looks(kernel: Kernel):
    ok(kernel, "%%car_task counted --no-run\n'counted ' + '<i>once</i>'")
    cell = kernel.send("shown = car.dashboard()\nshown")
    kernel.wait(cell)
    ok(kernel, "shown.send = lambda content, buffers=None: None")
    ok(kernel, "shown._handle_custom_msg({'type': 'hello'}, [])")
    ok(kernel, "car.run('counted')")
    kernel.wait_until(lambda: any(o.kind == "update_display_data" for o in kernel.outputs_of(cell)), 30)
    _, still, *later = kernel.outputs_of(cell)
    assert later[-1].name == still.name
    assert "counted &lt;i&gt;once&lt;/i&gt;" in later[-1].data["text/html"]
    assert "counted <i>once</i>" in later[-1].data["text/plain"]
    ok(kernel, "shown.close()")


def test_a_closed_dashboard_is_told_nothing_more(kernel: Kernel):
    ok(kernel, "board.close(); time.sleep(0.3); seen = len(sent)")
    ok(kernel, "car.run('prices')")
    wait_ended(kernel, "prices")
    assert ok(kernel, "time.sleep(0.5); len(sent) - seen") == "0"
