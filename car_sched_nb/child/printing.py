"""What a body prints in a process of its own, on its way to the kernel."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from car_sched_nb.executors import wire

_PIECE = 64 * 1024  # characters that go at once
_LIVE_S = 0.05  # how long a line waits for its rest: `print` makes several writes of one
_PATIENCE_S = 0.05
_STEP_S = 0.0005


class _Order:
    """Keeps what Python prints behind what C code and other processes have printed before it.

    Those write into pipes, past Python: as long as the kernel has not read a pipe, Python's text waits. It does not
    wait long for a process that floods a pipe all the time.
    """

    def __init__(self) -> None:
        self._pipes = [os.dup(1), os.dup(2)]  # the body may put something else in their places
        self._tired_until = 0.0

    def settle(self) -> None:
        if not (wire.unread(self._pipes[0]) or wire.unread(self._pipes[1])):
            return
        now_s = time.monotonic()
        give_up = now_s + _PATIENCE_S
        if now_s < self._tired_until:
            return
        while any(map(wire.unread, self._pipes)):
            if time.monotonic() > give_up:
                self._tired_until = give_up + 10 * _PATIENCE_S
                return
            time.sleep(_STEP_S)


class _Printer:
    """Takes text from both streams and sends it in the order in which it came."""

    def __init__(self, link: wire.Link) -> None:
        self._link: wire.Link | None = link
        self._order = _Order()
        self._lock = threading.RLock()
        self._pending: list[str] = []
        self._kind = wire.OUT
        self._since = 0.0
        os.register_at_fork(before=self.flush, after_in_child=self._in_child)

    def put(self, kind: bytes, text: str) -> None:
        with self._lock:
            if kind != self._kind:
                self.flush()
                self._kind = kind
            if not self._pending:
                self._since = time.monotonic()
            self._pending.append(text)
            if text.endswith(("\n", "\r")) or time.monotonic() - self._since > _LIVE_S or len(text) > _PIECE:
                self.flush()

    def flush(self) -> None:
        with self._lock:
            if not self._pending:
                return
            text = "".join(self._pending)
            self._pending.clear()
            for start in range(0, len(text), _PIECE):
                self._send(text[start : start + _PIECE].encode("utf-8", "replace"))

    def _send(self, data: bytes) -> None:
        if self._link is None:  # a fork of the body's process: the line to the kernel is its parent's
            _write_all(1 if self._kind == wire.OUT else 2, data)
        else:
            self._order.settle()
            self._link.send(self._kind, data)

    def _in_child(self) -> None:
        self._link = None
        self._lock = threading.RLock()
        self._pending = []


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes go into the pipe, as those of C code do."""

    def __init__(self, printer: _Printer, fd: int) -> None:
        self._printer = printer
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        self._printer.flush()
        _write_all(self._fd, data)
        return len(data)


class _Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a body."""

    encoding = "utf-8"
    errors = "replace"
    line_buffering = True

    def __init__(self, printer: _Printer, kind: bytes, fd: int) -> None:
        self._printer = printer
        self._kind = kind
        self.buffer = _Bytes(printer, fd)
        self.name = "<stdout>" if fd == 1 else "<stderr>"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        self._printer.flush()  # whoever asks writes there next
        return self.buffer.fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._printer.put(self._kind, text)
        return len(text)

    def flush(self) -> None:
        self._printer.flush()


def install_streams(link: wire.Link) -> Callable[[], None]:
    """Send what is printed over the link; return what sends all that waits."""
    printer = _Printer(link)
    sys.stdout, sys.stderr = _Stream(printer, wire.OUT, 1), _Stream(printer, wire.ERR, 2)
    return printer.flush


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]
