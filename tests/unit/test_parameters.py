"""Parameters of a notebook: where they go, what they become, and that nothing in them is ever code."""

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from car_sched_nb.errors import BodyFailed
from car_sched_nb.runners.parameters import INJECTED, inject, literal, literals, tags, typed

DEFAULTS = "n = 1\nratio: float = 0.5\nflag = True\nname = 'x'\nminus = -3\na = b = 2\nother = print"


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_they_follow_the_cell_that_is_tagged_and_replace_what_was_injected_before():
    tagged = new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_markdown_cell("# Report"), tagged, new_code_cell("n")])
    for value in ("2", "3"):
        inject(notebook, {"n": value})
    assert sources(notebook) == ["# Report", "n = 1", "# Parameters\nn = 3", "n"]
    assert tags(notebook.cells[2]) == [INJECTED]


def test_they_come_first_when_no_cell_is_tagged():
    cell = new_code_cell("n")
    del cell["id"]
    notebook = new_notebook(cells=[cell], nbformat_minor=4)
    inject(notebook, {"n": "2"})
    assert sources(notebook) == ["# Parameters\nn = '2'", "n"]
    assert "id" not in notebook.cells[0]  # which 4.4 does not know


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "5", 5),
        ("n", "5.5", 5.5),
        ("minus", " 7 ", 7),
        ("a", "4", 4),
        ("ratio", "2", 2.0),
        ("flag", "no", False),
        ("flag", "True", True),
        ("name", "5", "5"),
        ("other", "5", "5"),
        ("unknown", "5", "5"),
        ("n", [1, 2], [1, 2]),
    ],
)
def test_text_becomes_what_the_notebook_assigns(name: str, text: Any, value: Any):
    found = typed(name, text, literals(DEFAULTS))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("name", "text"), [("n", "many"), ("flag", "perhaps"), ("ratio", ""), ("class", "5")])
def test_what_cannot_be_that_is_refused(name: str, text: str):
    with pytest.raises(BodyFailed, match=f"--param {name}="):
        typed(name, text, literals(DEFAULTS))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_literal_is_its_value_and_nothing_else(value: Any):
    assert ast.literal_eval(literal(value)) == value


def test_infinity_has_no_literal():
    assert eval(literal(typed("ratio", "inf", literals(DEFAULTS)))) == float("inf")
