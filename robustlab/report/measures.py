"""A run's summary as rows for people: what each number is called and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Measure", "measures"]

# In the order to be shown; a name ending in "@" or "[" stands for all that begin with it.
_ORDER = (
    "clean_accuracy",
    "robust_accuracy",
    "certified_accuracy",
    "attack_success_rate",
    "targeted_success",
    "targeted_success_exact",
    "targeted_success_all",
    "untargeted_success",
    "success_if_retrieved",
    "success_if_read",
    "attacked_exact_match",
    "exact_match_difference",
    "mcnemar_p",
    "clean_f1",
    "attacked_f1",
    "clean_recall@",
    "attacked_recall@",
    "gold_retrieved",
    "gold_read",
    "poison_retrieved",
    "poison_read",
    "poison_precision",
    "poison_recall",
    "poison_f1",
    "clean_refusal_rate",
    "attacked_refusal_rate",
    "undefended_clean_accuracy",
    "undefended_robust_accuracy",
    "undefended_attack_success_rate",
    "undefended_poison_retrieved",
    "accuracy",
    "accuracy[",
    "exact_match",
    "f1",
    "bleu",
    "rouge1",
    "rouge2",
    "rougeL",
    "perplexity",
    "refusal_rate",
    "recall@",
    "success@",
    "ndcg@",
    "mrr",
    "groundedness",
    "hallucination_rate",
    "question_passage_relevance",
    "answer_question_relevance",
    "queries_mean",
    "queries_total",
    "queries_per_second",
    "items_per_second",
    "wall_seconds",
    "model_seconds",
)

# Rates are written as percentages; these scores and cosines as they are.
_PLAIN = ("ndcg", "mrr", "rouge", "question_passage_relevance", "answer_question_relevance")

_FORMS = {
    "bleu": "{:.1f}",
    "mcnemar_p": "{:.2g}",
    "perplexity": "{:.2f}",
    "queries_mean": "{:.1f}",
    "queries_total": "{:,.0f}",
    "queries_per_second": "{:,.0f}",
    "items_per_second": "{:,.1f}",
    "wall_seconds": "{:,.1f} s",
    "model_seconds": "{:,.1f} s",
}

_TROUBLE = ("errors", "unverified", "broken_constraints", "resumed", "fit_queries")

_NAMES = {
    "bleu": "BLEU",
    "f1": "F1",
    "clean_f1": "clean F1",
    "attacked_f1": "F1 under attack",
    "attacked_exact_match": "exact match under attack",
    "exact_match_difference": "difference in exact match",
    "attacked_refusal_rate": "refusal rate under attack",
    "mcnemar_p": "p-value of the difference",
    "poison_f1": "poison F1",
    "targeted_success": "targeted success (contained)",
    "targeted_success_all": "targeted success, all questions",
    "mrr": "MRR",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "errors": "errors, in no rate",
    "unverified": "successes not confirmed",
    "broken_constraints": "texts that broke a constraint",
    "fit_queries": "queries spent on fitting",
    "resumed": "outcomes found on resuming",
    "queries_mean": "mean queries",
    "queries_total": "queries in all",
    "queries_per_second": "queries/s",
    "items_per_second": "items/s",
    "wall_seconds": "time",
    "model_seconds": "in the model",
}


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: the number as text and, where it has them, its 95 % interval and its n."""

    name: str
    value: str
    interval: str = ""
    n: int | None = None
    bounds: tuple[float, float, float] | None = None
    """(low, value, high) of a number between 0 and 1, for drawing."""
    key: str = ""
    """What it is called in the summary, where it stands there."""


def measures(summary: Mapping[str, Any]) -> tuple[Measure, ...]:
    """The numbers of a summary in their usual order.

    Left out: entries that are no numbers, the number of examples, which is the n of a measure,
    and counts of trouble that did not occur.
    """
    found = (
        (key, _measure(key, entry))
        for key, entry in summary.items()
        if key not in ("items", "examples") and not (key in _TROUBLE and entry == 0)
    )
    named = [replace(measure, key=key) for key, measure in found if measure is not None]
    return tuple(sorted(named, key=lambda measure: _place(measure.key)))


def _measure(key: str, entry: Any) -> Measure | None:
    name = _NAMES.get(key, key.replace("ndcg@", "nDCG@").replace("_", " "))
    if isinstance(entry, Mapping) and {"value", "low", "high", "n"} <= entry.keys():
        value, low, high, n = (entry[part] for part in ("value", "low", "high", "n"))
        if value is None:
            return Measure(name, "–", n=n)
        form, scale, unit = ("{:.3f}", 1, "") if key.startswith(_PLAIN) else ("{:.1f}", 100, " %")
        if low is None or high is None:
            return Measure(name, _FORMS.get(key, "{:.3f}").format(value), n=n)
        return Measure(
            name,
            form.format(scale * value) + unit,
            f"{form.format(scale * low)} – {form.format(scale * high)}",
            n,
            (low, value, high),
        )
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        form = _FORMS.get(key, "{:,}" if isinstance(entry, int) else "{:,.3f}")
        return Measure(name, form.format(entry))
    return None


def _place(key: str) -> tuple[int, int, str]:
    """Where a measure stands: by kind, then by k (recall@10 after recall@5), then by name."""
    kind, at, cutoff = key.partition("@")
    kind = f"{kind}@" if at else key.partition("[")[0] + "[" if "[" in key else key
    kinds = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    return kinds, int(cutoff) if cutoff.isdecimal() else 0, key
