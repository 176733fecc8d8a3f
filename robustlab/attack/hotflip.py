"""HotFlip: beam search over substitutions of words, ranked by the gradient.

References:
    Ebrahimi et al. 2018, "HotFlip: White-Box Adversarial Examples for Text Classification",
    arXiv:1712.06751
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.constraints import Constraints, build_constraints
from robustlab.attack.engine import Search
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.tokens import (
    BudgetedGoal,
    OwnTokens,
    cheapest_tokens,
    first_order,
    needed_vocabulary,
    single_text,
    word_tokens,
)
from robustlab.attack.words import Words
from robustlab.models.target import TextInput, TokenGradient, Vocabulary

__all__ = ["HotFlip", "Substitution", "hotflip_method", "substitutions"]


@dataclass(frozen=True, slots=True)
class Substitution:
    """A word in place of another, and by how much the loss of the goal is expected to change."""

    position: int
    word: str
    gain: float


@dataclass(frozen=True, slots=True)
class HotFlip:
    """Replaces whole words, one a step, so that the texts of step k have k words changed.

    Only words that the target reads as one token are replaced, by others of the kind, so that the
    rest of the text is read as before and the estimate is of just this change. All texts of the
    beam take the step together, and the first one that meets the goal ends the search: it has as
    few changes as the beam could find.

    ``beam``: texts kept after a step; ``candidates``: substitutions that are really tried for each
    of them; ``per_word``: how many of these may be at the same word at the most.
    """

    name: str
    constraints: Constraints
    beam: int
    candidates: int
    per_word: int
    ascii_only: bool

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Search until the goal is met, or no word or no query is left."""
        text = single_text(start.text, self.name)
        vocabulary = needed_vocabulary(start, self.name)
        allowed = word_tokens(vocabulary, letters_only=True, ascii_only=self.ascii_only)
        goal = BudgetedGoal(start.goal, start.queries_left)
        original = Words.of(text)
        limit = self.constraints.edit_limit(text, start.max_edits)
        front = [original]
        best: tuple[float, str] | None = None
        for _ in range(len(original) if limit is None else limit):
            slopes = yield from goal.slopes([words.text for words in front])
            proposals: dict[str, Words] = {}
            for words, item in zip(front, slopes, strict=False):
                own = OwnTokens.of(item, start.goal.frame, words.text)
                free = self.constraints.may_change(words.words)
                free[list(words.changed(original))] = False
                every = substitutions(words, free, item, own, vocabulary, allowed, self.per_word)
                for one in islice(every, self.candidates):
                    proposal = words.replace(one.position, one.word)
                    proposals.setdefault(proposal.text, proposal)
            texts = list(proposals)
            kept = yield from self.constraints.allows(text, texts, start.max_edits)
            texts = [candidate for candidate, good in zip(texts, kept, strict=True) if good]
            look = yield from goal.look(texts)
            if look is None:
                break
            score = float(look.scores[look.best])
            if look.met[look.best]:
                return Found(texts[look.best], True)
            if best is None or score > best[0]:
                best = score, texts[look.best]
            order = np.argsort(-look.scores, kind="stable")[: self.beam]
            front = [proposals[texts[place]] for place in order.tolist()]
        return Found(text if best is None else best[1], claims_success=False)

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint of the recipe that is broken."""
        return self.constraints.broken(original, perturbed)


def substitutions(
    words: Words,
    free: NDArray[np.bool_],
    item: TokenGradient,
    own: OwnTokens,
    vocabulary: Vocabulary,
    allowed: NDArray[np.bool_],
    per_word: int,
) -> Iterator[Substitution]:
    """What the gradient expects to help, the most promising first.

    Args:
        words: the text at which the gradient was taken.
        free: which of its words may change, (words,).
        item: the gradient.
        own: its tokens in the text.
        vocabulary: what the target reads; V tokens of width W.
        allowed: which of them may stand for a word; (V,).
        per_word: how many for a word at the most.
    """
    places = [
        (position, row)
        for position, span in enumerate(words.spans)
        if free[position] and (row := own.whole(span)) is not None
    ]
    if not places:
        return
    rows = np.array([row for _, row in places])
    gradient = item.gradient[rows]  # (P, W)
    change = first_order(gradient, vocabulary)  # (P, V)
    here = vocabulary.embeddings[item.token_ids[rows]]  # (P, W)
    change -= np.einsum("pw,pw->p", gradient, here)[:, None]
    tokens = cheapest_tokens(change, allowed, per_word)  # (P, per_word)
    gains = np.take_along_axis(change, tokens, axis=1)  # (P, per_word)
    for flat in np.argsort(gains, axis=None, kind="stable").tolist():
        place, rank = divmod(flat, gains.shape[1])
        token, gain = int(tokens[place, rank]), float(gains[place, rank])
        # The same token again, or what the estimate does not expect to help, is left out.
        if token != item.token_ids[rows[place]] and gain < 0:
            yield Substitution(places[place][0], vocabulary.spellings[token][1:], gain)


def hotflip_method(recipe: Recipe) -> Method:
    """The method that a recipe with ``method = "hotflip"`` describes.

    Raises:
        UserError: an option or a constraint that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = HotFlip(
        name=recipe.name,
        constraints=build_constraints(recipe),
        beam=options.integer("beam", minimum=1),
        candidates=options.integer("candidates", minimum=1),
        per_word=options.integer("per_word", minimum=1),
        ascii_only=options.flag("ascii_only"),
    )
    options.finish()
    return method
