"""Answers that are kept, so that nothing is read twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from robustlab.attack.items import bytes_of

__all__ = ["CACHE_BYTES", "AnswerCache"]

CACHE_BYTES = 2**28
"""Memory for answers, 256 MiB: half a million short texts, or some thousand gradients."""


class AnswerCache:
    """Answers by kind and item, the least recently used given up when they weigh too much."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[tuple[Hashable, Hashable], Any] = OrderedDict()

    def get(self, key: tuple[Hashable, Hashable]) -> Any:
        """The answer, which is now the last one to be given up; None if there is none."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: tuple[Hashable, Hashable], answer: Any) -> None:
        """Keep an answer that is not there, unless it is too large for the whole cache."""
        weight = _weight(key[1], answer)
        if weight > self._most_bytes:
            return
        self._answers[key] = answer
        self._bytes += weight
        while self._bytes > self._most_bytes:
            (_, item), oldest = self._answers.popitem(last=False)
            self._bytes -= _weight(item, oldest)


_ENTRY_BYTES = 200
"""What an entry weighs beside item and answer."""


def _weight(item: Hashable, answer: Any) -> int:
    return bytes_of(item) + bytes_of(answer) + _ENTRY_BYTES
