"""Finds the system's Chromium for the tests; `python -m tests.browser.chromium` installs it where that is possible."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
]
MISSING = (
    "No Chromium: the tests in tests/browser cannot run. Install `chromium` or `google-chrome` "
    "(Debian: apt-get install chromium), or name its program: CHROMIUM=/path/to/chrome make test"
)


def find_chromium() -> str | None:
    """Return the browser's program: what CHROMIUM names, or else the first of the known names that is there."""
    named = os.environ.get("CHROMIUM")
    return next((path for name in ([named] if named else NAMES) if (path := shutil.which(name))), None)


def is_required() -> bool:
    """Whether a missing browser is an error: a skip that nobody reads would hide that nothing was tested."""
    return os.environ.get("CI") == "true"


def install() -> None:
    """Install Debian's package, as root."""
    # Debian's own name: elsewhere the package of this name can be a stub without a browser.
    if os.geteuid() or not Path("/etc/debian_version").exists() or not shutil.which("apt-get"):
        return
    for command in (["update"], ["install", "--yes", "chromium"]):
        subprocess.run(
            ["apt-get", "--quiet", *command],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            check=False,  # what counts is whether there is a browser afterwards
        )


def main() -> int:
    """Tell which browser the tests will use; 1 when there is none and one is required."""
    if not find_chromium() and not os.environ.get("CHROMIUM"):
        install()
    found = find_chromium()
    print(f"Browser for the tests: {found}" if found else f"\n{'!' * 100}\n{MISSING}\n{'!' * 100}\n", file=sys.stderr)
    return int(not found and is_required())


if __name__ == "__main__":
    sys.exit(main())
