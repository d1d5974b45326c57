"""One life of a scheduler that runs one script, to be killed: `python -m tests.crash.shells STORE BODY BROKEN`.

It says `OWNER <id>`, then `PIDS <supervisor> <script>` when the script has begun. What may be broken in it:

- `unguarded`: no supervisor is told of the script.
- `before`, `after`: it dies at the gate, before or after the supervisor is told, and before the script may go.
- `gateless`: it dies there too, but the script does not wait for the word.
- `leaving`: it does not end what its script has left in the background.
- `forked`: a fork of it lives on, and says `FORK <pid>`.
"""

import os
import signal
import sys
import time
from typing import NoReturn

import anyio

import car_sched_nb as car
from car_sched_nb.executors.process import Session
from car_sched_nb.executors.supervisor import Supervisor, supervisor
from car_sched_nb.runners.base import Work
from car_sched_nb.runners.shell import ShellRunner

LINGERS_S = 60


async def main(store: str, body: str, broken: str) -> None:
    breaks(broken)
    os.dup2(1, 9)  # one that a child would inherit
    async with car.Scheduler(store) as scheduler:
        say("OWNER", scheduler.owner)
        await scheduler.add(car.Task("script", body, runner="shell"))
        await scheduler.run_now("script")
        while not supervisor._watched:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)
        if broken == "forked":
            fork()
        process = supervisor._process
        say("PIDS", process.pid if process else 0, *supervisor._watched)
        await anyio.sleep_forever()


def breaks(broken: str) -> None:
    """Break what this life is to live without."""
    watch = Supervisor.watch

    def note(self: Supervisor, session: int) -> None:
        self._watched[session] = 0

    def die_before(self: Supervisor, session: int) -> None:
        die()

    def die_after(self: Supervisor, session: int) -> None:
        watch(self, session)
        die()

    async def start_without_gate(self: ShellRunner, work: Work) -> NoReturn:
        await anyio.open_process([self._shell, "-c", work.task.prompt], start_new_session=True)
        die()

    async def leave(self: Session) -> None:
        await anyio.sleep_forever()

    if broken in ("unguarded", "before", "after"):
        Supervisor.watch = {"unguarded": note, "before": die_before, "after": die_after}[broken]  # type: ignore[method-assign]
    elif broken == "gateless":
        ShellRunner._start = start_without_gate  # type: ignore[method-assign]
    elif broken == "leaving":
        Session.end = leave  # type: ignore[method-assign]


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fork() -> None:
    """Leave a process behind that has all of this one's descriptors."""
    pid = os.fork()
    if pid == 0:
        time.sleep(LINGERS_S)
        os._exit(0)
    say("FORK", pid)


def say(*words: object) -> None:
    print(*words, flush=True)


if __name__ == "__main__":
    store, body, broken = sys.argv[1:]
    anyio.run(main, store, body, broken)
