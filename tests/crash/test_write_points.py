"""Killed at each point of each write, from the first `PRAGMA` to leaving: the next life finds all as promised."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.crash import life
from tests.crash.oracle import judge
from tests.crash.zygote import Lives
from tests.scale import by_scale

POINTS = 80  # about as many as a short life has
PAIRS = by_scale(10, 2_000)


class Points:
    """Crashes on fresh stores."""

    def __init__(self, lives: Lives, folder: Path) -> None:
        self._lives = lives
        self._folder = folder
        self._numbers = count()

    def die(self, *points: int) -> int:
        """Have lives die at these points, one after the other, then judge what a calm one finds; return the deaths."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        store, log = folder / "car.db", folder / "log"
        deaths = [self._life(store, log, point) for point in points].count(-signal.SIGKILL)
        assert self._life(store, log, point=0) == 0
        assert judge(store, log, life.HOURLY).wrong == {}, points
        return deaths

    def _life(self, store: Path, log: Path, point: int) -> int:
        pid = self._lives.start("tests.crash.fatal:live", store=str(store), log=str(log), grid="hourly", point=point)
        code = self._lives.wait(pid)
        life.note(str(log), f"KILL {pid}")
        return code


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Points]:
    with Lives() as lives:
        yield Points(lives, tmp_path)


def test_a_crash_at_any_point_of_any_write_breaks_no_promise(points: Points):
    deaths = 0
    while points.die(deaths + 1):
        deaths += 1
    print(f"killed at each of {deaths} points")
    assert deaths > POINTS / 2


@pytest.mark.timeout(by_scale(180, 3_600))
def test_neither_does_a_crash_of_the_life_that_comes_after_one(points: Points):
    chance = random.Random(7)
    deaths = sum(points.die(chance.randint(1, POINTS), chance.randint(1, POINTS)) for _ in range(PAIRS))
    print(f"{deaths} of {2 * PAIRS} lives were killed, two in a row")
