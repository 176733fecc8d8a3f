"""Inner maximisation in token space: training examples are attacked as text.

A share of the training examples, ``strength``, is attacked and shown in that form instead of the
clean one, so that every method gets the same number of updates as the control. They are attacked
through the engine, some batches at once, with the model as it is just before their updates.

``a2t``
    gradient-ranked substitution of words by their neighbours (Yoo & Qi 2021, arXiv:2109.00544);
``hotflip``
    substitutions that the gradient proposes from the whole vocabulary (Ebrahimi et al. 2018,
    arXiv:1712.06751), several at once: the worst of some texts;
``augment``
    static adversarial examples of any recipe, made once from the model as training finds it, or
    taken from an earlier run: the weak baseline;
``mixed``
    an example is attacked by one of four, or of fewer, drawn anew each epoch: a2t, hotflip,
    look-alike or reordered characters, or slips on a keyboard. The last two are the worst of some
    texts that are misspelt at random, in one word or in all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustlab.attack.constraints import Constraints, build_constraints
from robustlab.attack.engine import BudgetExhaustedError, Engine, Job, Search
from robustlab.attack.examples import AttackExample
from robustlab.attack.goals import UntargetedClassification
from robustlab.attack.hotflip import Substitution, substitutions
from robustlab.attack.method import Found, Method, Start, UniversalMethod
from robustlab.attack.methods import build_method
from robustlab.attack.neighbours import Neighbours
from robustlab.attack.perturbations import (
    Drawn,
    Perturbation,
    Synonyms,
    homoglyphs,
    keyboard_typos,
    reorderings,
)
from robustlab.attack.recipe import Recipe, load_recipe
from robustlab.attack.tokens import (
    BudgetedGoal,
    OwnTokens,
    needed_vocabulary,
    single_text,
    word_tokens,
)
from robustlab.attack.words import Words
from robustlab.errors import UserError
from robustlab.models.target import Target, TextInput, Vocabulary, WhiteBox
from robustlab.training.inner import Backward, Update, check_options
from robustlab.training.tasks import Batch, Task

if TYPE_CHECKING:
    from robustlab.retrieval.encoder import SentenceEncoder

__all__ = [
    "KINDS",
    "REFRESH",
    "Flipped",
    "GradientRanked",
    "Misspelt",
    "TokenMaximisation",
    "attack_texts",
    "make",
    "training_methods",
]

CONCURRENCY = 256
"""Examples attacked at once, unless the caller says otherwise."""

REFRESH = 8
"""Batches that are attacked at once, by the model as it is then: what the adversary knows of it is
at most so many updates old, and there is work enough for full passes."""

KINDS = ("a2t", "hotflip", "look-alikes", "slips")
"""What ``mixed`` draws from."""

_PER_WORD = 12
"""Words that the gradient proposes in the place of one."""

_LOOKED_AT = 4
"""Of the candidates that serve, how many are tried for their constraints at once."""

_DEFAULT_RECIPE = "typo-noise"

_OPTIONS = {
    "a2t": {"max_edit_rate", "min_cosine", "neighbours", "proposals", "recipe"},
    "hotflip": {"max_edit_rate", "min_cosine", "draws", "recipe"},
    "augment": {"recipe", "run"},
    "mixed": {"max_edit_rate", "min_cosine", "neighbours", "proposals", "draws", "kinds", "recipe"},
}


@dataclass(frozen=True, slots=True)
class GradientRanked:
    """Word after word, ranked by the gradient, becomes what serves best (Yoo & Qi 2021).

    One gradient at the original text ranks the words: by the mean over a word's tokens of the
    gradient's L1 norm. Each word in turn is replaced by whichever proposal brings the text nearest
    to the goal, if any does, until the goal is met or the limit of edits is reached. Constraints
    that cost a pass are asked about the proposals that serve best, not about all.

    ``proposals``: the most that are tried for a word, None for all.
    """

    name: str
    constraints: Constraints
    perturbations: tuple[Perturbation, ...]
    proposals: int | None = None

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Search on one text; the best found, whether it meets the goal or not."""
        text = single_text(start.text, self.name)
        goal = BudgetedGoal(start.goal, start.queries_left)
        current = Words.of(text)
        order = yield from self._ranked(goal, start, current)
        limit = self.constraints.edit_limit(text, start.max_edits)
        first = yield from goal.look([text])
        if first is None:
            return Found(text, claims_success=False)
        score, edits = float(first.scores[0]), 0
        for position in order:
            if edits == limit:
                break
            every = [
                word for change in self.perturbations for word in change(current, position, rng)
            ]
            candidates = [
                current.replace(position, word) for word in dict.fromkeys(every[: self.proposals])
            ]
            look = yield from goal.look([words.text for words in candidates])
            if look is None:
                continue
            better = [i for i in np.argsort(-look.scores, kind="stable") if look.scores[i] > score]
            for begin in range(0, len(better), _LOOKED_AT):
                tried = better[begin : begin + _LOOKED_AT]
                allowed = yield from self.constraints.allows(
                    text, [candidates[i].text for i in tried], start.max_edits
                )
                if allowed.any():
                    best = tried[int(allowed.argmax())]
                    current, score, edits = candidates[best], float(look.scores[best]), edits + 1
                    if look.met[best]:
                        return Found(current.text, claims_success=True)
                    break
        return Found(current.text, claims_success=False)

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that a text breaks."""
        return (yield from self.constraints.broken(original, perturbed))

    def _ranked(self, goal: BudgetedGoal, start: Start, words: Words) -> Search[list[int]]:
        """Positions that may change, those of the steepest gradient first."""
        items = yield from goal.slopes([words.text])
        if not items:
            return []
        own = OwnTokens.of(items[0], start.goal.frame, words.text)
        steepness = np.abs(items[0].gradient).sum(axis=1)
        values = []
        free = self.constraints.may_change(words.words)
        for position, (begin, end) in enumerate(words.spans):
            rows = [
                row
                for (first, last), row in zip(own.spans, own.rows, strict=True)
                if begin <= first and last <= end
            ]
            if free[position] and rows:
                values.append((-float(steepness[rows].mean()), position))
        return [position for _, position in sorted(values)]


@dataclass(frozen=True, slots=True)
class Flipped:
    """The worst of some texts in which words become others that the gradient proposes.

    One gradient at the original text proposes words, as HotFlip does (Ebrahimi et al. 2018,
    arXiv:1712.06751), but several of them are exchanged at once: the beam of an attack takes a
    gradient for each word, this one for each text. The first text is what the gradient thinks the
    worst; in the others it is drawn how many words change, and which and what they become, the
    more promising the likelier.

    ``draws``: how many texts are tried; ``per_word``: how many words may stand for a word.
    """

    name: str
    constraints: Constraints
    draws: int
    per_word: int

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """One gradient, and one look at all the texts that keep the constraints."""
        text = single_text(start.text, self.name)
        vocabulary = needed_vocabulary(start, self.name)
        words = Words.of(text)
        goal = BudgetedGoal(start.goal, start.queries_left)
        items = yield from goal.slopes([text])
        if not items:
            return Found(text, claims_success=False)
        promising = substitutions(
            words,
            self.constraints.may_change(words.words),
            items[0],
            OwnTokens.of(items[0], start.goal.frame, text),
            vocabulary,
            word_tokens(vocabulary, letters_only=True, ascii_only=True),
            self.per_word,
        )
        by_position: dict[int, list[Substitution]] = {}
        for one in promising:
            by_position.setdefault(one.position, []).append(one)
        if not by_position:
            return Found(text, claims_success=False)
        limit = self.constraints.edit_limit(text, start.max_edits)
        most = len(by_position) if limit is None else min(limit, len(by_position))
        texts = dict.fromkeys(
            self._drawn(words, list(by_position.values()), most, rng if number else None)
            for number in range(self.draws)
        )
        kept = yield from self.constraints.allows(text, list(texts), start.max_edits)
        tried = [one for one, good in zip(texts, kept, strict=True) if good]
        look = yield from goal.look(tried)
        if look is None:
            return Found(text, claims_success=False)
        return Found(tried[look.best], claims_success=bool(look.met[look.best]))

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that a text breaks."""
        return (yield from self.constraints.broken(original, perturbed))

    def _drawn(
        self,
        words: Words,
        places: Sequence[Sequence[Substitution]],
        most: int,
        rng: np.random.Generator | None,
    ) -> str:
        """A text with up to ``most`` words exchanged; without ``rng`` the most promising one."""
        if rng is None:
            chosen, ranks = np.arange(most), np.zeros(most, dtype=np.int64)
        else:
            count = int(rng.integers(1, most + 1))
            gains = np.array([place[0].gain for place in places])
            # The spread as the unit, so that it matters not how sure the model is.
            odds = np.exp((gains.min() - gains) / (gains.std() or 1.0))
            chosen = rng.choice(len(places), count, replace=False, p=odds / odds.sum())
            ranks = rng.geometric(0.25, count) - 1
        for place, rank in zip(chosen.tolist(), ranks.tolist(), strict=True):
            choices = places[place]
            one = choices[min(rank, len(choices) - 1)]
            words = words.replace(one.position, one.word)
        return words.text


