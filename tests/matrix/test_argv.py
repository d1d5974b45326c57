"""Shell tasks with `--argv`: the words of one command, which no shell reads."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_sched_nb.runners.shell import argv_of
from tests.matrix.processes import outcome, stopped

pytestmark = pytest.mark.anyio
HERE: dict[str, Any] = {"runner": "shell", "argv": True}
FAMILY = "sh -c 'sleep 60 & echo $$ $! > {pids}; touch {ready}; wait'"
EVIL = "$(touch evil); `touch evil` ; touch evil & \"'\n -rf *"
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


async def test_argv_completes():
    done, text = await outcome("printf '%s|' one 'two three' $HOME * a#b", **HERE)
    assert (done.status, done.answer, done.executor) == ("completed", "one|two three|$HOME|*|a#b|", "process")
    assert text == done.answer


async def test_argv_completes__with_a_parameter_as_one_word(tmp_path: Path):
    body = "printf '%s|' {who} x{who} '{who} {other}'"
    done, _ = await outcome(body, cwd=str(tmp_path), params={"who": EVIL}, **HERE)
    assert (done.status, done.answer) == ("completed", f"{EVIL}|x{{who}}|{{who}} {{other}}|")
    assert [path async for path in anyio.Path(tmp_path).iterdir()] == []


@given(st.dictionaries(st.sampled_from(["a", "b"]), WORDS), st.lists(WORDS | st.sampled_from(["{a}", "{b}"])))
def test_argv_completes__with_each_word_as_it_was_written(params: dict[str, str], words: list[str]):
    expected = [params.get(word[1:-1], word) if word in ("{a}", "{b}") else word for word in ["echo", *words]]
    assert argv_of(shlex.join(["echo", *words]), params) == expected


async def test_argv_fails_with_a_traceback():
    """A command has none: its exit code, and what it said on its error stream."""
    done, _ = await outcome("ls /no/such/folder", **HERE)
    assert (done.status, done.error_type) == ("failed", "ExitCode")
    assert "exit code 2: ls: " in (done.error or "")
    assert "/no/such/folder" in (done.error or "")


async def test_argv_fails_with_a_traceback__when_there_is_no_such_program():
    done, _ = await outcome("no-such-program --fast", **HERE)
    assert (done.status, done.error_type) == ("failed", "FileNotFoundError")
    assert (done.error or "").startswith("there is no program 'no-such-program'")


async def test_argv_times_out(tmp_path: Path):
    done = await stopped(tmp_path, FAMILY, "timeout", **HERE)
    assert (done.status, done.error) == ("timed_out", "did not end within 3s")


async def test_argv_is_cancelled(tmp_path: Path):
    assert (await stopped(tmp_path, FAMILY, "cancel", **HERE)).status == "cancelled"


async def test_argv_output_is_captured():
    done, text = await outcome("sh -c 'echo one; echo two'", **HERE)
    assert (done.status, text) == ("completed", "one\ntwo\n")


async def test_argv_killed_child():
    done, _ = await outcome("sh -c 'kill -KILL $$'", **HERE)
    assert (done.status, done.error_type, done.error) == ("failed", "SIGKILL", "ended by signal SIGKILL")


async def test_argv_prints_100_mb():
    done, text = await outcome("head -c 100000000 /dev/zero", **HERE)
    assert done.status == "completed"
    assert "characters not shown" in (done.answer or "")
    assert 10_000 < len(text) < 1_000_000


async def test_argv_broken_utf8():
    done, _ = await outcome(r"printf 'a\377b'", **HERE)
    assert (done.status, done.answer) == ("completed", "a\ufffdb")
