"""Whose tasks these are: the notebook's path, asked of its own server, or what the front end says.

`JPY_SESSION_NAME` is the path at the kernel's start and goes stale at a rename; the server on this machine knows
the present one. A kernel that another kernel's cell starts inherits the variable: only a server's own kernels have
`jupyter_session` in their connection file.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_PATIENCE_S = 0.5
SCRATCH = "scratch-"


class Namespace(NamedTuple):
    """A namespace and where it comes from: pinned, notebook, or scratch (not found again)."""

    name: str
    source: str


def find_namespace(names: Mapping[str, Any]) -> Namespace:
    """Return the namespace of this kernel's notebook.

    Parameters
    ----------
    names
        The notebook's variables: VS Code puts the path among them.
    """
    vscode = names.get("__vsc_ipynb_file__")
    path = vscode if isinstance(vscode, str) and vscode else notebook_path()
    if path:
        return Namespace(str(path), "notebook")
    return Namespace(SCRATCH + secrets.token_hex(4), "scratch")


def notebook_path() -> str | None:
    """Return the path of the notebook that this kernel belongs to, or None when nobody says."""
    try:
        from ipykernel.connect import get_connection_file

        connection = Path(get_connection_file())
        of_a_server = bool(json.loads(connection.read_text()).get("jupyter_session"))
    except (RuntimeError, OSError, ValueError):
        return None
    kernel_id = connection.stem.removeprefix("kernel-")
    for file in _servers(connection.parent):
        found = _ask(file, kernel_id)
        if found:
            return found
    start = os.environ.get("JPY_SESSION_NAME", "")
    return start if of_a_server and start.endswith(".ipynb") and Path(start).is_absolute() else None


def server_root() -> Path | None:
    """Return the folder that this kernel's own server shows, or None when there is none."""
    try:
        from ipykernel.connect import get_connection_file

        for file in _servers(Path(get_connection_file()).parent):
            return Path(json.loads(file.read_text(encoding="utf-8"))["root_dir"])
    except (RuntimeError, OSError, ValueError, KeyError):
        pass
    return None


def _servers(folder: Path) -> list[Path]:
    """Return what the server that started this kernel says of itself."""
    parents = {os.environ.get("JPY_PARENT_PID"), str(os.getppid())}
    return [file for file in folder.glob("jpserver-*.json") if file.stem.removeprefix("jpserver-") in parents]


def _ask(server: Path, kernel_id: str) -> str | None:
    """Ask this kernel's own server, and no other, for the notebook of its session."""
    try:
        info = json.loads(server.read_text(encoding="utf-8"))
        sessions = json.loads(_get(info, info["base_url"] + "api/sessions"))
        paths = {s["path"] for s in sessions if s["kernel"]["id"] == kernel_id and s["path"].endswith(".ipynb")}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a password, a stopped server, another shape of answer: the front end's word is what is left
    return str(Path(info["root_dir"], paths.pop())) if len(paths) == 1 else None


def _get(info: Mapping[str, Any], path: str) -> bytes:
    import http.client
    import socket
    import ssl

    headers = {"Authorization": f"token {info['token']}"} if info.get("token") else {}
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(info["hostname"], info["hostname"])  # noqa: S104
    connection: http.client.HTTPConnection
    if info.get("sock"):
        connection = http.client.HTTPConnection("localhost", timeout=_PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_PATIENCE_S)
        connection.sock.connect(info["sock"])
    elif info.get("secure"):
        # Its certificate is often its own; the file that names it is readable by this user only.
        unchecked = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(host, info["port"], timeout=_PATIENCE_S, context=unchecked)
    else:
        connection = http.client.HTTPConnection(host, info["port"], timeout=_PATIENCE_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise OSError(f"HTTP {answer.status}")
        return answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
