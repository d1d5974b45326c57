"""A real Jupyter server and a real Chromium, cut off from the network: notebooks are opened and used as a person does.

One `Lab` an application serves a whole test session; each notebook that is opened gets a page without memory (no
cookies, no workspace) and a kernel with an environment of its own.
"""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import nbformat
from nbformat import NotebookNode
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, WebSocketRoute, expect, sync_playwright

App = Literal["lab", "notebook"]
Theme = Literal["light", "dark"]
Viewport = tuple[int, int]

START_S = 60
LOST_S = 10  # after which a kernel's first answer is taken for lost
CHROMIUM_FLAGS = [
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have a small one
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # also what the browser itself would like to fetch
]
URLS = {"lab": "/lab/workspaces/{workspace}/tree/{path}", "notebook": "/notebooks/{path}"}
MODULES = {"lab": "jupyterlab", "notebook": "notebook"}


@contextmanager
def launched_browser(chromium: str) -> Iterator[Browser]:
    """Start the program `chromium`; one at a time, because Playwright's loop cannot run twice in a thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Lab:
    """A server of JupyterLab, or of Notebook 7, and the pages that are open on it.

    Parameters
    ----------
    browser
        From `launched_browser`.
    root
        The folder that the server serves; notebooks to open lie below it.
    env
        The server's environment, from `isolated_environment`.
    """

    def __init__(self, browser: Browser, root: Path, env: Mapping[str, str], app: App = "lab") -> None:
        self.root = root
        self.env = env
        self.app = app
        self.token = uuid.uuid4().hex
        self._browser = browser
        self._log = Path(env["JUPYTER_RUNTIME_DIR"]) / "server.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._server = self._start_server()
        try:
            self.url = self._wait_for_server()
        except BaseException:
            self._server.kill()
            self._server.wait()
            raise

    def open(
        self,
        path: Path,
        *,
        theme: Theme = "light",
        viewport: Viewport = (1400, 1000),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        kernel: bool = True,
        timeout_s: float = 60,
    ) -> "Notebook":
        """Open a notebook below the root and wait until its kernel is ready, or without one.

        `settings` are JupyterLab's, by plugin: `{"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}`.
        """
        themes = {"theme": f"JupyterLab {theme.title()}", "adaptive-theme": False}
        self._write_settings({"@jupyterlab/apputils-extension:themes": themes, **(settings or {})})
        size = {"width": viewport[0], "height": viewport[1]}
        context = self._browser.new_context(viewport=size, color_scheme=theme, service_workers="block")  # type: ignore[arg-type]
        notebook = Notebook(self, context, path.relative_to(self.root).as_posix())
        try:
            notebook._load(timeout_s, kernel=kernel)
        except BaseException:
            notebook.close()
            raise
        return notebook

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask the server's REST interface."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def close(self) -> None:
        """End the server and its kernels."""
        self._server.terminate()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start_server(self) -> subprocess.Popen[bytes]:
        self._write_settings({})
        arguments = [
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            "--port=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.root}",
        ]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", MODULES[self.app], *arguments],
                cwd=self.root,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_for_server(self) -> str:
        """Return the server's address: it chooses the port itself, and writes it down when it listens."""
        info = Path(self.env["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{self._server.pid}.json"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._server.poll() is None:
            if info.exists() and (text := info.read_text()):
                return f"http://127.0.0.1:{json.loads(text)['port']}"
            time.sleep(0.05)  # a file of another program gives no event
        raise RuntimeError(f"the Jupyter server did not start:\n{self._log.read_text()[-3000:]}")

    def _write_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        folder = Path(self.env["JUPYTERLAB_SETTINGS_DIR"])
        shutil.rmtree(folder, ignore_errors=True)  # what one test sets does not reach the next
        quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
        for plugin, values in (quiet | dict(settings)).items():
            package, name = plugin.split(":")
            file = folder / package / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))


