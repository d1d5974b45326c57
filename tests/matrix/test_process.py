"""Python bodies with `--executor process`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from car_sched_nb.executors import process
from tests.matrix.processes import outcome, stopped

pytestmark = pytest.mark.anyio
HERE: dict[str, Any] = {"executor": "process"}
TELL = "import os, time\nfrom pathlib import Path\npids = [os.getpid()]\n"
READY = "Path('{pids}').write_text(' '.join(map(str, pids)))\nPath('{ready}').touch()\n"
SPINS = TELL + READY + "while True:\n    pass"
FAMILY = (
    TELL
    + "import subprocess\npids.append(subprocess.Popen(['sh', '-c', 'sleep 60 & wait']).pid)\n"
    + "child = os.fork()\nif not child:\n    time.sleep(60)\npids.append(child)\n"
    + READY
    + "time.sleep(60)"
)
IGNORES = TELL + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(60)"
IN_C = TELL + READY + "sorted(range(10**9), key=lambda n: -n)"
STOPPED = pytest.mark.parametrize("body", [SPINS, FAMILY], ids=["spins", "family"])


async def test_process_completes():
    done, text = await outcome("x = n + 1\nx * 2", {"n": 20}, **HERE)
    assert (done.status, done.answer, done.executor, text) == ("completed", "42", "process", "")


async def test_process_fails_with_a_traceback():
    body = "def f():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        e.add_note('look here')\n"
    body += "        raise KeyError('k') from e\n\nf()"
    done, text = await outcome(body, **HERE)
    assert (done.status, done.error_type, done.error) == ("failed", "KeyError", "'k'")
    assert 'File "<car_task task>", line 8, in <module>\n    f()' in text
    assert 'File "<car_task task>", line 3, in f\n    1 / 0' in text
    assert "ZeroDivisionError: division by zero\nlook here" in text
    assert "car_sched_nb" not in text


async def test_process_times_out(tmp_path: Path):
    done = await stopped(tmp_path, FAMILY, "timeout", **HERE)
    assert (done.status, done.error) == ("timed_out", "did not end within 3s")


@STOPPED
async def test_process_is_cancelled(tmp_path: Path, body: str):
    assert (await stopped(tmp_path, body, "cancel", **HERE)).status == "cancelled"


async def test_process_is_cancelled__in_a_call_into_c(tmp_path: Path):
    assert (await stopped(tmp_path, IN_C, "cancel", **HERE)).status == "cancelled"


async def test_process_is_cancelled__though_it_ignores_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    assert (await stopped(tmp_path, IGNORES, "cancel", **HERE)).status == "cancelled"


async def test_process_output_is_captured():
    body = """
