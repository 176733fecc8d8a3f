"""Packing items into forward passes by token budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_BATCH_TOKENS", "default_batch_tokens", "pack"]

DEFAULT_BATCH_TOKENS = 4096
"""Tokens in a forward pass on a CPU, padding included, unless the caller says otherwise."""

_CUDA_BATCH_TOKENS = 16_384


def default_batch_tokens(device: torch.device) -> int:
    """Tokens in a forward pass where the caller does not say.

    A GPU gets four times as many as a CPU: a small model is through with a CPU's share before
    Python has sent it the next one. More would take memory that a large model has not got.
    """
    return _CUDA_BATCH_TOKENS if device.type == "cuda" else DEFAULT_BATCH_TOKENS


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
