"""How much a test tries: a sample in CI, all of it in `make test-long`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")
LONG = os.environ.get("CAR_TEST_LONG") == "1"


def by_scale(sample: T, all_of_it: T) -> T:
    """Return `sample` in an ordinary run and `all_of_it` in a long one."""
    return all_of_it if LONG else sample
