"""What an output keeps reads as it was written: which stream, in which order, and lines that were written again."""

import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb import output as outputs
from car_sched_nb.output import DISPLAYS, HEAD, MARKS, TAIL, Output
from car_sched_nb.pieces import Piece, left, pieces
from car_sched_nb.returns import collapse, plain, shorten

LINES = st.text("ab \r\n", max_size=12)


def read(text: str) -> str:
    """Read a text as the words say it: of each line what came after its last carriage return."""

    def line(written: str) -> str:
        parts = written.rstrip("\r").split("\r")
        return parts[-1] if len(parts) == 1 or parts[-1].strip() else ""

    return "\n".join(map(line, text.split("\n")))


def pieces_of(output: Output) -> list[Piece]:
    kept = output.kept()
    if kept is None:
        return []
    return list(pieces(kept.text, kept.marks, len(msgspec.json.decode(kept.displays or "[]"))))


@given(LINES)
def test_a_text_that_was_shortened_reads_the_same(text: str):
    found, places = collapse(text, range(len(text) + 1))
    assert found == read(text)
    assert places == sorted(places) and (places[0], places[-1]) == (0, len(found))
    assert read(shorten(text)) == found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stdout", "stderr"]), LINES),
        st.tuples(st.just("clear"), st.just("")),
        st.tuples(st.just("show"), st.text("ab", min_size=1, max_size=3)),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(STEPS, st.booleans())
def test_whatever_is_written_and_cleared_the_text_is_what_a_simple_model_says(
    steps: list[tuple[str, str]], hidden: bool
):
    output, whole, got, at, cleared = Output(), "", "", 0, 0
    if hidden:
        output.hide("zzzz")  # which nobody writes
    for kind, text in steps:
        if kind == "clear":
            output.clear()
            whole = ""
        elif kind == "show":
            output.show({"text/plain": text}, text=text)
            whole += f"{text}\n"
        else:
            output.write(text, kind)
            whole += text
        if output.cleared != cleared:
            got, at, cleared = "", 0, output.cleared
        begins, more = output.since(at, 1000)
        assert begins == at
        got, at = got + more, at + len(more)
        assert read(got + output._line) == output.text() == read(whole)
    output.close()
    assert output.text() == read(whole)
    assert "".join(piece.text for piece in pieces_of(output)) == read(whole)


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text("ab\n", min_size=1, max_size=9)), max_size=20))
def test_each_piece_is_of_the_stream_that_wrote_it(steps: list[tuple[str, str]]):
    output = Output()
    for stream, text in steps:
        output.write(text, stream)
    got = "".join(f"{piece.kind[3]}{character}" for piece in pieces_of(output) for character in piece.text)
    assert got == "".join(f"{stream[3]}{character}" for stream, text in steps for character in text)


def test_displays_stand_where_they_were_shown_and_streams_around_them():
    output = Output()
    output.write("before ")
    output.write("wrong\n", "stderr")
    output.show({"text/plain": "1", "text/html": "<b>1</b>"}, text="1", metadata={"width": 3})
    output.write("after\n")
    found = pieces_of(output)
    assert [(one.kind, one.text, one.display) for one in found] == [
        ("stdout", "before ", None),
        ("stderr", "wrong\n", None),
        ("display", "1\n", 0),
        ("stdout", "after\n", None),
    ]
    assert found[2].metadata == {"width": 3}
    times = [one.at_us for one in found]
    assert all(one is not None for one in times) and times == sorted(times, key=lambda us: us or 0)


def test_a_mark_is_made_after_a_while_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch):
    now_s = 1e9

    def later() -> float:
        nonlocal now_s
        now_s += 0.06
        return now_s

    monkeypatch.setattr(outputs, "_time", later)
    output = Output()
    for _ in range(10):
        output.write("x")
    kept = output.kept()
    assert kept is not None and kept.marks is not None
    told = msgspec.json.decode(kept.marks)["marks"]
    assert [mark[0] for mark in told] == [0, 2, 4, 6, 8]
    for _ in range(10 * MARKS):
        output.write("x")
    kept = output.kept()
    assert kept is not None and kept.marks is not None
    assert len(msgspec.json.decode(kept.marks)["marks"]) == 2 * MARKS


def test_an_update_replaces_the_earlier_bundle_and_is_the_last_that_is_read():
    output = Output()
    output.show({"text/plain": "0 %"}, text="0 %", display_id="bar")
    for step in range(1, 10_000):
        output.show({"text/plain": f"{step} %"}, text=f"{step} %", display_id="bar", update=True)
    assert output.line == "9999 %\n"
    output.write("done\n")
    assert output.text() == "9999 %\ndone\n"
    output.show({"text/plain": "over"}, text="over", display_id="bar", update=True)
    output.close()
    assert output.text() == "9999 %\ndone\nover\n"
    assert [msgspec.json.decode(one) for one in output.displays] == [{"text/plain": "over"}]


def test_how_many_displays_were_too_many_is_told(monkeypatch: pytest.MonkeyPatch):
    output = Output()
    for number in range(DISPLAYS + 3):
        output.show({"text/plain": str(number)})
    assert (len(output.displays), output.displays_left) == (DISPLAYS, 3)
    monkeypatch.setattr(outputs, "DISPLAY_BYTES", 1_000)
    output = Output()
    for _ in range(10):
        output.show({"image/png": "x" * 300})
    kept = output.kept()
    assert kept is not None
    assert (len(output.displays), left(kept.marks)) == (3, 7)


def test_a_bar_that_is_written_again_and_again_takes_no_room(tmp_path: Path):
    output = Output(str(tmp_path / "full.txt"))
    output.write("begun\n")
    tracemalloc.start()
    for step in range(20_000):
        output.write(f"\r{step:6} |" + "#" * 60, "stderr")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    output.write("\n", "stderr")
    output.write("done\n")
    assert output.text() == "begun\n 19999 |" + "#" * 60 + "\ndone\n"
    assert output.path is None
    assert output.length < 200
    assert peak < 1_000_000


def test_a_hundred_megabytes_of_everything_leave_memory_flat(tmp_path: Path):
    output = Output(str(tmp_path / "outputs" / "full.txt"))
    output.hide("a secret")
    piece = "x" * 99_990 + "a secret\n"
    tracemalloc.start()
    for number in range(1_000):
        output.write(piece, "stdout" if number % 2 else "stderr")
        output.show({"text/plain": "y" * 1_000}, text="shown", display_id="same", update=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    output.close()
    assert peak < 10_000_000
    assert len(output.text()) < HEAD + TAIL + 200
    assert (tmp_path / "outputs" / "full.txt").stat().st_size > 99_000_000


def test_bytes_are_read_as_utf8_in_whatever_pieces_they_come():
    output = Output()
    for byte in "é 漢 😀\n".encode() + b"\xff.":
        output.write_bytes(bytes([byte]))
    assert output.text() == "é 漢 😀\n\ufffd."


def test_words_to_a_terminal_are_no_part_of_a_log():
    assert plain("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07 \x1b[2K\x1b[?25l.") == "red link ."


def test_a_bar_below_another_begins_its_line_anew():
    output = Output()
    output.write("\router")
    for step in range(100):
        output.write("\n")
        output.write(f"\rinner {step}")
        output.write("\x1b[A")
    output.write("\n")
    assert plain(output.text()) == "outer\ninner 99"


def test_times_are_of_the_day():
    output = Output()
    before_us = time.time_ns() // 1000
    output.write("x")
    (piece,) = pieces_of(output)
    assert piece.at_us is not None and before_us - 1 <= piece.at_us <= time.time_ns() // 1000 + 1
