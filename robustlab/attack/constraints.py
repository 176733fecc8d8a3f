"""What an attack may not do to a text, always measured against the *original*.

Measured against the step before, small changes would add up to anything. The same object filters
candidates during a search (:meth:`Constraints.allows`) and checks the final string afterwards
(:meth:`Constraints.broken`), whatever the search took care of.

The kinds that a recipe may name::

    [[constraint]]
    kind       = "sentence-similarity"
    encoder    = "builtin:retriever"        # all-MiniLM-L6-v2, the adversary's own: no query
    min_cosine = 0.84

    [[constraint]]
    kind      = "max-edits"                 # words changed, counted between white space
    max_edits = 3

    [[constraint]]
    kind          = "max-edit-rate"         # the same as a share of the original's words
    max_edit_rate = 0.2                     # rounded down, but at least one word

    [[constraint]]
    kind              = "levenshtein-edit-distance"
    max_edit_distance = 30                  # characters

    [[constraint]]
    kind        = "stopwords"               # words that stay as they are
    stopwords   = ["the", "and"]
    ignore_case = true

    [[constraint]]
    kind       = "min-word-length"          # shorter words stay as they are
    min_length = 3

``max_edits`` and ``max_edit_rate`` of the recipe's ``[budget]`` hold as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.words import Words, edits, fields
from robustlab.errors import UserError
from robustlab.metrics.robustness import changed_words
from robustlab.models.target import Embed, Embeddings, TextInput

__all__ = ["Constraints", "build_constraints"]

_NOISE = 1e-5
"""How far a cosine may lie below the limit in the end: its last bits depend on what a text was
encoded together with, and what a search allowed must not be broken by them."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """All constraints of a recipe; None and empty values hold nothing back.

    Both texts of a pair count together, except that each has to be similar to its original.
    ``stopwords`` are in lower case if ``ignore_case``.
    """

    max_edits: int | None = None
    max_edit_rate: float | None = None
    max_edit_distance: int | None = None
    stopwords: frozenset[str] = frozenset()
    ignore_case: bool = False
    min_word_length: int = 0
    min_cosine: float | None = None

    def edit_limit(self, original: TextInput, max_edits: int | None = None) -> int | None:
        """The most words that may change in this text, None for no limit.

        ``max_edits`` is a further limit from outside. Of a share of the words the whole ones
        count, and at least one.
        """
        limits = [limit for limit in (self.max_edits, max_edits) if limit is not None]
        if self.max_edit_rate is not None:
            words = sum(len(field.split()) for field in fields(original))
            # 0.29 * 100 is less than 29 in floating point.
            limits.append(max(1, int(self.max_edit_rate * words + 1e-9)))
        return min(limits, default=None)

    def may_change(self, words: Sequence[str]) -> NDArray[np.bool_]:
        """Which words are neither stopwords nor too short, shape (words,)."""
        return np.array([not self._protects(word) for word in words], dtype=bool)

    def allows(
        self, original: TextInput, texts: Sequence[TextInput], max_edits: int | None = None
    ) -> Search[NDArray[np.bool_]]:
        """Which texts keep all constraints, shape (texts,).

        Yields at most one Embed request, for those that keep all the others.
        """
        allowed = np.array(
            [self._broken_without_encoder(original, text, max_edits) is None for text in texts],
            dtype=bool,
        )
        if self.min_cosine is not None:
            kept = [text for text, good in zip(texts, allowed, strict=True) if good]
            similarities = yield from _similarities(original, kept)
            allowed[allowed] = similarities >= self.min_cosine
        return allowed

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that a text breaks, with its numbers, or None."""
        reason = self._broken_without_encoder(original, perturbed, None)
        if reason is None and self.min_cosine is not None:
            (similarity,) = yield from _similarities(original, [perturbed])
            if similarity < self.min_cosine - _NOISE:
                reason = f"sentence similarity {similarity:.4f}, at least {self.min_cosine:g}"
        return reason

    def _protects(self, word: str) -> bool:
        spelling = word.lower() if self.ignore_case else word
        return len(word) < self.min_word_length or spelling in self.stopwords

    def _broken_without_encoder(
        self, original: TextInput, text: TextInput, max_edits: int | None
    ) -> str | None:
        limit = self.edit_limit(original, max_edits)
        if limit is not None and (changed := edits(original, text)) > limit:
            return f"{changed} words changed, at most {limit}"
        if self.max_edit_distance is not None:
            distance = 0
            for before, after in zip(fields(original), fields(text), strict=True):
                distance += _levenshtein(before, after, self.max_edit_distance - distance)
                if distance > self.max_edit_distance:
                    return f"edit distance above {self.max_edit_distance} characters"
        if self.stopwords or self.min_word_length:
            for before, after in zip(fields(original), fields(text), strict=True):
                word = self._lost_word(before, after)
                if word is not None:
                    return f"the protected word {word!r} was changed"
        return None

    def _lost_word(self, original: str, text: str) -> str | None:
        """A protected word that does not stand any more where it stood."""
        for change in changed_words(original, text):
            before = Words.of(original[slice(*change.original)]).words
            kept = Counter(Words.of(text[slice(*change.perturbed)]).words)
            for word in before:
                if self._protects(word):
                    if not kept[word]:
                        return word
                    kept[word] -= 1
        return None


