"""Schedulers on one store, killed at any moment and started again: no slot starts twice and none vanishes."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from tests.crash import life
from tests.crash.oracle import judge, read_log
from tests.crash.zygote import Lives
from tests.scale import by_scale

AT_ONCE = 3
NOBODY_S = 1.0  # at most, after all were killed
STOP_S = 0.7  # at most; well below what a busy store is waited for


@dataclass
class Storm:
    """Lives on one store that are killed, stopped for a while, and followed by others."""

    lives: Lives
    store: Path
    log: Path
    module: str = "tests.crash.life"
    pause_s: float = 0.04
    """Between two blows, on average."""
    kills: int = 0
    stops: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    going: list[int] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)
    """Process id: when it goes on (monotonic seconds)."""

    def rage(self, kills: int, seconds: float) -> None:
        """Kill so often, or for so long; then let a calm life settle what is left."""
        self._live_calmly()  # one life alone makes the store
        until = time.monotonic() + seconds
        while self.kills < kills and time.monotonic() < until:
            while len(self.going) < AT_ONCE:
                self.going.append(self._life("live"))
            time.sleep(self.chance.expovariate(1 / self.pause_s))
            self._strike(self.chance.choice(self.going))
            for pid in [pid for pid, at in self.stopped.items() if at <= time.monotonic()]:
                self._go_on(pid)
        self._kill_all()
        self._live_calmly()

    def _live_calmly(self) -> None:
        assert self.lives.wait(self._life("live_calmly")) == 0

    def _life(self, function: str) -> int:
        return self.lives.start(f"{self.module}:{function}", store=str(self.store), log=str(self.log), grid="storm")

    def _strike(self, pid: int) -> None:
        blow = self.chance.random()
        if blow < 0.03:
            self._kill_all()
            time.sleep(self.chance.uniform(0, NOBODY_S))
        elif blow < 0.2 and pid not in self.stopped:
            self.lives.signal(pid, signal.SIGSTOP)
            self.stopped[pid] = time.monotonic() + self.chance.uniform(0, STOP_S)
            self.stops += 1
        else:
            self._kill(pid)

    def _go_on(self, pid: int) -> None:
        del self.stopped[pid]
        self.lives.signal(pid, signal.SIGCONT)

    def _kill_all(self) -> None:
        for pid in tuple(self.going):
            self._kill(pid)

    def _kill(self, pid: int) -> None:
        self.going.remove(pid)
        self.stopped.pop(pid, None)
        life.note(str(self.log), f"KILL {pid}")
        assert self.lives.kill(pid) == -signal.SIGKILL, "it had ended by itself"
        self.kills += 1


@pytest.mark.timeout(by_scale(180, 7_200))
@pytest.mark.slow
def test_no_slot_starts_twice_and_none_vanishes_through_kill_9(tmp_path: Path):
    kills, seconds = by_scale((1_000, 30.0), (10_000, 3_600.0))
    began = time.monotonic()
    with Lives() as lives:
        storm = Storm(lives, tmp_path / "car.db", tmp_path / "log")
        storm.rage(kills, seconds)
    lasted = time.monotonic() - began
    verdict = judge(storm.store, storm.log, life.STORM)
    print(f"{storm.kills:,} kills and {storm.stops:,} stops in {lasted:.0f} s: {verdict}")
    assert verdict.wrong == {}
    assert storm.kills >= min(kills, 2 * seconds)
    assert verdict.starts > storm.kills / 2  # it did run


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path: Path):
    with Lives() as lives:
        for number in range(by_scale(50, 1_000)):
            store = tmp_path / str(number) / "car.db"
            opening = [lives.start("tests.crash.life:open_store", store=str(store)) for _ in range(8)]
            assert [lives.wait(pid) for pid in opening] == [0] * 8


def test_lives_without_a_guard_are_caught_starting_a_slot_twice(tmp_path: Path):
    with Lives() as lives:
        storm = Storm(lives, tmp_path / "car.db", tmp_path / "log", module="tests.crash.unguarded", pause_s=0.5)
        storm.rage(kills=6, seconds=20)
    assert "started twice" in judge(storm.store, storm.log, life.STORM).wrong


@pytest.fixture
def calm(tmp_path: Path) -> tuple[Path, Path]:
    """A store and a log that agree, to be tampered with."""
    with Lives() as lives:
        storm = Storm(lives, tmp_path / "car.db", tmp_path / "log")
        storm.rage(kills=5, seconds=20)
    assert judge(storm.store, storm.log, life.STORM).wrong == {}
    return storm.store, storm.log


def test_a_line_that_is_in_the_log_twice_is_caught(calm: tuple[Path, Path]):
    store, log = calm
    started = next(line for line in log.read_text().splitlines() if line.startswith("START"))
    life.note(str(log), started)
    assert "started twice" in judge(store, log, life.STORM).wrong


@pytest.mark.parametrize("status", ["completed", "interrupted"])
def test_a_row_that_is_gone_is_caught(calm: tuple[Path, Path], status: str):
    store, log = calm
    with apsw.Connection(str(store)) as db:
        sql = "DELETE FROM executions WHERE seq = (SELECT min(seq) FROM executions WHERE status = ?) RETURNING task_id"
        assert db.execute(sql, (status,)).fetchall()
    db.close()
    assert "planned, without a row" in judge(store, log, life.STORM).wrong


def test_a_row_that_covers_a_slot_too_many_is_caught(calm: tuple[Path, Path]):
    store, log = calm
    with apsw.Connection(str(store)) as db:
        assert db.execute("UPDATE executions SET slots = 2 WHERE seq = 1 RETURNING seq").fetchall()
    db.close()
    assert "in two rows" in judge(store, log, life.STORM).wrong


def test_two_at_once_of_a_task_without_overlap_are_caught_unless_the_first_was_killed(tmp_path: Path):
    tasks, log = {task.name: task for task in life.STORM}, tmp_path / "log"
    for line in ("START skip-all 1 1 11", "START skip-all 2 1 12", "KILL 12", "END skip-all 1 1 11"):
        life.note(str(log), line)
    assert read_log(log, tasks).together == [("skip-all", 2)]
    life.note(str(log), "START skip-all 3 1 13")
    assert read_log(log, tasks).together == [("skip-all", 2)]
