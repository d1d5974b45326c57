"""What is written about the magics is what they print."""

import re
from pathlib import Path

from car_sched_nb import options
from car_sched_nb.notebook import magics

ROOT = Path(__file__).parents[2]


def test_the_reference_is_what_the_help_prints():
    written = (ROOT / "docs" / "magics.md").read_text()
    assert options.help_text() in written
    assert magics.help_text() in written


def test_every_option_and_every_verb_is_documented():
    written = (ROOT / "docs" / "magics.md").read_text()
    assert [option.flag for option in options.OPTIONS if f"  {option.flag} " not in written] == []
    assert [verb for verb in magics.VERBS if f"%car {verb}" not in written] == []


def test_each_line_of_the_guarantees_names_a_test_that_is_there():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text())
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 40
    assert [name for name in named if name not in there] == []


def test_every_verb_is_a_function_of_the_package():
    import car_sched_nb as car

    assert [name for name, verb in magics.VERBS.items() if not callable(getattr(car, verb.function or name))] == []
