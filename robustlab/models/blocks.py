"""Attention in blocks: only the pairs of tokens that a reader's mask allows are computed.

A reader's prompt is a question and passages; a passage attends to the question and to itself, the
question to everything, and what stands behind the prompt (the answer's side of a decoder-only
reader) to everything to its left. With a mask over the whole prompt most of the work is thrown
away: of five passages four fifths. Here the real tokens of a batch lie in one row, (N, W), and
the blocks of a kind are gathered from it and attended in one call.

Shapes: B prompts, S tokens of the longest, N real tokens of all, W width, G blocks of a call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Blocks", "block_attention", "lay_out", "split_heads"]

_Places: TypeAlias = NDArray[np.int64]


class _Call(NamedTuple):
    """Blocks that are attended together; places are those in the row of real tokens."""

    queries: Tensor
    """(G, longest), padded with place 0."""
    keys: Tensor
    """(G, longest), padded with place 0."""
    mask: Tensor
    """(G, 1, queries or 1, keys), True where a query may look."""


class Blocks(NamedTuple):
    """The real tokens of a batch in one row, and which of them attend to which."""

    real: Tensor
    """(N,), their places in the flattened batch (B · S)."""
    rows: Tensor
    """(B, S), the place of each token in the row of real ones; 0 for padding."""
    calls: tuple[_Call, ...]
    order: Tensor
    """(N,), where each real token's result stands in those of all calls."""

    def flat(self, values: Tensor) -> Tensor:
        """(B, S, …) -> (N, …): the real tokens alone."""
        return values.flatten(0, 1)[self.real]

    def dense(self, values: Tensor) -> Tensor:
        """(N, …) -> (B, S, …); what stands in places of padding means nothing."""
        return values[self.rows]


def lay_out(real: Tensor, segments: Tensor, tail: Tensor) -> Blocks:
    """Find the blocks of a batch.

    Args:
        real: (B, S), False for padding.
        segments: (B, S), 0 for the question, 1 … for the passages.
        tail: (B, S), True for what stands behind the prompt and is read causally.
    """
    device = real.device
    # One copy from the device: -1 for the tail, -2 for padding.
    kinds = segments.masked_fill(tail, -1).masked_fill(~real, -2).cpu().numpy()
    mask = kinds > -2
    rows = np.where(mask, np.cumsum(mask).reshape(mask.shape) - 1, 0)
    blocks = defaultdict[tuple[str, int], list[tuple[_Places, _Places]]](list)
    for own_row, own_kinds, kept in zip(rows, kinds, mask, strict=True):
        places, kind = own_row[kept], own_kinds[kept]
        question = places[kind == 0]
        blocks["question", 0].append((question, places[kind >= 0]))
        if (kind == -1).any():
            blocks["tail", 0].append((places[kind == -1], places))
        for number in range(1, int(kind.max(initial=0)) + 1):
            own = places[kind == number]
            # Passages up to twice as long share a call: one long passage does not stretch all.
            blocks["passage", len(own).bit_length()].append((own, np.concatenate([question, own])))
    order = np.zeros(int(mask.sum()), dtype=np.int64)
    calls, begin = [], 0
    for (kind, _), found in blocks.items():
        queries, asked = _padded([own for own, _ in found])
        keys, seen = _padded([others for _, others in found])
        order[queries[asked]] = begin + np.flatnonzero(asked)
        begin += queries.size
        allowed = seen[:, None, :]
        if kind == "tail":
            # The tail's last token stands at the last key.
            ends = (seen.sum(1) - asked.sum(1))[:, None] + np.arange(queries.shape[1])
            allowed = allowed & (np.arange(keys.shape[1]) <= ends[:, :, None])
        parts = (queries, keys, allowed[:, None])
        calls.append(_Call(*(torch.from_numpy(part).to(device) for part in parts)))
    return Blocks(
        real=torch.from_numpy(np.flatnonzero(mask)).to(device),
        rows=torch.from_numpy(rows).to(device),
        calls=tuple(calls),
        order=torch.from_numpy(order).to(device),
    )


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, heads: int
) -> Tensor:
    """Attend within blocks; everything (N, W)."""
    results = []
    for call in blocks.calls:
        mixed = F.scaled_dot_product_attention(
            split_heads(query[call.queries], heads),
            split_heads(key[call.keys], heads),
            split_heads(value[call.keys], heads),
            attn_mask=call.mask,
        )
        results.append(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(results)[blocks.order]


def split_heads(states: Tensor, heads: int) -> Tensor:
    """(B, S, W) -> (B, heads, S, W / heads)."""
    batch, length, width = states.shape
    return states.view(batch, length, heads, width // heads).transpose(1, 2)


def _padded(rows: Sequence[_Places]) -> tuple[_Places, NDArray[np.bool_]]:
    """Rows of places as one array, (G, longest), and which of it is no padding."""
    lengths = np.array([len(row) for row in rows])
    kept = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.zeros(kept.shape, dtype=np.int64)
    padded[kept] = np.concatenate(rows)
    return padded, kept
