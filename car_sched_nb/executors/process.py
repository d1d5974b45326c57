"""Programs in a session of their own: how they start, how their output is read while it comes, how all of it ends."""

from __future__ import annotations

import codecs
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import anyio
import anyio.abc

from car_sched_nb.errors import BodyFailed
from car_sched_nb.executors.supervisor import supervisor
from car_sched_nb.executors.wire import unread
from car_sched_nb.output import ANSWER, Output, ends
from car_sched_nb.processes import GRACE_S, POLL_S, SLOW_S, living, tell

_DRAIN_S = 0.2
_CHUNK = 64 * 1024
GATE = 'read -r CAR_GROUP || exit; export CAR_GROUP=$$; exec "$@" <>/dev/null'
"""What waits for the word to go, and becomes the program; without the word, when the kernel has died, it is gone.

Its standard input is the pipe that brings the word; the program's is empty, because nobody is there to type.
"""


class Session:
    """A started program and all that it starts."""

    def __init__(self, process: anyio.abc.Process, streams: Streams) -> None:
        self.process = process
        self.streams = streams
        self._ended = False

    async def end(self) -> None:
        """Send TERM to what is left of it, after a grace KILL; return when all of it is gone, however long that takes.

        Only once: the number of what is gone may be given to somebody else.
        """
        if not self._ended:
            await end_session(self.process.pid, lambda: self.process.returncode is not None)
            self._ended = True

    async def close(self) -> None:
        """End it, and give back what it took here."""
        with anyio.CancelScope(shield=True):
            try:
                await self.end()
            finally:
                self.streams.close()
                await self.process.aclose()


async def end_session(leader: int, reaped: Callable[[], bool]) -> None:
    """Send TERM to what is left of a session, after a grace KILL; return when all of it is gone, and forget it."""
    signum: int = signal.SIGTERM
    pause, kill_at = POLL_S, anyio.current_time() + GRACE_S
    # The leader first: on trio it is the question that reaps it, and without /proc a zombie is alive.
    while not reaped() or living({leader}):
        for group in living({leader}):
            tell(group, signum)
        await anyio.sleep(pause)
        pause = min(2 * pause, SLOW_S)
        # KILL is said again and again, to what was started after the last one was sent.
        signum = signal.SIGKILL if anyio.current_time() >= kill_at else 0
    supervisor.forget(leader)


async def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: Output,
    *,
    cwd: str | None = None,
    memory: int = 0,
    keep: Sequence[int] = (),
) -> Session:
    """Start a program in a session of its own, which the supervisor watches before the program begins.

    Parameters
    ----------
    output
        Where it prints to.
    cwd
        Its working folder; the kernel's when None.
    memory
        How many bytes each of its processes may have, or 0.
    keep
        Descriptors that it inherits.

    Raises
    ------
    BodyFailed
        When the system starts no more processes.
    """
    (gate, go), *pipes = _pipes(3)
    streams = Streams(output, pipes)
    try:
        # A session of its own: a kernel interrupt does not reach it, and a cancel reaches its grandchildren.
        process = await anyio.open_process(
            [*_gate(memory), *command],
            stdin=gate,
            stdout=streams.inner[0],
            stderr=streams.inner[1],
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(keep),
        )
        try:
            supervisor.watch(process.pid)
            os.write(go, b"\n")
        except BaseException:
            supervisor.forget(process.pid)
            process.kill()
            await process.aclose()
            raise
    except (OSError, ValueError) as error:  # a ValueError for a zero byte in what it is given
        streams.close()
        raise BodyFailed(f"it could not be started: {error}", type(error).__name__) from None
    except BaseException:
        streams.close()
        raise
    finally:
        os.close(gate)
        os.close(go)
        streams.started()
    return Session(process, streams)


def _pipes(count: int) -> list[tuple[int, int]]:
    """Open all of some pipes, or none: what was left open would be missing for ever where there are too many."""
    pipes: list[tuple[int, int]] = []
    try:
        while len(pipes) < count:
            pipes.append(os.pipe())
    except OSError as error:
        for fd in itertools.chain(*pipes):
            os.close(fd)
        raise BodyFailed(f"it could not be started: {error}", type(error).__name__) from None
    return pipes


