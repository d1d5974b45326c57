"""The process that ends scripts after their kernel: whom it ends, whom it never ends, and how it is replaced."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from car_sched_nb import processes
from car_sched_nb.executors.supervisor import Supervisor
from tests.unit.world import HANG_S

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc tells when a process started")

ME = f"owner {os.getpid()}"
"""Of this process alone: another one may run these tests at the same time."""

Begin = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begin processes in sessions of their own, and leave none of them."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, **options: object) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen(command or ("sleep", "1000"), start_new_session=True, **options))  # type: ignore[call-overload]
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()
        for pipe in filter(None, [process.stdin, process.stdout]):
            pipe.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    if made._process:
        leave(made)


def guard(supervisor: Supervisor) -> subprocess.Popen[bytes]:
    """Return the process of a supervisor."""
    assert supervisor._process is not None
    return supervisor._process


def leave(supervisor: Supervisor) -> None:
    """Let a supervisor see what it sees when its kernel dies, and wait until it has ended."""
    process = guard(supervisor)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(HANG_S)


def lives(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def run_the_program(*lines: str) -> None:
    """Tell the program these lines, and wait for its end."""
    command = [sys.executable, "-I", "-S", processes.__file__, "0.2"]
    subprocess.run(command, input="".join(f"{line}\n" for line in lines), text=True, check=True, timeout=HANG_S)


def test_whoever_has_the_number_of_a_script_that_is_gone_is_left_alone(begin: Begin):
    stranger = begin()
    start = processes.start_time(stranger.pid)
    assert start is not None
    run_the_program(f"+{stranger.pid} {start - 1}")
    assert lives(stranger)
    run_the_program(f"+{stranger.pid} {start}")
    assert stranger.wait(HANG_S) == -signal.SIGTERM


def test_what_is_forgotten_is_left_alone(begin: Begin, supervisor: Supervisor):
    kept, ended = begin(), begin()
    for process in (kept, ended):
        supervisor.watch(process.pid)
    supervisor.forget(kept.pid)
    leave(supervisor)
    assert ended.wait(HANG_S) == -signal.SIGTERM
    assert lives(kept)


def test_nothing_is_started_before_there_is_something_to_watch(supervisor: Supervisor):
    supervisor.forget(1)
    assert supervisor._process is None


def test_a_supervisor_that_was_killed_is_replaced_by_one_that_knows_all(begin: Begin, supervisor: Supervisor):
    first, second, over = begin(), begin(), begin()
    for process in (first, over):
        supervisor.watch(process.pid)
    before = guard(supervisor)
    before.kill()
    os.waitid(os.P_PID, before.pid, os.WEXITED | os.WNOWAIT)
    supervisor.forget(over.pid)
    supervisor.watch(second.pid)
    assert guard(supervisor).pid != before.pid
    assert lives(first)
    leave(supervisor)
    assert [process.wait(HANG_S) for process in (first, second)] == [-signal.SIGTERM] * 2
    assert lives(over)


def test_a_supervisor_that_does_not_read_any_more_is_replaced_and_ends_nothing(begin: Begin, supervisor: Supervisor):
    script = begin()
    supervisor.watch(script.pid)
    before = guard(supervisor)
    before.send_signal(signal.SIGSTOP)
    while guard(supervisor) is before:  # until its pipe is full
        supervisor.watch(script.pid)
    assert before.returncode == -signal.SIGKILL
    assert lives(script)
    leave(supervisor)
    assert script.wait(HANG_S) == -signal.SIGTERM


def test_all_groups_of_a_session_are_ended_and_no_other_session(begin: Begin):
    body = "timeout 1000 sleep 1000 & setsid sleep 1000 & echo $!; exec sleep 1000"
    tree = begin("bash", "-c", body, stdout=subprocess.PIPE)
    assert tree.stdout is not None
    detached = int(tree.stdout.readline())
    while len(processes.living({tree.pid})) != 2 or not processes.living({detached}):
        time.sleep(0.01)
    try:
        assert processes.end({tree.pid})
        assert processes.living({tree.pid}) == {}
        assert detached in processes.living({detached})
    finally:
        os.kill(detached, signal.SIGKILL)


def test_what_ignores_term_is_killed_after_the_grace(begin: Begin):
    script = begin("bash", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done", stdout=subprocess.PIPE)
    assert script.stdout is not None
    script.stdout.readline()
    assert processes.end({script.pid}, grace_s=0.1)
    assert script.wait(HANG_S) == -signal.SIGKILL


def test_a_script_is_told_to_end_once_and_may_clean_up(begin: Begin, tmp_path: Path):
    body = f"trap 'sleep 0.2; touch {tmp_path / 'clean'}; exit' TERM; echo; while :; do sleep 0.01; done"
    script = begin("bash", "-c", body, stdout=subprocess.PIPE)
    assert script.stdout is not None
    script.stdout.readline()
    assert processes.end({script.pid}, grace_s=HANG_S)
    assert (tmp_path / "clean").exists()


@pytest.mark.parametrize(
    ("values", "ended"),
    [
        ({"CAR_OWNER": ME, "CAR_GROUP": ""}, True),
        ({"CAR_OWNER": ME, "CAR_GROUP": "1"}, False),
        ({"CAR_OWNER": ME}, False),
        ({"CAR_OWNER": f"{ME} too", "CAR_GROUP": ""}, False),
        ({"X": f"CAR_OWNER={ME}", "CAR_GROUP": ""}, False),
    ],
    ids=["it waits for its script", "it left its group", "no group", "another owner", "a value that looks like it"],
)
def test_an_owners_children_are_those_with_its_mark_and_their_own_group(
    begin: Begin, values: dict[str, str], ended: bool
):
    process = begin(env={**os.environ, **values})
    processes.end_children(ME, 0.2)
    if ended:
        assert process.wait(HANG_S) == -signal.SIGTERM
    else:
        assert lives(process)


def test_what_became_another_users_is_not_waited_for_for_ever(begin: Begin, monkeypatch: pytest.MonkeyPatch):
    def refuse(group: int, signum: int) -> None:
        raise PermissionError

    process = begin(env={**os.environ, "CAR_OWNER": ME, "CAR_GROUP": ""})
    monkeypatch.setattr(os, "killpg", refuse)
    assert not processes.end({process.pid})
    processes.end_children(ME)
    assert lives(process)
