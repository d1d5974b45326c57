"""Scripts die with their kernel, also when it is killed, and what survives even that is found by its mark."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from car_sched_nb.processes import end_children
from tests.crash import shells

PATIENCE_S = 20
"""Nothing passes or fails by being quicker."""

SCRIPTS = {
    "children": "sleep 1000 & sleep 1000 & echo > {ready}; wait",
    "grandchildren": "bash -c 'sleep 1000 & echo > {ready}; sleep 1000'",
    "a group of its own": "echo > {ready}; timeout 1000 sleep 1000; :",
    "TERM is trapped": "trap '' TERM; (trap '' TERM; echo > {ready}; while :; do sleep 0.05; done)",
    "stopped": "sleep 1000 & kill -STOP $!; echo > {ready}; wait",
}


class Life:
    """A scheduler in a process of its own, and what it said."""

    def __init__(self, folder: Path, body: str, broken: str = "") -> None:
        self.ready = folder / "ready"
        command = [sys.executable, "-m", shells.__name__, str(folder / "car.db"), body.format(ready=self.ready), broken]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.owner = self.hears("OWNER")[0]

    def hears(self, word: str) -> list[str]:
        """Return what follows a word in the next line, which must begin with it."""
        assert self.process.stdout is not None
        first, *rest = self.process.stdout.readline().split()
        assert first == word
        return rest

    def begins(self) -> tuple[int, int]:
        """Wait until the script has begun; return the supervisor and the script."""
        guard, script = map(int, self.hears("PIDS"))
        until(self.ready.exists)
        return guard, script

    def dies(self) -> None:
        self.process.kill()
        self.process.wait()

    def marked(self) -> list[psutil.Process]:
        """Return what lives and carries this life's mark."""
        return [process for process in psutil.process_iter() if mark(process) == self.owner and lives(process)]


def mark(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("CAR_OWNER"))
    except psutil.Error:
        return ""


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.NoSuchProcess:
        return False


def until(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    limit = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    """Begin lives, and leave nothing of them."""
    lived: list[Life] = []

    def begin(body: str, broken: str = "") -> Life:
        lived.append(Life(tmp_path, body, broken))
        return lived[-1]

    yield begin
    for life in lived:
        life.dies()
        assert life.process.stdout is not None
        life.process.stdout.close()
        for left in life.marked():
            with suppress(psutil.NoSuchProcess):
                left.kill()


@pytest.mark.parametrize("body", SCRIPTS.values(), ids=SCRIPTS)
def test_a_killed_kernel_takes_its_scripts_along(begin: Callable[..., Life], body: str):
    life = begin(body)
    guard = psutil.Process(life.begins()[0])
    assert life.marked()
    life.dies()
    until(lambda: not life.marked())
    until(lambda: not lives(guard))


def test_without_a_supervisor_they_live_on_and_are_ended_by_their_mark(begin: Callable[..., Life]):
    life = begin(SCRIPTS["children"], "unguarded")
    life.begins()
    life.dies()
    assert len(life.marked()) == 3
    end_children("another owner", 0.2)
    assert len(life.marked()) == 3
    end_children(life.owner)
    assert life.marked() == []


@pytest.mark.parametrize("body", SCRIPTS.values(), ids=SCRIPTS)
def test_what_outlives_the_supervisor_too_is_ended_by_its_mark(begin: Callable[..., Life], body: str):
    life = begin(body)
    guard, _ = life.begins()
    os.kill(guard, signal.SIGKILL)
    life.dies()
    assert life.marked()
    end_children(life.owner, 0.2)
    assert life.marked() == []


@pytest.mark.parametrize("guarded", [True, False], ids=["by the supervisor", "by its mark"])
def test_what_has_lost_its_leader_is_ended(begin: Callable[..., Life], guarded: bool):
    life = begin("(sleep 1000; :) & echo > {ready}", "leaving")
    guard, script = life.begins()
    until(lambda: not psutil.pid_exists(script) and len(life.marked()) == 2)
    if not guarded:
        os.kill(guard, signal.SIGKILL)
    life.dies()
    if not guarded:
        end_children(life.owner, 0.2)
    until(lambda: not life.marked())


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_script_whose_kernel_dies_while_it_is_started_never_begins(begin: Callable[..., Life], moment: str):
    life = begin("echo > {ready}; sleep 1000", moment)
    life.process.wait()
    until(lambda: not life.marked())
    assert not life.ready.exists()


def test_a_script_that_does_not_wait_for_the_word_begins_without_a_kernel(begin: Callable[..., Life]):
    life = begin("echo > {ready}", "gateless")
    life.process.wait()
    until(life.ready.exists)


def test_a_fork_of_the_kernel_does_not_keep_the_scripts_alive(begin: Callable[..., Life]):
    life = begin(SCRIPTS["children"], "forked")
    fork = psutil.Process(int(life.hears("FORK")[0]))
    try:
        life.begins()
        life.dies()
        until(lambda: not life.marked())
        assert lives(fork)
    finally:
        fork.kill()


def test_a_daemon_that_was_detached_on_purpose_is_left_alone(begin: Callable[..., Life]):
    life = begin("setsid sleep 1000 & until [ $(ps -o sid= -p $!) = $! ]; do :; done; echo > {ready}; sleep 1000")
    life.begins()
    assert len(life.marked()) == 2
    life.dies()
    until(lambda: len(life.marked()) == 1)
    end_children(life.owner, 0.2)
    assert [process.name() for process in life.marked()] == ["sleep"]


def test_signals_that_end_a_kernel_do_not_end_its_supervisor(begin: Callable[..., Life]):
    life = begin(SCRIPTS["children"])
    guard, script = life.begins()
    assert len({os.getsid(pid) for pid in (0, guard, script)}) == 3
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard, signum)
    life.dies()
    until(lambda: not life.marked())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing here tells what a process has open")
def test_a_supervisor_holds_nothing_of_its_kernel_but_the_pipe(begin: Callable[..., Life]):
    life = begin(SCRIPTS["children"])
    guard, script = life.begins()
    opened = [Path(f"/proc/{guard}/fd/{fd}").readlink() for fd in range(3)]
    assert [str(path).split(":")[0] for path in opened] == ["pipe", "/dev/null", "/dev/null"]
    for pid in (guard, script):  # a program that starts has its modules open for a moment
        until(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"])  # noqa: B023, PTH208 - called at once
    assert Path(f"/proc/{guard}/cwd").readlink() == Path("/")