def _gate(memory: int) -> list[str]:
    # RLIMIT_DATA counts what a program writes to. RLIMIT_AS would count all that it maps, and libraries that compute
    # (OpenBLAS, Arrow, CUDA) and each thread's arena reserve gigabytes of addresses that they never touch.
    script = f"ulimit -d {memory // 1024} || exit; {GATE}" if memory else GATE
    bash = shutil.which("bash")
    # `-p`, which the program does not inherit: BASH_ENV is for the script, not for what waits before it.
    return [bash, "-p", "-c", f"set +p; {script}", "car"] if bash else ["/bin/sh", "-c", script, "car"]


class Kept:
    """The first and the last part of what came out on one stream, as much as an answer holds."""

    def __init__(self) -> None:
        self.length = 0
        self._first = ""
        self._last = ""

    def add(self, text: str) -> None:
        self.length += len(text)
        self._first += text[: ANSWER - len(self._first)]
        self._last = (self._last + text)[-ANSWER:]

    def text(self, masked: Callable[[str], str]) -> str:
        """Return what an answer holds of it, with secrets masked before it is cut: no half of one is left."""
        last = self._last.rstrip("\n")
        length = self.length - len(self._last) + len(last)
        return ends(masked(self._first[:length]), masked(last), length)


class Streams:
    """The pipes of descriptors 1 and 2, and what came out of them."""

    def __init__(self, output: Output, pipes: Sequence[tuple[int, int]]) -> None:
        self._outer = [outer for outer, _ in pipes]
        self.inner = [inner for _, inner in pipes]
        for fd in self._outer:
            os.set_blocking(fd, False)
        self._output = output
        self._decoders = [codecs.getincrementaldecoder("utf-8")(errors="replace") for _ in pipes]
        self.kept = [Kept(), Kept()]
        self.before: Callable[[], None] = lambda: None
        """Called before something is written to the output: what else has come by then comes first."""
        self.closed = anyio.Event()
        """Both have ended."""
        self._open = len(pipes)

    def started(self) -> None:
        """The program has its ends of the pipes: it alone keeps them open."""
        while self.inner:
            os.close(self.inner.pop())

    def close(self) -> None:
        """Close this side."""
        while self._outer:
            os.close(self._outer.pop())

    @property
    def received(self) -> int:
        """How many characters have come."""
        return sum(kept.length for kept in self.kept)

    async def read(self, number: int) -> None:
        """Read one of the two until it ends."""
        while True:
            await anyio.wait_readable(self._outer[number])
            if not self._take(number):
                break
        self._open -= 1
        if not self._open:
            self.closed.set()

    def _take(self, number: int) -> bool:
        """Take what has come; return whether more may."""
        fd = self._outer[number]
        # Asked for first: what comes into the pipe meanwhile may be younger than what `before` finds.
        length = min(unread(fd) or 1, _CHUNK)
        self.before()
        try:
            data = os.read(fd, length)
        except BlockingIOError:
            return True
        text = self._decoders[number].decode(data, final=not data)
        if text:
            self.kept[number].add(text)
            self._output.write(text, ("stdout", "stderr")[number])
        return bool(data)


class Listener(Protocol):
    """Whoever talks with the program while it runs."""

    async def listen(self) -> None:
        """Talk until the other side is gone."""
        ...

    async def over(self) -> None:
        """Learn that the program is gone, whoever still holds its end of the line."""
        ...


async def follow(session: Session, listener: Listener | None = None) -> None:
    """Read all that a program prints until it ends, or until it is over and nothing more comes."""
    process, streams = session.process, session.streams
    async with anyio.create_task_group() as readers:
        readers.start_soon(streams.read, 0)
        readers.start_soon(streams.read, 1)
        async with anyio.create_task_group() as beside:
            if listener is not None:
                beside.start_soon(listener.listen)
            await process.wait()
            # What it left in the background ends with it; otherwise it would hold the pipes for ever.
            await session.end()
            if listener is not None:
                await listener.over()
        seen = -1
        while streams.received != seen:
            seen = streams.received
            with anyio.move_on_after(_DRAIN_S):
                await streams.closed.wait()
                return
        readers.cancel_scope.cancel()


def ended_by(code: int) -> str:
    """Return the words for an exit code, or for the signal that a negative one stands for."""
    return f"ended by signal {signal_name(code)}" if code < 0 else f"exit code {code}"


def signal_name(code: int) -> str:
    """Return the name of the signal that a negative exit code stands for."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return str(-code)
