"""Passages kept in a file and read one by one, so that a large corpus need not be in memory."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from robustlab.data.records import Passage

__all__ = ["PassageFile", "write_passages"]

_LINES = "passages.jsonl"
_OFFSETS = "passages.npy"


def write_passages(folder: Path, passages: Iterable[Passage]) -> None:
    """Write ``passages.jsonl`` and the byte offset of every line, ``passages.npy`` (int64)."""
    offsets = [0]
    with (folder / _LINES).open("wb") as file:
        for passage in passages:
            record = {"_id": passage.id, "title": passage.title, "text": passage.text}
            file.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
            offsets.append(file.tell())
    np.save(folder / _OFFSETS, np.asarray(offsets, dtype=np.int64))


class PassageFile(Sequence[Passage]):
    """What :func:`write_passages` wrote, memory-mapped; a passage is parsed when it is asked for.

    Raises ``ValueError`` if the two files do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        with (folder / _LINES).open("rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r", allow_pickle=False)
        if self._offsets.ndim != 1 or self._offsets[-1] != len(self._lines):
            raise ValueError(f"{_OFFSETS} does not belong to {_LINES}")

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        """One passage, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, stop = int(self._offsets[index]), int(self._offsets[index + 1])
        record = json.loads(self._lines[start:stop])
        return Passage(record["_id"], record["title"], record["text"])