def build_constraints(recipe: Recipe) -> Constraints:
    """The constraints that a native recipe names, and the word limits of its budget.

    Raises:
        UserError: a kind that does not exist or stands twice, or an option that is wrong.
    """
    constraints = Constraints()
    seen: set[str] = set()
    for number, component in enumerate(recipe.constraints, start=1):
        place = f"constraint[{number}]"
        if component.kind not in _KINDS:
            raise UserError(
                f"the recipe {recipe.source} is wrong at {place}.kind: there is no constraint "
                f"{component.kind!r}; there are: {', '.join(_KINDS)}"
            )
        if component.kind in seen:
            raise UserError(
                f"the recipe {recipe.source} is wrong at {place}.kind: the constraint "
                f"{component.kind!r} stands there twice"
            )
        seen.add(component.kind)
        options = Options(recipe, place, component)
        constraints = replace(constraints, **_KINDS[component.kind](options))
        options.finish()
    budget = recipe.budget
    return replace(
        constraints,
        max_edits=_tighter(constraints.max_edits, budget.max_edits),
        max_edit_rate=_tighter(constraints.max_edit_rate, budget.max_edit_rate),
    )


def _sentence_similarity(options: Options) -> dict[str, Any]:
    options.choice("encoder", ["builtin:retriever"])
    return {"min_cosine": options.number("min_cosine", low=-1.0)}


def _stopwords(options: Options) -> dict[str, Any]:
    words = options.texts("stopwords")
    ignore_case = options.flag("ignore_case")
    return {
        "stopwords": frozenset(word.lower() if ignore_case else word for word in words),
        "ignore_case": ignore_case,
    }


_KINDS: Mapping[str, Callable[[Options], dict[str, Any]]] = {
    "sentence-similarity": _sentence_similarity,
    "max-edits": lambda options: {"max_edits": options.integer("max_edits", minimum=1)},
    "max-edit-rate": lambda options: {"max_edit_rate": options.number("max_edit_rate")},
    "levenshtein-edit-distance": lambda options: {
        "max_edit_distance": options.integer("max_edit_distance", minimum=1)
    },
    "stopwords": _stopwords,
    "min-word-length": lambda options: {
        "min_word_length": options.integer("min_length", minimum=1)
    },
}


def _tighter(one: Any, other: Any) -> Any:
    return min((value for value in (one, other) if value is not None), default=None)


def _similarities(original: TextInput, texts: Sequence[TextInput]) -> Search[NDArray[np.float64]]:
    """Cosine of each text with the original, the smaller of the two for pairs; shape (texts,)."""
    if not texts:
        return np.zeros(0)
    pair = fields(original)
    asked = (*pair, *(field for text in texts for field in fields(text)))
    response = yield Embed(asked)
    assert isinstance(response, Embeddings)
    vectors = response.vectors.astype(np.float64).reshape(len(texts) + 1, len(pair), -1)
    cosines: NDArray[np.float64] = (vectors[1:] * vectors[0]).sum(axis=2).min(axis=1)
    return cosines


def _levenshtein(one: str, other: str, at_most: int) -> int:
    """Characters to replace, delete or insert, or ``at_most + 1`` if there are more.

    Ukkonen (1985, doi:10.1016/S0019-9958(85)80046-2): after e edits, ``ends[k]`` is how far one
    gets in ``one`` on the diagonal where ``other`` is k characters ahead.
    """
    n, m = len(one), len(other)

    def slide(i: int, k: int) -> int:
        while i < n and i + k < m and one[i] == other[i + k]:
            i += 1
        return i

    ends = {0: slide(0, 0)}
    distance = 0
    while ends.get(m - n, -1) < n:
        if distance == at_most:
            return at_most + 1
        distance += 1
        last, ends = ends, {}
        for k in range(max(-distance, -n), min(distance, m) + 1):
            i = max(last.get(k, -2) + 1, last.get(k + 1, -2) + 1, last.get(k - 1, -2))
            if i >= 0:
                ends[k] = slide(min(i, n, m - k), k)
    return distance
