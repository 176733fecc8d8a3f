from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from planted import UNBREAKABLE, PlantedTarget, begin, drive, recipe

from robustlab.attack.constraints import Constraints
from robustlab.attack.goals import (
    ChangeAnswer,
    ForceOutput,
    Frame,
    Goal,
    TargetedClassification,
    UntargetedClassification,
)
from robustlab.attack.method import Found
from robustlab.attack.recipe import Recipe, load_recipe
from robustlab.attack.searches import (
    Reduction,
    WordSearch,
    WordSubstitution,
    genetic,
    greedy,
    native_method,
    particle_swarm,
    random_substitution,
)
from robustlab.attack.words import Words, edits
from robustlab.errors import UserError
from robustlab.models.target import Predict, Request, Response

TEXT = "the film was good and the long view was fair"


@dataclass(frozen=True)
class Choices:
    """What each word may become, by the word."""

    words: Mapping[str, tuple[str, ...]]

    def __call__(self, words: Words, position: int, rng: np.random.Generator) -> Sequence[str]:
        return self.words.get(words.words[position], ())


HARMLESS = ("plain", "steady", "stone", "garden")
WEAKNESS = Choices(dict.fromkeys(TEXT.split(), HARMLESS) | {"view": (*HARMLESS, "weak")})
"""One substitution of forty, and no other, breaks the planted target."""

# With "weak" among ten words and a special token the logit is 4.2 / 11 - 0.3, else 0.2 / 11 - 0.3.
BREAKABLE = -0.3


def _random(share: float | None = None, draws: int = 400) -> WordSearch:
    def search(space: Any, trials: Any, rng: np.random.Generator) -> Any:
        return random_substitution(space, trials, rng, draws=draws, batch=8, share=share)

    return search


def _genetic(space: Any, trials: Any, rng: np.random.Generator) -> Any:
    return genetic(space, trials, rng, population=8, generations=30, candidates=2)


def _swarm(space: Any, trials: Any, rng: np.random.Generator) -> Any:
    return particle_swarm(
        space, trials, rng, particles=8, iterations=60, inertia=(0.8, 0.2), pull=(0.8, 0.2),
        speed=3.0,
    )  # fmt: skip


SEARCHES = pytest.mark.parametrize(
    "search",
    [greedy, _random(), _random(share=0.2), _genetic, _swarm],
    ids=["greedy", "random", "noise", "genetic", "particle-swarm"],
)


def _attack(
    search: WordSearch,
    text: str = TEXT,
    *,
    target: PlantedTarget | None = None,
    goal: Goal | None = None,
    choices: Choices = WEAKNESS,
    constraints: Constraints | None = None,
    queries: int | None = None,
    seed: int = 0,
    **more: Any,
) -> tuple[Found, int]:
    target = target or PlantedTarget(bias=BREAKABLE)
    goal = goal or UntargetedClassification(0)
    method = WordSubstitution("mine", constraints or Constraints(), (choices,), search)
    start = begin(target, text, goal, queries=queries, **more)
    return drive(method.attack(start, np.random.default_rng(seed)), target, queries=queries)


@SEARCHES
def test_a_planted_weakness_is_found(search: WordSearch) -> None:
    found, _ = _attack(search)
    assert found.claims_success
    assert "weak" in str(found.text).split()


@SEARCHES
def test_what_cannot_be_broken_is_not_claimed(search: WordSearch) -> None:
    found, _ = _attack(search, target=PlantedTarget(bias=UNBREAKABLE))
    assert not found.claims_success
    # The best of what was tried is returned all the same.
    assert "weak" in str(found.text).split()


