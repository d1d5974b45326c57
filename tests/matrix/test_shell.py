"""Shell tasks: a script for `bash` or `sh`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.matrix.processes import outcome, stopped

pytestmark = pytest.mark.anyio
HERE: dict[str, Any] = {"runner": "shell"}
PLAIN = "echo $$ > {pids}; touch {ready}; while :; do :; done"
FAMILY = (
    "sh -c 'sleep 60 & wait' & timeout 60 sleep 60 & "
    "echo $$ $! $(pgrep -P $!) $(pgrep -P $$) > {pids}; touch {ready}; wait"
)


async def test_shell_completes():
    done, text = await outcome("echo one; echo two", **HERE)
    assert (done.status, done.answer, done.executor, text) == ("completed", "one\ntwo", "process", "one\ntwo\n")


async def test_shell_completes__in_its_folder_with_its_memory(tmp_path: Path):
    done, _ = await outcome("pwd; ulimit -d", cwd=str(tmp_path), memory="1GB", **HERE)
    assert (done.status, done.answer) == ("completed", f"{tmp_path}\n{10**9 // 1024}")


async def test_shell_fails_with_a_traceback():
    """A script has none: its exit code, and what it said on its error stream."""
    done, text = await outcome("echo fine; echo broken >&2; exit 3", **HERE)
    assert (done.status, done.error_type, done.error) == ("failed", "ExitCode", "exit code 3: broken")
    assert sorted(text.splitlines()) == ["broken", "fine"]


async def test_shell_times_out(tmp_path: Path):
    done = await stopped(tmp_path, FAMILY, "timeout", **HERE)
    assert (done.status, done.error) == ("timed_out", "did not end within 3s")


@pytest.mark.parametrize("body", [PLAIN, FAMILY], ids=["spins", "family"])
async def test_shell_is_cancelled(tmp_path: Path, body: str):
    assert (await stopped(tmp_path, body, "cancel", **HERE)).status == "cancelled"


async def test_shell_output_is_captured():
    done, text = await outcome("echo one; (echo two); sh -c 'echo three'; printf four", **HERE)
    assert (done.status, text) == ("completed", "one\ntwo\nthree\nfour")


@pytest.mark.parametrize(
    ("body", "error_type", "error"),
    [
        ("kill -KILL $$", "SIGKILL", "ended by signal SIGKILL"),
        ("echo last >&2; kill -TERM $$", "SIGTERM", "ended by signal SIGTERM: last"),
        ("sh -c 'kill -KILL $$'; exit $?", "ExitCode", "exit code 137"),
    ],
)
async def test_shell_killed_child(body: str, error_type: str, error: str):
    done, _ = await outcome(body, **HERE)
    assert (done.status, done.error_type) == ("failed", error_type)
    assert (done.error or "").startswith(error)


async def test_shell_prints_100_mb():
    done, text = await outcome("head -c 100000000 /dev/zero | tr '\\0' x", **HERE)
    assert done.status == "completed"
    assert "characters not shown" in (done.answer or "")
    assert 10_000 < len(text) < 1_000_000


async def test_shell_broken_utf8():
    done, text = await outcome(r"printf 'a\377\303'; printf '\251\n'", **HERE)
    assert (done.status, done.answer, text) == ("completed", "a\ufffd\u00e9", "a\ufffd\u00e9\n")
