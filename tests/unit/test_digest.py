"""What is said of the time without a kernel, in the line that `%load_ext` prints."""

from datetime import datetime, timedelta

import pytest

from car_sched_nb.model import to_us
from car_sched_nb.notebook import digest

NOON = datetime(2026, 11, 23, 12).astimezone()


def at(hours: float) -> int:
    return to_us(NOON + timedelta(hours=hours))


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ([], ""),
        ([(-10, -3)], ": kernel gone 02:00-09:00"),
        ([(-3, 0)], ": kernel gone since 09:00"),
        ([(-15, -3)], ": kernel gone 2026-11-22 21:00-09:00"),
        ([(-10, -5), (-6, -3), (-2.5, -2)], ": kernel gone 02:00-10:00"),  # of several tasks, and nearly at once
        ([(-10, -3), (-1, 0)], ": kernel gone 02:00-09:00 and 1 more time"),
        ([(-10, -9), (-7, -6), (-4, 0)], ": kernel gone since 08:00 and 2 more times"),
    ],
)
def test_the_stretches_without_a_kernel_are_told(gone: list[tuple[float, float]], said: str):
    assert digest._stretches([(at(first), at(last)) for first, last in gone], at(0)) == said
