"""A hidden value is never shown, in whatever pieces it comes, and nothing else is changed."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from car_sched_nb.masking import MASK, Masker, forms
from car_sched_nb.model import Task
from car_sched_nb.output import HEAD, TAIL, Output
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store import records
from tests.unit.world import running

SECRET = "s3cr&t-'v\"alue"


def expected(values: set[str], text: str) -> str:
    """Mask as the words say it: each run of characters that belong to a value becomes one mask."""
    belongs = [False] * len(text)
    for value in values:
        at = text.find(value)
        while at >= 0:
            belongs[at : at + len(value)] = [True] * len(value)
            at = text.find(value, at + 1)
    shown, before = "", False
    for character, hidden in zip(text, belongs, strict=True):
        shown += character if not hidden else "" if before else MASK
        before = hidden
    return shown


def in_pieces(masker: Masker, pieces: list[str]) -> str:
    return "".join([masker.feed(piece) for piece in pieces]) + masker.feed("", last=True)


VALUES = st.sets(st.text("ab", min_size=2, max_size=5), min_size=1, max_size=3)


@given(VALUES, st.lists(st.text("abc", max_size=6), max_size=8))
@example({"ab", "bbbb"}, ["ab", "b"])
@example({"abaa", "ba", "babab"}, ["ab", "abac"])
def test_any_split_of_a_text_is_masked_as_the_whole(values: set[str], pieces: list[str]):
    assert in_pieces(Masker(values), pieces) == expected(values, "".join(pieces))


@given(VALUES, st.lists(st.text("abc", max_size=6), max_size=8))
def test_only_what_may_become_a_value_is_held_back(values: set[str], pieces: list[str]):
    masker = Masker(values)
    for piece in pieces:
        masker.feed(piece)
        assert not masker._held or any(value.startswith(masker._held) for value in values)


def test_masking_piece_by_piece_would_show_a_value_that_is_split():
    """The control: what the holding back is for."""
    masker = Masker({"abcd"})
    assert "abcd" in "".join(masker.masked(piece) for piece in ("xab", "cdx"))
    assert "abcd" not in in_pieces(masker, ["xab", "cdx"])


def test_a_value_is_hidden_in_each_form_that_it_may_take():
    shown = {"json": msgspec.json.encode(SECRET).decode(), "repr": repr(SECRET), "plain": SECRET}
    masker = Masker(forms(SECRET))
    for name, text in shown.items():
        assert masker.masked(text).strip("'\"") == MASK, name
    assert forms("abc") == set()
    key = "-----BEGIN KEY-----\n  aGFsbG8gd2VsdCBoYWxsbw==\n}\n"
    assert Masker(forms(key)).masked("key = aGFsbG8gd2VsdCBoYWxsbw== }") == "key = *** }"


def test_what_is_kept_of_an_output_never_shows_a_hidden_value(tmp_path):
    output = Output(str(tmp_path / "full.txt"))
    output.hide(SECRET, "abc")
    output.write("abc ")
    for character in SECRET:
        output.write(character)
    output.show({"text/html": f"<b>{SECRET}</b>", "x/json": {SECRET: [SECRET]}}, text=SECRET)
    output.write(("x" * 1000 + SECRET) * ((HEAD + TAIL) // 1000 + 1))
    output.write("\rbar " + SECRET[:5])
    output.write(SECRET[5:])
    assert SECRET not in output.text()
    output.close()
    kept = output.kept()
    assert kept is not None and kept.displays is not None
    everything = kept.text + kept.displays + (tmp_path / "full.txt").read_text()
    assert SECRET not in everything and "s3cr" not in everything
    assert kept.text.startswith(f"abc {MASK}")
    assert kept.displays.count(MASK) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("body", ["import os\nprint(os.environ['KEY'])\n{}", "import os\n{}"])
async def test_the_value_of_a_variable_that_a_task_names_is_in_nothing_that_is_kept(
    monkeypatch: pytest.MonkeyPatch, body: str
):
    monkeypatch.setenv("KEY", SECRET)
    async with running(":memory:") as s:
        await s.run_once(Task("good", body.format("os.environ['KEY'] * 2000"), env=("KEY",)))
        await s.run_once(Task("bad", body.format("raise ValueError(os.environ['KEY'] * 2000)"), env=("KEY",)))
        rows = repr(s.store.rows("SELECT * FROM executions")) + repr(s.store.rows("SELECT * FROM outputs"))
        assert "s3cr" not in rows
        assert MASK in rows


@pytest.mark.anyio
async def test_the_words_and_the_transcript_of_a_runner_are_masked(monkeypatch: pytest.MonkeyPatch):
    async def tell(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer=SECRET, transcript=msgspec.json.encode([SECRET]).decode())

    monkeypatch.setenv("KEY", SECRET)
    async with running(":memory:") as s:
        s.register("tell", tell)
        done = await s.run_once(Task("task", "do", runner="tell", key_env="KEY"))
        assert done.answer == MASK
        assert s.store.rows("SELECT transcript FROM outputs") == [(f'["{MASK}"]',)]
        assert records.output_text(s.store, done.execution_id) == ""
