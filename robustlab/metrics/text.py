"""How near a generated text is to its references, and how probable a model finds a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["RougeScores", "corpus_bleu", "perplexity", "rouge", "sentence_bleu"]


@dataclass(frozen=True, slots=True)
class RougeScores:
    """ROUGE F-measures, each in [0, 1]."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815  (the name the field knows it by)


def corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of a whole set of predictions, 0 to 100, as sacrebleu computes it.

    BLEU = 100 · BP · exp(¼ Σ ln p_n, n = 1 … 4): p_n is the share of the predictions' n-grams
    that stand in a reference, each counted at most as often as there (both counts summed over
    the set); BP = min(1, exp(1 - r/c)), with c the predictions' length in tokens and r that of
    the references nearest in length. Tokens are sacrebleu's ``13a``, cased; an order without a
    match is smoothed exponentially.

    ``references[i]`` holds one or more references of ``predictions[i]``; their number may differ.
    Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771.

    Raises :class:`ValueError` for no predictions, for lengths that differ, or for a prediction
    without a reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions and {len(references)} sets of references")
    if not all(references):
        raise ValueError("a prediction has no reference")
    most = max(len(group) for group in references)
    # sacrebleu wants one stream for each reference number. A shorter group repeats its last
    # reference: a repeated one changes neither the counts nor the nearest length.
    streams = [
        [group[min(number, len(group) - 1)] for group in references] for number in range(most)
    ]
    # force: no warnings on stderr about texts that look tokenised; the value is the same.
    return float(BLEU(force=True).corpus_score(list(predictions), streams).score)


def sentence_bleu(prediction: str, references: Sequence[str]) -> float:
    """BLEU of one prediction, 0 to 100.

    :func:`corpus_bleu` of a single prediction, over the orders of n-grams that it is long enough
    to have (sacrebleu's effective order). BLEU was made for whole sets; use this to compare two
    versions of a text, not to average.
    """
    from sacrebleu.metrics.bleu import BLEU

    if not references:
        raise ValueError("the prediction has no reference")
    return float(BLEU(effective_order=True).sentence_score(prediction, list(references)).score)


def rouge(prediction: str, references: Sequence[str]) -> RougeScores:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures, each the maximum over the references.

    F = 2·P·R / (P + R). ROUGE-n: P and R are the shares of the prediction's and the reference's
    n-grams that are common to both; ROUGE-L: the length of their longest common subsequence over
    each one's length. Computed by rouge-score without stemming; its tokens are runs of the
    letters a to z and digits after lowering, so a text in another script scores 0.

    Lin 2004, https://aclanthology.org/W04-1013. Raises :class:`ValueError` without references.
    """
    from rouge_score.rouge_scorer import RougeScorer

    if not references:
        raise ValueError("the prediction has no reference")
    best = RougeScorer(["rouge1", "rouge2", "rougeL"]).score_multi(references, prediction)
    return RougeScores(*(float(best[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")))


def perplexity(log_prob_total: float, tokens: int) -> float:
    """exp(-L / T) for L, the summed natural log-probability of a text's T tokens.

    For a whole set sum L and T over its texts first: the perplexity of a set is no mean of
    perplexities. Infinite where it exceeds the largest float. Raises :class:`ValueError` if
    ``tokens`` is not positive.
    """
    if tokens <= 0:
        raise ValueError(f"a perplexity over {tokens} tokens")
    try:
        return math.exp(-log_prob_total / tokens)
    except OverflowError:
        return math.inf
