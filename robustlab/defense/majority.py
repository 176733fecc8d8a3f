"""Majority vote: each passage answers alone, and the answer most of them give is the answer.

The simplest of the aggregations in Xiang et al. 2024, arXiv:2405.15556.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustlab.data.records import content_hash
from robustlab.defense.certificates import Certificate, Corruption
from robustlab.defense.isolation import REFUSAL, Alone, as_votes, combined, read_alone
from robustlab.defense.protocols import Vote
from robustlab.metrics.answers import normalise
from robustlab.rag.pipeline import RagAnswer, RagPipeline
from robustlab.retrieval import Hit

__all__ = ["MajorityVote", "reachable_winners"]


class MajorityVote:
    """Each passage that is not silent has one vote, for its answer after normalisation.

    The answer with the most votes is given, as its best-ranked passage writes it; of several with
    as many votes, the one whose passage stands first; without any vote, ``no answer``.

    Args:
        name: what it is called.
        doubt: a passage is silent if it gives ``no answer`` a probability above this.
    """

    def __init__(self, name: str, doubt: float) -> None:
        self.name = name
        self._doubt = doubt

    def describe(self) -> Mapping[str, Any]:
        """Name and number."""
        return {"name": self.name, "kind": "majority-vote", "doubt": self._doubt}

    def fingerprint(self) -> str:
        """Hash of what decides its answers."""
        return content_hash(["majority-vote", repr(self._doubt)])

    def read(
        self, pipeline: RagPipeline, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]
    ) -> list[RagAnswer]:
        """The winners."""
        read = read_alone(pipeline, questions, ranked, self._doubt)
        return [_winner(question, alone) for question, alone in zip(questions, read, strict=True)]

    def votes(self, pipeline: RagPipeline, question: str, hits: Sequence[Hit]) -> tuple[Vote, ...]:
        """Each passage's answer."""
        (alone,) = read_alone(pipeline, [question], [hits], self._doubt)
        return as_votes(alone, _winner(question, alone).answer)

    def certify(
        self,
        pipeline: RagPipeline,
        questions: Sequence[str],
        ranked: Sequence[Sequence[Hit]],
        corruption: Corruption,
    ) -> list[Certificate]:
        """Which answers can win; see :func:`reachable_winners`."""
        certificates = []
        for alone in read_alone(pipeline, questions, ranked, self._doubt):
            votes = [_vote(item) for item in alone]
            certificates.append(
                Certificate.union(
                    reachable_winners((votes[place] for place in case.kept), case.added)
                    for case in corruption.cases(len(alone))
                )
            )
        return certificates


def reachable_winners(votes: Iterable[str | None], added: int) -> frozenset[str] | None:
    """The answers that can win when ``added`` voters more say what they like, or nothing.

    ``votes``: those of the clean passages, None for silent ones. None if any answer can win.

    Let c(a) be the clean votes for a. Each new voter adds at most one vote to one answer, so an
    answer w ends with at most c(w) + added votes and every other a with at least c(a). If w wins,
    under whatever rule for ties, it has at least as many votes as each other; hence
    c(w) + added ≥ c(a) for all a ≠ w. The answers that satisfy this include every possible winner.
    One without a clean vote satisfies it if ``added`` ≥ max c, and then anything can win.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    if added and added >= most:
        return None
    if not counts:
        return frozenset({REFUSAL})
    return frozenset(answer for answer, count in counts.items() if count + added >= most)


def _vote(item: Alone) -> str | None:
    return None if item.silent else normalise(item.answer.answer)


def _winner(question: str, alone: Sequence[Alone]) -> RagAnswer:
    first: dict[str, Alone] = {}
    counts: Counter[str] = Counter()
    for item in alone:
        vote = _vote(item)
        if vote is not None:
            first.setdefault(vote, item)
            counts[vote] += 1
    if not counts:
        return combined(question, alone, REFUSAL, log_prob=0.0, tokens=1, margin=float("inf"))
    # The first of those with most votes: insertion order is that of the passages.
    best = max(counts, key=lambda vote: counts[vote])
    said = first[best].answer
    return combined(
        question, alone, said.answer, log_prob=said.log_prob, tokens=said.tokens, margin=said.margin
    )
