"""Finding prompts that begin alike, so that what they share need not be computed for each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["LEAST_SAVED", "LEAST_SHARE", "SharedPrefix", "share_prefixes"]

LEAST_SHARE = 0.25
"""The share of a group's tokens that its prefix must save."""
LEAST_SAVED = 256
"""The tokens that it must save, which pay for forward passes of the group's own."""


class SharedPrefix(NamedTuple):
    """Prompts that begin with the same tokens: ``rows`` by index, ``length`` of what they share."""

    rows: list[int]
    length: int


class _Run(NamedTuple):
    """Neighbours in sorted order, from ``start`` up to ``end``, and how much all of them share."""

    start: int
    end: int
    length: int

    @property
    def saved(self) -> int:
        """The tokens that need not be computed if what they share is read once."""
        return (self.end - self.start - 1) * self.length


def share_prefixes(
    prompts: Sequence[list[int]], lengths: Sequence[int]
) -> tuple[list[SharedPrefix], list[int]]:
    """Split prompts into groups worth reading behind a common prefix, and the others.

    The last token of a prompt is never part of a prefix, because an output is predicted from it.

    Args:
        prompts: their tokens, at least one each.
        lengths: tokens of each prompt together with its output.

    Returns:
        The groups that save at least :data:`LEAST_SHARE` of their tokens and
        :data:`LEAST_SAVED` tokens, and the indices of all other prompts; together every index
        once, in ascending order within each.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    shared = [_common(prompts[i], prompts[j]) for i, j in pairwise(order)]
    groups: list[SharedPrefix] = []
    for run in _most_saving(shared):
        rows = sorted(order[run.start : run.end])
        tokens = sum(lengths[row] for row in rows)
        if run.saved >= max(LEAST_SAVED, LEAST_SHARE * tokens):
            groups.append(SharedPrefix(rows, run.length))
    taken = {row for group in groups for row in group.rows}
    return groups, [row for row in range(len(prompts)) if row not in taken]


def _most_saving(shared: list[int]) -> list[_Run]:
    """Runs of sorted prompts that are worth a prefix of their own.

    Sorted prompts form a tree: those that share more lie within those that share less. A node
    of it becomes one run if that saves more tokens than the best runs within it do together.
    ``shared[i]`` says how many tokens the prompts i and i + 1 share.
    """
    # Open nodes from the root inwards: what they share, where they start, the runs within them.
    nodes: list[tuple[int, int, list[_Run]]] = []
    for place, common in enumerate([*shared, -1]):
        start, runs = place, list[_Run]()
        while nodes and nodes[-1][0] > common:
            length, start, earlier = nodes.pop()
            runs = earlier + runs
            whole = _Run(start, place + 1, length)
            if whole.saved > sum(run.saved for run in runs):
                runs = [whole]
        if nodes and nodes[-1][0] == common:
            nodes[-1][2].extend(runs)
        else:
            nodes.append((common, start, runs))
    return nodes[0][2]


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two prompts share from their beginning on, the last of either left out."""
    limit = min(len(first), len(second)) - 1
    if first[:limit] == second[:limit]:
        return limit
    return next(place for place in range(limit) if first[place] != second[place])
