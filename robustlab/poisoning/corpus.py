"""Corpus poisoning: a few passages that many questions retrieve, questions of others among them.

References:
    Zhong et al. 2023, "Poisoning Retrieval Corpora by Injecting Adversarial Passages",
    arXiv:2310.19156
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.tokens import word_tokens
from robustlab.attack.words import Words
from robustlab.errors import UserError
from robustlab.models.target import Embed, Embeddings, FloatArray, Vocabulary
from robustlab.poisoning.adaptive import Watch
from robustlab.poisoning.flips import Climbed, Draft, Flips, flips_of
from robustlab.poisoning.method import Knowledge, Poison, PoisonStart

__all__ = [
    "Centres",
    "CorpusPoisoning",
    "RandomPassages",
    "cluster",
    "corpus_method",
    "first_words",
    "random_method",
    "retriever_vocabulary",
]


@dataclass(frozen=True, slots=True)
class CorpusPoisoning:
    """One passage for each k-means cluster of the training questions' embeddings.

    A passage should have a large inner product with the questions of its cluster on average, and
    that is its inner product with their mean: one direction stands for all of them, exactly, where
    the published procedure draws a batch of questions a step. All passages climb together (see
    :class:`~robustlab.poisoning.flips.Flips`).

    ``length``: tokens of a passage; ``init``: what it begins as, ``questions``, the words of those
    training questions that are nearest to the centre, one question after the other, or
    ``random``, words of the vocabulary.
    """

    name: str
    flips: Flips
    length: int
    init: str

    def fit(self, starts: Sequence[PoisonStart], rng: np.random.Generator) -> Search[Poison]:
        """Write ``knowledge.passages`` passages, or one a question where there are fewer.

        Raises:
            UserError: no questions, or a retriever that shows no gradients.
        """
        knowledge = _shared(starts, self.name)
        vocabulary = retriever_vocabulary(knowledge, self.name)
        questions = tuple(start.question.text for start in starts)
        response = yield Embed(questions, questions=True)
        assert isinstance(response, Embeddings)
        centres = cluster(response.vectors, knowledge.passages, rng)
        if self.init == "random":
            known = _spellings(vocabulary, self.flips.allowed(vocabulary))
            begun = _drawn(known, len(centres.means), self.length, rng)
        else:
            begun = [
                first_words([questions[i] for i in order], vocabulary, self.flips, self.length)
                for order in centres.nearest(response.vectors)
            ]
        drafts = list(map(Draft, begun))
        climbed = yield from self.flips.climb(
            drafts, list(centres.means), vocabulary, rng, watch=Watch.of(knowledge)
        )
        return Poison(
            tuple(one.draft.text for one in climbed),
            notes={"clusters": centres.sizes, **_notes(climbed)},
        )


@dataclass(frozen=True, slots=True)
class RandomPassages:
    """Words of the retriever's vocabulary, drawn: what adversarial passages are compared with."""

    name: str
    length: int
    ascii_only: bool

    def fit(self, starts: Sequence[PoisonStart], rng: np.random.Generator) -> Search[Poison]:
        """Write ``knowledge.passages`` passages of ``length`` tokens each.

        Raises:
            UserError: no questions, or a retriever that shows no tokens.
        """
        knowledge = _shared(starts, self.name)
        vocabulary = retriever_vocabulary(knowledge, self.name)
        allowed = word_tokens(vocabulary, letters_only=False, ascii_only=self.ascii_only)
        drawn = _drawn(_spellings(vocabulary, allowed), knowledge.passages, self.length, rng)
        yield from ()  # it asks nothing
        return Poison(tuple(map(" ".join, drawn)))


@dataclass(frozen=True, slots=True)
class Centres:
    """Clusters of unit vectors: ``means`` float32 (k, width), and the cluster of each vector."""

    means: FloatArray
    members: NDArray[np.int64]

    @property
    def sizes(self) -> list[int]:
        """How many vectors each cluster has."""
        counts = np.bincount(self.members, minlength=len(self.means))
        return [int(count) for count in counts]

    def nearest(self, vectors: FloatArray) -> list[list[int]]:
        """The members of each cluster, those of the largest inner product with the mean first."""
        orders = []
        for number, mean in enumerate(self.means):
            own = np.flatnonzero(self.members == number)
            products = np.round(vectors[own].astype(np.float64) @ mean.astype(np.float64), 5)
            orders.append(own[np.argsort(-products, kind="stable")].tolist())
        return orders


