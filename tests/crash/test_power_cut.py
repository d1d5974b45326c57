"""The power fails again and again: a claim that was committed is there, so its work does not begin once more."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from shutil import rmtree

import apsw
import pytest

from tests.crash import life
from tests.crash.disk import SECTOR, Platter
from tests.crash.oracle import Verdict, judge
from tests.crash.zygote import Lives
from tests.scale import by_scale

CUTS = by_scale(30, 2_000)
LONGEST = 1_000  # writes and syncs until the power is cut


def live_through_cuts(folder: Path, cuts: int, careless: bool = False) -> Verdict:
    """Live on what each cut leaves of the store; the log lies on a disk that loses nothing."""
    chance, log = random.Random(7), folder / "log"
    disk = folder / "0"
    disk.mkdir()
    with Lives() as lives:
        for cut in range(1, cuts + 1):
            after = folder / str(cut)
            after.mkdir()
            about = {"after": str(after), "last": chance.randint(1, LONGEST), "careless": careless}
            pid = lives.start("tests.crash.unplugged:live", **_on(disk, log), **about)
            assert lives.wait(pid) == -signal.SIGKILL
            life.note(str(log), f"KILL {pid}")
            rmtree(disk)
            disk = after
        assert lives.wait(lives.start("tests.crash.life:live_calmly", **_on(disk, log))) == 0
    verdict = judge(disk / "car.db", log, life.STORM)
    print(f"{cuts:,} power cuts: {verdict}")
    assert _journal_mode(disk / "car.db") == "wal"
    return verdict


def _on(disk: Path, log: Path) -> dict[str, str]:
    return {"store": str(disk / "car.db"), "log": str(log), "grid": "storm"}


def _journal_mode(store: Path) -> object:
    db = apsw.Connection(str(store))
    try:
        return db.pragma("journal_mode")
    finally:
        db.close()


@pytest.mark.timeout(by_scale(180, 7_200))
def test_what_began_before_a_power_cut_does_not_begin_again(tmp_path: Path):
    verdict = live_through_cuts(tmp_path, CUTS)
    assert verdict.wrong == {}
    assert verdict.starts > CUTS


def test_commits_that_do_not_wait_for_the_disk_are_caught(tmp_path: Path):
    verdict = live_through_cuts(tmp_path, 12, careless=True)
    assert verdict.wrong.keys() & {"started twice", "started, without a row of its own", "not run but started"}


def test_the_disk_keeps_what_was_synced_and_of_the_rest_any_part():
    found = set()
    for seed in range(200):
        platter = Platter(bytearray())
        platter.write(b"a" * SECTOR * 2, 0)
        platter.sync()
        platter.write(b"b" * SECTOR * 2, SECTOR)
        found.add(platter.after_the_cut(random.Random(seed))[::SECTOR])
    assert found == {b"aa", b"ab", b"aab", b"abb"}  # a torn write among them
