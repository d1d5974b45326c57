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
    assert row(kernel, "slow")["run"]["progress"] == {"done": 3.0, "total": 10.0, "note": "files"}
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


def test_a_closed_dashboard_is_told_nothing_more(kernel: Kernel):
    ok(kernel, "board.close(); time.sleep(0.3); seen = len(sent)")
    ok(kernel, "car.run('prices')")
    wait_ended(kernel, "prices")
    assert ok(kernel, "time.sleep(0.5); len(sent) - seen") == "0"
