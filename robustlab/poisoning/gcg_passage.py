"""GCG on a passage: words in it are exchanged until a generator says what the adversary wants.

The generator reads the passage in a whole prompt, among the others that were retrieved with it.

References:
    Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models",
    arXiv:2307.15043
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustlab.attack.constraints import Constraints
from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.gcg import Gcg
from robustlab.attack.goals import Frame, Look, Verdict
from robustlab.attack.method import Start
from robustlab.attack.recipe import Options, Recipe
from robustlab.data.records import Passage
from robustlab.errors import UserError
from robustlab.models.target import (
    Ask,
    FloatArray,
    Gradient,
    Gradients,
    Replies,
    Reply,
    Response,
    Score,
    Scores,
    TextInput,
)
from robustlab.poisoning.adaptive import Watch, defended, meets
from robustlab.poisoning.blackbox import adversarial_texts
from robustlab.poisoning.method import Poison, PoisonStart
from robustlab.poisoning.texts import load_templates
from robustlab.rag.pipeline import POISON_ID

__all__ = ["GcgPassage", "PassageGoal", "gcg_passage_method"]

_WANTED = "{wanted}"
_OWN = f"{POISON_ID}0"
_ASKED = 4
"""Texts of a step that the pipeline is asked about together."""
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the passage in a prompt that is cut at it; no text of people holds it."""


@dataclass(frozen=True, slots=True)
class PassageGoal:
    """What a whole pipeline should answer to one question, by a passage that is being written.

    Gradients and scores go into the generator: the passage stands in ``frame``, the prompt that it
    was retrieved into. Whether the goal is met is asked of the whole pipeline, in which the passage
    has to be retrieved and to get past every defence, beside ``others``, more passages of the
    adversary's.

    ``wanted``: the output that is made probable; ``goal``: the recipe's, which decides. Texts that
    exceed ``watch`` rank behind all others.
    """

    start: PoisonStart
    goal: str
    frame: Frame
    wanted: str
    others: tuple[str, ...]
    watch: Watch

    def question(self, texts: Sequence[TextInput]) -> Ask:
        """The question over the corpus with each of the texts, and the others, in it."""
        poisons = tuple((str(text), *self.others) for text in texts)
        return Ask((self.start.question.text,) * len(poisons), poisons)

    def verdicts(self, response: Response) -> tuple[Verdict, ...]:
        """Each reply decides."""
        assert isinstance(response, Replies)
        return tuple(
            Verdict(meets(self.start, self.goal, reply), {"text": reply.text})
            for reply in response.items
        )

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """Ranked by the log-probability of ``wanted``.

        The pipeline is asked about the best few, and the next few until one of them is read: those
        that were not rank behind all others.
        """
        prompts = tuple(self.frame.fill(text) for text in texts)
        response = yield Score(prompts, (self.wanted,) * len(prompts), inside=True)
        assert isinstance(response, Scores)
        scores = response.log_probs.astype(np.float64)
        met = np.zeros(len(prompts), dtype=bool)
        if not prompts:
            return Look(scores, met)
        excess = self.watch.excess([str(text) for text in texts])
        # Behind all that exceed nothing, and among each other by how far they do.
        scores = np.where(excess > 0, scores.min() - 1.0 - excess, scores)
        order = np.argsort(-scores, kind="stable").tolist()
        unread: list[int] = []
        for first in range(0, len(order), _ASKED):
            rows = order[first : first + _ASKED]
            replies = yield self.question([texts[row] for row in rows])
            assert isinstance(replies, Replies)
            for row, reply in zip(rows, replies.items, strict=True):
                met[row] = meets(self.start, self.goal, reply)
            dropped = [
                row
                for row, reply in zip(rows, replies.items, strict=True)
                if _OWN not in reply.read
            ]
            unread += dropped
            if len(dropped) < len(rows):
                break
        scores[unread] -= np.ptp(scores) + 1.0
        return Look(scores, met)

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """Descending makes ``wanted`` more probable."""
        prompts = tuple(self.frame.fill(text) for text in texts)
        response = yield Gradient(prompts, (self.wanted,) * len(prompts), shifts)
        assert isinstance(response, Gradients)
        return response


