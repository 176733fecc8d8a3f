"""Which split is used, and which of its items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from robustlab.data.records import Corpus, Question
from robustlab.errors import UserError

__all__ = ["ONLY_SPLIT", "choose_split", "sample", "select_split"]

ONLY_SPLIT = "all"
"""The split of a source that has none of its own, such as a single file."""


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=_Identified)


def choose_split(asked: str | None, available: Iterable[str], name: str) -> str:
    """The split to use: the one asked for, else ``test``, else ``validation``.

    A source that has no splits of its own is taken whole. Training data are never taken unless
    they are asked for.
    """
    splits = list(available)
    if asked is not None:
        if asked in splits:
            return asked
        raise UserError(f"{name} has no split {asked!r}; it has: {', '.join(splits) or 'none'}")
    for default in ("test", "validation", ONLY_SPLIT):
        if default in splits:
            return default
    raise UserError(
        f"{name} has neither a test nor a validation split; choose one of its own with --split: "
        f"{', '.join(splits) or 'none'}"
    )


def select_split(corpus: Corpus, split: str | None = None) -> tuple[str, tuple[Question, ...]]:
    """Name and questions of one split of a corpus, by the rule of :func:`choose_split`."""
    if not corpus.questions:
        raise UserError(f"the corpus {corpus.name} has passages but no questions")
    chosen = choose_split(split, corpus.questions, f"the corpus {corpus.name}")
    return chosen, corpus.questions[chosen]


def sample(items: Sequence[ItemT], limit: int | None, seed: int) -> tuple[ItemT, ...]:
    """The first ``limit`` items after a seeded shuffle; all in their own order without a limit.

    The shuffle orders by SHA-256 of seed and id, so it is the same on every machine and Python
    version, a smaller sample is the beginning of a larger one, and adding an item to the set
    does not reorder the others.
    """
    if limit is None:
        return tuple(items)
    if limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")

    def place(item: ItemT) -> bytes:
        return hashlib.sha256(f"{seed}:{item.id}".encode()).digest()

    return tuple(sorted(items, key=place)[:limit])
