"""What an attack did to a target, from the outcomes of its examples, and how much it changed.

The definitions of the rates follow TextAttack (Morris et al. 2020, arXiv:2005.05909).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from robustlab.metrics.intervals import Estimate, rate

__all__ = [
    "STATUSES",
    "RobustnessSummary",
    "Span",
    "Status",
    "WordChange",
    "changed_words",
    "edit_rate",
    "robustness_summary",
]

Status: TypeAlias = Literal["succeeded", "failed", "skipped", "error"]
"""How an attack on one example ended.

*succeeded*: the target was right and the attack made it wrong; *failed*: the target stayed right
within the budget; *skipped*: the target was wrong without an attack; *error*: the example could
not be attacked or judged.
"""

STATUSES: tuple[Status, ...] = get_args(Status)

Span: TypeAlias = tuple[int, int]
"""Start and end of a stretch of characters, end excluded."""


@dataclass(frozen=True, slots=True)
class RobustnessSummary:
    """The three rates of an attack, and how many examples are in none of them.

    ``errors`` is counted apart and left out of every denominator: what could not be judged is
    neither robust nor broken. Report it beside the rates; with many errors they describe
    only the examples that went well.
    """

    clean_accuracy: Estimate
    robust_accuracy: Estimate
    attack_success_rate: Estimate
    errors: int

    def as_json(self) -> dict[str, object]:
        """The fields as they go into ``summary.json``."""
        return {
            "clean_accuracy": self.clean_accuracy.as_json(),
            "robust_accuracy": self.robust_accuracy.as_json(),
            "attack_success_rate": self.attack_success_rate.as_json(),
            "errors": self.errors,
        }


def robustness_summary(statuses: Iterable[str] | Mapping[str, int]) -> RobustnessSummary:
    """Rates from the status of each example, or from how many have each, with Wilson's intervals.

    With S succeeded, F failed and K skipped, and n = S + F + K:

    - clean accuracy = (S + F) / n, right without an attack;
    - robust accuracy (accuracy under attack) = F / n, right in spite of the attack;
    - attack success rate = S / (S + F), over the examples worth attacking.

    Examples with status ``error`` are in none of these. A rate over nothing is ``nan`` with
    n = 0. Raises :class:`ValueError` for a status that does not exist.
    """
    counts = Counter(statuses)
    unknown = sorted(set(counts) - set(STATUSES))
    if unknown:
        raise ValueError(f"no such status: {unknown[0]!r}; there are: {', '.join(STATUSES)}")
    succeeded, failed = counts["succeeded"], counts["failed"]
    judged = succeeded + failed + counts["skipped"]
    return RobustnessSummary(
        clean_accuracy=rate(succeeded + failed, judged),
        robust_accuracy=rate(failed, judged),
        attack_success_rate=rate(succeeded, succeeded + failed),
        errors=counts["error"],
    )


@dataclass(frozen=True, slots=True)
class WordChange:
    """One word replaced, deleted or inserted, as character spans in the two texts.

    A deleted word has an empty span in ``perturbed``, an inserted one in ``original``; it lies
    where the word would follow the one before it.
    """

    original: Span
    perturbed: Span


def changed_words(original: str, perturbed: str) -> tuple[WordChange, ...]:
    """The fewest word changes that turn ``original`` into ``perturbed``, in order.

    Words are what stands between white space, compared as they are, so case and punctuation
    count and the amount of space does not. Of several shortest ways one is chosen, always the
    same.
    """
    before = [match.span() for match in re.finditer(r"\S+", original)]
    after = [match.span() for match in re.finditer(r"\S+", perturbed)]
    edits = _shortest_edits(
        [original[slice(*span)] for span in before], [perturbed[slice(*span)] for span in after]
    )
    return tuple(
        WordChange(_span_of(before, i, edit != "insert"), _span_of(after, j, edit != "delete"))
        for edit, i, j in edits
    )


def edit_rate(original: str, perturbed: str) -> float:
    """Word changes for each word of the original: d(w, w*) / max(1, |w|).

    d is the Levenshtein distance (1966) between the two sequences of words w and w*, split at
    white space: replacements, deletions and insertions count one each. 0 for the same words;
    above 1 where more words were inserted than the original has.
    """
    return len(changed_words(original, perturbed)) / max(1, len(original.split()))


_Edit: TypeAlias = Literal["replace", "delete", "insert"]


def _shortest_edits(before: list[str], after: list[str]) -> list[tuple[_Edit, int, int]]:
    """A shortest edit script in order: (edit, index in before, index in after).

    Ukkonen's algorithm (1985, doi:10.1016/S0019-9958(85)80046-2): round e holds, for each diagonal
    k = j - i, the largest i so that the first i words of ``before`` and the first j of ``after``
    are e edits apart. For d edits the work grows with d² plus the length, where the full table
    takes the product of both lengths; texts under attack are long and d is small.
    """
    n, m = len(before), len(after)

    def slide(i: int, k: int) -> int:
        while i < n and i + k < m and before[i] == after[i + k]:
            i += 1
        return i

    ends = {0: slide(0, 0)}  # of this round: diagonal -> i
    history: list[dict[int, tuple[_Edit, int]]] = []  # each round: diagonal -> its last edit, and i
    while ends.get(m - n, -1) < n:
        last, ends = ends, {}
        steps: dict[int, tuple[_Edit, int]] = {}
        edits = len(history) + 1
        for k in range(max(-edits, -n), min(edits, m) + 1):
            # A replacement comes first and wins ties: the word stays paired with its original.
            edit: _Edit = "replace"
            i = last.get(k, n) + 1
            if i > n or i + k > m:
                i = -1
            if i <= (end := last.get(k + 1, -2)) < n:
                edit, i = "delete", end + 1
            if i < (end := last.get(k - 1, -2)) <= m - k:
                edit, i = "insert", end
            if i >= 0:
                steps[k] = edit, i
                ends[k] = slide(i, k)
        history.append(steps)

    script: list[tuple[_Edit, int, int]] = []
    k = m - n
    for steps in reversed(history):
        edit, i = steps[k]
        script.append((edit, i - (edit != "insert"), i + k - (edit != "delete")))
        k += (edit == "delete") - (edit == "insert")
    return script[::-1]


def _span_of(spans: list[Span], index: int, present: bool) -> Span:
    """The span of a word; for an absent one the empty span behind the word before."""
    if present:
        return spans[index]
    end = spans[index - 1][1] if index else 0
    return end, end
