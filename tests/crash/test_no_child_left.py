"""What a life started ends with it, also when it was killed."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.crash.zygote import Lives
from tests.scale import by_scale

KILLS = by_scale(20, 500)
PATIENCE_S = 60
"""Seconds after which a test gives up waiting for an end."""


def children_of(log: Path) -> list[psutil.Process]:
    """Return what lives with this log have started, and what that has: all of it has the log's name in its own.

    What has ended and was not reaped yet has no environment any more.
    """
    return [process for process in psutil.process_iter() if _log_of(process) == str(log)]


def _log_of(process: psutil.Process) -> str | None:
    try:
        log: str | None = process.environ().get("CRASH_LOG")
    except psutil.Error:  # it is gone, or somebody else's
        return None
    return log


def no_child_left(log: Path, within_s: float = PATIENCE_S) -> bool:
    """Tell whether all children of lives with this log have ended, or do so soon; whoever reaps them may be slow."""
    until = time.monotonic() + within_s
    while children_of(log):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "log"
    for process in children_of(tmp_path / "log"):
        process.kill()


@pytest.mark.timeout(by_scale(180, 1_200))
def test_no_child_outlives_a_life_that_was_killed_at_any_moment(log: Path):
    chance, store = random.Random(7), log.with_name("car.db")
    with Lives() as lives:
        for _ in range(KILLS):
            pid = lives.start("tests.crash.life:live", store=str(store), log=str(log), grid="sleepers")
            time.sleep(chance.uniform(0.05, 0.5))
            lives.kill(pid)
            assert no_child_left(log)


def test_a_child_that_is_left_is_caught(log: Path):
    with subprocess.Popen(["sleep", "600"], env={"CRASH_LOG": str(log)}) as child:
        assert not no_child_left(log, within_s=0.1)
        child.kill()
    assert no_child_left(log)
