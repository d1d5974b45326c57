"""Kernels for the tests of this folder: in a folder of the test's own, with a store of its own."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.isolation import isolated_environment
from tests.kernel.kernel import Kernel


class StartKernel(Protocol):
    def __call__(self, *, workdir: Path | None = None, env: Mapping[str, str] | None = None) -> Kernel: ...


@pytest.fixture
def start_kernel(tmp_path: Path) -> Iterator[StartKernel]:
    """Start any number of kernels, by default all with one folder and one store; `env` is added to theirs."""
    kernels = []

    def start(*, workdir: Path | None = None, env: Mapping[str, str] | None = None) -> Kernel:
        folder = workdir or tmp_path / "work"
        folder.mkdir(exist_ok=True)
        kernels.append(Kernel(folder, isolated_environment(tmp_path) | dict(env or {})))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.stop()


@pytest.fixture
def kernel(start_kernel: StartKernel) -> Kernel:
    return start_kernel()