import ctypes, logging, os, subprocess, sys, threading, warnings
print("printed")
os.system("echo from a grandchild")
print("printed again", file=sys.stderr)
ctypes.CDLL(None).puts(b"from C"), ctypes.CDLL(None).fflush(None)
thread = threading.Thread(target=print, args=["from a thread"])
thread.start()
thread.join()
logging.warning("logged")
warnings.warn("warned")
os.write(1, b"bytes\\n")
subprocess.run(["echo", "to our own"], stdout=sys.stdout)
sys.stdout.buffer.write(b"buffered\\n")
sys.stdout.write("the last")
None
"""
    done, text = await outcome(body, **HERE)
    assert done.status == "completed"
    assert text.splitlines() == [
        "printed",
        "from a grandchild",
        "printed again",
        "from C",
        "from a thread",
        "WARNING:root:logged",
        "<car_task task>:11: UserWarning: warned",
        '  warnings.warn("warned")',
        "bytes",
        "to our own",
        "buffered",
        "the last",
    ]


@pytest.mark.parametrize(
    ("body", "error"), [("raise SystemExit(3)", "3"), ("import sys\nsys.exit()", "SystemExit"), ("exit(4)", "4")]
)
async def test_process_system_exit(body: str, error: str):
    """As in a thread."""
    for where in ("thread", "process"):
        done, _ = await outcome(body, executor=where)
        assert (done.status, done.error_type, done.error) == ("failed", "SystemExit", error)


@pytest.mark.parametrize(
    ("body", "error_type", "error"),
    [
        ("import os\nprint('said')\nos._exit(3)", "ExitCode", "exit code 3: the process ended itself"),
        ("import os\nos._exit(0)", "ExitCode", "exit code 0: the process ended itself"),
        ("import os\nos.kill(os.getpid(), 9)", "SIGKILL", "most likely the system's out-of-memory killer"),
        ("import os\nos.kill(os.getpid(), 15)", "SIGTERM", "ended by signal SIGTERM"),
        ("import os\nos.abort()", "SIGABRT", "ended by signal SIGABRT"),
    ],
)
async def test_process_killed_child(body: str, error_type: str, error: str):
    done, text = await outcome(body, **HERE)
    assert (done.status, done.error_type) == ("failed", error_type)
    assert error in (done.error or "")
    assert text.startswith("said") is ("said" in body)


async def test_process_killed_child__by_a_wrong_pointer_tells_the_line():
    done, text = await outcome("import ctypes\ndef f():\n    ctypes.string_at(0)\nf()", **HERE)
    assert (done.status, done.error_type, done.error) == ("failed", "SIGSEGV", "ended by signal SIGSEGV")
    assert 'File "<car_task task>", line 3 in f' in text.rpartition("Fatal Python error")[2]


async def test_process_killed_child__by_its_limit_of_memory():
    done, text = await outcome("b = bytearray(400_000_000)\nlen(b)", memory="200MB", **HERE)
    assert (done.status, done.error_type) == ("failed", "MemoryError")
    assert "--memory 200MB" in (done.error or "")
    assert 'File "<car_task task>", line 1' in text
    done, _ = await outcome("len(bytearray(400_000_000))", memory="2GB", **HERE)
    assert (done.status, done.answer) == ("completed", "400000000")


async def test_process_unpicklable_answer():
    """The text is kept, the object stays where it is, and the output says so."""
    done, text = await outcome("(n for n in range(3))", **HERE)
    assert done.status == "completed"
    assert re.match(r"<generator object <genexpr> at 0x", done.answer or "")
    assert text == "[the result stays in its process: (generator: cannot pickle 'generator' object)]\n"


@pytest.mark.parametrize(
    ("body", "fields", "named"),
    [
        ("(n for n in range(3))", {"into": "x"}, "the result, for --into x, (generator: "),
        ("global lock\nimport threading\nlock = threading.Lock()\n1", {}, "'lock' (_thread.lock: "),
    ],
)
async def test_process_unpicklable_answer__that_is_needed(body: str, fields: dict[str, Any], named: str):
    names = {"x": "old", "lock": "old"}
    done, _ = await outcome(body, names, **fields, **HERE)
    assert (done.status, done.error_type) == ("failed", "PicklingError")
    assert named in (done.error or "")
    assert names == {"x": "old", "lock": "old"}


@pytest.mark.parametrize(
    "body",
    ["for _ in range(1000):\n    print('x' * 99_999)", "import os\nos.system('head -c 100000000 /dev/zero')"],
    ids=["Python", "C"],
)
async def test_process_prints_100_mb(body: str):
    done, text = await outcome(body + "\n'done'", **HERE)
    assert (done.status, done.answer) == ("completed", "done")
    assert 10_000 < len(text) < 1_000_000
    assert "characters not shown" in text


async def test_process_broken_utf8():
    body = "import os\nos.write(1, b'a\\xff\\xc3')\nos.write(1, b'\\xa9\\n')\nprint('\\ud800b')\n'\\ud800 and \\x00'"
    done, text = await outcome(body, **HERE)
    assert done.status == "completed"
    assert text == "a\ufffd\u00e9\n?b\n"
    assert (done.answer or "").endswith(" and \ufffd")
