"""PoisonedRAG, black box: passages that begin with the question and go on to state a wrong answer.

A passage is S ⊕ I. The retrieval part S is the question itself, whose embedding nothing resembles
more; the generation part I is a text that states the answer the adversary wants, from a file, from
a generator, or from a template.

References:
    Zou et al. 2024, "PoisonedRAG: Knowledge Corruption Attacks to Retrieval-Augmented Generation
    of Large Language Models", arXiv:2402.07867
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.metrics.answers import contains_answer, exact_match
from robustlab.models.target import Ask, Replies, Reply
from robustlab.poisoning.method import Poison, PoisonStart
from robustlab.poisoning.texts import fill, load_templates

__all__ = [
    "PoisonedRagBlackbox",
    "adversarial_texts",
    "asks",
    "blackbox_method",
    "says_wrong",
]


@dataclass(frozen=True, slots=True)
class PoisonedRagBlackbox:
    """Writes its passages without asking anybody; adaptively, it looks at what answers they get.

    ``templates`` serve where no texts are given. An adaptive adversary who is allowed to see
    answers tries one plan after another until the wrong answer comes out: passages as they are,
    without the question in front, which perplexity and near-duplicate filters are made for, with
    the question behind, and each of these with other templates first.
    """

    name: str
    templates: tuple[str, ...]
    tries: int

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """One query for each plan, and none where the attack is not adaptive."""
        assert start.wrong is not None
        count = start.knowledge.passages
        if not start.knowledge.adaptive:
            return Poison(next(self._plans(start, count))[1])
        first: tuple[str, ...] = ()
        for number, (plan, passages) in enumerate(self._plans(start, count), start=1):
            first = first or passages
            if number > self.tries:
                break
            try:
                reply = yield from asks(start, passages)
            except BudgetExhaustedError:
                break
            if says_wrong(start, reply):
                return Poison(passages, True, {"plan": plan, "tries": number})
        return Poison(first)

    def _plans(self, start: PoisonStart, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        question = start.question.text
        for turn in range(max(len(start.texts or self.templates), 1)):
            texts = adversarial_texts(start, self.templates, count, turn)
            alone = tuple(text.replace(question, "").strip() or text for text in texts)
            yield f"question first, from {turn}", tuple(_behind(question, text) for text in texts)
            yield f"text alone, from {turn}", alone
            yield f"question last, from {turn}", tuple(f"{text} {question}" for text in alone)


def _behind(question: str, text: str) -> str:
    """A passage that retrieves well: the question and the text, or the text if it has it."""
    return text if question in text else f"{question} {text}"


def adversarial_texts(
    start: PoisonStart, templates: Sequence[str], count: int, turn: int = 0
) -> tuple[str, ...]:
    """``count`` texts that state the wrong answer: those given, else from templates.

    They are taken in order from the ``turn``-th on, and again from the first where there are
    fewer; a template that comes again has the next one behind it, so that no two are equal before
    all pairs were used.
    """
    assert start.wrong is not None
    if start.texts:
        return tuple(start.texts[(turn + i) % len(start.texts)] for i in range(count))
    texts = [fill(template, start.question.text, start.wrong) for template in templates]
    size = len(texts)
    first = turn % size
    texts = texts[first:] + texts[:first]
    written = []
    for place in range(count):
        again, index = divmod(place, size)
        behind = f" {texts[(index + again) % size]}" if again else ""
        written.append(f"{texts[index]}{behind}")
    return tuple(written)


def asks(start: PoisonStart, passages: Sequence[str]) -> Search[Reply]:
    """What is answered with these passages in the corpus; one query."""
    replies = yield Ask((start.question.text,), (tuple(passages),))
    assert isinstance(replies, Replies)
    return replies.items[0]


def says_wrong(start: PoisonStart, reply: Reply) -> bool:
    """Whether a reply states the wrong answer and is no right one."""
    assert start.wrong is not None
    right = exact_match(reply.text, start.question.answers)
    return not right and contains_answer(reply.text, (start.wrong,))


def blackbox_method(recipe: Recipe) -> PoisonedRagBlackbox:
    """The method that a recipe with ``method = "poisonedrag-blackbox"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = PoisonedRagBlackbox(
        name=recipe.name,
        templates=load_templates(options.text("templates")),
        tries=options.integer("adaptive_tries", minimum=1),
    )
    options.finish()
    return method
