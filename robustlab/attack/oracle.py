"""The one that asks the target: merges the requests of many attacks into few large ones."""

from __future__ import annotations

import re
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from robustlab.attack.cache import CACHE_BYTES, AnswerCache
from robustlab.attack.items import Kind, kind_of
from robustlab.attack.rounding import Roundable, moved, round_response
from robustlab.errors import UserError
from robustlab.models.target import Embed, Request, Response, Target

__all__ = ["Oracle", "OracleStats"]


@dataclass(frozen=True, slots=True)
class OracleStats:
    """What target and encoder were asked, and what they were spared. Counts are of texts."""

    forwarded: int = 0
    """Read by the target for the first time: all kinds but Embed."""
    embedded: int = 0
    """Read by the encoder for the first time."""
    cached: int = 0
    """Answered from the cache."""
    duplicates: int = 0
    """Asked more than once in the same round."""
    rechecked: int = 0
    """Read once more, alone, for a value too near a border; see :mod:`.rounding`."""
    halved: int = 0
    """Requests that did not fit into memory, and were asked again in two halves."""
    largest_noise: float = 0.0
    """The most that a second look moved a value, over the noise that rounding allows for. Above 1
    the outcomes may depend on the batch size."""
    model_seconds: float = 0.0
    """Time that target and encoder took for all of this."""


