"""What pandas holds of what was read: one dtype for each kind of column, in pandas 2.2 and 3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from car_sched_nb.frames.gathered import NOT_A_TIME, Codes, touch

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


def texts(read: pa.LargeStringArray) -> Any:
    """Return text as pandas 3's `str`, with NaN where there is none; in pandas 2 as objects, with None."""
    import pandas as pd

    dtype: Any = pd.Series([], dtype="str").dtype
    return dtype.__from_arrow__(read) if hasattr(dtype, "__from_arrow__") else read.to_pandas().to_numpy()


def few_texts(read: Codes, names: Mapping[str, str] | None = None) -> Any:
    """Return text of which there are few different ones, each perhaps replaced by its name; NULL where it has none.

    All rows of a text share one object: half of the memory that a text in each row would take, or less.
    """
    import numpy as np
    import pandas as pd

    dtype: Any = pd.Series([], dtype="str").dtype
    missing = getattr(dtype, "na_value", None)
    shared = np.empty(len(read.texts) + 1, object)
    shared[:-1] = read.texts if names is None else [names.get(value, missing) for value in read.texts]
    shared[-1] = missing  # where -1 points to
    if not isinstance(dtype, pd.StringDtype):
        return shared[read.places]
    # Only these few are checked to be text: to check each row would hold Python's lock for long.
    touch(len(read.places))
    return pd.array(shared, dtype=pd.StringDtype("python", na_value=dtype.na_value)).take(read.places)


def category(read: Codes, kind: type[StrEnum]) -> pd.Categorical[Any]:
    """Return a categorical of a fixed set."""
    import numpy as np
    import pandas as pd

    names = [str(one) for one in kind]
    places = np.array([*(names.index(value) for value in read.texts), -1], np.int8)
    codes: Any = places[read.places]
    made: pd.Categorical[Any] = pd.Categorical.from_codes(codes, categories=pd.Index(names))
    return made


def instants(read: np.ndarray[Any, Any]) -> pd.DatetimeIndex:
    """Return UTC microseconds as aware instants."""
    import pandas as pd

    return pd.DatetimeIndex(read.view("datetime64[us]"), tz="UTC", copy=False)


def between(begin: np.ndarray[Any, Any], end: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return from one UTC microsecond to the other as durations."""
    took: np.ndarray[Any, Any] = lengths(end) - lengths(begin)
    return took


def lengths(read: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return microseconds as durations."""
    return read.view("timedelta64[us]")


def nullable(read: np.ndarray[Any, Any]) -> Any:
    """Return numbers that may be missing as `Int64` or `Float64`."""
    import numpy as np
    import pandas as pd

    if read.dtype == np.int64:
        missing = read == NOT_A_TIME
        read[missing] = 0
        return pd.arrays.IntegerArray(read, missing)
    missing = np.isnan(read)
    read[missing] = 0.0
    return pd.arrays.FloatingArray(read, missing)


def mappings(read: pa.LargeStringArray) -> np.ndarray[Any, Any]:
    """Return JSON objects; rows of the same text have the same object."""
    import numpy as np

    touch(len(read))
    if read.null_count == len(read):
        return np.full(len(read), {}, object)
    encoded = read.dictionary_encode()
    values = np.empty(len(encoded.dictionary) + 1, object)
    values[:-1] = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    values[-1] = {}
    taken: np.ndarray[Any, Any] = values.take(
        encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    )
    return taken
