"""A model's server on this machine: OpenAI's chat completions over real HTTP, streamed; a test sets its answers."""

import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "gpt-5-mini"
"""A model that the price list knows, when it is asked for as OpenAI's own."""
_LOOK_S = 0.005


@dataclass(frozen=True)
class Reply:
    """One answer: text in pieces, calls of tools, or an HTTP error with a body.

    `hold` waits before the first piece (0) or the one of that number, until the client is gone or `ModelServer.let_go`.
    """

    text: tuple[str, ...] = ()
    calls: tuple[tuple[str, dict[str, Any] | str], ...] = ()
    status: int = 200
    body: str = ""
    hold: int | None = None
    dies: int | None = None
    """The connection is cut before the piece of that number."""
    tokens: tuple[int, int] = (10, 5)
    model: str = ""
    """Who says that it answers, when it is not who was asked."""
    finish: str = ""


def says(*text: str, **more: Any) -> Reply:
    """Return an answer in words."""
    return Reply(text, **more)


def calls(*given: tuple[str, dict[str, Any] | str], **more: Any) -> Reply:
    """Return an answer that asks for tools: (name, arguments) each."""
    return Reply(calls=given, **more)


def refuses(status: int, message: str) -> Reply:
    """Return an HTTP error as OpenAI words it; the client is told not to try again by itself."""
    return Reply(status=status, body=json.dumps({"error": {"message": message, "type": "error", "code": None}}))


@dataclass
class ModelServer:
    """What a test sees of the server."""

    url: str
    replies: deque[Reply | Callable[[dict[str, Any]], Reply]] = field(default_factory=deque)
    """Given out in turn; the last one again and again."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    hung_up_at: list[float] = field(default_factory=list)
    """`time.monotonic()` at which a client was seen to go in the middle of an answer."""
    held: threading.Event = field(default_factory=threading.Event)
    """An answer is held back now."""
    free: threading.Event = field(default_factory=threading.Event)

    def answers(self, *replies: Reply | Callable[[dict[str, Any]], Reply]) -> None:
        """Set what it answers from now on."""
        self.replies.clear()
        self.replies.extend(replies)
        self.held.clear()
        self.free.clear()

    def let_go(self) -> None:
        """Go on with what is held back."""
        self.free.set()

    def next_reply(self, request: dict[str, Any]) -> Reply:
        found = self.replies.popleft() if len(self.replies) > 1 else self.replies[0]
        return found if isinstance(found, Reply) else found(request)


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.requests.append(request)
            server.keys.append(self.headers.get("authorization", "").removeprefix("Bearer "))
            reply = server.next_reply(request)
            reply = replace(reply, model=reply.model or request["model"])
            try:
                self._answer(reply)
            except (BrokenPipeError, ConnectionResetError):
                server.hung_up_at.append(time.monotonic())
                self.close_connection = True

        def _answer(self, reply: Reply) -> None:
            if reply.status != 200 or reply.body:
                self._plain(reply)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for number, delta in enumerate(_deltas(reply)):
                if number == reply.hold:
                    self._hold()
                if number == reply.dies:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}, reply)
            if reply.hold is not None and reply.hold >= len(reply.text):
                self._hold()
            finish = reply.finish or ("tool_calls" if reply.calls else "stop")
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, reply)
            tokens_in, tokens_out = reply.tokens
            usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
            self._event({"choices": [], "usage": {**usage, "total_tokens": tokens_in + tokens_out}}, reply)
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

        def _plain(self, reply: Reply) -> None:
            body = reply.body.encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("x-should-retry", "false")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _event(self, chunk: dict[str, Any], reply: Reply) -> None:
            whole = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": reply.model, **chunk}
            self._chunk(b"data: " + json.dumps(whole).encode() + b"\n\n")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _hold(self) -> None:
            server.held.set()
            while not server.free.is_set():
                if select.select([self.connection], [], [], _LOOK_S)[0] and not self.connection.recv(
                    1, socket.MSG_PEEK
                ):
                    raise BrokenPipeError

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = ModelServer(f"http://127.0.0.1:{listener.server_address[1]}/v1")
    server.answers(says("fine"))
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.let_go()
        listener.shutdown()
        listener.server_close()
        thread.join()


def _deltas(reply: Reply) -> list[dict[str, Any]]:
    text = [{"role": "assistant", "content": piece} for piece in reply.text]
    tools = [
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "index": number,
                    "id": f"call_{number}_{time.monotonic_ns()}",
                    "type": "function",
                    "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
                }
            ],
        }
        for number, (name, given) in enumerate(reply.calls)
    ]
    return text + tools
