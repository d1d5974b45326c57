"""Real servers on loopback for what is sent: one for HTTP, one for mail; each may be down and come up later."""

from __future__ import annotations

import email
import json
import socket
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Web:
    """Keeps what it is sent: each request as (method, path), each posted JSON in `messages`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[tuple[str, str]] = []
        self.logins: list[str | None] = []
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        self._server: ThreadingHTTPServer | None = None

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    def address(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{path}"

    def start(self) -> Web:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if web.status == 200:
                    web.messages.append(json.loads(body))
                self._answer()

            def _answer(self) -> None:
                web.requests.append((self.command, self.path))
                web.logins.append(self.headers["Authorization"])
                self.send_response(web.status)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Nothing is printed."""

        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Post:
    """A mail server that keeps what it is sent."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mails: list[Message] = []
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    def address(self, login: str = "") -> str:
        return f"mailto://{login}127.0.0.1:{self.port}?from=car@notes.example&to=ana@notes.example&mode=insecure"

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]

    def text(self, number: int) -> str:
        """Return the text of a mail, whatever parts it has."""
        parts = [part for part in self.mails[number].walk() if part.get_content_maintype() == "text"]
        return "\n".join(bytes(part.get_payload(decode=True)).decode() for part in parts)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd calls it so
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 taken"

    def start(self) -> Post:
        self._controller.start()
        return self

    def stop(self) -> None:
        self._controller.stop()
