"""Other versions of ipykernel than the one of the lock file, each in a folder that is put before the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build/kernels"


class NotInstalled(Exception):
    """Raised when the package registry did not give what a version's file asks for; tells what was said."""


def install(version: str) -> Path:
    """Return the folder of ipykernel `version` ("7.2"), installed from its hashed file the first time."""
    wanted = HERE / f"ipykernel-{version}.txt"
    folder = FOLDER / version
    stamp = folder / wanted.name  # written last: what was cut short, or is of another file, is installed again
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv")  # an environment that uv made has no pip
    tool = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(folder)]
    done = subprocess.run(
        [*tool, *options, "--requirement", str(wanted)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotInstalled(f"ipykernel {version} could not be installed:\n{done.stderr[-2000:]}")
    shutil.copy(wanted, stamp)
    return folder


def environment(version: str) -> dict[str, str]:
    """Return what a kernel's environment needs for that version."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(install(version)), os.environ.get("PYTHONPATH")]))}