@dataclass(frozen=True, slots=True)
class Misspelt:
    """The worst of some texts in which words, drawn at random, are misspelt once each.

    How many words is drawn anew for each text: a share of those that may change, of any size, but
    at least one.

    ``draws``: how many texts are tried.
    """

    name: str
    constraints: Constraints
    perturbation: Callable[[str], Iterator[str]]
    draws: int

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """One look at all the texts."""
        text = single_text(start.text, self.name)
        words = Words.of(text)
        every = Drawn(self.perturbation, self.draws)
        spellings = {
            position: made
            for position, free in enumerate(self.constraints.may_change(words.words))
            if free and (made := every(words, position, rng))
        }
        if not spellings:
            return Found(text, claims_success=False)
        texts = []
        for _ in range(self.draws):
            misspelt = words
            count = max(1, round(float(rng.random()) * len(spellings)))
            for position in rng.permutation(list(spellings))[:count].tolist():
                made = spellings[position]
                misspelt = misspelt.replace(position, made[int(rng.integers(len(made)))])
            texts.append(misspelt.text)
        look = yield from BudgetedGoal(start.goal, start.queries_left).look(texts)
        if look is None:
            return Found(text, claims_success=False)
        return Found(texts[look.best], claims_success=bool(look.met[look.best]))

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that a text breaks."""
        return (yield from self.constraints.broken(original, perturbed))


def attack_texts(
    target: Target,
    examples: Sequence[AttackExample],
    methods: Sequence[Method],
    *,
    seed: int,
    encoder: Target | None = None,
    concurrency: int = CONCURRENCY,
) -> list[TextInput]:
    """The worst text that each example's method finds, the original where it finds none.

    Nothing here is verified or reported: these are training examples. Gradients and predictions
    of many examples are asked for together, so that the last bits may depend on how many there are.

    Args:
        target: what is attacked, frozen.
        examples: what it is attacked on; ids must differ.
        methods: one for each example.
        seed: of all that is random.
        encoder: answers Embed, for constraints.
        concurrency: how many examples are attacked at once.
    """
    vocabulary = target.vocabulary() if isinstance(target, WhiteBox) else None
    engine = Engine(target, seed=seed, encoder=encoder, concurrency=concurrency, exact=False)
    jobs = [
        Job(example.id, _starter(example, method, vocabulary))
        for example, method in zip(examples, methods, strict=True)
    ]
    found = {finished.id: finished.value for finished in engine.run(jobs)}
    texts: list[TextInput] = []
    for example in examples:
        text = found[example.id]
        texts.append(example.text if text is None else text)
    return texts


def _starter(
    example: AttackExample, method: Method, vocabulary: Vocabulary | None
) -> Callable[[np.random.Generator], Search[TextInput]]:
    def start(rng: np.random.Generator) -> Search[TextInput]:
        answer = yield example.goal.question([example.text])
        if example.goal.verdicts(answer)[0].met:
            return example.text
        begin = Start(example.text, example.goal, answer, None, vocabulary)
        try:
            found = yield from method.attack(begin, rng)
        except BudgetExhaustedError:
            return example.text
        return example.text if found.embedded else found.text

    return start


@lru_cache(maxsize=1)
def _stopword_constraints() -> Constraints:
    """The stopwords that the shipped word attacks keep."""
    recipe = load_recipe("hotflip")
    assert isinstance(recipe, Recipe)
    return build_constraints(recipe)


def training_methods(
    name: str,
    *,
    max_edit_rate: float = 0.2,
    min_cosine: float | None = 0.7,
    neighbours: int = 12,
    proposals: int | None = None,
    draws: int = 8,
    kinds: Sequence[str] = KINDS,
) -> tuple[Method, ...]:
    """The methods that a training example is attacked with, one of them by lot.

    Args:
        name: ``a2t``, ``hotflip`` or ``mixed``.
        max_edit_rate: share of the words that may change, but at least one.
        min_cosine: sentence similarity to the original that word substitutions keep, under
            ``builtin:retriever``; None for no such constraint, which is twice as fast.
        neighbours: words that may stand for a word at the most.
        proposals: how many of them are tried.
        draws: texts of which ``hotflip`` and ``mixed`` show the worst.
        kinds: those of :data:`KINDS` that ``mixed`` draws from.

    Raises:
        UserError: a kind that there is not, or none at all.
    """
    base = _stopword_constraints()
    words = Constraints(
        max_edit_rate=max_edit_rate,
        stopwords=base.stopwords,
        ignore_case=True,
        min_cosine=min_cosine,
    )
    letters = Constraints(min_word_length=2)
    near = Neighbours(neighbours, 0.35, "exclude-if-known", base.stopwords)
    every: dict[str, Method] = {
        "a2t": GradientRanked("a2t", words, (Synonyms(near),), proposals),
        "hotflip": Flipped("hotflip", words, draws, _PER_WORD),
        "look-alikes": Misspelt("look-alikes", letters, _look_alikes, draws),
        "slips": Misspelt("slips", letters, keyboard_typos, draws),
    }
    if name != "mixed":
        return (every[name],)
    named = isinstance(kinds, list | tuple) and all(kind in KINDS for kind in kinds)
    if not (named and kinds):
        raise UserError(f"mixed needs kinds, a list of some of {', '.join(KINDS)}, not {kinds!r}")
    return tuple(method for name, method in every.items() if name in kinds)


def _look_alikes(word: str) -> Iterator[str]:
    """Spellings that look like the word to a person."""
    yield from homoglyphs(word)
    yield from reorderings(word)


class TokenMaximisation:
    """See the module; one of its methods at one strength.

    Args:
        name: the method.
        strength: the share of the examples that is shown attacked, up to 1.
        methods: what attacks them, one by lot; empty where ``ready`` has the texts.
        static: whether they are attacked once, when training begins, and not anew each epoch,
            a block of :data:`REFRESH` batches at a time.
        ready: texts of an earlier run by the example's id.
        encoder_device: where the encoder of the constraints runs.
    """

    def __init__(
        self,
        name: str,
        strength: float,
        methods: Sequence[Method],
        *,
        static: bool = False,
        ready: Mapping[str, TextInput] | None = None,
        encoder_device: str = "cpu",
    ) -> None:
        self.name = name
        self.strength = strength
        self._methods = tuple(methods)
        self._static = static
        self._ready = ready
        self._device = encoder_device
        self._encoder: SentenceEncoder | None = None
        self._texts: dict[int, TextInput] | None = None
        self._seed = self._epoch = 0
        self._block: int | None = None  # the first row of the batches that are attacked
        self._block_of: dict[int, list[int]] = {}

    @property
    def texts(self) -> Mapping[int, TextInput]:
        """Row -> the text that is shown, of what is attacked by now."""
        return self._texts or {}

    def begin_epoch(self, task: Task, *, seed: int, epoch: int) -> None:
        """Remember which epoch it is; static examples are made now, once."""
        self._seed, self._epoch = seed, epoch
        if not self._static:
            self._block, self._block_of, self._texts = None, {}, {}
        elif self._texts is None:
            self._texts = self._attacked(task, range(len(task.ids)))

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """One pass on the batch, its share of examples as attacked."""
        if not self._static:
            self._refresh(task, batch.rows[0])
        shown = self.texts
        if any(row in shown for row in batch.rows):
            clean = task.texts(batch)
            texts = [shown.get(row, own) for row, own in zip(batch.rows, clean, strict=True)]
            batch = task.perturbed(batch, texts)
        loss, _ = task.loss(batch)
        backward(loss)
        return Update(loss.detach(), 1, 1)

    def state(self) -> Mapping[str, Any]:
        """The texts that are shown now, and which they are."""
        return {
            "seed": self._seed,
            "epoch": self._epoch,
            "block": self._block,
            "texts": {str(row): text for row, text in self.texts.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self._seed, self._epoch, self._block = state["seed"], state["epoch"], state["block"]
        self._block_of = {}
        self._texts = {
            int(row): text if isinstance(text, str) else (str(text[0]), str(text[1]))
            for row, text in state["texts"].items()
        }

    def _refresh(self, task: Task, row: int) -> None:
        """Attack the block of batches that a row is in, if it is not the one at hand."""
        import torch

        if not self._block_of:
            batches = task.batches(self._seed, self._epoch)
            for start in range(0, len(batches), REFRESH):
                rows = [row for batch in batches[start : start + REFRESH] for row in batch]
                self._block_of |= dict.fromkeys(rows, rows)
        rows = self._block_of[row]
        if rows[0] != self._block:
            with torch.autocast(task.device.type, enabled=False):
                self._texts = self._attacked(task, rows)
            self._block = rows[0]

    def _attacked(self, task: Task, rows: Sequence[int]) -> dict[int, TextInput]:
        """What the model as it is now is shown of some rows: those of the share, attacked."""
        seed = self._seed
        drawn = "" if self._static else f":{self._epoch}"
        chosen = [
            row
            for row in rows
            if random.Random(f"share:{seed}{drawn}:{task.ids[row]}").random() < self.strength
        ]
        if self._ready is not None:
            known = {row: self._ready.get(task.ids[row]) for row in chosen}
            return {row: text for row, text in known.items() if text is not None}
        methods = [
            random.Random(f"method:{seed}{drawn}:{task.ids[row]}").choice(self._methods)
            for row in chosen
        ]
        texts = attack_texts(
            task.target(),
            _examples(task, chosen),
            methods,
            seed=seed + 7919 * self._epoch,
            encoder=self._constraint_encoder(),
        )
        return dict(zip(chosen, texts, strict=True))

    def _constraint_encoder(self) -> SentenceEncoder:
        from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder

        if self._encoder is None:
            self._encoder = SentenceEncoder.load(BUILTIN, device=self._device, dtype="auto")
        return self._encoder


def _examples(task: Any, rows: Sequence[int]) -> list[AttackExample]:
    """What an adversary wants of training examples."""
    if task.kind == "classifier":
        return [
            AttackExample(one.id, one.contents, UntargetedClassification(one.label), one.label)
            for one in (task.examples[row] for row in rows)
        ]
    found: list[AttackExample] = task.attack_examples(rows)
    return found


def make(name: str, strength: float, task: Task, options: Mapping[str, Any]) -> TokenMaximisation:
    """A token-space method for a task.

    Args:
        name: ``a2t``, ``hotflip``, ``augment`` or ``mixed``.
        strength: the share of the examples that is shown attacked, up to 1.
        task: what it will train.
        options: those of :func:`training_methods`; ``recipe`` for any of them, a recipe that
            attacks in place of the method's own; ``run`` for ``augment``, the folder of an earlier
            attack on the training split.

    Raises:
        UserError: an option that the method does not have, a value that it does not allow, or a
            recipe that gives no training examples.
    """
    check_options(name, options, _OPTIONS[name])
    if strength > 1:
        raise UserError(f"the strength of {name} is a share of the examples, not {strength:g}")
    device = str(task.device)
    if "run" in options:
        texts = _texts_of_run(Path(str(options["run"])))
        return TokenMaximisation(name, strength, (), static=True, ready=texts)
    recipe = options.get("recipe", _DEFAULT_RECIPE if name == "augment" else None)
    if recipe is not None:
        methods: tuple[Method, ...] = (_method_of(str(recipe)),)
    else:
        rate = float(options.get("max_edit_rate", 0.2))
        if not 0 < rate <= 1 or int(options.get("neighbours", 1)) < 1:
            raise UserError(f"{name} needs a max_edit_rate above 0, up to 1, and neighbours")
        if int(options.get("draws", 1)) < 1:
            raise UserError(f"{name} needs at least one draw, not {options['draws']}")
        methods = training_methods(name, **options)
    return TokenMaximisation(
        name, strength, methods, static=name == "augment", encoder_device=device
    )


def _method_of(name: str) -> Method:
    from robustlab.attack.suite import load_recipes

    (recipe, *more) = load_recipes([name])
    if more:
        raise UserError(f"{name} is a suite; examples are made with one recipe")
    method = build_method(recipe)
    if isinstance(method, UniversalMethod) or recipe.search.kind == "pgd":
        raise UserError(f"{name} writes no text for each example, so nothing can be trained on it")
    return method


def _texts_of_run(folder: Path) -> dict[str, TextInput]:
    """What an earlier attack made of each example, by id; only where it succeeded."""
    from robustlab.runs import RunDirectory

    run = RunDirectory.open(folder)
    split = (run.manifest.get("data") or {}).get("split")
    if split not in ("train", "all"):
        raise UserError(
            f"the run in {folder} attacked the split {split!r}; examples to train on come from an "
            "attack with --split train"
        )
    found: dict[str, TextInput] = {}
    for outcome in run.outcomes():
        text = outcome.get("perturbed")
        if outcome["status"] == "succeeded" and not outcome.get("embedded") and text:
            found[outcome["id"]] = text if isinstance(text, str) else (text[0], text[1])
    if not found:
        raise UserError(f"no attack of the run in {folder} succeeded, so there is no example in it")
    return found
