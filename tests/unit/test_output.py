"""Output of an execution: kept with it, capped, never in somebody else's."""

import logging
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Task
from car_sched_nb.output import ANSWER, HEAD, TAIL, Output, Routed, clean, clip, current_output, route_streams
from car_sched_nb.runners.base import AgentSpec, Mailbox, Runtime
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store import records
from tests.unit.world import HANG_S, running


@contextmanager
def routed() -> Iterator[None]:
    """Route the streams; in the test itself, because pytest puts its own over them after the fixtures."""
    restore = route_streams()
    try:
        yield
    finally:
        restore()


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["thread", "loop"])
async def test_two_bodies_at_once_keep_their_prints_apart(capsys: pytest.CaptureFixture[str], where: str):
    names = {"turn": threading.Barrier(2), "anyio": anyio}
    body = f"for k in range(20):\n    print('NAME', k)\n    turn.wait({HANG_S})"
    if where == "loop":
        body = "for k in range(20):\n    print('NAME', k)\n    await anyio.lowlevel.checkpoint()"
    with routed():
        async with running(":memory:", python=PythonRunner(names)) as s:
            for name in ("a", "b"):
                await s.define(Task(name, body.replace("NAME", name), executor=where))
                await s.run_now(name)
            print("a cell's own")
            await s.wait()
            for done in s.executions():
                assert done.status == "completed"
                expected = "".join(f"{done.task} {k}\n" for k in range(20))
                assert records.output_text(s.store, done.execution_id) == expected
    assert capsys.readouterr().out == "a cell's own\n"


@pytest.mark.anyio
async def test_stderr_logging_and_warnings_of_a_body_are_its_output():
    logger = logging.getLogger("of the test")
    logger.addHandler(handler := logging.StreamHandler(sys.stderr))
    body = "import sys, logging, warnings\nsys.stderr.write('err\\n')\nlogging.getLogger('of the test').error('log')"
    with routed():
        async with running(":memory:") as s:
            done = await s.run_once(Task("task", body))
            assert records.output_text(s.store, done.execution_id) == "err\nlog\n"
    logger.removeHandler(handler)


@pytest.mark.anyio
async def test_a_failed_run_keeps_its_output_and_its_traceback_last():
    with routed():
        async with running(":memory:") as s:
            done = await s.run_once(Task("task", "print('before')\n1 / 0"))
            text = records.output_text(s.store, done.execution_id)
            assert text.startswith("before\n")
            assert text.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("piece", [1 << 20, 1000, 7])
