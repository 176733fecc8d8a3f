"""Texts cut into marked and unmarked pieces, for terminals and pages alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from robustlab.metrics.robustness import Span, changed_words

__all__ = ["Piece", "changed_pieces", "pieces"]

Piece: TypeAlias = tuple[str, bool]
"""A stretch of text, and whether it is marked."""


def pieces(text: str, spans: Sequence[Span]) -> Iterator[Piece]:
    """The text cut at sorted, disjoint spans into pieces, none of them empty."""
    done = 0
    for start, end in spans:
        if start > done:
            yield text[done:start], False
        if end > start:
            yield text[start:end], True
        done = end
    if done < len(text):
        yield text[done:], False


def changed_pieces(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both texts with the words marked that differ between them."""
    changes = changed_words(before, after)
    return (
        tuple(pieces(before, [change.original for change in changes])),
        tuple(pieces(after, [change.perturbed for change in changes])),
    )
