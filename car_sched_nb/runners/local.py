"""`--model local`: a small real model in this process, with no key and no network."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from car_sched_nb.errors import InvalidInput
from car_sched_nb.runners import local_files

if TYPE_CHECKING:
    from pydantic_ai.models import Model


def local_model(path: str | None = None) -> Model:
    """Return a model for pydantic-ai that llama.cpp runs in this process; its `system` is "local", its cost nothing.

    Quick: the file is loaded by the first request, once for all that use it, and given back after some idle minutes.
    A cancelled request has stopped generating when the cancellation comes through.

    Parameters
    ----------
    path
        A GGUF file (`--model local:PATH.gguf`); None is the small model that `%car model get` brings.

    Raises
    ------
    InvalidInput
        When the extra or the file is missing; it says what to type.
    """
    if not all(map(importlib.util.find_spec, ("xllamacpp", "pydantic_ai"))):
        raise InvalidInput(
            '--model local needs an engine; type: pip install "car-sched-nb[local]"  and then: %car model get'
        )
    file = local_files.find(path)
    from car_sched_nb.runners.local_chat import LocalModel

    return LocalModel(file)
