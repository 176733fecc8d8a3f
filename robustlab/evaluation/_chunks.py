"""Working through many items a few hundred at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["CHUNK", "chunks"]

CHUNK = 256
"""Items between two writes to the run: enough for full batches of similar length, and what an
interruption can lose."""

ItemT = TypeVar("ItemT")


def chunks(items: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    """Runs of at most :data:`CHUNK` items, in order."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
