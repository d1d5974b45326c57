"""A Jupyter kernel of its own for one notebook: it dies with this process, and with all that it has started.

Imports `jupyter_client`, so it is imported when it is used.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from car_sched_nb.errors import InvalidInput, nearest
from car_sched_nb.executors.process import GATE, end_session, ended_by
from car_sched_nb.executors.supervisor import supervisor
from car_sched_nb.processes import GRACE_S, POLL_S, SLOW_S
from car_sched_nb.store.owners import scratch

_OWN = ("", "python", "python3")
_SAID = 2000  # characters of what a kernel said before it died


def find_spec(name: str) -> KernelSpec:
    """Return the kernel of a name; for Python's usual one this very Python, whatever is installed beside it.

    Raises
    ------
    InvalidInput
        With the names that there are.
    """
    if name in _OWN:
        return KernelSpecManager(kernel_dirs=[]).get_kernel_spec("python3")
    specs = KernelSpecManager()
    try:
        return specs.get_kernel_spec(name)
    except NoSuchKernel:
        known = sorted(specs.find_kernel_specs())
        raise InvalidInput(
            f"its kernel {name!r} is not installed here{nearest(name, known, none=';')} there are {', '.join(known)}; "
            "open it and choose another kernel"
        ) from None


class _Manager(AsyncKernelManager):
    """Starts its kernel behind a gate, so that it never runs before the supervisor knows of it."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        gate, go = os.pipe()
        try:
            await super()._async_launch_kernel(["/bin/sh", "-c", GATE, "car", *kernel_cmd], stdin=gate, **options)
            process = self.process
            assert process is not None
            supervisor.watch(process.pid)
            os.write(go, b"\n")
        finally:
            os.close(gate)
            os.close(go)

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The leader of its session, once it has been started."""
        return getattr(self.provisioner, "process", None)


class Kernel:
    """One kernel, from its start to its end; on one asyncio loop.

    Parameters
    ----------
    environment
        Has `CAR_OWNER`, and `CAR_GROUP` empty: the kernel is given its own.
    """

    def __init__(self, spec: KernelSpec, cwd: str, environment: dict[str, str]) -> None:
        # Short, because names of sockets are; closed to others, because whoever reads its key may run code in it.
        self.is_python = is_python(spec)
        self._folder = TemporaryDirectory(prefix=scratch(environment["CAR_OWNER"]))
        self._spec, self._cwd, self._environment = spec, cwd, environment
        self._said = Path(self._folder.name, "said").open("w+b")  # noqa: SIM115 - closed by `end`
        self.manager = _Manager(
            kernel_name="", connection_file=f"{self._folder.name}/k", transport="ipc" if _has_ipc(spec) else "tcp"
        )
        self.manager._kernel_spec = spec  # noqa: SLF001 - found already, in another place than the manager would look
        self.client = self.manager.client()
        self.ready = False

    async def start(self, timeout_s: float) -> None:
        """Return when it takes requests; a RuntimeError says that it does not."""
        manager = self.manager
        manager.provisioner = LocalProvisioner(kernel_id=uuid.uuid4().hex, kernel_spec=self._spec, parent=manager)
        # ipykernel warns of TCP at each start, and all kernels of a machine would write into one history.
        quiet = ["--log-level=ERROR", "--HistoryManager.hist_file=:memory:"]
        await manager.start_kernel(
            cwd=self._cwd,
            env=self._environment,
            # Not ours: what is written there lands under whatever cell of this notebook runs.
            stdout=self._said,
            stderr=subprocess.STDOUT,
            extra_arguments=quiet if "ipykernel_launcher" in self._spec.argv else [],
        )
        self.client = manager.client()
        self.client.start_channels(stdin=False)  # nobody is there to answer
        await self.client.wait_for_ready(timeout=timeout_s)
        self.ready = True

    async def interrupt(self) -> None:
        """Have its cell raise KeyboardInterrupt."""
        process = self.manager.process
        if process is not None and process.poll() is None:
            await self.manager.interrupt_kernel()

    def last_words(self) -> str:
        """Return how it ended and what it said outside of its cells."""
        process = self.manager.process
        code = process.poll() if process else None
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()[-_SAID:]
        how = "" if code is None else ended_by(code)
        how += ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        return f"{how}: {said}" if how and said else how or said

    async def end(self, polite: bool) -> None:
        """End all of its session and return when it is gone, however long that takes.

        Parameters
        ----------
        polite
            Ask it first, so that it runs what was registered for its exit.
        """
        process = self.manager.process
        try:
            if process is not None:
                if polite and self.ready and process.poll() is None:
                    await self.manager.request_shutdown()
                    await _gone(process, GRACE_S)
                await end_session(process.pid, lambda: process.poll() is not None)
        finally:
            self.client.stop_channels()
            await self.manager.cleanup_resources()
            self._said.close()
            self._folder.cleanup()


def _has_ipc(spec: KernelSpec) -> bool:
    """Tell whether it can do without TCP, whose ports two kernels that start at the same time may both take."""
    return is_python(spec) and sys.platform != "win32"


def is_python(spec: KernelSpec) -> bool:
    """Tell whether a kernel's language is Python."""
    return str(spec.language).lower() == "python"


async def _gone(process: subprocess.Popen[bytes], patience_s: float) -> None:
    pause, limit = POLL_S, asyncio.get_running_loop().time() + patience_s
    while process.poll() is None and asyncio.get_running_loop().time() < limit:
        await asyncio.sleep(pause)
        pause = min(2 * pause, SLOW_S / 4)
