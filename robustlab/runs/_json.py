"""JSON as run directories hold it: standard JSON in UTF-8, whatever a value came from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeAlias

import numpy as np

__all__ = ["Json", "encode", "encode_pretty", "plain"]

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


def plain(value: object) -> Json:
    """A copy made of dict, list, str, int, float, bool and None alone.

    ``nan`` and infinities, which JSON does not have, become None. Tuples and arrays become lists,
    sets sorted lists, paths strings, NumPy scalars Python numbers. Anything else, and a key that
    is not a string, raises :class:`TypeError`.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} of a result is not a string")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"a result cannot hold a {type(value).__name__}: {value!r}")


def encode(value: object) -> bytes:
    """One line of JSON without a line break, keys in the order given."""
    return _bytes(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def encode_pretty(value: object) -> bytes:
    """Indented JSON with sorted keys and a final line break."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    return _bytes(text + "\n")


def _bytes(text: str) -> bytes:
    # Half of a surrogate pair, which an attack on characters can leave behind, has no UTF-8. It
    # can only stand inside a JSON string, where \udXXX is its escape and reads back the same.
    return text.encode("utf-8", "backslashreplace")
