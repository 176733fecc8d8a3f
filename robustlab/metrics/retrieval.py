"""How well a ranking finds the relevant (gold) passages of a question.

Two numbers go by the name of recall in the literature, and they differ as soon as a question has
several gold passages. Here and in every report **recall@k** is the share of the gold passages
among the first k (TREC, BEIR), and **success@k** says whether at least one is there, which is
what dense retrieval papers call top-k accuracy and all that a reader needs when each gold passage
states the answer. With one gold passage the two are equal.

Every function returns one value for each question, in order, so that intervals
(:func:`robustlab.metrics.intervals.mean_estimate`) and paired comparisons can be computed from
them. The numbers come from trec_eval by way of ir-measures (MacAvaney et al. 2022,
arXiv:2111.13466); relevance is binary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ir_measures.measures import Measure

__all__ = ["RankedQuestion", "ndcg_at_k", "recall_at_k", "reciprocal_rank", "success_at_k"]


@dataclass(frozen=True, slots=True)
class RankedQuestion:
    """A question's gold passages and what was retrieved for it.

    ``ranked`` holds passage ids, best first, without repetition; ``scores`` the retriever's score
    of each. The order of ``ranked`` is the ranking: the scores break no ties and reorder
    nothing. A question without a gold passage has no retrieval score and is refused.
    """

    id: str
    gold: tuple[str, ...]
    ranked: tuple[str, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no measure is defined for."""
        if not self.gold:
            raise ValueError(f"question {self.id!r} has no gold passage")
        if len(self.ranked) != len(self.scores):
            raise ValueError(
                f"question {self.id!r}: {len(self.ranked)} passages and {len(self.scores)} scores"
            )
        if len(set(self.ranked)) != len(self.ranked):
            raise ValueError(f"question {self.id!r}: a passage is ranked twice")


def recall_at_k(questions: Sequence[RankedQuestion], k: int) -> list[float]:
    """recall@k = |G ∩ T_k| / |G|: share of the gold passages G among the first k, T_k.

    At most k / |G|, so below 1 for a question with more than k gold passages.
    """
    from ir_measures import R

    return _per_question(questions, R @ _positive(k))


def success_at_k(questions: Sequence[RankedQuestion], k: int) -> list[float]:
    """success@k = [G ∩ T_k ≠ ∅]: 1 if any gold passage is among the first k, else 0."""
    from ir_measures import Success

    return _per_question(questions, Success @ _positive(k))


def ndcg_at_k(questions: Sequence[RankedQuestion], k: int) -> list[float]:
    """nDCG@k = DCG@k / iDCG@k, with DCG@k = Σ g_i / log₂(i + 1) over the ranks i = 1 … k.

    g_i is 1 if the passage at rank i is gold, else 0; iDCG@k is the DCG@k of a ranking that
    begins with all gold passages. Järvelin & Kekäläinen 2002, doi:10.1145/582415.582418.
    """
    from ir_measures import nDCG

    return _per_question(questions, nDCG @ _positive(k))


def reciprocal_rank(questions: Sequence[RankedQuestion]) -> list[float]:
    """1 / (rank of the first gold passage), 0 if none was retrieved; the mean is MRR.

    It sees as far as the ranking goes: over ten retrieved passages the mean is MRR@10.
    """
    from ir_measures import RR

    return _per_question(questions, RR)


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"a cut-off of {k} passages")
    return k


def _per_question(questions: Sequence[RankedQuestion], measure: Measure) -> list[float]:
    import ir_measures

    # Numbered, so that a question may stand twice. Scores made from the ranks, because trec_eval
    # sorts by score in single precision and breaks ties by passage id.
    relevant = {str(n): dict.fromkeys(q.gold, 1) for n, q in enumerate(questions)}
    run = {
        str(n): {passage: float(-rank) for rank, passage in enumerate(q.ranked)}
        for n, q in enumerate(questions)
    }
    values = [0.0] * len(questions)
    if questions:
        for metric in ir_measures.iter_calc([measure], relevant, run):
            values[int(metric.query_id)] = float(metric.value)
    return values
