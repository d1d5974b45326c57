"""The small real model, fetched once by `%car model get` into the checkout's build folder."""

from pathlib import Path

import pytest
from filelock import FileLock

from car_sched_nb.runners import local_files

FOLDER = Path(__file__).parents[1] / "build" / "models"


def use_small_model(patch: pytest.MonkeyPatch) -> local_files.ModelFile:
    """Have this process, and the kernels that it starts, use the model there; fetch it when it is not."""
    patch.setenv("CAR_SCHED_NB_MODELS", str(FOLDER))
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / ".lock"):  # several workers of pytest
        return local_files.get()