def cluster(
    vectors: FloatArray, count: int, rng: np.random.Generator, *, rounds: int = 100
) -> Centres:
    """k-means (Lloyd's iteration from k-means++ seeds) of unit vectors (n, width).

    Fewer clusters than ``count`` come back where there are fewer different vectors. A cluster that
    loses all its members takes the vector that is farthest from its own mean.
    """
    points = vectors.astype(np.float64)
    count = min(count, len(np.unique(np.round(points, 6), axis=0)))
    means = _seeds(points, count, rng)
    members = np.full(len(points), -1)
    for _ in range(rounds):
        distances = _distances(points, means)  # (n, k)
        now = distances.argmin(axis=1)
        for empty in np.flatnonzero(np.bincount(now, minlength=count) == 0).tolist():
            own = distances[np.arange(len(points)), now]
            own[np.bincount(now, minlength=count)[now] == 1] = -1.0  # would leave another empty
            now[own.argmax()] = empty
        if (now == members).all():
            break
        members = now
        means = np.stack([points[members == number].mean(axis=0) for number in range(count)])
    return Centres(means.astype(np.float32), members)


def first_words(
    questions: Sequence[str], vocabulary: Vocabulary, flips: Flips, length: int
) -> tuple[str, ...]:
    """The words of the questions in turn that are one token, from the first again if too few."""
    known = frozenset(_spellings(vocabulary, flips.allowed(vocabulary)))
    words: list[str] = []
    for question in questions:
        for word in Words.of(question).words:
            spelled = word if word in known else word.lower()
            if spelled in known:
                words.append(spelled)
        if len(words) >= length:
            return tuple(words[:length])
    if not words:
        words = [min(known)]
    return tuple(words[place % len(words)] for place in range(length))


def retriever_vocabulary(knowledge: Knowledge, name: str) -> Vocabulary:
    """The tokens of the retriever's encoder.

    Raises:
        UserError: it shows none.
    """
    vocabulary = knowledge.retriever_vocabulary()
    if vocabulary is None:
        raise UserError(
            f"the recipe {name} needs a retriever that shows its gradients and its tokens: a local "
            "sentence encoder; choose one with --retriever"
        )
    return vocabulary


def _shared(starts: Sequence[PoisonStart], name: str) -> Knowledge:
    if not starts:
        raise UserError(
            f"the recipe {name} is fitted on training questions, and the corpus has none"
        )
    return starts[0].knowledge


def _seeds(
    points: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """k-means++ (Arthur & Vassilvitskii 2007): each seed with odds of its squared distance."""
    chosen = [int(rng.integers(len(points)))]
    nearest = _distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        # What is a seed already has no odds, whatever rounding left of its distance.
        nearest[chosen] = 0.0
        chosen.append(int(rng.choice(len(points), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, _distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _distances(points: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances, (n, k)."""
    squares = (points**2).sum(axis=1)[:, None] + (means**2).sum(axis=1)
    return np.asarray(np.maximum(0.0, squares - 2 * points @ means.T))


def _drawn(
    words: Sequence[str], count: int, length: int, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """``count`` times ``length`` words."""
    places = rng.integers(len(words), size=(count, length))
    return [tuple(words[i] for i in row) for row in places.tolist()]


def _spellings(vocabulary: Vocabulary, allowed: NDArray[np.bool_]) -> list[str]:
    return [vocabulary.spellings[token][1:] for token in np.flatnonzero(allowed).tolist()]


def _notes(climbed: Sequence[Climbed]) -> dict[str, object]:
    return {
        "steps": climbed[0].steps,
        "similarity": [round(one.similarity, 5) for one in climbed],
        "similarity_before": [round(one.start, 5) for one in climbed],
        "above_thresholds": [round(one.excess, 5) for one in climbed],
    }


def corpus_method(recipe: Recipe) -> CorpusPoisoning:
    """The method that a recipe with ``method = "corpus-poisoning"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = CorpusPoisoning(
        name=recipe.name,
        flips=flips_of(options),
        length=options.integer("length", minimum=1),
        init=options.choice("init", ("questions", "random")),
    )
    options.finish()
    return method


def random_method(recipe: Recipe) -> RandomPassages:
    """The method that a recipe with ``method = "random-passages"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = RandomPassages(
        name=recipe.name,
        length=options.integer("length", minimum=1),
        ascii_only=options.flag("ascii_only"),
    )
    options.finish()
    return method
