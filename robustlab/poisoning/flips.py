"""HotFlip for passages: words are exchanged until an encoder puts a text where it is wanted.

Many passages climb in lock-step, each towards a direction of its own: a step asks for all their
gradients together and for the embeddings of all their candidates together, so that whatever runs
the encoder gets large batches. Nothing here knows of questions, clusters or pipelines.

References:
    Ebrahimi et al. 2018, "HotFlip: White-Box Adversarial Examples for Text Classification",
    arXiv:1712.06751; Zhong et al. 2023, "Poisoning Retrieval Corpora by Injecting Adversarial
    Passages", arXiv:2310.19156
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.goals import Frame
from robustlab.attack.recipe import Options
from robustlab.attack.tokens import OwnTokens, cheapest_tokens, first_order, word_tokens
from robustlab.errors import UserError
from robustlab.models.target import (
    Direction,
    Embed,
    Embeddings,
    FloatArray,
    Gradient,
    Gradients,
    TokenGradient,
    Vocabulary,
)
from robustlab.poisoning.adaptive import Watch

__all__ = ["Climbed", "Draft", "Flips", "flips_of"]

_DIGITS = 5
"""Similarities are compared to so many decimals: the last bits depend on the batch."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage: words that may be exchanged, single spaces between them, and a fixed rest."""

    words: tuple[str, ...]
    rest: str = ""

    @property
    def text(self) -> str:
        """The passage."""
        return " ".join((*self.words, self.rest) if self.rest else self.words)

    def exchange(self, words: Mapping[int, str]) -> Draft:
        """The same with other words at some places."""
        return replace(
            self, words=tuple(words.get(place, word) for place, word in enumerate(self.words))
        )


@dataclass(frozen=True, slots=True)
class Climbed:
    """Where a draft came to.

    ``similarity``: its embedding's inner product with its direction, ``start`` that of the draft
    as it was given, both of unit-length embeddings. ``excess``: how far a watch is exceeded still
    (see :class:`~robustlab.poisoning.adaptive.Watch`), 0 where there is none.
    """

    draft: Draft
    similarity: float
    start: float
    excess: float
    steps: int


