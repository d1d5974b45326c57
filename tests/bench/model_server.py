"""A local server that speaks OpenAI's protocol: it says one word after the other and never ends, or says nothing."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

WORD_S = 0.005


class ModelServer:
    """Serves `url`; a prompt with `silent` in it gets no token, with `short` an answer, any other no end."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        """A request is there, and has its first words unless it is to have none."""
        self.closed_at: float | None = None
        """When the last request was given up, by this side's clock (`time.monotonic`)."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """Forget the requests that were there."""
        self.asked.clear()
        self.closed_at = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = json.dumps(asked.get("messages", asked))
                try:
                    if "short" in text:
                        self._answer(asked, "a short answer")
                    else:
                        self._go_on(asked, silent="silent" in text)
                except OSError:
                    server.closed_at = time.monotonic()

            def _answer(self, asked: dict[str, Any], text: str) -> None:
                if asked.get("stream"):
                    self._head("text/event-stream")
                    for part in (_chunk({"role": "assistant", "content": text}), _chunk({}, "stop")):
                        self.wfile.write(part)
                    self.wfile.write(b"data: [DONE]\n\n")
                    return
                self._head("application/json")
                message = {"role": "assistant", "content": text}
                usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "test"}
                self.wfile.write(json.dumps(whole | {"choices": choices, "usage": usage}).encode())

            def _go_on(self, asked: dict[str, Any], *, silent: bool) -> None:
                if not silent:
                    self._head("text/event-stream")
                self.connection.settimeout(WORD_S)
                while True:
                    if not silent:
                        self.wfile.write(_chunk({"role": "assistant", "content": "word "}))
                    server.asked.set()
                    try:
                        if not self.connection.recv(1):  # the other side has gone
                            raise ConnectionResetError
                    except TimeoutError:
                        continue

            def _head(self, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Connection", "close")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "test", "choices": [choice]}
    return b"data: " + json.dumps(whole).encode() + b"\n\n"
