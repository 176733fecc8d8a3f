"""PoisonedRAG with the retriever's inside in view: passages written to be retrieved and believed.

References:
    Zou et al. 2024, "PoisonedRAG: Knowledge Corruption Attacks to Retrieval-Augmented Generation
    of Large Language Models", arXiv:2402.07867
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustlab.attack.engine import Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.models.target import Embed, Embeddings
from robustlab.poisoning.adaptive import Watch, choose
from robustlab.poisoning.blackbox import adversarial_texts
from robustlab.poisoning.corpus import retriever_vocabulary
from robustlab.poisoning.flips import Draft, Flips, flips_of
from robustlab.poisoning.method import Poison, PoisonStart
from robustlab.poisoning.texts import load_templates

__all__ = ["WhiteBoxPoisonedRag", "whitebox_method"]


@dataclass(frozen=True, slots=True)
class WhiteBoxPoisonedRag:
    """Passages of a part that is retrieved and a part that states the wrong answer.

    As in the black-box attack the retrieval part begins as the question itself; from there its
    words are exchanged until the embedding of the whole passage is as near to the question's as it
    gets (HotFlip), while the answer part stays word for word. All passages of a question climb
    together, and a similarity never falls below that of the black-box passage.

    In the end the pipeline is asked, and if it gives the wrong answer to the black-box passages
    only, these it is. An adaptive adversary climbs under the filters' thresholds, and also asks
    about the answer parts alone and about fewer passages than it might write, because a filter for
    near duplicates drops many that are alike and keeps one.
    """

    name: str
    goal: str
    flips: Flips
    templates: tuple[str, ...]

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """Climb, and ask in the end; each step is a query a passage."""
        knowledge = start.knowledge
        vocabulary = retriever_vocabulary(knowledge, self.name)
        texts = adversarial_texts(start, self.templates, knowledge.passages)
        drafts = [Draft(tuple(start.question.text.split()), text) for text in texts]
        response = yield Embed((start.question.text,), questions=True)
        assert isinstance(response, Embeddings)
        directions = [response.vectors[0]] * len(drafts)
        plain = tuple(draft.text for draft in drafts)
        fewer = range(len(drafts) - 1, 0, -1)
        reserved = 3 + len(fewer) if knowledge.adaptive else 2
        left = start.queries_left
        climbed = yield from self.flips.climb(
            drafts,
            directions,
            vocabulary,
            rng,
            queries=None if left is None else left - reserved,
            watch=Watch.of(knowledge),
        )
        passages = tuple(one.draft.text for one in climbed)
        variants = [passages, plain]
        if knowledge.adaptive:
            variants += [texts, *(passages[:count] for count in fewer)]
        poison = yield from choose(
            start, self.goal, variants, queries=None if left is None else min(left, reserved)
        )
        notes = {
            "steps": climbed[0].steps,
            "similarity": [round(one.similarity, 5) for one in climbed],
            "similarity_before": [round(one.start, 5) for one in climbed],
            **(poison.notes or {}),
        }
        return Poison(poison.passages, poison.claims_success, notes)


def whitebox_method(recipe: Recipe) -> WhiteBoxPoisonedRag:
    """The method that a recipe with ``method = "poisonedrag-whitebox"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = WhiteBoxPoisonedRag(
        name=recipe.name,
        goal=recipe.threat.goal,
        flips=flips_of(options),
        templates=load_templates(options.text("templates")),
    )
    options.finish()
    return method
