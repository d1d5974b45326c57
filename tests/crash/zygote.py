"""A warm process that forks lives: it has imported everything and opened no database, so a life is up in no time.

Only it signals them, and it reaps them itself: a process id is never somebody else's. When its input ends it
takes all of them along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Lives:
    """The tests' side: starts lives and ends them, `with Lives() as lives:`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, "tests.crash.life"]
        self._zygote = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zygote.communicate()

    def start(self, function: str, **arguments: Any) -> int:
        """Fork a life that calls `module:function`; return its process id."""
        pid = self._ask("fork", function, arguments)
        assert pid is not None
        return pid

    def signal(self, pid: int, signum: signal.Signals) -> None:
        self._ask("signal", pid, signum)

    def kill(self, pid: int) -> int:
        """End a life; return its exit code, which is -9 unless it had ended by itself."""
        self.signal(pid, signal.SIGKILL)
        return self.wait(pid)

    def wait(self, pid: int) -> int:
        """Return the exit code of a life once it has ended."""
        while (code := self._ask("reap", pid)) is None:
            time.sleep(0.002)  # the zygote itself never waits: it has to see when the tests are gone
        return code

    def _ask(self, *command: Any) -> int | None:
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        print(json.dumps(command), file=self._zygote.stdin, flush=True)
        answer: int | None = json.loads(self._zygote.stdout.readline())
        return answer


def main() -> None:
    living: set[int] = set()
    answer: int | None
    for line in sys.stdin:
        match json.loads(line):
            case "fork", function, arguments:
                pid = os.fork()
                if pid == 0:
                    _become(function, arguments)
                living.add(pid)
                answer = pid
            case "signal", pid, signum:
                os.kill(pid, signum)
                answer = None
            case "reap", pid:
                ended, status = os.waitpid(pid, os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if ended else None
                living.discard(ended)
            case other:
                raise ValueError(other)
        print(json.dumps(answer), flush=True)
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(function: str, arguments: dict[str, Any]) -> None:
    """Live in this forked process, and end with it whatever happens."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    code = 1
    try:
        module, _, name = function.partition(":")
        getattr(import_module(module), name)(**arguments)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    main()
