"""llama.cpp in this process: each model loaded once, one generation at a time, in a thread that no loop waits for.

Generating gives the GIL up; loading holds it (0.3 s for the small model, xllamacpp 2026.10), so the settings below
leave out of a load what can be left out: the weights are mapped, not read, and are neither repacked nor warmed up.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import os
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.loops import soon_caller
from car_sched_nb.runners.local_files import loaded

N_CTX = 4096
"""Tokens of prompt and answer together."""

BATCH = 16
"""Tokens of a prompt between two looks at whether it is still wanted: about 0.1 s of the small model on one core."""

IDLE_S = 300.0
"""Seconds without a generation after which the models are given back."""

Chunk = dict[str, Any]


class Generation:
    """What one request says, piece by piece; `stop` ends it, from any thread."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.path = path
        self.done = anyio.Event()
        self._body = body
        self._stopped = False
        self._why: Exception | None = None
        self._soon = soon_caller()
        self._send, self.chunks = anyio.create_memory_object_stream[Chunk | Exception](math.inf)

    def stop(self, why: Exception | None = None) -> None:
        """Generate no more; who reads it meets `why`, or its end."""
        self._why, self._stopped = why, True
        if engine.withdraw(self):
            self.ended(why)

    def run(self, load: Callable[[str], Any]) -> None:
        """Generate, in the engine's thread."""
        error: Exception | None = None
        try:
            server = None if self._stopped else load(self.path)
            if server is not None and not self._stopped:
                server.handle_chat_completions(self._body, self._heard)
        except Exception as raised:  # noqa: BLE001 - it is raised again where it is waited for
            error = raised
        self.ended(error or self._why)

    def _heard(self, chunk: Chunk) -> bool:
        # True ends the generation. What is raised here would too, and say nothing.
        if not self._stopped:
            self._call(self._send.send_nowait, chunk)
        return self._stopped

    def ended(self, error: Exception | None = None) -> None:
        self._call(self._end, error)

    def _end(self, error: Exception | None) -> None:
        if error is not None:
            self._send.send_nowait(error)
        self._send.close()
        self.done.set()

    def _call(self, function: Callable[[Any], Any], argument: Any) -> None:
        try:
            self._soon(function, argument)
        except RuntimeError:  # its loop is gone (trio's error is a subclass)
            self._stopped = True


@asynccontextmanager
async def generate(path: str, body: dict[str, Any]) -> AsyncIterator[tuple[Generation, AsyncIterator[Chunk]]]:
    """Queue a chat completion; leaving the block, or being cancelled in it, returns when it really has stopped.

    That is at once while it is queued, after a token while it speaks, after `BATCH` tokens while it reads the prompt.
    """
    generation = Generation(path, body)
    engine.submit(generation)
    try:
        yield generation, _checked(generation.chunks)
    finally:
        generation.stop()
        with anyio.CancelScope(shield=True):
            await generation.done.wait()
        generation.chunks.close()


async def _checked(chunks: MemoryObjectReceiveStream[Chunk | Exception]) -> AsyncIterator[Chunk]:
    async for chunk in chunks:
        if isinstance(chunk, Exception):
            raise BodyFailed(f"the local model failed: {chunk}", type(chunk).__name__) from chunk
        if error := chunk.get("error"):
            raise _error(error)
        yield chunk


def _error(error: dict[str, Any]) -> Exception:
    if error.get("type") == "exceed_context_size_error":
        return InvalidInput(
            f"the prompt has {error.get('n_prompt_tokens'):,} tokens, a local model takes {error.get('n_ctx'):,} with "
            "its answer; shorten the prompt, or give fewer rows and fewer tools"
        )
    return BodyFailed(f"the local model failed: {error.get('message', error)}", str(error.get("type", "LocalModel")))


class Engine:
    """The loaded models, and who waits for them, first come first served."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._in_child)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Generation] = deque()
        self._running: Generation | None = None
        self._thread: threading.Thread | None = None
        self._servers: dict[str, Any] = {}
        self._closing = False

    def submit(self, generation: Generation) -> None:
        with self._changed:
            if self._closing:
                raise _closed()
            self._queue.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="car local model", daemon=True)
                self._thread.start()
            self._changed.notify()

    def withdraw(self, generation: Generation) -> bool:
        """Take out of the queue; return whether it was still in there."""
        with self._changed:
            found = generation in self._queue
            if found:
                self._queue.remove(generation)
        return found

    def close(self, *, for_good: bool = False) -> None:
        """Stop what runs and give all models back; return when that is done."""
        with self._changed:
            left = [*self._queue, *([self._running] if self._running else [])]
            thread, self._closing = self._thread, True
            self._changed.notify()
        for generation in left:
            generation.stop(_closed())
        if thread is not None:
            thread.join()
        self._closing = for_good

    def _work(self) -> None:
        while (generation := self._next()) is not None:
            generation.run(self._load)

    def _next(self) -> Generation | None:
        """Wait for the next one; None when nobody wants any: the models are given back, and this thread ends."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._queue or self._closing, IDLE_S)
            if self._queue:
                self._running = self._queue.popleft()
            else:
                self._servers.clear()
                loaded.clear()
                self._thread = None
            return self._running

    def _load(self, path: str) -> Any:
        if path not in self._servers:
            self._servers[path] = _server(path)
            loaded.add(path)
        return self._servers[path]

    def _in_child(self) -> None:
        """A fork has none of llama.cpp's threads, and would wait for them for ever if it gave a model back."""
        for server in self._servers.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
        loaded.clear()
        self._begin()


def _closed() -> BodyFailed:
    return BodyFailed("the local models were given back: this kernel ends", "LocalModelClosed")


def _server(path: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = N_CTX
    params.n_batch = params.n_ubatch = BATCH
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    params.warmup = params.fit_params = False
    params.no_extra_bufts = True
    params.verbosity = -1
    # It listens on 127.0.0.1 too, which nobody here needs: nobody has the key.
    params.api_keys = [secrets.token_hex(16)]
    params.endpoint_slots = params.endpoint_props = False
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise InvalidInput(
            f"{path} cannot be loaded: it is damaged, too large for this machine, or newer than this xllamacpp "
            '(pip install -U "car-sched-nb[local]")'
        ) from error


def _threads() -> int:
    """Return how many cores to use: one is left to the kernel."""
    with contextlib.suppress(AttributeError):  # where the system does not say which cores are ours
        return max(1, len(os.sched_getaffinity(0)) - 1)
    return max(1, (os.cpu_count() or 1) - 1)


engine = Engine()
"""The one of this process."""

# A thread inside llama.cpp at the interpreter's end would abort it.
atexit.register(engine.close, for_good=True)
