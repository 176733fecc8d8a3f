"""Packing items into forward passes by token budget."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DEFAULT_BATCH_TOKENS", "pack"]

DEFAULT_BATCH_TOKENS = 4096
"""Tokens in a forward pass, padding included, unless the caller says otherwise."""


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Split items into batches of similar length.

    Items are sorted by length (ties by index) and cut into runs so that rows × longest row is
    at most ``batch_tokens``; an item longer than that is a batch of its own. Batches are padded
    to their own longest row and never to a fixed length.

    Args:
        lengths: the length of each item in tokens, not negative.
        batch_tokens: the most tokens a batch may have with its padding, at least 1.

    Returns:
        Lists of indices into ``lengths``, shortest items first; together a permutation.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, not {batch_tokens}")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Sorted ascending: the newcomer is the longest row of the batch it would join.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
