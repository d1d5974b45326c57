"""A cancel that looks where a body is never stands still, whatever the collector and other threads do meanwhile."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

import pytest

from tests.scale import by_scale
from tests.unit.world import HANG_S

LOOKS = str(by_scale(40_000, 1_000_000))


@contextmanager
def looking(*args: str) -> Iterator[tuple[subprocess.Popen[str], SimpleQueue[str]]]:
    """Run the program; its lines come in a queue, an empty one when it ends."""
    with subprocess.Popen([sys.executable, "-m", "tests.crash.looks", *args], stdout=subprocess.PIPE, text=True) as run:
        lines: SimpleQueue[str] = SimpleQueue()

        def read() -> None:
            assert run.stdout is not None
            for line in run.stdout:
                lines.put(line)
            lines.put("")

        reader = Thread(target=read)
        reader.start()
        try:
            yield run, lines
        finally:
            run.kill()
            reader.join()


def test_looking_where_a_body_is_never_stands_still():
    with looking(LOOKS) as (run, lines):
        list(iter(partial(lines.get, timeout=HANG_S), ""))
        assert run.wait(HANG_S) == 0


@pytest.mark.skipif(sys.version_info >= (3, 11, 9), reason="this Python stops its collector by itself (gh-106883)")
def test_looking_with_the_collector_on_is_caught_by_this_test():
    with looking("1000000", "careless") as (_, lines), pytest.raises(Empty):
        list(iter(partial(lines.get, timeout=3), ""))
