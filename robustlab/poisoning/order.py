"""Context order: where in the prompt the poison stands, and what that does to the answer.

A reader may believe the first passage, or the last. An adversary cannot choose a place, but how
near to the question a passage is decides its rank, and the rank its place: the passage is written
with more and more of the question left out, each version is looked up, and those that come to
different places are tried.

References:
    Liu et al. 2023, "Lost in the Middle: How Language Models Use Long Contexts", arXiv:2307.03172
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.models.target import Retrievals, Retrieve
from robustlab.poisoning.blackbox import adversarial_texts, asks, says_wrong
from robustlab.poisoning.method import Poison, PoisonStart
from robustlab.poisoning.texts import load_templates
from robustlab.rag.pipeline import POISON_ID

__all__ = ["ContextOrder", "order_method"]


@dataclass(frozen=True, slots=True)
class ContextOrder:
    """Tries the poison at every place of the prompt that it can reach.

    The notes say under ``places`` for each rank of the first passage whether the wrong answer came
    out there; the passages returned are those of the first rank where it did.
    """

    name: str
    templates: tuple[str, ...]
    versions: int

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """One query for each version that is looked up, and one for each place tried."""
        versions = self._versions(start)
        reached: dict[int, tuple[str, ...]] = {}
        places: dict[str, bool] = {}
        won: tuple[str, ...] | None = None
        try:
            for passages in versions:
                rank = yield from _rank(start, passages)
                if rank is not None:
                    reached.setdefault(rank, passages)
            for rank, passages in sorted(reached.items()):
                reply = yield from asks(start, passages)
                places[str(rank)] = says_wrong(start, reply)
                if places[str(rank)] and won is None:
                    won = passages
        except BudgetExhaustedError:
            pass  # what was found so far counts
        best = reached[min(reached)] if reached else versions[0]
        return Poison(won or best, won is not None, {"places": places})

    def _versions(self, start: PoisonStart) -> list[tuple[str, ...]]:
        """Passages with less and less of the question in front, none of it at last."""
        words = start.question.text.split()
        question = start.question.text
        given = adversarial_texts(start, self.templates, start.knowledge.passages)
        texts = [text.replace(question, "").strip() or text for text in given]
        kept = np.linspace(len(words), 0, min(self.versions, len(words) + 1)).round().astype(int)
        return [
            tuple(" ".join([*words[:count], text]) for text in texts)
            for count in dict.fromkeys(kept.tolist())
        ]


def _rank(start: PoisonStart, passages: tuple[str, ...]) -> Search[int | None]:
    """The rank of the first poison passage, from 1; None where none is retrieved."""
    found = yield Retrieve((start.question.text,), (passages,), k=start.knowledge.top_k)
    assert isinstance(found, Retrievals)
    ids = found.items[0].ids
    return next((rank for rank, key in enumerate(ids, 1) if key.startswith(POISON_ID)), None)


def order_method(recipe: Recipe) -> ContextOrder:
    """The method that a recipe with ``method = "context-order"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = ContextOrder(
        name=recipe.name,
        templates=load_templates(options.text("templates")),
        versions=options.integer("versions", minimum=2),
    )
    options.finish()
    return method