class Oracle:
    """Answers requests with as little work for the target as possible.

    Requests that can be merged become one request, in which every item stands once; answers are
    kept for later rounds, the least recently used given up first. Gradients are asked for one
    by one, so that they are exact.

    Predictions, generations and scores are rounded as :mod:`robustlab.attack.rounding` says; the
    second look is taken only where the target computes in fp32, because elsewhere it would not
    help. Embeddings are left as they come out of their batch: a search holds their cosines
    against a threshold, and the chance that one lies within some 1e-6 of it is small. Where it
    does, the outcome may depend on the batch size; :meth:`fresh` embeddings never do.

    Args:
        target: answers whatever it can.
        encoder: answers Embed. Without one the target does, if it can.
        cache_bytes: memory for answers, roughly, over all kinds.
        exact: False asks gradients together and takes no second look: several times as fast where
            examples are many, and outcomes may depend on the batch size.
    """

    def __init__(
        self,
        target: Target,
        *,
        encoder: Target | None = None,
        cache_bytes: int = CACHE_BYTES,
        exact: bool = True,
    ) -> None:
        self._target = target
        self._encoder = encoder
        self._exact = exact
        self._rechecks = exact and _computes_in_fp32(target.describe())
        self._cache = AnswerCache(cache_bytes)
        self._stats = OracleStats()

    @property
    def stats(self) -> OracleStats:
        """Counts up to now."""
        return self._stats

    def answer(self, requests: Sequence[Request]) -> list[Response | Exception]:
        """Answer requests in their order; an exception stands where one could not be answered.

        If a merged request fails, each of its requests is tried apart, so that a text that the
        target cannot read costs only those who asked for it. One that fails for want of memory
        is first asked again in halves.
        """
        answers: dict[int, Response | Exception] = {}
        merged: dict[Hashable, _Merged] = {}
        for place, request in enumerate(requests):
            try:
                kind = kind_of(request, len(self._target.label_names))
                items = kind.items(request)
                door = self._door(request, self._target)
            except (TypeError, ValueError) as error:
                answers[place] = error
                continue
            merged.setdefault(kind.key, _Merged(kind, door, {})).asked[place] = items
        for kind, door, asked in merged.values():
            found = self._answer(kind, door, list(asked.values()))
            answers |= zip(asked, found, strict=True)
        return [answers[place] for place in range(len(requests))]

    def fresh(self, request: Request, *, judge: Target | None = None) -> Response:
        """The unrounded response to a request, every item of which is read alone and anew.

        Nothing comes from the cache or goes into it. ``judge`` is asked if given, else the target;
        Embed goes to the encoder.

        Raises:
            TypeError: a kind of request that nobody here answers.
        """
        target = judge or self._target
        kind = kind_of(request, len(target.label_names))
        door = self._door(request, target)
        responses = [self._ask(kind, door, [item]) for item in kind.items(request)]
        return kind.response([answer for one in responses for answer in kind.answers(one)])

    def _door(self, request: Request, target: Target) -> Target:
        """Who answers a request."""
        name = type(request).__name__
        if isinstance(request, Embed) and self._encoder is not None:
            return self._encoder
        if type(request) in target.answers:
            return target
        without = " and no encoder was given" if isinstance(request, Embed) else ""
        raise TypeError(f"{target.spec} ({target.kind}) does not answer {name}{without}")

    def _answer(
        self, kind: Kind, target: Target, asked: Sequence[Sequence[Hashable]]
    ) -> list[Response | Exception]:
        """The response to each request, given as its items."""
        key = kind.key
        known: dict[Hashable, Any] = {}
        unknown: dict[Hashable, None] = {}
        cached = duplicates = 0
        for item in chain.from_iterable(asked):
            if item in known or item in unknown:
                duplicates += 1
                continue
            answer = self._cache.get((key, item))
            if answer is None:
                unknown[item] = None
            else:
                known[item] = answer
                cached += 1
        try:
            found = self._read(kind, target, list(unknown)) if unknown else []
        except Exception as error:  # whatever a model may raise on a text
            if len(asked) == 1:
                return [_of_the_text(error)]
            return [answer for items in asked for answer in self._answer(kind, target, [items])]
        self._count(cached=cached, duplicates=duplicates)
        for item, answer in zip(unknown, found, strict=True):
            known[item] = answer
            if kind.remembered and not isinstance(answer, Exception):
                self._cache.put((key, item), answer)
        return [_respond(kind, [known[item] for item in items]) for items in asked]

    def _read(self, kind: Kind, target: Target, items: Sequence[Hashable]) -> list[Any]:
        """Answers to items that are not in the cache, or exceptions in the place of some."""
        if not (kind.asked_alone and self._exact):
            return self._read_together(kind, target, items)
        found: list[Any] = []
        for item in items:
            try:
                found += self._read_together(kind, target, [item])
            except Exception as error:  # as above
                found.append(_of_the_text(error))
        return found

    def _read_together(self, kind: Kind, target: Target, items: Sequence[Hashable]) -> list[Any]:
        """Ask for all items at once, or in halves if they do not fit into memory."""
        try:
            raw = self._ask(kind, target, items)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            # Its frames hold on to the very memory that the next attempt needs.
            failure = error.with_traceback(None)
        else:
            return self._rounded(kind, target, items, raw)
        if len(items) == 1:
            return [failure]
        self._count(halved=1)
        middle = len(items) // 2
        first = self._read_together(kind, target, items[:middle])
        return first + self._read_together(kind, target, items[middle:])

    def _rounded(
        self, kind: Kind, target: Target, items: Sequence[Hashable], raw: Response
    ) -> list[Any]:
        """What attacks are given of a response, after a second look at what is doubtful."""
        if kind.request_type is Embed:
            self._count(embedded=len(items))
        else:
            self._count(forwarded=len(items))
        if not isinstance(raw, Roundable):
            return kind.answers(raw)
        rounded, doubtful = round_response(raw)
        answers = kind.answers(rounded)
        # A text that was alone in its batch cannot be read more alone than that.
        if self._rechecks and len(items) > 1:
            for place in np.flatnonzero(doubtful).tolist():
                alone = self._ask(kind, target, [items[place]])
                assert isinstance(alone, Roundable)
                answers[place] = kind.answers(round_response(alone).response)[0]
                self._count(rechecked=1, noise=moved(raw, place, alone))
        return answers

    def _ask(self, kind: Kind, target: Target, items: Sequence[Hashable]) -> Response:
        request = kind.request(items)
        start = time.perf_counter()
        try:
            response = target.answer(request)
        finally:
            self._count(seconds=time.perf_counter() - start)
        asked = kind.request_type.__name__
        if not isinstance(response, kind.response_type):
            raise TypeError(f"{target.spec} answered {asked} with {type(response).__name__}")
        if kind.count(response) != len(items):
            raise ValueError(
                f"{target.spec} answered {asked} of {len(items)} texts with {kind.count(response)}"
            )
        return response

    def _count(
        self,
        *,
        forwarded: int = 0,
        embedded: int = 0,
        cached: int = 0,
        duplicates: int = 0,
        rechecked: int = 0,
        halved: int = 0,
        noise: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        stats = self._stats
        self._stats = OracleStats(
            forwarded=stats.forwarded + forwarded,
            embedded=stats.embedded + embedded,
            cached=stats.cached + cached,
            duplicates=stats.duplicates + duplicates,
            rechecked=stats.rechecked + rechecked,
            halved=stats.halved + halved,
            largest_noise=max(stats.largest_noise, noise),
            model_seconds=stats.model_seconds + seconds,
        )


class _Merged(NamedTuple):
    """Requests that are asked together, as their items by their place in the round."""

    kind: Kind
    door: Target
    asked: dict[int, Sequence[Hashable]]


def _respond(kind: Kind, answers: Sequence[Any]) -> Response | Exception:
    for answer in answers:
        if isinstance(answer, Exception):
            return answer
    return kind.response(answers)


def _computes_in_fp32(description: Mapping[str, Any]) -> bool:
    """Whether a target does, by what it says of itself; a pipeline says it of its generator."""
    return bool(description.get("generator", description).get("dtype") == "fp32")


_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED")


def _of_the_text(error: Exception) -> Exception:
    """The error as one of this text alone.

    A target refuses a text that it cannot read, such as one that is too long, in words for the
    user. Here that is no reason to end the run, as a :class:`UserError` inside an attack is.
    """
    return ValueError(str(error)) if isinstance(error, UserError) else error


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch raises its own error on a GPU, and a plain RuntimeError elsewhere."""
    if isinstance(error, RuntimeError):
        return _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)
