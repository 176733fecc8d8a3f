"""Measures: pure functions from answers, texts, rankings and outcomes to numbers.

Each function's docstring holds its formula. Nothing here touches a model or a file.
"""

from __future__ import annotations

from robustlab.metrics.answers import contains_answer, exact_match, normalise, token_f1
from robustlab.metrics.grounding import (
    groundedness,
    hallucination_rate,
    is_refusal,
    relevance,
    supported,
)
from robustlab.metrics.intervals import Estimate, clustered_rate, mean_estimate, rate
from robustlab.metrics.paired import PairedCounts, holm, mcnemar_exact, paired_difference
from robustlab.metrics.retrieval import (
    RankedQuestion,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
    success_at_k,
)
from robustlab.metrics.robustness import (
    RobustnessSummary,
    Status,
    WordChange,
    changed_words,
    edit_rate,
    robustness_summary,
)
from robustlab.metrics.roc import RocCurve, auc, roc_curve
from robustlab.metrics.text import RougeScores, corpus_bleu, perplexity, rouge, sentence_bleu

__all__ = [
    "Estimate",
    "PairedCounts",
    "RankedQuestion",
    "RobustnessSummary",
    "RocCurve",
    "RougeScores",
    "Status",
    "WordChange",
    "auc",
    "changed_words",
    "clustered_rate",
    "contains_answer",
    "corpus_bleu",
    "edit_rate",
    "exact_match",
    "groundedness",
    "hallucination_rate",
    "holm",
    "is_refusal",
    "mcnemar_exact",
    "mean_estimate",
    "ndcg_at_k",
    "normalise",
    "paired_difference",
    "perplexity",
    "rate",
    "recall_at_k",
    "reciprocal_rank",
    "relevance",
    "robustness_summary",
    "roc_curve",
    "rouge",
    "sentence_bleu",
    "success_at_k",
    "supported",
    "token_f1",
]