class Notebook:
    """A notebook open in the browser. Cells are counted from 0; `page` is Playwright's, for everything else."""

    def __init__(self, lab: Lab, context: BrowserContext, path: str) -> None:
        self.lab = lab
        self.path = path
        self.refused: list[str] = []  # requests that would have left the machine
        self.errors: list[str] = []  # the page's console errors and uncaught exceptions
        self._context = context
        self._fresh = True
        # An expression, because the browser's driver matches it itself: a function would be asked about each request.
        elsewhere = re.compile(rf"^(?!(http|ws)://{re.escape(lab.url.removeprefix('http://'))}/|data:|blob:)")
        context.route(elsewhere, self._refuse)
        context.route_web_socket(elsewhere, self._refuse_socket)
        self.page: Page = context.new_page()
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """Where a cell's outputs are; for widgets: `notebook.output(0).get_by_role("button", name="Cancel")`."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def outputs(self, index: int) -> list[str]:
        """Return the text of each output of a cell, as it is seen."""
        return [text.rstrip("\n") for text in self.cell(index).locator(".jp-OutputArea-output").all_inner_texts()]

    def run(self, index: int, *, wait: bool = True, timeout_s: float = 30) -> None:
        """Run a cell as a person does: click into it, Control+Enter."""
        # Emptied, so that a number in it can only come from this run, also when a restarted kernel counts from 1 again.
        self._prompt(index).evaluate("prompt => { prompt.textContent = '' }")
        self._ask_to_run(index)
        if wait and self._fresh:
            self._fresh = False
            try:
                self.wait_for_cell(index, min(timeout_s, LOST_S))
            except AssertionError:
                if self._kernel()["execution_state"] == "idle":
                    self._wake_kernel()
        if wait:
            self.wait_for_cell(index, timeout_s)

    def _wake_kernel(self) -> None:
        """Connect to the kernel once more, and leave.

        ipykernel 7.0 to 7.3 may not read a request that arrives while an answer leaves, until somebody else connects
        (ipykernel#1554); each new connection is such a moment. It happens to a page's first requests, also without
        this extension.
        """
        address = f"{self.lab.url}/api/kernels/{self._kernel()['id']}/channels?token={self.lab.token}"
        self.page.evaluate(
            """address => new Promise(done => {
                const socket = new WebSocket(address);
                socket.onopen = socket.onerror = () => { socket.close(); done(); };
            })""",
            address.replace("http://", "ws://"),
        )

    def _ask_to_run(self, index: int) -> None:
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def wait_for_cell(self, index: int, timeout_s: float = 30) -> None:
        """Wait until a cell that was run has ended."""
        expect(self._prompt(index)).to_have_text(re.compile(r"^\[\d+\]:?$"), timeout=timeout_s * 1000)

    def write(self, index: int, source: str) -> None:
        """Replace a cell's source."""
        self.cell(index).locator(".cm-content").fill(source)

    def wait_idle(self, timeout_s: float = 30) -> None:
        """Wait until the kernel has nothing to do, as the server and the page see it."""
        began, woken = time.monotonic(), False
        while not self._is_idle():
            waited = time.monotonic() - began
            if waited > timeout_s:
                raise TimeoutError(f"the kernel of {self.path} was not idle within {timeout_s} s")
            if waited > LOST_S and self._fresh and not woken and self._kernel()["connections"]:
                self._wake_kernel()
                woken = True
            self.page.wait_for_timeout(50)  # lets the page's events in, which time.sleep would not

    def wait_kernel_idle(self, timeout_s: float = 30) -> None:
        """Wait until the kernel has nothing to do, as the server alone sees it; the page may be asleep."""
        deadline = time.monotonic() + timeout_s
        while self._kernel()["execution_state"] != "idle":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the kernel of {self.path} was not idle within {timeout_s} s")
            time.sleep(0.05)

    def interrupt(self) -> None:
        self.lab.api("POST", f"kernels/{self._kernel()['id']}/interrupt")

    def restart(self, timeout_s: float = 30) -> None:
        self.lab.api("POST", f"kernels/{self._kernel()['id']}/restart")
        self._fresh = True
        self.wait_idle(timeout_s)

    def save(self) -> NotebookNode:
        """Save as a person does; return what is on disk then."""
        self.page.keyboard.press("Escape")
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and self.path in answer.url):
            self.page.keyboard.press("Control+s")
        saved: NotebookNode = nbformat.read(self.lab.root / self.path, as_version=4)
        return saved

    def change_theme(self, name: str) -> None:
        """Choose a theme of JupyterLab from its menu, and wait until it is there."""
        page = self.page
        page.locator(".lm-MenuBar-item", has_text="Settings").click()
        page.locator(".lm-Menu-item[data-type=submenu]", has_text="Theme").first.hover()
        choices = page.locator(".lm-Menu-item[data-command='apputils:change-theme']")
        choices.filter(has_text=re.compile(f"^{name}\\s*$")).click()
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", name)
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)  # Lab covers the page while it loads a theme

    def screenshot(self, path: Path, index: int | None = None) -> Path:
        """Take a picture of the page, or of one cell."""
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.page if index is None else self.cell(index)).screenshot(path=path)
        return path

    def close(self) -> None:
        """Close the page and end the kernel."""
        self._context.close()
        if session := self._session():
            self.lab.api("DELETE", f"sessions/{session['id']}")

    def _load(self, timeout_s: float, *, kernel: bool) -> None:
        address = URLS[self.lab.app].format(workspace=uuid.uuid4().hex, path=self.path)
        self.page.goto(f"{self.lab.url}{address}?token={self.lab.token}", timeout=timeout_s * 1000)
        self.cell(0).wait_for(timeout=timeout_s * 1000)
        if kernel:
            self.wait_idle(timeout_s)
        else:
            choice = self.page.locator(".jp-Dialog")
            choice.get_by_role("button", name="No Kernel").click(timeout=timeout_s * 1000)
            expect(choice).to_have_count(0)

    def _prompt(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-InputArea-prompt")

    def _session(self) -> dict[str, Any] | None:
        sessions: Sequence[dict[str, Any]] = self.lab.api("GET", "sessions")
        return next((session for session in sessions if session["path"] == self.path), None)

    def _kernel(self) -> dict[str, Any]:
        session = self._session()
        return session["kernel"] if session else {"connections": 0}

    def _is_idle(self) -> bool:
        # The page says "idle" before it has a kernel, the server before the page is connected.
        kernel = self._kernel()
        return (
            kernel["connections"] > 0
            and kernel["execution_state"] == "idle"
            and self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count() > 0
        )

    def _refuse(self, route: Route) -> None:
        self.refused.append(route.request.url)
        route.abort()

    def _refuse_socket(self, socket: WebSocketRoute) -> None:
        self.refused.append(socket.url)
        socket.close()


def write_notebook(path: Path, cells: Sequence[str], env: Mapping[str, str], jupyter_data: Path) -> Path:
    """Write a notebook whose kernel has an environment of its own: a kernelspec can carry one, a session cannot."""
    name = f"test-{uuid.uuid4().hex}"
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "env": dict(env),
        "metadata": {"debugger": True},
    }
    folder = jupyter_data / "kernels" / name
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    metadata = {"kernelspec": {"name": name, "display_name": spec["display_name"], "language": "python"}}
    sources = [nbformat.v4.new_code_cell(source) for source in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=sources, metadata=metadata), path)
    return path
