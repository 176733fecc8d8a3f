"""Black-box searches over words: which word becomes what, found by asking the target.

Each search is written for one text, over a :class:`Space` of what its words may become, and learns
through :class:`Trials` how near to the goal a candidate comes. It never sees more than scores, so
it works for whatever has a :class:`~robustlab.attack.goals.Goal`, classes and generated texts
alike. None of them needs TextAttack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.constraints import Constraints, build_constraints
from robustlab.attack.engine import Search
from robustlab.attack.goals import Look
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.perturbations import DeleteWord, Perturbation, build_perturbations
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.tokens import BudgetedGoal, single_text
from robustlab.attack.words import Words
from robustlab.errors import UserError
from robustlab.models.target import TextInput

__all__ = [
    "Reduction",
    "Space",
    "Trials",
    "WordSearch",
    "WordSubstitution",
    "genetic",
    "greedy",
    "native_method",
    "particle_swarm",
    "random_substitution",
]

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Space:
    """What may become of a text.

    ``proposals``: position -> what the word there may become, for words that may change at all;
    ``limit``: how many positions may differ from the original at the same time.
    """

    original: Words
    proposals: Mapping[int, tuple[str, ...]]
    limit: int

    @classmethod
    def around(
        cls,
        start: Start,
        text: str,
        constraints: Constraints,
        perturbations: Sequence[Perturbation],
        rng: np.random.Generator,
    ) -> Space:
        """The space of an example. What is random about the proposals is drawn once."""
        words = Words.of(text)
        proposals = {}
        for position in np.flatnonzero(constraints.may_change(words.words)).tolist():
            every = [word for change in perturbations for word in change(words, position, rng)]
            if every:
                proposals[position] = tuple(dict.fromkeys(every))
        limit = constraints.edit_limit(text, start.max_edits)
        return cls(words, proposals, len(proposals) if limit is None else limit)

    def mutants(self, words: Words, count: int, rng: np.random.Generator) -> list[Words]:
        """At most ``count`` different substitutions of one word, which is drawn first.

        Words with many proposals are drawn more often, as Alzantot et al. have it. At the limit
        only words that have changed already may change again.
        """
        changed = words.changed(self.original)
        open_ = changed if len(changed) >= self.limit else tuple(self.proposals)
        if not open_:
            return []
        sizes = np.array([len(self.proposals[position]) for position in open_], dtype=np.float64)
        position = open_[int(rng.choice(len(open_), p=sizes / sizes.sum()))]
        others = [word for word in self.proposals[position] if word != words.words[position]]
        drawn = rng.permutation(len(others))[:count]
        return [words.replace(position, others[number]) for number in sorted(drawn.tolist())]

    def within_limit(self, words: Words, rng: np.random.Generator) -> Words:
        """The words with random changes taken back until the limit is kept."""
        changed = words.changed(self.original)
        excess = max(0, len(changed) - self.limit)
        for number in rng.permutation(len(changed))[:excess].tolist():
            words = words.replace(changed[number], self.original.words[changed[number]])
        return words


class Trials:
    """Candidates put to the test, within the queries that the example has left.

    A text is asked about once: an adversary remembers answers. ``best`` is the best candidate up
    to now, at first the original, and ``met`` says whether it is known to meet the goal.
    """

    def __init__(self, start: Start, text: str, constraints: Constraints) -> None:
        self.best = text
        self.met = False
        self._best_score = -math.inf
        self._goal = BudgetedGoal(start.goal, start.queries_left)
        self._start = start
        self._original = text
        self._constraints = constraints
        self._spent = False
        self._known = {text: -math.inf}  # the original is no candidate

    @property
    def over(self) -> bool:
        """Whether the search may stop: the goal is met, or no query is left."""
        return self.met or self._spent

    def allowed(self, candidates: Sequence[Words]) -> Search[list[str]]:
        """Texts of the candidates that keep the constraints, each once."""
        texts = list(dict.fromkeys(words.text for words in candidates))
        kept = yield from self._constraints.allows(self._original, texts, self._start.max_edits)
        return [text for text, good in zip(texts, kept, strict=True) if good]

    def look(self, texts: Sequence[str]) -> Search[Look | None]:
        """How texts stand that are no candidates; as many of the first ones as can be paid."""
        look = yield from self._goal.look(texts)
        paid = 0 if look is None else len(look.scores)
        self._spent = self._spent or paid < len(texts)
        return look

    def scores(self, candidates: Sequence[Words]) -> Search[FloatArray]:
        """How near each candidate comes, shape (candidates,), and remember the best.

        Minus infinity for the original, for what breaks a constraint and for what could not be
        paid any more.
        """
        fresh = [words for words in candidates if words.text not in self._known]
        texts = yield from self.allowed(fresh)
        look = yield from self.look(texts)
        self._known |= {words.text: -math.inf for words in fresh}
        if look is not None:
            self._known |= zip(texts, look.scores.tolist(), strict=False)
            score = float(look.scores[look.best])
            self.met = bool(look.met[look.best])
            if self.met or score > self._best_score:
                self.best, self._best_score = texts[look.best], score
        return np.array([self._known[words.text] for words in candidates], dtype=np.float64)


WordSearch: TypeAlias = Callable[[Space, Trials, np.random.Generator], Search[None]]
"""Tries candidates until the goal is met or nothing is left to try."""


@dataclass(frozen=True, slots=True)
class WordSubstitution:
    """A search among what perturbations make of the words of a text, under constraints.

    ``notes`` go into every outcome.
    """

    name: str
    constraints: Constraints
    perturbations: tuple[Perturbation, ...]
    search: WordSearch
    notes: Mapping[str, str] | None = None

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Search on one text."""
        text = single_text(start.text, self.name)
        space = Space.around(start, text, self.constraints, self.perturbations, rng)
        trials = Trials(start, text, self.constraints)
        if space.proposals:
            yield from self.search(space, trials, rng)
        return Found(trials.best, trials.met, self.notes)

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that a text breaks."""
        return (yield from self.constraints.broken(original, perturbed))


def greedy(space: Space, trials: Trials, rng: np.random.Generator) -> Search[None]:
    """Word after word, the most important first, each becomes what helps the most.

    A word matters as much as the score rises when it is deleted, as in TextFooler (Jin et al.
    2020, arXiv:1907.11932). A substitution that does not help is not made.
    """
    positions = list(space.proposals)
    current = space.original
    without = [current.delete(position).text for position in positions]
    look = yield from trials.look([current.text, *without])
    if look is None:
        return
    score = float(look.scores[0])
    # Words for whose deletion no query was left are not in the order: nothing can be tried either.
    order = np.argsort(-look.scores[1:], kind="stable").tolist()
    edits = 0
    for position in (positions[number] for number in order):
        if trials.over or edits == space.limit:
            return
        candidates = [current.replace(position, word) for word in space.proposals[position]]
        scores = yield from trials.scores(candidates)
        best = int(scores.argmax())
        if scores[best] > score:
            current, score = candidates[best], float(scores[best])
            edits += 1


def random_substitution(
    space: Space,
    trials: Trials,
    rng: np.random.Generator,
    *,
    draws: int,
    batch: int,
    share: float | None = None,
) -> Search[None]:
    """Independent draws: random words, each becomes something random.

    ``share`` of the text's words change in a draw, but at least one, or as many as there are
    proposals for; without it a random number up to the limit. ``batch`` draws are made before
    looking whether one of them was enough.
    """
    positions = list(space.proposals)
    most = min(space.limit, len(positions))
    fixed = None if share is None else min(most, max(1, round(share * len(space.original))))
    for done in range(0, draws, batch):
        candidates = []
        for _ in range(min(batch, draws - done)):
            count = int(rng.integers(1, most + 1)) if fixed is None else fixed
            words = space.original
            for number in rng.permutation(len(positions))[:count].tolist():
                proposals = space.proposals[positions[number]]
                words = words.replace(
                    positions[number], proposals[int(rng.integers(len(proposals)))]
                )
            candidates.append(words)
        yield from trials.scores(candidates)
        if trials.over:
            return


def genetic(
    space: Space,
    trials: Trials,
    rng: np.random.Generator,
    *,
    population: int,
    generations: int,
    candidates: int,
) -> Search[None]:
    """Alzantot et al. 2018, arXiv:1804.07998: crossover of the fitter, then one mutation.

    A mutation draws a word, tries ``candidates`` of what it may become and keeps the best. The best
    of a generation survives into the next one. A child that cannot be improved within the
    constraints is replaced by its first parent.
    """
    people = [space.original] * population
    fitness: FloatArray = np.full(population, -np.inf)
    people, fitness = yield from _mutate(people, people, fitness, space, trials, rng, candidates)
    for _ in range(generations):
        if trials.over:
            return
        best = int(fitness.argmax())
        chances = _chances(fitness)
        children, parents = [], []
        for _ in range(population - 1):
            one, other = rng.choice(population, size=2, p=chances).tolist()
            words = people[one]
            for position in np.flatnonzero(rng.random(len(words)) < 0.5).tolist():
                words = words.replace(position, people[other].words[position])
            children.append(space.within_limit(words, rng))
            parents.append(one)
        grown, scores = yield from _mutate(
            children,
            [people[parent] for parent in parents],
            fitness[parents],
            space,
            trials,
            rng,
            candidates,
        )
        people = [people[best], *grown]
        fitness = np.concatenate([fitness[best : best + 1], scores])


def _mutate(
    people: Sequence[Words],
    instead: Sequence[Words],
    instead_scores: FloatArray,
    space: Space,
    trials: Trials,
    rng: np.random.Generator,
    candidates: int,
) -> Search[tuple[list[Words], FloatArray]]:
    """Each with its best mutation, or what stands in for it if none is allowed, and the scores."""
    mutants = [space.mutants(words, candidates, rng) for words in people]
    scores = yield from trials.scores([words for group in mutants for words in group])
    groups = np.split(scores, np.cumsum([len(group) for group in mutants])[:-1])
    grown = list(instead)
    fitness = instead_scores.copy()
    for number, (group, values) in enumerate(zip(mutants, groups, strict=True)):
        if len(group) and values.max() > -np.inf:
            grown[number], fitness[number] = group[int(values.argmax())], values.max()
    return grown, fitness


def _chances(fitness: FloatArray) -> FloatArray:
    """Of being a parent: in proportion to what one has above the worst."""
    alive = np.isfinite(fitness)
    if not alive.any():
        return np.full(len(fitness), 1 / len(fitness))
    above = np.where(alive, fitness, 0.0) - fitness[alive].min()
    above[~alive] = 0.0
    if not above.any():
        above = alive.astype(np.float64)
    chances: FloatArray = above / above.sum()
    return chances


def particle_swarm(
    space: Space,
    trials: Trials,
    rng: np.random.Generator,
    *,
    particles: int,
    iterations: int,
    inertia: tuple[float, float],
    pull: tuple[float, float],
    speed: float,
) -> Search[None]:
    """Zang et al. 2020, arXiv:1910.12196: particles drawn to their own best and to the swarm's.

    With ω falling over the iterations from ``inertia``'s first to its second number, the velocity
    of a particle x in the dimension of one word is v ← ω v + (1 − ω) (I(p, x) + I(g, x)), where I
    is 1 for the same word and −1 for another, p the particle's best and g the swarm's. It turns to
    p with a probability that falls over ``pull``, and to g with one that rises over it; then the
    word of every dimension is taken over with probability σ(v). At last it mutates, the sooner the
    less it has changed. Velocities begin between −``speed`` and ``speed``.
    """
    positions = np.array(list(space.proposals))
    swarm = [space.original] * particles
    swarm, scores = yield from _mutate(
        swarm, swarm, np.full(particles, -np.inf), space, trials, rng, 1
    )
    own, own_scores = list(swarm), scores.copy()
    velocity = rng.uniform(-speed, speed, size=(particles, len(positions)))
    for step in range(iterations):
        if trials.over:
            return
        left = (iterations - step) / iterations
        weight = inertia[1] + (inertia[0] - inertia[1]) * left
        to_own = pull[1] + (pull[0] - pull[1]) * left
        to_best = pull[0] - (pull[0] - pull[1]) * left
        best = own[int(own_scores.argmax())]
        moved = []
        for number, words in enumerate(swarm):
            agreement = _agreement(words, own[number], positions)
            agreement = agreement + _agreement(words, best, positions)
            velocity[number] = weight * velocity[number] + (1 - weight) * agreement
            turning = 1 / (1 + np.exp(-velocity[number]))
            for leader, chance in ((own[number], to_own), (best, to_best)):
                if rng.random() < chance:
                    for position in positions[rng.random(len(positions)) < turning].tolist():
                        words = words.replace(position, leader.words[position])
            words = space.within_limit(words, rng)
            changed = len(words.changed(space.original))
            if rng.random() < 1 - 2 * changed / len(positions):
                words = next(iter(space.mutants(words, 1, rng)), words)
            moved.append(words)
        new_scores = yield from trials.scores(moved)
        for number, score in enumerate(new_scores.tolist()):
            if score > -math.inf:
                swarm[number] = moved[number]
            if score > own_scores[number]:
                own[number], own_scores[number] = moved[number], score


def _agreement(words: Words, other: Words, positions: NDArray[np.int64]) -> FloatArray:
    """1 where two have the same word, −1 elsewhere; shape (positions,)."""
    same = [words.words[position] == other.words[position] for position in positions.tolist()]
    return np.where(same, 1.0, -1.0)


@dataclass(frozen=True, slots=True)
class Reduction:
    """Input reduction: what is left of a text when only the prediction has to stay.

    Feng et al. 2018, arXiv:1804.07781: the word whose loss takes the least from the prediction is
    removed, again and again, with a beam of ``beam`` texts. This shows what a model goes by, and is
    no attack in the sense of a goal: the outcome never counts as a success, and its notes say how
    many of the ``words`` are left.
    """

    name: str
    constraints: Constraints
    beam: int

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Remove words until the prediction would change, one word or no query is left."""
        text = single_text(start.text, self.name)
        space = Space.around(start, text, self.constraints, [DeleteWord()], rng)
        trials = Trials(start, text, self.constraints)
        front = [space.original]
        steps = min(space.limit, len(space.proposals), len(space.original) - 1)
        for _ in range(steps):
            shorter = {
                child.text: child
                for words in front
                for position in space.proposals
                if words.words[position] and (child := words.delete(position))
            }
            texts = yield from trials.allowed(list(shorter.values()))
            look = yield from trials.look(texts)
            if look is None:
                break
            order = np.argsort(look.scores, kind="stable").tolist()
            kept = [number for number in order if not look.met[number]][: self.beam]
            if not kept:
                break
            front = [shorter[texts[number]] for number in kept]
        left = len(space.original) - len(front[0].changed(space.original))
        notes = {"words": len(space.original), "words_left": left}
        return Found(front[0].text, claims_success=False, notes=notes)

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that a text breaks."""
        return (yield from self.constraints.broken(original, perturbed))


def native_method(recipe: Recipe) -> Method:
    """The method of a recipe whose search is one of this module's.

    Raises:
        UserError: an option is wrong, or something that the recipe needs is missing.
    """
    options = Options(recipe, "search", recipe.search)
    constraints = build_constraints(recipe)
    stopwords = frozenset(word.lower() for word in constraints.stopwords)
    perturbations, notes = build_perturbations(recipe, stopwords)
    if recipe.search.kind == "reduction":
        if recipe.threat.goal != "untargeted-classification":
            raise UserError(
                f"the recipe {recipe.source} reduces inputs while the class stays, so its "
                'threat.goal is "untargeted-classification"'
            )
        if perturbations != (DeleteWord(),):
            raise UserError(
                f"the recipe {recipe.source} reduces inputs, so its one [[transformation]] is "
                '"delete-word"'
            )
        method: Method = Reduction(recipe.name, constraints, options.integer("beam", minimum=1))
    else:
        search = _SEARCHES[recipe.search.kind](options)
        method = WordSubstitution(recipe.name, constraints, perturbations, search, notes or None)
    options.finish()
    return method


def _random(options: Options, share: float | None = None) -> WordSearch:
    draws = options.integer("draws", minimum=1)
    batch = options.integer("batch", minimum=1)
    return partial(random_substitution, draws=draws, batch=batch, share=share)


def _genetic(options: Options) -> WordSearch:
    return partial(
        genetic,
        population=options.integer("population", minimum=2),
        generations=options.integer("generations", minimum=1),
        candidates=options.integer("candidates", minimum=1),
    )


def _particle_swarm(options: Options) -> WordSearch:
    return partial(
        particle_swarm,
        particles=options.integer("particles", minimum=2),
        iterations=options.integer("iterations", minimum=1),
        inertia=(options.number("inertia_first"), options.number("inertia_last")),
        pull=(options.number("pull_first"), options.number("pull_last")),
        speed=options.number("speed", high=math.inf),
    )


_SEARCHES: Mapping[str, Callable[[Options], WordSearch]] = {
    "greedy": lambda options: greedy,
    "random": _random,
    "noise": lambda options: _random(options, options.number("share")),
    "genetic": _genetic,
    "particle-swarm": _particle_swarm,
}
