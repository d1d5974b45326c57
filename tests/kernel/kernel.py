"""A real ipykernel, driven as a front end drives it: cells go in, and each output says which cell it belongs to."""

import os
import queue
import signal
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NewType

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

Cell = NewType("Cell", str)
"""One run of a cell: the id of its request, which its outputs carry as their parent."""

OUTPUTS = {"stream", "display_data", "update_display_data", "execute_result", "error"}
PATIENCE_S = 60
"""Seconds after which whoever waits gives up; nothing passes or fails by being quicker."""
STEP_S = 0.1  # how long one read waits before it looks whether the kernel still lives


class KernelGoneError(Exception):
    """The kernel's process ended while a test waited for it."""


@dataclass(frozen=True, slots=True)
class Output:
    """One message that a front end would show under a cell."""

    kind: str
    name: str  # stdout or stderr of a stream, the display id of a display that has one
    text: str  # what a terminal would show
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # by MIME type
    at_s: float = field(default=0.0, compare=False)  # time.monotonic() when it was read


@dataclass(frozen=True, slots=True)
class Result:
    """How a cell ended, and what it had shown by then."""

    cell: Cell
    status: str  # ok, error, aborted
    outputs: tuple[Output, ...]

    @property
    def text(self) -> str:
        return joined(self.outputs)

    @property
    def error(self) -> str:
        """`ZeroDivisionError: division by zero`, or nothing."""
        return next((output.name for output in self.outputs if output.kind == "error"), "")


class Kernel:
    """A kernel of this Python, with a working folder and an environment of its own.

    Outputs are read when a method waits; nothing is lost in between, and what a background task shows after its cell
    has ended is found with `outputs_of(cell)` and `wait_for_text(cell, text)`.
    """

    def __init__(self, workdir: Path, env: Mapping[str, str]) -> None:
        self.workdir = workdir
        self.client: BlockingKernelClient
        # No folders to search: the one kernel that is left is this interpreter's own, whatever is installed beside it.
        specs = KernelSpecManager(kernel_dirs=[])
        # No ports: another program may take one between its choice and its use.
        self._sockets = tempfile.TemporaryDirectory(prefix="car-")  # a socket's path is at most 107 bytes long
        ip = f"{self._sockets.name}/k"
        self._manager = KernelManager(kernel_name="python3", kernel_spec_manager=specs, transport="ipc", ip=ip)
        runtime = Path(env["JUPYTER_RUNTIME_DIR"])
        runtime.mkdir(parents=True, exist_ok=True)
        self._manager.connection_file = str(runtime / f"kernel-{uuid.uuid4().hex}.json")
        self._outputs: dict[str, list[Output]] = defaultdict(list)
        self._replies: dict[str, str] = {}
        self._idle: set[str] = set()
        self._manager.start_kernel(cwd=str(workdir), env=dict(env))
        self._connect()

    def send(self, code: str) -> Cell:
        """Run a cell without waiting for it."""
        return Cell(self.client.execute(code, allow_stdin=False))

    def run(self, code: str, timeout_s: float = PATIENCE_S) -> Result:
        """Run a cell and wait until it has ended."""
        return self.wait(self.send(code), timeout_s)

    def wait(self, cell: Cell, timeout_s: float = PATIENCE_S) -> Result:
        """Wait until a cell has ended; KernelGoneError when the kernel ends first."""
        self.wait_until(lambda: cell in self._replies and cell in self._idle, timeout_s)
        return Result(cell, self._replies[cell], tuple(self._outputs[cell]))

    def outputs_of(self, cell: Cell) -> list[Output]:
        """Return what a cell has shown until now, also after it ended."""
        while self._read(0):
            pass
        return list(self._outputs[cell])

    def strays(self) -> list[Output]:
        """Return the outputs that belong to no request at all, which a front end drops."""
        return self.outputs_of(Cell(""))

    def wait_for_text(self, cell: Cell, text: str, timeout_s: float = PATIENCE_S) -> str:
        """Wait until a cell shows a text; return all it has shown."""
        try:
            self.wait_until(lambda: text in joined(self._outputs[cell]), timeout_s)
        except TimeoutError:
            message = f"no {text!r} in {timeout_s} s, only {joined(self._outputs[cell])!r}"
            raise TimeoutError(message) from None
        return joined(self._outputs[cell])

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Read messages until a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the kernel was not there after {timeout_s} s")
            if not self._read(STEP_S) and not self.alive and not self._read(0) and not holds():
                raise KernelGoneError

    @property
    def pid(self) -> int:
        """The process of the kernel's present life."""
        provisioner = self._manager.provisioner
        assert provisioner is not None
        pid: int = provisioner.pid  # type: ignore[attr-defined]  # the base class leaves room for remote kernels
        return pid

    @property
    def alive(self) -> bool:
        return bool(self._manager.is_alive())

    def interrupt(self) -> None:
        """What the Stop button does."""
        self._manager.interrupt_kernel()

    def restart(self) -> None:
        """What the Restart button does, also for a kernel that was killed: a new life in the same surroundings."""
        self.client.stop_channels()
        self._manager.restart_kernel()
        self._connect()

    def kill9(self) -> None:
        """End the process as a power cut would; return when it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while self.alive:  # each look reaps the child when it has ended
            if time.monotonic() > deadline:
                raise TimeoutError("SIGKILL did not end the kernel")

    def stop(self) -> None:
        """Shut down as closing the notebook's kernel does; may be called twice."""
        self.client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel()
        self._manager.cleanup_resources()
        self._sockets.cleanup()

    def _connect(self) -> None:
        self.client = self._manager.client()
        # A session a life: the ids of requests are counted within it, and two lives' cells must not share one.
        self.client.session.session = uuid.uuid4().hex
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)

    def _read(self, wait_s: float) -> bool:
        """Take one message from each channel; tell whether one was there."""
        reply = _next(self.client.get_shell_msg, 0)
        if reply and reply["msg_type"] == "execute_reply":
            self._replies[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
        message = _next(self.client.get_iopub_msg, 0 if reply else wait_s)
        if message:
            parent = message["parent_header"].get("msg_id", "")
            if message["msg_type"] in OUTPUTS:
                self._outputs[parent].append(_as_output(message))
            elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                self._idle.add(parent)
        return bool(reply or message)


def joined(outputs: list[Output] | tuple[Output, ...]) -> str:
    """Return the outputs as a terminal would show them."""
    return "".join(output.text for output in outputs)


def _next(get: Callable[..., dict[str, Any]], wait_s: float) -> dict[str, Any] | None:
    try:
        return get(timeout=wait_s)
    except queue.Empty:
        return None


def _as_output(message: dict[str, Any]) -> Output:
    kind, content, now_s = message["msg_type"], message["content"], time.monotonic()
    if kind == "stream":
        return Output(kind, content["name"], content["text"], at_s=now_s)
    if kind == "error":
        return Output(kind, f"{content['ename']}: {content['evalue']}", "\n".join(content["traceback"]), at_s=now_s)
    display_id = content.get("transient", {}).get("display_id", "")
    return Output(kind, display_id, content["data"].get("text/plain", ""), content["data"], now_s)