@dataclass(frozen=True, slots=True)
class GcgPassage:
    """Writes a passage as PoisonedRAG does, and lets GCG write on before or behind it.

    The passage begins with the question, so that it is retrieved, and goes on with an adversarial
    text; the words that GCG exchanges stand before or behind both. The prompt is the one that the
    first draft was retrieved into and stays as it is; where the passage moves among the others
    later, the pipeline's own answer, which is asked for in every step, tells. Where a reader
    defence reads each passage alone, an adaptive adversary has it alone in the prompt.

    If more than one passage may be written, the others are adversarial texts as they are.

    ``templates``: of adversarial texts, where none are given. ``refusal``: the output that is
    wanted where the goal is that the pipeline answers nothing; then ``blockers`` take the place of
    adversarial texts, and a ``{question}`` in them is the question.
    """

    name: str
    goal: str
    search: Gcg
    templates: tuple[str, ...] = ()
    refusal: str = ""
    blockers: tuple[str, ...] = ()

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """Search until the pipeline's answer is the one wanted, or no step or query is left."""
        vocabulary = start.knowledge.generator_vocabulary()
        if vocabulary is None:
            raise UserError(
                f"the recipe {self.name} needs a generator that shows its gradients and its "
                "tokens: a local model; choose one with --generator"
            )
        passages = self._passages(start)
        wanted = self.refusal if self.goal == "no-answer" else start.wrong
        assert wanted  # the campaign gives a wrong answer wherever the goal wants one
        search = replace(self.search, init=self.search.init.replace(_WANTED, wanted))
        # What the first draft will be, so that the prompt has room for it.
        padding = " ".join(search.init.split()[-1:] * search.length)
        asked = (f"{passages[0]} {padding}", *passages[1:])
        try:
            response = yield Ask((start.question.text,), (asked,))
        except BudgetExhaustedError:
            return Poison(passages, False, {"reason": "no query left"})
        assert isinstance(response, Replies)
        (reply,) = response.items
        if _OWN not in reply.read:
            return Poison(passages, False, {"reason": "the passage was not read"})
        goal = PassageGoal(
            start,
            self.goal,
            _frame(start, reply, passages),
            wanted,
            passages[1:],
            Watch.of(start.knowledge),
        )
        left = None if start.queries_left is None else start.queries_left - 1
        begun = Start(passages[0], goal, response, left, vocabulary)
        found = yield from search.attack(begun, rng)
        return Poison((str(found.text), *passages[1:]), found.claims_success, found.notes)

    def _passages(self, start: PoisonStart) -> tuple[str, ...]:
        count = start.knowledge.passages
        if self.goal == "no-answer":
            texts = [
                self.blockers[place % len(self.blockers)].replace("{question}", start.question.text)
                for place in range(count)
            ]
        else:
            texts = list(adversarial_texts(start, self.templates, count))
        return tuple(f"{start.question.text} {text}" for text in texts)


def _frame(start: PoisonStart, reply: Reply, passages: Sequence[str]) -> Frame:
    """What stands around the first passage in the prompt that a reply came from."""
    knowledge = start.knowledge
    pipeline = defended(knowledge)
    read = [
        Passage(key, "", _MARK)
        if key == _OWN
        else Passage(key, "", passages[int(key.removeprefix(POISON_ID))])
        if key.startswith(POISON_ID)
        else knowledge.corpus[key]
        for key in reply.read
    ]
    question = start.question.text
    if pipeline is not None:
        (question,) = pipeline.repair([question])
        if pipeline.reader is not None:
            read = [passage for passage in read if passage.id == _OWN]
    before, _, after = knowledge.template.render(question, read).partition(_MARK)
    return Frame(before, after)


def gcg_passage_method(recipe: Recipe) -> GcgPassage:
    """The method that a recipe with ``method = "gcg-passage"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    goal = recipe.threat.goal
    options = Options(recipe, "search", recipe.search)
    blocks = goal == "no-answer"
    method = GcgPassage(
        name=recipe.name,
        goal=goal,
        search=Gcg(
            name=recipe.name,
            constraints=Constraints(),
            place=options.choice("place", ("suffix", "prefix")),
            steps=options.integer("steps", minimum=1),
            width=options.integer("width", minimum=1),
            top_k=options.integer("top_k", minimum=1),
            ascii_only=options.flag("ascii_only"),
            length=options.integer("length", minimum=1),
            init=options.text("init"),
        ),
        templates=() if blocks else load_templates(options.text("templates")),
        refusal=options.text("refusal") if blocks else "",
        blockers=options.texts("blockers") if blocks else (),
    )
    options.finish()
    if blocks and not method.blockers:
        raise UserError(f"the recipe {recipe.source} has no search.blockers to begin with")
    return method
