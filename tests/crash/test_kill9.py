"""A scheduler that is killed again and again starts no slot twice and loses none."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import car_sched_nb as car
from tests.crash import life

KILLS = 12
LIFE_S = (0.3, 0.9)  # from UP to the kill


@pytest.mark.timeout(120)
def test_no_slot_is_started_twice_and_none_vanishes_through_kill_9(tmp_path: Path):
    store, log = tmp_path / "car.db", tmp_path / "log"
    chance = random.Random(7)
    for _ in range(KILLS):
        live_and_die(store, log, chance.uniform(*LIFE_S))
    live_and_die(store, log, 1.0)

    assert twice(log) == []
    started = set(map(int, log.read_text().split()))
    assert len(started) > KILLS  # it did run

    history = car.history(store=str(store))
    told = Counter[int]()
    for slot, slots in zip(history["slot"], history["slots"], strict=True):
        told.update(range(int(slot), int(slot) + slots))
    last = max(told)
    # What must exist follows from the grid, not from the rows: every slot from the first to the last.
    assert [slot for slot in range(last + 1) if told[slot] != 1] == []
    assert max(started) <= last


def twice(log: Path) -> list[str]:
    """Return the slots whose work began more than once, by the work's own word."""
    return [slot for slot, count in Counter(log.read_text().split()).items() if count > 1]


def live_and_die(store: Path, log: Path, life_s: float) -> None:
    """Run one life for so long, then kill it."""
    command = [sys.executable, "-m", life.__name__, str(store), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "UP\n"
        time.sleep(life_s)
        process.kill()


def test_the_check_above_catches_a_slot_that_ran_twice(tmp_path: Path):
    log = tmp_path / "log"
    for slot in ("0", "1", "1"):
        life.note(str(log), slot)
    assert twice(log) == ["1"]