@SEARCHES
def test_the_seed_decides(search: WordSearch) -> None:
    runs = [_attack(search, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert runs[0] == runs[1]
    if search is not greedy:
        assert len({queries for _, queries in runs}) > 1


@SEARCHES
@pytest.mark.parametrize("queries", [1, 2, 7, 11, 12, 13, 20, 33])
def test_the_budget_is_kept_and_used(search: WordSearch, queries: int) -> None:
    found, spent = _attack(search, target=PlantedTarget(bias=UNBREAKABLE), queries=queries)
    assert spent == queries
    assert isinstance(found.text, str)


@SEARCHES
@pytest.mark.parametrize("limit", [1, 2])
def test_the_limit_of_edits_holds_from_inside_and_outside(search: WordSearch, limit: int) -> None:
    unbreakable = PlantedTarget(bias=UNBREAKABLE)
    inside = _attack(search, target=unbreakable, constraints=Constraints(max_edits=limit))
    outside = _attack(search, target=unbreakable, max_edits=limit)
    for found, _ in (inside, outside):
        assert 1 <= edits(TEXT, found.text) <= limit


@SEARCHES
def test_protected_words_and_constraints_are_kept(search: WordSearch) -> None:
    stopwords = Constraints(stopwords=frozenset({"view"}))
    found, _ = _attack(search, constraints=stopwords)
    assert not found.claims_success
    assert "view" in str(found.text)
    # No substitution is a change of one character.
    nothing, spent = _attack(search, constraints=Constraints(max_edit_distance=1))
    assert nothing.text == TEXT
    assert spent == (len(TEXT.split()) + 1 if search is greedy else 0)


@SEARCHES
def test_nothing_to_change(search: WordSearch) -> None:
    assert _attack(search, "", choices=Choices({})) == (Found("", False, None), 0)
    assert _attack(search, choices=Choices({})) == (Found(TEXT, False, None), 0)


@SEARCHES
def test_targeted(search: WordSearch) -> None:
    found, _ = _attack(search, goal=TargetedClassification(0, wanted=1))
    assert found.claims_success


@SEARCHES
@pytest.mark.parametrize(
    "goal", [ForceOutput(Frame(), "yes"), ChangeAnswer(Frame(), ("no",))], ids=["force", "change"]
)
def test_generated_text(search: WordSearch, goal: Goal) -> None:
    found, _ = _attack(search, target=PlantedTarget(kind="seq2seq", bias=BREAKABLE), goal=goal)
    assert found.claims_success
    assert "weak" in str(found.text).split()
    # A look is one query a text and one for the text generated.
    _, spent = _attack(
        search, target=PlantedTarget(kind="seq2seq", bias=UNBREAKABLE), goal=goal, queries=17
    )
    assert spent <= 17


@SEARCHES
def test_pairs_are_refused(search: WordSearch) -> None:
    method = WordSubstitution("mine", Constraints(), (WEAKNESS,), search)
    target = PlantedTarget()
    start = begin(target, ("a", "b"), UntargetedClassification(0))
    with pytest.raises(UserError, match="mine attacks single texts"):
        drive(method.attack(start, np.random.default_rng(0)), target)


@pytest.mark.parametrize("search", [_random(), _genetic, _swarm])
def test_no_candidate_is_asked_about_twice(search: WordSearch) -> None:
    class Listening(PlantedTarget):
        def answer(self, request: Request) -> Response:
            if isinstance(request, Predict):
                asked.extend(request.texts)
            return super().answer(request)

    asked: list[Any] = []
    _attack(search, target=Listening(bias=UNBREAKABLE))
    assert asked.pop(0) == TEXT  # the campaign's own query
    assert len(asked) > 40
    assert len(asked) == len(set(asked))
    assert TEXT not in asked


def test_greedy_takes_the_most_important_word_first_and_what_helps_the_most() -> None:
    # Deleting "strong" raises p(1) the most, then "steady"; deleting "mild" lowers it.
    choices = Choices(
        {"strong": ("plain", "mild"), "steady": ("plain", "fair"), "mild": ("plain", "steady")}
    )
    found, spent = _attack(
        greedy, "mild strong steady", target=PlantedTarget(bias=-0.05), choices=choices
    )
    # mild + mild + steady: 0.1/4 - 0.05 < 0, and mild + mild + fair: 0.4/4 - 0.05 > 0.
    assert found == Found("mild mild fair", claims_success=True)
    assert spent == 4 + 2 + 2


def test_greedy_makes_no_substitution_that_does_not_help() -> None:
    choices = Choices({"mild": ("steady", "plain"), "good": ("fair",)})
    found, _ = _attack(greedy, "mild good", target=PlantedTarget(bias=UNBREAKABLE), choices=choices)
    assert found == Found("mild fair", claims_success=False)


@pytest.mark.parametrize(("share", "changed"), [(0.05, 1), (0.3, 3), (1.0, 4)])
def test_noise_changes_a_share_of_the_words(share: float, changed: int) -> None:
    every = Choices(dict.fromkeys(("film", "good", "long", "view"), ("stone",)))
    found, spent = _attack(
        _random(share, draws=1), target=PlantedTarget(bias=UNBREAKABLE), choices=every
    )
    assert edits(TEXT, found.text) == changed
    assert spent == 1


def _reduce(
    text: str, *, bias: float, constraints: Constraints | None = None, beam: int = 1, **more: Any
) -> tuple[Found, int]:
    target = PlantedTarget(bias=bias)
    method = Reduction("mine", constraints or Constraints(), beam)
    start = begin(target, text, UntargetedClassification(0), **more)
    rng = np.random.default_rng(0)
    return drive(method.attack(start, rng), target, queries=more.get("queries"))


def test_reduction_leaves_what_the_prediction_goes_by() -> None:
    # With "strong" among n words and one special token the logit is 0.5 - 4 / (n + 1).
    found, spent = _reduce("the film was strong.", bias=0.5)
    assert found == Found("strong.", False, {"words": 4, "words_left": 1})
    assert spent == 4 + 3 + 2


def test_reduction_stops_before_the_prediction_changes() -> None:
    # With "weak", which has to stay, among n words it is 4 / (n + 1) - 0.9: 0 is right for n > 3.
    keep = Constraints(stopwords=frozenset({"weak"}))
    found, _ = _reduce("weak good food room view", bias=-0.9, constraints=keep)
    assert not found.claims_success
    assert found.notes == {"words": 5, "words_left": 4}
    assert str(found.text).startswith("weak")


def test_a_wider_beam_leaves_no_more_words() -> None:
    # "strong" may go first, for the least loss or not; with both kept the shorter rest is found.
    narrow, few = _reduce("strong steady mild fair view", bias=0.2, beam=1)
    wide, many = _reduce("strong steady mild fair view", bias=0.2, beam=3)
    assert narrow.notes is not None
    assert wide.notes is not None
    assert wide.notes["words_left"] <= narrow.notes["words_left"]
    assert many > few


def test_reduction_keeps_its_limits() -> None:
    found, spent = _reduce("the film was strong", bias=0.5, queries=5)
    assert (found.notes, spent) == ({"words": 4, "words_left": 2}, 5)
    found, _ = _reduce("the film was strong", bias=0.5, max_edits=1)
    assert found.notes == {"words": 4, "words_left": 3}


NATIVE = [
    "bad-characters", "genetic", "input-reduction", "particle-swarm", "random-substitution",
    "textfooler-minilm", "typo-noise",
]  # fmt: skip


def _shipped(name: str) -> Recipe:
    plan = load_recipe(name)
    assert isinstance(plan, Recipe)
    return plan


@pytest.mark.parametrize("name", NATIVE)
def test_shipped_recipes_run_within_their_budget(name: str) -> None:
    plan = _shipped(name)
    target = PlantedTarget(bias=UNBREAKABLE)
    start = begin(target, TEXT, UntargetedClassification(0), queries=plan.budget.queries)
    method = native_method(plan)
    search = method.attack(start, np.random.default_rng(0))
    found, spent = drive(search, target, queries=plan.budget.queries)
    assert spent > 0
    assert not found.claims_success
    assert found.text != TEXT
    assert drive(method.broken(TEXT, found.text), target)[0] is None


def test_the_word_attacks_differ_in_their_search_alone() -> None:
    baseline = _shipped("random-substitution")
    for name in ("textfooler-minilm", "genetic", "particle-swarm"):
        plan = _shipped(name)
        for part in ("threat", "budget", "constraints", "transformations"):
            assert getattr(plan, part) == getattr(baseline, part), (name, part)


DELETE = '[[transformation]]\nkind = "delete-word"\n'
HOMOGLYPH = '[[transformation]]\nkind = "homoglyph"\nper_word = 1\n'


@pytest.mark.parametrize(
    ("method", "search", "transformations", "goal", "message"),
    [
        ("greedy", "beam = 2", DELETE, "untargeted-classification", "unknown key: search.beam"),
        ("random", "draws = 5", DELETE, "untargeted-classification", "lacks a key: search.batch"),
        ("noise", "draws = 5\nbatch = 5", DELETE, "untargeted-classification", "search.share"),
        ("genetic", "population = 1", DELETE, "untargeted-classification", "at least 2"),
        ("particle-swarm", "particles = 1", DELETE, "untargeted-classification", "at least 2"),
        ("greedy", "", "", "untargeted-classification", "transformation"),
        ("reduction", "beam = 1", HOMOGLYPH, "untargeted-classification", "delete-word"),
        ("reduction", "beam = 1", DELETE, "targeted-classification", "threat.goal"),
        ("reduction", "beam = 0", DELETE, "untargeted-classification", "at least 1"),
    ],
)
def test_what_is_wrong_is_named(
    method: str, search: str, transformations: str, goal: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        native_method(recipe(method, search, goal=goal, constraints=transformations))
