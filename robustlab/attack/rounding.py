"""Answers that do not depend on what a text was batched with.

The shape of a batch decides how a matrix product is split up, and with it the last bits of every
result. A search compares scores, so these bits would choose between texts that the model reads as
the same, and the outcome would depend on the batch size. Attacks are therefore given rounded
values, in two steps:

1. Values are rounded to multiples of a step, on a scale on which noise is about equally large
   everywhere. Probabilities are rounded as log-odds against the most probable class (a sure
   classifier's probabilities differ only far behind the point), log-probabilities of outputs as
   means over their tokens. Texts of the same tokens become exact ties, which every search breaks
   by order.
2. Rounding alone only moves the problem to values on the border of two steps. So a text whose
   value lies within the noise of a border is asked for again, alone in its batch, where no
   neighbour can change it. So is a prompt whose greedy output hung on a lead within the noise.

What an attack sees is then a function of the text alone, as long as batching moves no value by
more than the noise allowed for. What it moved on the built-in models in fp32, passes of 128 to
8192 tokens against one text a pass, at the most:

- log-odds (300 texts): 7e-6, with :data:`NOISE` = 1e-5;
- log-probabilities, a token of the output (60 prompts, outputs of 2 to 38 tokens): 6e-6, with
  :data:`TOKEN_NOISE` = 1e-5. The sum moves the more, the longer the output: by up to 5e-5;
- the lead of the chosen token over the second best (same prompts): 1.4e-5, with
  :data:`MARGIN_NOISE` = 5e-5.

In bf16 log-odds moved by 6e-2: what is promised here holds for fp32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab.models.target import (
    FloatArray,
    Generations,
    Predictions,
    Replies,
    Retrieval,
    Retrievals,
    Scores,
)

__all__ = [
    "MARGIN_NOISE",
    "MARGIN_STEP",
    "NOISE",
    "SCORE_DIGITS",
    "STEP",
    "TOKEN_NOISE",
    "TOKEN_STEP",
    "Roundable",
    "Rounded",
    "log_odds",
    "moved",
    "round_response",
]

STEP = 5e-4
"""Log-odds are rounded to multiples of this. It moves the probability of a class by less than
7e-5 if there are two, and is fine enough to leave the order of almost all candidates as it was."""

NOISE = 1e-5
"""How far batching may move log-odds in fp32. Within ± NOISE of a border lie 2 · NOISE / STEP = 4 %
of all values of a binary classifier: what the second look costs."""

TOKEN_STEP = 1e-3
"""The log-probability of an output of T tokens is rounded to multiples of T times this: its
cross-entropy, the mean over the tokens, to multiples of this."""

TOKEN_NOISE = 1e-5
"""How far batching may move the log-probability of an output of T tokens in fp32, over T. 2 % of
all values are that near a border."""

MARGIN_STEP = 1e-2
"""Margins of generated texts are rounded to multiples of this; they say how sure a text is, and
nothing is ranked by them."""

MARGIN_NOISE = 5e-5
"""How far batching may move a margin in fp32. A text whose margin is no larger may be another in
another batch."""

_SMALLEST = float(np.finfo(np.float32).tiny)

SCORE_DIGITS = 5
"""Digits behind the point of a retrieval score. Batching moves cosines in fp32 by some 1e-7."""

Roundable: TypeAlias = Predictions | Generations | Scores | Retrievals | Replies
"""Responses whose values a search compares with each other."""


class Rounded(NamedTuple):
    """A rounded response, and which of its items are not to be relied on.

    ``doubtful``: shape (items,): too near a border to be sure of a rounded value, or too small a
    lead to be sure of a text.
    """

    response: Roundable
    doubtful: NDArray[np.bool_]


def round_response(response: Roundable) -> Rounded:
    """Round every value that a search may compare, and tell which items are doubtful."""
    if isinstance(response, Predictions):
        odds, near = _to_steps(log_odds(response.probabilities), STEP, NOISE)
        odds = np.exp(odds)
        probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return Rounded(Predictions(probabilities), np.asarray(near.any(axis=1)))
    if isinstance(response, Retrievals):
        sure = np.zeros(len(response.items), dtype=bool)
        return Rounded(Retrievals(tuple(map(_round_scores, response.items))), sure)
    if isinstance(response, Replies):
        generations, doubtful = round_response(_generations(response))
        assert isinstance(generations, Generations)
        replies = tuple(
            replace(
                reply,
                log_prob=log_prob,
                margin=margin,
                retrieved=_round_scores(reply.retrieved),
            )
            for reply, log_prob, margin in zip(
                response.items,
                generations.log_probs.tolist(),
                generations.margins.tolist(),
                strict=True,
            )
        )
        return Rounded(Replies(replies), doubtful)
    means, doubtful = _to_steps(_means(response), TOKEN_STEP, TOKEN_NOISE)
    log_probs = (means * response.tokens).astype(np.float32)
    if isinstance(response, Scores):
        return Rounded(Scores(log_probs, response.tokens), doubtful)
    margins, near = _to_steps(response.margins.astype(np.float64), MARGIN_STEP, MARGIN_NOISE)
    doubtful |= near | (response.margins <= MARGIN_NOISE)
    return Rounded(
        Generations(response.texts, log_probs, response.tokens, margins.astype(np.float32)),
        doubtful,
    )


def moved(merged: Roundable, place: int, alone: Roundable) -> float:
    """How far batching moved item ``place`` of a response, over the noise allowed for.

    ``alone`` is the response to that item alone. Above 1 the noise is larger than allowed for.
    """
    if isinstance(merged, Replies):
        assert isinstance(alone, Replies)
        return moved(_generations(merged), place, _generations(alone))
    if isinstance(merged, Predictions):
        assert isinstance(alone, Predictions)
        before = log_odds(merged.probabilities[place : place + 1])
        return _distance(before, log_odds(alone.probabilities)) / NOISE
    assert isinstance(merged, Generations | Scores)
    assert isinstance(alone, Generations | Scores)
    if isinstance(merged, Generations):
        assert isinstance(alone, Generations)
        if merged.texts[place] != alone.texts[0]:
            # One lead was lost and another gained; what else there is belongs to other tokens.
            return float(merged.margins[place] + alone.margins[0]) / MARGIN_NOISE
        margin = _distance(merged.margins[place], alone.margins[0]) / MARGIN_NOISE
        return max(margin, _distance(_means(merged)[place], _means(alone)) / TOKEN_NOISE)
    return _distance(_means(merged)[place], _means(alone)) / TOKEN_NOISE


def log_odds(probabilities: FloatArray) -> NDArray[np.float64]:
    """Logarithm of each probability over the row's largest; shape (texts, classes), at most 0."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    return np.asarray(logs - logs.max(axis=1, keepdims=True))


def _means(response: Generations | Scores) -> NDArray[np.float64]:
    """Log-probability a token, shape (prompts,)."""
    return np.asarray(response.log_probs.astype(np.float64) / response.tokens)


def _generations(response: Replies) -> Generations:
    """The generator's part of a pipeline's replies."""
    items = response.items
    return Generations(
        tuple(reply.text for reply in items),
        np.array([reply.log_prob for reply in items], dtype=np.float32),
        np.array([reply.tokens for reply in items], dtype=np.int64),
        np.array([reply.margin for reply in items], dtype=np.float32),
    )


def _round_scores(found: Retrieval) -> Retrieval:
    return replace(found, scores=tuple(round(score, SCORE_DIGITS) for score in found.scores))


def _to_steps(
    values: NDArray[np.float64], step: float, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values rounded to multiples of a step, and which lie within the noise of a border.

    What is infinite stays so, and is not near any border.
    """
    steps = values / step
    whole = np.rint(steps)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        from_border = (0.5 - np.abs(steps - whole)) * step
    return whole * step, np.asarray(from_border <= noise)


def _distance(before: NDArray[np.floating] | np.floating, after: NDArray[np.floating]) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(np.subtract(before, after, dtype=np.float64)), initial=0.0))
