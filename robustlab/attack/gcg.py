"""Greedy coordinate gradient: words behind, before or within a text, one exchanged a step.

References:
    Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models",
    arXiv:2307.15043
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.constraints import Constraints, build_constraints
from robustlab.attack.engine import Search
from robustlab.attack.goals import ForceOutput
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.tokens import (
    BudgetedGoal,
    OwnTokens,
    Span,
    cheapest_tokens,
    first_order,
    needed_vocabulary,
    single_text,
    word_tokens,
)
from robustlab.attack.words import Words
from robustlab.errors import UserError
from robustlab.models.target import TextInput, TokenGradient, Vocabulary

__all__ = ["Gcg", "gcg_method"]

_WANTED = "{wanted}"


class _Draft(Protocol):
    """A text some of whose words the search may exchange."""

    @property
    def words(self) -> tuple[str, ...]: ...

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where each of the words stands in the text."""

    @property
    def text(self) -> str: ...

    def replace(self, position: int, word: str) -> _Draft: ...


@dataclass(frozen=True, slots=True)
class _Affix:
    """A text with words of the adversary's before or behind it, single spaces between them."""

    original: str
    words: tuple[str, ...]
    leads: bool

    @property
    def region(self) -> Span:
        """Where the words stand."""
        length = len(" ".join(self.words))
        start = 0 if self.leads else len(self.original) + 1
        return start, start + length

    @property
    def spans(self) -> tuple[Span, ...]:
        spans = []
        place = self.region[0]
        for word in self.words:
            spans.append((place, place + len(word)))
            place += len(word) + 1
        return tuple(spans)

    @property
    def text(self) -> str:
        added = " ".join(self.words)
        return f"{added} {self.original}" if self.leads else f"{self.original} {added}"

    def replace(self, position: int, word: str) -> _Affix:
        words = (*self.words[:position], word, *self.words[position + 1 :])
        return replace(self, words=words)

    def shorten(self, count: int) -> _Affix:
        """The same without its last ``count`` words."""
        return replace(self, words=self.words[: len(self.words) - count])


