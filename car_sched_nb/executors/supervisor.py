"""A small process that outlives the kernel and ends its scripts, also after a kill -9."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

from car_sched_nb import processes

_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Has the scripts of this process ended when this process is gone, in whatever way; from any thread.

    The other process starts with the first script. It holds nothing of this one but the reading end of a pipe,
    which ends when the system closes the last of its writing ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._in_child)

    def watch(self, session: int) -> None:
        """Have a session ended after this process; its leader must be there and not have been waited for.

        Raises
        ------
        OSError
            When no supervisor can be started.
        """
        with self._lock:
            # Who has the same number later has another start, and is left alone.
            self._watched[session] = processes.start_time(session) or 0
            if not self._tell(self._line(session)):
                self._begin()

    def forget(self, session: int) -> None:
        """Watch a session no more, because all of it is gone."""
        with self._lock:
            if self._watched.pop(session, None) is not None:
                self._tell(f"-{session}\n")

    def _line(self, session: int) -> str:
        return f"+{session} {self._watched[session]}\n"

    def _begin(self) -> None:
        """Start a process that knows all that is watched."""
        # It inherits what is blocked: nothing that is meant to end a kernel ends it, from its first moment on.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", processes.__file__, str(processes.GRACE_S)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",  # it keeps no folder in use
                start_new_session=True,  # Ctrl-C in the kernel's terminal does not reach it
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        assert self._process.stdin is not None
        self._process.stdin.write("".join(map(self._line, self._watched)).encode())
        os.set_blocking(self._process.stdin.fileno(), False)

    def _tell(self, line: str) -> bool:
        """Write to the process; return whether it is there to read."""
        if self._process is None:
            return False
        assert self._process.stdin is not None
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                if self._process.stdin.write(line.encode()) is not None:  # None: the pipe is full
                    return True
        # It has been killed, or has not read for so long that it is stopped. It must not go on later: it would find
        # its pipe closed, and end what lives.
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process = None
        return False

    def _in_child(self) -> None:
        """A fork of this process must not keep the pipe open, nor tell the supervisor of its parent anything."""
        self._lock = threading.Lock()
        self._watched = {}
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.returncode = 0  # it is not for this process to wait for
            self._process = None


supervisor = Supervisor()
"""The one of this process."""
