"""The one that asks the target: merges the requests of many attacks into few large ones."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustlab.attack.rounding import log_odds, round_probabilities
from robustlab.errors import UserError
from robustlab.models.target import (
    FloatArray,
    Predict,
    Predictions,
    Request,
    Response,
    Target,
    TextInput,
)

__all__ = ["CACHED_TEXTS", "Oracle", "OracleStats"]

CACHED_TEXTS = 100_000
"""Answers kept, the least recently used given up first: some 50 MB of short texts."""


@dataclass(frozen=True, slots=True)
class OracleStats:
    """What the target was asked, and what it was spared. Counts are of texts."""

    forwarded: int = 0
    """Read by the target in merged requests."""
    cached: int = 0
    """Answered from the cache."""
    duplicates: int = 0
    """Asked more than once in the same round."""
    rechecked: int = 0
    """Read once more, alone, for a value too near a border; see :mod:`.rounding`."""
    largest_noise: float = 0.0
    """The most that a second look moved log-odds. Above ``NOISE`` the outcomes may depend on
    the batch size."""
    model_seconds: float = 0.0
    """Time that the target took for all of this."""


class Oracle:
    """Answers requests with as little work for the target as possible.

    Requests of one kind become one request, in which every text stands once; answers are kept for
    later rounds. Probabilities are rounded as :mod:`robustlab.attack.rounding` says; the second
    look is taken only where the target computes in fp32, because elsewhere it would not help.

    Merged so far: Predict. Other kinds are answered with a :class:`TypeError`.
    """

    def __init__(self, target: Target, *, cached_texts: int = CACHED_TEXTS) -> None:
        self._target = target
        self._rechecks = target.describe().get("dtype") == "fp32"
        self._cached_texts = cached_texts
        self._cache: OrderedDict[TextInput, FloatArray] = OrderedDict()
        self._stats = OracleStats()

    @property
    def stats(self) -> OracleStats:
        """Counts up to now."""
        return self._stats

    def answer(self, requests: Sequence[Request]) -> list[Response | Exception]:
        """Answer requests in their order; an exception stands where one could not be answered.

        If the merged request fails, each request is tried apart, so that a text that the target
        cannot read costs only those who asked for it. A :class:`UserError` is raised.
        """
        answers: dict[int, Response | Exception] = {}
        predicts: dict[int, Predict] = {}
        for place, request in enumerate(requests):
            if isinstance(request, Predict):
                predicts[place] = request
            else:
                answers[place] = TypeError(f"{type(request).__name__} is no request of an attack")
        answers |= zip(predicts, self._predict(list(predicts.values())), strict=True)
        return [answers[place] for place in range(len(requests))]

    def fresh(self, target: Target, texts: Sequence[TextInput]) -> FloatArray:
        """Unrounded probabilities of texts, each read alone and anew by ``target``.

        Nothing comes from the cache or goes into it; shape (texts, classes).
        """
        return _stack([self._ask(target, [text])[0] for text in texts], target)

    def _predict(self, requests: Sequence[Predict]) -> list[Response | Exception]:
        known: dict[TextInput, FloatArray] = {}
        unknown: dict[TextInput, None] = {}
        cached = duplicates = 0
        for text in (text for request in requests for text in request.texts):
            if text in known or text in unknown:
                duplicates += 1
            elif text in self._cache:
                self._cache.move_to_end(text)
                known[text] = self._cache[text]
                cached += 1
            else:
                unknown[text] = None
        try:
            known |= zip(unknown, self._read(list(unknown)), strict=True)
        except UserError:
            raise
        except Exception as error:  # whatever a model may raise on a text
            if len(requests) < 2:
                return [error]
            return [answer for request in requests for answer in self._predict([request])]
        self._count(cached=cached, duplicates=duplicates)
        self._remember((text, known[text]) for text in unknown)
        return [
            Predictions(_stack([known[text] for text in request.texts], self._target))
            for request in requests
        ]

    def _read(self, texts: Sequence[TextInput]) -> list[FloatArray]:
        """Rounded probabilities of texts that are not in the cache."""
        if not texts:
            return []
        raw = self._ask(self._target, texts)
        self._count(forwarded=len(texts))
        rounded = round_probabilities(raw)
        # A text that was alone in its batch cannot be read more alone than that.
        if not self._rechecks or len(texts) == 1:
            return list(rounded.probabilities)
        rows = list(rounded.probabilities)
        for place in np.flatnonzero(rounded.doubtful).tolist():
            alone = self._ask(self._target, [texts[place]])
            rows[place] = round_probabilities(alone).probabilities[0]
            noise = np.abs(log_odds(alone)[0] - log_odds(raw[place : place + 1])[0]).max()
            self._count(rechecked=1, noise=float(noise))
        return rows

    def _ask(self, target: Target, texts: Sequence[TextInput]) -> FloatArray:
        start = time.perf_counter()
        response = target.answer(Predict(tuple(texts)))
        self._count(seconds=time.perf_counter() - start)
        if not isinstance(response, Predictions):
            raise TypeError(f"{target.spec} answered Predict with {type(response).__name__}")
        if len(response.probabilities) != len(texts):
            raise ValueError(
                f"{target.spec} answered {len(texts)} texts with {len(response.probabilities)} rows"
            )
        return response.probabilities

    def _remember(self, answers: Iterable[tuple[TextInput, FloatArray]]) -> None:
        self._cache.update(answers)
        while len(self._cache) > self._cached_texts:
            self._cache.popitem(last=False)

    def _count(
        self,
        *,
        forwarded: int = 0,
        cached: int = 0,
        duplicates: int = 0,
        rechecked: int = 0,
        noise: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        stats = self._stats
        self._stats = replace(
            stats,
            forwarded=stats.forwarded + forwarded,
            cached=stats.cached + cached,
            duplicates=stats.duplicates + duplicates,
            rechecked=stats.rechecked + rechecked,
            largest_noise=max(stats.largest_noise, noise),
            model_seconds=stats.model_seconds + seconds,
        )


def _stack(rows: Sequence[FloatArray], target: Target) -> FloatArray:
    """Rows as one array; no rows are an array of the right width all the same."""
    if not rows:
        return np.zeros((0, len(target.label_names)), dtype=np.float32)
    return np.stack(rows)