@dataclass(frozen=True, slots=True)
class Flips:
    """Exchanges words of passages while their embeddings come nearer to where they should point.

    A step takes the gradient of each passage, draws ``places`` of its words, and tries at each of
    them the words that the first-order estimate prefers: ``candidates`` texts in all, less
    ``joins``. Each of these has one word exchanged. Those that came nearer, at most one a place,
    are then joined, best first: with the best two exchanged, with the best three, and so on,
    ``joins`` texts at most. The best of all texts is taken if it is nearer than the passage was,
    so that a similarity never falls. ``places = 1`` and ``joins = 0`` is the published procedure
    with a single place a step; what the others gain is in the benchmark.

    Only tokens that are whole words are put in, with space between them: what is measured is the
    text, as the encoder's tokenizer reads it. ``steps``: the most; the climb ends before where
    ``patience`` steps in a row brought none of the passages nearer.
    """

    steps: int
    candidates: int
    places: int
    joins: int
    patience: int
    ascii_only: bool

    def allowed(self, vocabulary: Vocabulary) -> NDArray[np.bool_]:
        """The tokens to choose from, (V,)."""
        return word_tokens(vocabulary, letters_only=False, ascii_only=self.ascii_only)

    def climb(
        self,
        drafts: Sequence[Draft],
        directions: Sequence[FloatArray],
        vocabulary: Vocabulary,
        rng: np.random.Generator,
        *,
        queries: int | None = None,
        watch: Watch | None = None,
    ) -> Search[tuple[Climbed, ...]]:
        """Bring each draft nearer to its direction, (width,).

        Each step asks as many gradients as there are drafts, of which each is a query: it ends
        when the next step would need more than ``queries``, or when the engine refuses one.
        A ``watch`` comes first: as long as it is exceeded, the best candidate is the one that
        exceeds it least, and afterwards none is taken that does.
        """
        watch = watch or Watch()
        allowed = self.allowed(vocabulary)
        climbers = yield from _begin(drafts, directions, watch)
        idle = steps = 0
        while climbers and steps < self.steps and idle < self.patience:
            if queries is not None and (steps + 1) * len(climbers) > queries:
                break
            texts = tuple(climber.draft.text for climber in climbers)
            goals = tuple(Direction(climber.pointing(watch)) for climber in climbers)
            try:
                response = yield Gradient(texts, goals)
            except BudgetExhaustedError:
                break
            assert isinstance(response, Gradients)
            singles = [
                self._singles(climber.draft, item, vocabulary, allowed, rng)
                for climber, item in zip(climbers, response.items, strict=True)
            ]
            # An exchange each, then several at once.
            better = yield from _try(climbers, singles, watch)
            joined = [self._joined(ranked) for ranked in better]
            moved = [bool(ranked) for ranked in better]
            yield from _try(climbers, joined, watch)
            steps += 1
            idle = 0 if any(moved) else idle + 1
            for climber in climbers:
                climber.take()
        return tuple(climber.finished(steps) for climber in climbers)

    def _singles(
        self,
        draft: Draft,
        item: TokenGradient,
        vocabulary: Vocabulary,
        allowed: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> list[dict[int, str]]:
        """Exchanges of one word, the most promising of each place drawn."""
        rows = _rows(draft, item)
        free = np.flatnonzero(rows >= 0)
        if not len(free):
            return []
        places = free[rng.permutation(len(free))[: self.places]]
        gradient = item.gradient[rows[places]]  # (P, W)
        most = self.candidates - self.joins
        each = -(-most // len(places))
        tokens = cheapest_tokens(first_order(gradient, vocabulary), allowed, each)  # (P, each)
        found = [
            {place: vocabulary.spellings[token][1:]}
            for column in tokens.T.tolist()
            for place, token in zip(places.tolist(), column, strict=True)
        ]
        return [made for made in found[:most] if draft.exchange(made) != draft]

    def _joined(self, ranked: Sequence[dict[int, str]]) -> list[dict[int, str]]:
        """The best exchange of each place, the first two together, the first three, …."""
        best: dict[int, str] = {}
        joined = []
        for made in ranked:
            ((place, word),) = made.items()
            if place not in best:
                best[place] = word
                joined.append(dict(best))
        return joined[1 : self.joins + 1]


class _Climber:
    """One draft on its way; :meth:`consider` remembers the best text of a step."""

    def __init__(self, draft: Draft, direction: FloatArray, value: float, excess: float) -> None:
        self.draft = draft
        self.direction = direction
        self._start = value
        self._at = self._best = (-excess, value)
        self._next = draft

    def pointing(self, watch: Watch) -> FloatArray:
        """Where the gradient should lead: to the direction, and off the watch if it is exceeded."""
        if self._at[0] == 0:
            return self.direction
        return watch.away(self.draft.text, self.direction)

    def consider(self, draft: Draft, value: float, excess: float) -> bool:
        """Whether a text is better than what the step began with."""
        found = (-excess, value)
        if found > self._best:
            self._best, self._next = found, draft
        return found > self._at

    def take(self) -> None:
        """Go on from the best text."""
        self._at, self.draft = self._best, self._next

    def finished(self, steps: int) -> Climbed:
        return Climbed(self.draft, self._at[1], self._start, -self._at[0], steps)


def _begin(
    drafts: Sequence[Draft], directions: Sequence[FloatArray], watch: Watch
) -> Search[list[_Climber]]:
    texts = [draft.text for draft in drafts]
    values = yield from _similarities(texts, directions)
    excess = watch.excess(texts)
    return [
        _Climber(draft, direction, float(value), float(over))
        for draft, direction, value, over in zip(drafts, directions, values, excess, strict=True)
    ]


def _try(
    climbers: Sequence[_Climber], proposals: Sequence[Sequence[dict[int, str]]], watch: Watch
) -> Search[list[list[dict[int, str]]]]:
    """Measure all proposals at once; of each climber those that are better, best first."""
    texts: list[str] = []
    directions: list[FloatArray] = []
    owners: list[tuple[int, dict[int, str], Draft]] = []
    for number, (climber, made) in enumerate(zip(climbers, proposals, strict=True)):
        for exchange in made:
            draft = climber.draft.exchange(exchange)
            texts.append(draft.text)
            directions.append(climber.direction)
            owners.append((number, exchange, draft))
    better: list[list[tuple[float, float, dict[int, str]]]] = [[] for _ in climbers]
    if texts:
        values = yield from _similarities(texts, directions)
        excess = watch.excess(texts)
        for (number, exchange, draft), value, over in zip(owners, values, excess, strict=True):
            if climbers[number].consider(draft, float(value), float(over)):
                better[number].append((float(over), -float(value), exchange))
    return [[entry[2] for entry in sorted(found, key=lambda e: e[:2])] for found in better]


def _similarities(
    texts: Sequence[str], directions: Sequence[FloatArray]
) -> Search[NDArray[np.float64]]:
    """Inner products of the texts' embeddings with a direction each, rounded; (texts,)."""
    response = yield Embed(tuple(texts))
    assert isinstance(response, Embeddings)
    products = np.einsum("tw,tw->t", response.vectors.astype(np.float64), np.stack(directions))
    return np.asarray(np.round(products, _DIGITS))


def _rows(draft: Draft, item: TokenGradient) -> NDArray[np.int64]:
    """For each word the gradient's row of its first token, -1 where it has none; (words,)."""
    own = OwnTokens.of(item, Frame(), draft.text)
    first = {span[0]: row for span, row in reversed(list(zip(own.spans, own.rows, strict=True)))}
    rows = []
    place = 0
    for word in draft.words:
        rows.append(first.get(place, -1))
        place += len(word) + 1
    return np.array(rows, dtype=np.int64)


def flips_of(options: Options) -> Flips:
    """The search that a recipe's ``[search]`` describes; the caller takes the other options.

    Raises:
        UserError: an option that is missing or wrong.
    """
    flips = Flips(
        steps=options.integer("steps", minimum=1),
        candidates=options.integer("candidates", minimum=2),
        places=options.integer("places", minimum=1),
        joins=options.integer("joins"),
        patience=options.integer("patience", minimum=1),
        ascii_only=options.flag("ascii_only"),
    )
    if flips.joins >= flips.candidates:
        raise UserError(
            f"a recipe with {flips.candidates} search.candidates cannot spend {flips.joins} of "
            "them on search.joins: some must have one word exchanged"
        )
    return flips
