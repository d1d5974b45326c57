"""The processes of scripts: who is left of them, how all of it is ended, and the program that ends it after its kernel.

A script runs in a session of its own, which has the process id of its leader for a name. What belongs to the script
is what is in that session, in whichever process group (`timeout` makes one of its own); a daemon that was detached on
purpose has left it with `setsid`. Where there is no /proc, only the group of the leader is seen.

This file is also the program that `executors/supervisor.py` runs without site-packages, in a few milliseconds: it
needs only the standard library's smallest modules.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Iterable

GRACE_S = 2.0
"""Seconds from TERM to KILL."""

POLL_S = 0.005
"""Seconds until it is looked again whether what was signalled is gone; twice as long each time, up to `SLOW_S`."""

SLOW_S = 0.2

_PROC = os.path.exists("/proc/self/stat")


def living(sessions: Collection[int]) -> dict[int, int]:
    """Return the process groups that live in some sessions, each with its session.

    A zombie lives no more, whoever has to reap it; a process that no signal ends, because the system holds it, does.
    """
    if not _PROC:
        return {session: session for session in sessions if _exists(session)}
    found = {}
    for pid in _pids() if sessions else ():
        session = _session(pid)  # one system call: nothing is read of the machine's other processes
        if session in sessions:
            state, _, group = (_stat(pid) or ("X", "", "0"))[:3]
            if state not in ("Z", "X"):
                found[int(group)] = session
    return found


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None when it is gone, or where nothing tells."""
    stat = _stat(pid)
    return int(stat[19]) if stat else None


def tell(group: int, signum: int) -> bool:
    """Signal a process group, with 0 only as a question; return False when it has become another user's."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        pass  # it is gone: what was wanted
    except PermissionError:
        return False
    return True


def end(sessions: Collection[int], grace_s: float = GRACE_S) -> bool:
    """Send TERM to all of some sessions, after a grace KILL; return when all of it is gone.

    What became another user's cannot be ended and is not waited for: when only that is left it returns False.
    """
    signum: int = signal.SIGTERM
    pause, kill_at = POLL_S, time.monotonic() + grace_s
    while left := living(sessions):
        ours = [tell(group, signum) for group in left]
        if not any(ours):
            return False
        sessions = set(left.values())
        time.sleep(pause)
        pause = min(2 * pause, SLOW_S)
        # KILL is said again and again, to what was started after the last one was sent.
        signum = signal.SIGKILL if time.monotonic() >= kill_at else 0
    return True


def end_children(owner: str, grace_s: float = GRACE_S) -> None:
    """End what an owner that is gone has left running; return when all of it is gone, however long that takes.

    To be called in a thread. Does nothing where there is no /proc, where the supervisor alone ends the children.

    Parameters
    ----------
    owner
        The owner's id, which its children carry as `CAR_OWNER`.
    grace_s
        Seconds from TERM to KILL.
    """
    while (sessions := _marked(owner)) and end(sessions, grace_s):
        pass


def _marked(owner: str) -> set[int]:
    """Return the sessions that were made for scripts of an owner and still have a process that says so.

    `CAR_GROUP` is the session that the script was given: who inherited it into another one has detached. It is
    empty in a shell that waits for its script.
    """
    found = set()
    mark = f"CAR_OWNER={owner}".encode()
    for pid in _pids() if _PROC else ():
        environment = _read(f"/proc/{pid}/environ")
        if mark in environment:
            session = _session(pid)
            values = environment.split(b"\0")
            own = b"CAR_GROUP=%d" % session in values or (session == pid and b"CAR_GROUP=" in values)
            if mark in values and own:
                found.add(session)
    return found


def _pids() -> Iterable[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _stat(pid: int) -> list[str] | None:
    """Return state, parent, group and what else follows the name in /proc/PID/stat; None when it is gone."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split() or None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it is gone, or another user's
        return b""


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _main(grace_s: float) -> None:
    """Watch the sessions that standard input tells of, and end them when it ends: the kernel is gone then."""
    watched: dict[int, int] = {}
    for line in sys.stdin:  # "+session start" or "-session"
        session, _, start = line[1:].partition(" ")
        if line[0] == "+":
            watched[int(session)] = int(start)
        else:
            watched.pop(int(session), None)
    end({session for session, start in watched.items() if start_time(session) in (start, None)}, grace_s)


if __name__ == "__main__":
    _main(float(sys.argv[1]))
