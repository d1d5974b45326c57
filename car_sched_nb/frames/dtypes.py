"""What pandas holds of what was read: one dtype for each kind of column, in pandas 2.2 and 3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


def texts(read: pa.ChunkedArray) -> Any:
    """Return text as pandas 3's `str`, with NaN where there is none; in pandas 2 as objects, with None."""
    import pandas as pd

    dtype: Any = pd.Series([], dtype="str").dtype
    return dtype.__from_arrow__(read) if hasattr(dtype, "__from_arrow__") else read.to_pandas().to_numpy()


def few_texts(read: pa.ChunkedArray, names: Mapping[str, str] | None = None) -> Any:
    """Return text of which there are few different ones, each perhaps replaced by its name; NULL where it has none.

    All rows of a text share one object: half of the memory that a text in each row would take, or less.
    """
    import numpy as np
    import pandas as pd

    dtype: Any = pd.Series([], dtype="str").dtype
    missing = getattr(dtype, "na_value", None)
    values = read.chunk(0).dictionary.to_pylist() if read.num_chunks else []
    shared = np.empty(len(values) + 1, object)
    shared[:-1] = [names.get(value, missing) if names is not None else value for value in values]
    shared[-1] = missing
    found = np.empty(len(read), object)
    at = 0
    for chunk in read.chunks:
        places = chunk.indices.fill_null(len(values)) if chunk.null_count else chunk.indices
        np.take(shared, places.to_numpy(zero_copy_only=False), out=found[at : at + len(chunk)], mode="clip")
        at += len(chunk)
    if not isinstance(dtype, pd.StringDtype):
        return found
    return pd.array(found, dtype=pd.StringDtype("python", na_value=dtype.na_value))


def category(read: pa.ChunkedArray, kind: type[StrEnum]) -> pd.Categorical[Any]:
    """Return a categorical of a fixed set."""
    import numpy as np
    import pandas as pd

    names = [str(one) for one in kind]
    if not read.num_chunks:
        return pd.Categorical([], categories=names)
    places = np.array([names.index(value) for value in read.chunk(0).dictionary.to_pylist()], np.int8)
    codes: Any = places[np.concatenate([chunk.indices.to_numpy() for chunk in read.chunks])]
    made: pd.Categorical[Any] = pd.Categorical.from_codes(codes, categories=pd.Index(names))
    return made


def instants(read: np.ndarray[Any, Any]) -> pd.DatetimeIndex:
    """Return UTC microseconds as aware instants."""
    import pandas as pd

    return pd.DatetimeIndex(read.view("datetime64[us]"), tz="UTC", copy=False)


def lengths(read: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return microseconds as durations."""
    return read.view("timedelta64[us]")


def nullable(read: pa.ChunkedArray, dtype: str) -> Any:
    """Return numbers that may be missing as `Int64` or `Float64`."""
    import numpy as np
    import pandas as pd

    missing = read.is_null().to_numpy()
    filled = read.fill_null(0).to_numpy()
    if dtype == "Float64":
        return pd.arrays.FloatingArray(filled, missing)
    return pd.arrays.IntegerArray(filled.astype(np.int64), missing)


def mappings(read: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Return JSON objects; rows of the same text have the same object."""
    import numpy as np
    import pyarrow as pa

    if read.null_count == len(read):
        return np.full(len(read), {}, object)
    encoded = read.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = np.empty(len(encoded.dictionary) + 1, object)
    values[:-1] = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    values[-1] = {}
    taken: np.ndarray[Any, Any] = values.take(
        encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    )
    return taken