def test_much_output_keeps_memory_bounded_and_the_full_text_in_a_file(tmp_path: Path, piece: int):
    size = 100_000_000 if piece > 100 else 2_000_000
    output = Output(str(tmp_path / "outputs" / "full.txt"))
    text = "0123456789" * (piece // 10 + 1)
    text = text[:piece]
    tracemalloc.start()
    for _ in range(size // piece):
        output.write(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    output.close()
    assert peak < 10_000_000
    assert len(output.text()) < HEAD + TAIL + 100
    assert output.path is not None
    assert output.path.stat().st_size == output.length == size // piece * piece
    assert output.path.stat().st_mode & 0o777 == 0o600
    kept = output.text()
    assert kept.startswith(text[:7])
    assert kept.endswith(text[-7:])
    assert "characters not shown" in kept


def test_output_that_fits_is_kept_whole_and_makes_no_file(tmp_path: Path):
    output = Output(str(tmp_path / "full.txt"))
    for k in range(HEAD + TAIL):
        output.write(str(k % 10))
    assert output.text() == "".join(str(k % 10) for k in range(HEAD + TAIL))
    assert output.path is None
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_every_character_also_those_before_it_was_made(tmp_path: Path):
    output = Output(str(tmp_path / "full.txt"))
    pieces = [f"line {k}\n" for k in range(30_000)]
    for piece in pieces:
        output.write(piece)
    output.close()
    assert (tmp_path / "full.txt").read_text() == "".join(pieces)
    head, _, tail = output.text().partition("\n... ")
    assert "".join(pieces).startswith(head)
    assert "".join(pieces).endswith(tail.partition("...\n")[2])


def test_what_is_printed_after_the_end_raises_nothing(tmp_path: Path):
    output = Output(str(tmp_path / "full.txt"))
    output.write("x" * (HEAD + TAIL + 1))
    output.close()
    output.close()
    assert output.write("late\n") == 5


def test_text_that_no_database_takes_is_made_text():
    assert clean("a\x00b") == "a\ufffdb"
    assert clean("a\ud800b\udcff") == "a?b?"
    assert clean("é 漢 😀") == "é 漢 😀"


def test_a_long_answer_keeps_both_ends():
    text = clip("a" * 50_000 + "b" * 50_000)
    assert len(text) <= ANSWER
    assert text.startswith("aaa") and text.endswith("bbb")
    assert "characters not shown" in text


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["a\\ud800b", "a\\x00b", "\\udcff"])
async def test_odd_text_in_print_answer_and_error_is_stored(text: str):
    with routed():
        async with running(":memory:") as s:
            done = await s.run_once(Task("good", f"print('{text}')\n'{text}'"))
            assert done.status == "completed"
            assert records.output_text(s.store, done.execution_id)
            failed = await s.run_once(Task("bad", f"raise ValueError('{text}')"))
            assert (failed.status, failed.error_type) == ("failed", "ValueError")
            assert [e.status for e in s.executions()] == ["completed", "failed"]


@pytest.mark.anyio
async def test_a_display_that_is_no_json_ends_no_engine():
    async def show(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        runtime.output.show({"application/x-odd": object(), "text/plain": "\ud800"})
        return "shown"

    async with running(":memory:") as s:
        s.register("show", show)
        assert (await s.run_once(Task("task", "do", runner="show"))).answer == "shown"
        assert [e.status for e in s.executions()] == ["completed"]


def test_streams_are_routed_once_and_taken_off_again():
    before = sys.stdout
    restore = route_streams()
    assert isinstance(sys.stdout, Routed)
    route_streams()()
    output = Output()
    token = current_output.set(output)
    print("mine", file=sys.stdout)
    current_output.reset(token)
    restore()
    assert sys.stdout is before
    assert output.text() == "mine\n"


@pytest.mark.anyio
async def test_a_print_of_a_script_is_kept_with_its_execution(capsys: pytest.CaptureFixture[str]):
    async with Scheduler() as s:
        print("mine")
        execution = await s.run_once(Task("loud", "print('the body')"))
        assert records.output_text(s.store, execution.execution_id) == "the body\n"
    assert capsys.readouterr().out == "mine\n"


# Carriage returns have a test of their own.
TEXT = st.text(st.characters(exclude_characters="\r"), max_size=30)
PIECES = st.lists(st.tuples(TEXT, st.sampled_from([1, 1, 1, 1_000, 10_000])), max_size=40)


@settings(deadline=None)
@given(PIECES, st.lists(st.integers(1_000, 70_000), min_size=1, max_size=10), st.data())
def test_increments_are_the_text_whatever_is_written_and_read_in_whatever_pieces(
    pieces: list[tuple[str, int]], sizes: list[int], data: st.DataObject
):
    output, whole = Output(), ""
    got, at = "", 0
    for number, (text, times) in enumerate(pieces):
        output.write(text * times)
        whole += text * times
        if data.draw(st.booleans()):
            begins, more = output.since(at, sizes[number % len(sizes)])
            if begins > at:
                assert (begins, at) >= (len(whole) - TAIL, HEAD)  # only the middle is lost, and only when it was cut
            assert more == clean(whole[begins : begins + len(more)])
            got += "\x01" * (begins - at) + more
            at = begins + len(more)
    while at < len(whole):
        begins, more = output.since(at, sizes[0])
        assert more
        got += "\x01" * (begins - at) + more
        at = begins + len(more)
    assert output.since(at, 10) == (at, "")
    expected = clean(whole)
    assert len(got) == len(expected)
    assert all(ours in (theirs, "\x01") for ours, theirs in zip(got, expected, strict=True))
    if len(whole) <= HEAD + TAIL:
        assert got == expected


def test_increments_begin_anew_when_what_was_printed_is_taken_back():
    output = Output()
    output.write("a" * (HEAD + TAIL + 10))
    output.clear()
    assert output.cleared == HEAD + TAIL + 10
    assert output.since(0, 100) == (0, "")
    output.write("new")
    assert output.since(0, 100) == (0, "new")
    assert output.since(1, 1) == (1, "e")
    assert output.length - output.cleared == 3


def test_increments_are_whole_while_another_thread_writes():
    output, wanted = Output(), "".join(f"{number} " for number in range(20_000))
    writer = threading.Thread(target=lambda: [output.write(f"{number} ") for number in range(20_000)])
    writer.start()
    got = ""
    while writer.is_alive() or len(got) < output.length:
        at, more = output.since(len(got), 1_000)
        assert at == len(got)
        got += more
    assert got == wanted
