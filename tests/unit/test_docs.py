"""What is written about the magics is what they print."""

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


def test_every_verb_is_a_function_of_the_package():
    import car_sched_nb as car

    assert [verb for verb in magics.VERBS if not callable(getattr(car, verb))] == []
