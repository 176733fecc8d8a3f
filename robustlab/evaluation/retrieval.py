"""How well a retriever finds the gold passages of questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustlab.data.records import Question
from robustlab.evaluation._chunks import chunks
from robustlab.metrics.intervals import Estimate, mean_estimate, rate
from robustlab.metrics.retrieval import (
    RankedQuestion,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
    success_at_k,
)
from robustlab.retrieval import Hit, Retriever

__all__ = [
    "CUTOFFS",
    "DEPTH",
    "ranking",
    "retrieval_outcomes",
    "summarise_retrieval",
]

CUTOFFS = (1, 3, 5, 10)
"""The k of recall@k and success@k; the pipeline's own top-k is added."""

DEPTH = 10
"""How deep nDCG@10 and MRR look."""


def retrieval_outcomes(
    retriever: Retriever, questions: Sequence[Question], known: Mapping[str, object], top_k: int
) -> Iterator[dict[str, Any]]:
    """One outcome for each question: what was retrieved for it, best first.

    ``known`` holds the ids of the corpus.
    """
    for chunk in chunks(questions):
        found = retriever.search([question.text for question in chunk], max(DEPTH, top_k))
        for question, hits in zip(chunk, found, strict=True):
            yield {
                "id": question.id,
                "question": question.text,
                **ranking(question, hits, known),
            }


def ranking(question: Question, hits: Sequence[Hit], known: Mapping[str, object]) -> dict[str, Any]:
    """The gold passages that the corpus has, the ranking, and the first gold passage's rank."""
    gold = [key for key in question.gold if key in known]
    return {
        "gold": gold,
        "retrieved": [hit.passage.id for hit in hits],
        "scores": [hit.score for hit in hits],
        "gold_rank": next((hit.rank for hit in hits if hit.passage.id in gold), None),
    }


def summarise_retrieval(outcomes: Sequence[Mapping[str, Any]], top_k: int) -> dict[str, Estimate]:
    """recall@k and success@k, nDCG@10 and MRR (over the first ten), as means over questions.

    Questions without a gold passage in the corpus are left out; ``n`` says how many remain.
    """
    ranked = [
        RankedQuestion(
            outcome["id"],
            tuple(outcome["gold"]),
            tuple(outcome["retrieved"]),
            tuple(outcome["scores"]),
        )
        for outcome in outcomes
        if outcome["gold"]
    ]
    first = [
        RankedQuestion(item.id, item.gold, item.ranked[:DEPTH], item.scores[:DEPTH])
        for item in ranked
    ]
    cutoffs = sorted({*CUTOFFS, top_k})
    estimates = {f"recall@{k}": mean_estimate(recall_at_k(ranked, k)) for k in cutoffs}
    for k in cutoffs:
        estimates[f"success@{k}"] = rate(int(sum(success_at_k(ranked, k))), len(ranked))
    estimates[f"ndcg@{DEPTH}"] = mean_estimate(ndcg_at_k(first, DEPTH))
    estimates["mrr"] = mean_estimate(reciprocal_rank(first))
    return estimates
