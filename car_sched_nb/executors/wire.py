"""What goes between a kernel and the child that runs a body: frames of bytes, and values that are pickled in pieces.

A value is never held twice: its pickle goes out while it is made, large buffers (arrays, columns) straight from
where they lie, and the other side reads them to where they stay.

Both sides import this; it has to be light.
"""

from __future__ import annotations

import fcntl
import mmap
import pickle
import socket
import struct
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

HEAD = struct.Struct("<cQ")
"""A frame: its kind, the length of its body, and the body."""

OUT, ERR, SHOW, CLEAR, PROGRESS = b"o", b"e", b"d", b"x", b"g"
"""Text of the two streams, a display, `clear_output`, how far the body is: taken in the order in which they come."""
ASK, ANSWER, DROP = b"a", b"r", b"n"
"""A question to the kernel, the answer to it, and that nobody waits for the answer any more."""
JOB, VALUE, PIECE, BUFFER, WHOLE, BROKEN, END = b"j", b"v", b"p", b"b", b".", b"!", b"z"
"""What to do; a value: its name, pieces of its pickle, buffers, and whether all of it came; how the body ended."""

NUMBER = struct.Struct("<Q")
"""What a question begins with, and what says that nobody waits for its answer."""

_LARGE = 16 * 1024  # bytes from which on a buffer goes by itself
_MOST_AT_ONCE = 1024 * 1024

_NO_COUNT = bytes(4)

Send = Callable[[bytes, Any], None]


class Broken(Exception):
    """Raised when the other side gave a value up in the middle."""


class Link:
    """One end of the socket pair; frames are sent from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._lock = threading.Lock()
        self._read = bytearray()
        """What has come and was not taken."""

    def send(self, kind: bytes, body: Any = b"") -> None:
        """Send a frame; waits while the other side does not read."""
        view = memoryview(body).cast("B")
        head = HEAD.pack(kind, view.nbytes)
        with self._lock:
            if view.nbytes < _LARGE:
                self.end.sendall(head + view)
            else:
                self.end.sendall(head)
                self.end.sendall(view)

    def send_object(self, kind: bytes, value: Any) -> None:
        """Send a frame with a plain pickle."""
        self.send(kind, pickle.dumps(value, 5))

    def receive(self) -> tuple[bytes, Any]:
        """Wait for the next frame.

        Raises
        ------
        EOFError
            When the other side is gone.
        """
        kind, length = HEAD.unpack(self._exactly(HEAD.size))
        return kind, self._exactly(length)

    def waiting(self) -> Iterator[tuple[bytes, bytearray]]:
        """Yield the frames that have come until now, without waiting; whoever stops finds the rest later.

        Raises
        ------
        EOFError
            When the other side is gone and all that it sent was taken.
        """
        left = min(unread(self.end.fileno()), _MOST_AT_ONCE) or int(self._is_over())
        while True:
            while (frame := self._frame()) is not None:
                yield frame
            if left <= 0:
                break
            try:
                chunk = self.end.recv(left, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                raise EOFError from None
            if not chunk:
                raise EOFError
            left -= len(chunk)
            self._read += chunk

    def _is_over(self) -> bool:
        try:
            return not self.end.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def _frame(self) -> tuple[bytes, bytearray] | None:
        if len(self._read) < HEAD.size:
            return None
        kind, length = HEAD.unpack_from(self._read)
        whole = HEAD.size + length
        if len(self._read) < whole:
            return None
        body = self._read[HEAD.size : whole]
        del self._read[:whole]
        return kind, body

    def _exactly(self, length: int) -> Any:
        body = _room(length)
        view = memoryview(body)
        done = min(length, len(self._read))
        view[:done] = self._read[:done]
        del self._read[:done]
        while done < length:
            count = self.end.recv_into(view[done:])
            if not count:
                raise EOFError
            done += count
        return body


class Outlet:
    """The file that a pickler writes to.

    Its `write` is Python on purpose: a pickler that is all C would keep the interpreter from every other thread.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def write(self, data: Any) -> int:
        """Send a piece of the pickle."""
        self._send(PIECE, data)
        return len(data)

    def buffer(self, given: pickle.PickleBuffer) -> bool:
        """Send a large buffer by itself, and tell whether it has to be in the pickle."""
        try:
            view = given.raw()
        except BufferError:  # it does not lie in one piece
            return True
        if view.nbytes < _LARGE:
            return True
        self._send(BUFFER, view)
        return False


class Inlet:
    """The file that an unpickler reads from: a value that is coming in.

    Parameters
    ----------
    receive
        Waits for the next frame.
    """

    def __init__(self, receive: Callable[[], tuple[bytes, Any]]) -> None:
        self._receive = receive
        self._piece = memoryview(b"")
        self._buffers: deque[Any] = deque()
        self._over = False

    def buffers(self) -> Iterator[Any]:
        """Yield the buffers in their order; each has come before the pickle speaks of it."""
        while self._buffers:
            yield self._buffers.popleft()

    def finish(self) -> None:
        """Read to the end of the value and forget what is not used.

        Raises
        ------
        Broken
            When the other side gave it up.
        """
        while not self._over:
            self._more()
            self._buffers.clear()

    def _more(self) -> None:
        kind, body = self._receive()
        if kind == BUFFER:
            self._buffers.append(body)
        elif kind == PIECE:
            self._piece = memoryview(body)
        else:
            self._over = True
            if kind != WHOLE:
                raise Broken

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        done = 0
        while done < len(view):
            while not self._piece and not self._over:
                self._more()
            if not self._piece:
                break
            part = self._piece[: len(view) - done]
            view[done : done + len(part)] = part
            self._piece = self._piece[len(part) :]
            done += len(part)
        return done

    def read(self, size: int) -> bytes:
        if len(self._piece) >= size:
            data, self._piece = bytes(self._piece[:size]), self._piece[size:]
            return data
        found = bytearray(size)
        return bytes(memoryview(found)[: self.readinto(found)])

    def readline(self) -> bytes:
        line = b""
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return line


def _room(length: int) -> Any:
    """Return memory to receive into; a large `bytearray` would first be filled with zeros, in one go."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return bytearray(length) if length < _MOST_AT_ONCE else mmap.mmap(-1, length, flags=private)


def unread(fd: int) -> int:
    """Return how many bytes lie in a pipe or socket; of a pipe either end can be asked on Linux."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, _NO_COUNT), sys.byteorder)
    except OSError:
        return 0