@dataclass(frozen=True, slots=True)
class Gcg:
    """Exchanges one word a step: many random ones of the promising exchanges are tried.

    A step asks for the gradient at the words, takes for each place the ``top_k`` words that the
    first-order estimate prefers, draws ``width`` pairs of a place and one of its words, and goes on
    from the best of the texts, whether it is better than the last or not; the best text of all
    steps is what comes out.

    Two things differ from the paper. Only tokens that are whole words are used, with space between
    them, and candidates are *strings*: what is scored is what the target's tokenizer reads, so
    that no suffix is lost when it is written down and read again. And the goal is judged from
    generated text in every step, so that the search ends as soon as it is met.

    ``place``: ``suffix``, ``prefix`` or ``in-place``, where words of the text itself are replaced
    under the recipe's limit of edits. ``length``: tokens of a suffix or prefix; ``init``: what it
    begins as, its last word repeated up to that length.
    """

    name: str
    constraints: Constraints
    place: str
    steps: int
    width: int
    top_k: int
    ascii_only: bool
    ban_wanted_tokens: bool = False
    length: int = 0
    init: str = ""

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Search until the goal is met, or no step or no query is left."""
        text = single_text(start.text, self.name)
        vocabulary = needed_vocabulary(start, self.name)
        allowed = self._allowed(start, vocabulary)
        goal = BudgetedGoal(start.goal, start.queries_left)
        draft = self._begin(start, text)
        best: tuple[float, _Draft] | None = None
        steps = 0
        # Of an unchanged text the verdict is known; a first suffix may do already.
        candidates: Sequence[_Draft] = [draft] if isinstance(draft, _Affix) else []
        while True:
            if candidates:
                look = yield from goal.look([candidate.text for candidate in candidates])
                if look is None:
                    break
                draft, score = candidates[look.best], float(look.scores[look.best])
                if best is None or score > best[0]:
                    best = score, draft
                if look.met[look.best]:
                    return self._found(draft, True, steps, score)
            if steps == self.steps:
                break
            items = yield from goal.slopes([draft.text])
            if not items:
                break
            own = OwnTokens.of(items[0], start.goal.frame, draft.text)
            if isinstance(draft, _Affix) and (excess := own.within(draft.region) - self.length) > 0:
                draft, best = self._shorten(draft, excess), None
                candidates = [draft]
                continue
            candidates = self._draw(start, text, draft, items[0], own, vocabulary, allowed, rng)
            candidates = yield from self._legal(start, text, candidates)
            steps += 1
            if not candidates:
                break
        if best is None:
            return Found(text, claims_success=False)
        return self._found(best[1], False, steps, best[0])

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint of the recipe that is broken."""
        return self.constraints.broken(original, perturbed)

    def _allowed(self, start: Start, vocabulary: Vocabulary) -> NDArray[np.bool_]:
        """The tokens to choose from, shape (V,)."""
        allowed = word_tokens(
            vocabulary, letters_only=self.place == "in-place", ascii_only=self.ascii_only
        )
        if self.ban_wanted_tokens and isinstance(start.goal, ForceOutput):
            # Parts of a wanted word could be put together again.
            wanted = start.goal.wanted.lower()
            allowed = allowed.copy()
            for token in np.flatnonzero(allowed).tolist():
                allowed[token] = vocabulary.spellings[token].strip().lower() not in wanted
        return allowed

    def _begin(self, start: Start, text: str) -> _Draft:
        if self.place == "in-place":
            return Words.of(text)
        init = self.init
        if isinstance(start.goal, ForceOutput):
            init = init.replace(_WANTED, start.goal.wanted)
        words = init.split()
        words += words[-1:] * (self.length - len(words))
        limit = self.constraints.edit_limit(text, start.max_edits)
        return _Affix(text, tuple(words[:limit]), self.place == "prefix")

    def _shorten(self, draft: _Affix, excess: int) -> _Affix:
        """Without as many words at the end as there are tokens too many.

        The words there are the repeated ones, each a token or more.
        """
        if excess >= len(draft.words):
            raise UserError(
                f"the recipe {self.name} allows {self.length} tokens, and its init alone needs "
                f"{self.length + excess}"
            )
        return draft.shorten(excess)

    def _draw(
        self,
        start: Start,
        text: str,
        draft: _Draft,
        item: TokenGradient,
        own: OwnTokens,
        vocabulary: Vocabulary,
        allowed: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> list[_Draft]:
        """Random ones of the promising exchanges, each text once and none as it was."""
        places = self._places(draft, own)
        if not places:
            return []
        gradient = item.gradient[[row for _, row in places]]  # (P, W)
        tokens = cheapest_tokens(first_order(gradient, vocabulary), allowed, self.top_k)  # (P, k)
        chosen = rng.integers(len(places), size=self.width)
        ranks = rng.integers(tokens.shape[1], size=self.width)
        drawn: dict[str, _Draft] = {}
        for place, token in zip(chosen.tolist(), tokens[chosen, ranks].tolist(), strict=True):
            position = places[place][0]
            candidate = draft.replace(position, vocabulary.spellings[token][1:])
            if isinstance(candidate, Words):
                candidate = self._within_limit(start, Words.of(text), candidate, position, rng)
            drawn.setdefault(candidate.text, candidate)
        drawn.pop(draft.text, None)
        drawn.pop(text, None)
        return list(drawn.values())

    def _places(self, draft: _Draft, own: OwnTokens) -> list[tuple[int, int]]:
        """The words that may be exchanged, and the row of each one's gradient.

        In a suffix or prefix that is that of its first token; in place only words of one token
        are exchanged.
        """
        if not isinstance(draft, Words):
            rows = [own.first(span) for span in draft.spans]
            return [(position, row) for position, row in enumerate(rows) if row is not None]
        free = self.constraints.may_change(draft.words)
        return [
            (position, row)
            for position, span in enumerate(draft.spans)
            if free[position] and (row := own.whole(span)) is not None
        ]

    def _within_limit(
        self,
        start: Start,
        original: Words,
        draft: Words,
        position: int,
        rng: np.random.Generator,
    ) -> Words:
        """Put an earlier word back, drawn at random, where one more was changed than may be."""
        limit = self.constraints.edit_limit(start.text, start.max_edits)
        changed = draft.changed(original)
        if limit is None or len(changed) <= limit:
            return draft
        others = [other for other in changed if other != position]
        back = others[int(rng.integers(len(others)))]
        return draft.replace(back, original.words[back])

    def _legal(self, start: Start, text: str, candidates: Sequence[_Draft]) -> Search[list[_Draft]]:
        """Those that keep the constraints."""
        if self.constraints == Constraints() and start.max_edits is None:
            return list(candidates)
        texts = [candidate.text for candidate in candidates]
        allowed = yield from self.constraints.allows(text, texts, start.max_edits)
        return [candidate for candidate, good in zip(candidates, allowed, strict=True) if good]

    def _found(self, draft: _Draft, met: bool, steps: int, score: float) -> Found:
        notes: dict[str, str | int | float] = {"steps": steps, "score": score}
        if isinstance(draft, _Affix):
            notes[self.place] = " ".join(draft.words)
        return Found(draft.text, met, notes)


def gcg_method(recipe: Recipe) -> Method:
    """The method that a recipe with ``method = "gcg"`` describes.

    Raises:
        UserError: an option or a constraint that is wrong, or a wanted text in the init of a
            recipe that wants none or bans its tokens.
    """
    options = Options(recipe, "search", recipe.search)
    place = options.choice("place", ("suffix", "prefix", "in-place"))
    bans = options.flag("ban_wanted_tokens", False)
    method = Gcg(
        name=recipe.name,
        constraints=build_constraints(recipe),
        place=place,
        steps=options.integer("steps", minimum=1),
        width=options.integer("width", minimum=1),
        top_k=options.integer("top_k", minimum=1),
        ascii_only=options.flag("ascii_only"),
        ban_wanted_tokens=bans,
        length=0 if place == "in-place" else options.integer("length", minimum=1),
        init="" if place == "in-place" else options.text("init"),
    )
    options.finish()
    forces = recipe.threat.goal == "force-output"
    if not forces and (bans or _WANTED in method.init):
        raise UserError(
            f"the recipe {recipe.source} speaks of the wanted output at search.ban_wanted_tokens "
            f"or search.init, and its goal {recipe.threat.goal} wants none"
        )
    if bans and _WANTED in method.init:
        raise UserError(
            f"the recipe {recipe.source} bans the wanted tokens, and has them in search.init"
        )
    return method
