"""TextAttack inside the engine does what TextAttack does by itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
from attack_fakes import REVIEWS, WordTarget
from tiny import save_tiny

from robustlab.attack import textattack_resources as resources
from robustlab.attack.engine import Engine, Finished, Job, Search
from robustlab.attack.goals import (
    ChangeAnswer,
    ForceOutput,
    Frame,
    Goal,
    TargetedClassification,
    UntargetedClassification,
)
from robustlab.attack.method import Found, Start
from robustlab.attack.oracle import Oracle
from robustlab.attack.recipe import Recipe, load_recipe, parse_recipe
from robustlab.attack.streams import RandomStream
from robustlab.attack.textattack import (
    build_attack,
    missing,
    recipe_for_class,
    textattack_method,
)
from robustlab.attack.textattack_bridge import EngineEncoder, EngineModel, own_parts, requests_of
from robustlab.attack.textattack_recheck import attacked_text
from robustlab.data import LabelledExample, load_labelled
from robustlab.errors import UserError
from robustlab.metrics.robustness import changed_words
from robustlab.models.load import load_target
from robustlab.models.target import (
    Embed,
    Embeddings,
    Generate,
    Generations,
    Predict,
    Predictions,
    Request,
    Response,
    Score,
    Scores,
    Target,
    TextInput,
)
from robustlab.resources import content_folder, minilm_folder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("textattack") is None, reason="TextAttack is not installed"
)

SEED = 5
RECIPES = (
    "deepwordbug", "pruthi", "pwws", "textbugger", "textfooler", "bae", "bert-attack", "clare",
    "checklist",
)  # fmt: skip
SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_textattack.py"
STATUS = {
    "SuccessfulAttackResult": "succeeded",
    "FailedAttackResult": "failed",
    "SkippedAttackResult": "skipped",
}


def needs_nltk(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not all(resources._has_nltk(name) for name in names),
        reason=f"NLTK's {', '.join(names)} are not here (NLTK_DATA, or nltk_data in the data)",
    )


needs_stopwords = needs_nltk("corpora/stopwords")

ResultT = TypeVar("ResultT")


def recipe_with(
    search: str, parts: str = "", budget: str = "", goal: str = "untargeted-classification"
) -> Recipe:
    recipe = parse_recipe(
        f"""
        name    = "test"
        summary = "for a test"
        paper   = "none"
        [threat]
        goal      = "{goal}"
        knowledge = "score"
        surface   = "characters"
        {'part = "question"' if goal in ("force-output", "change-answer") else ""}
        [budget]
        {budget}
        {parts}
        [search]
        method = "textattack"
        {search}
        """,
        "test.toml",
    )
    assert isinstance(recipe, Recipe)
    return recipe


def shipped(name: str, *changes: tuple[str, str]) -> Recipe:
    """A shipped recipe with some of its text replaced."""
    text = (content_folder("attacks") / f"{name}.toml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    recipe = parse_recipe(text, f"{name}.toml")
    assert isinstance(recipe, Recipe)
    return recipe


class Blocking:
    """A model wrapper as TextAttack knows them: it answers while the attack waits."""

    model: Any = None

    def __init__(self, target: Target) -> None:
        self._oracle = Oracle(target)

    def __call__(self, texts: list[Any]) -> Any:
        import torch

        (response,) = self._oracle.answer([Predict(tuple(texts))])
        assert isinstance(response, Predictions)
        return torch.from_numpy(response.probabilities)


class Row(NamedTuple):
    """What is compared."""

    id: str
    status: str
    text: TextInput | None
    queries: int


def by_textattack(
    recipe: Recipe,
    target: Target,
    examples: Sequence[LabelledExample],
    budget: int | None = None,
    wanted: int | None = None,
) -> list[Row]:
    """What TextAttack makes of the examples, one after another, in each one's random stream."""
    attack = build_attack(recipe, Blocking(target))
    if budget is not None:
        attack.goal_function.query_budget = budget
    if wanted is not None:
        attack.goal_function.target_class = wanted
    rows = []
    for example in examples:
        text: Any = example.text
        if example.text_pair is not None:
            text = OrderedDict(premise=example.text, hypothesis=example.text_pair)
        with RandomStream(SEED, example.id):
            result = attack.attack(text, example.label)
        status = STATUS[type(result).__name__]
        found = result.perturbed_result.attacked_text.tokenizer_input
        rows.append(
            Row(example.id, status, None if status == "skipped" else found, result.num_queries)
        )
    return rows


class Outcome(NamedTuple):
    """What became of an example in the engine; ``found`` is None if it was not attacked."""

    found: Found | None
    broken: str | None


def run(
    recipe: Recipe,
    target: Target,
    texts: dict[str, tuple[TextInput, Goal]],
    budget: int | None = None,
    **start_options: Any,
) -> dict[str, Finished[Outcome]]:
    """Attack texts in the engine, as the campaign does it."""
    method = textattack_method(recipe)

    def job(name: str, text: TextInput, goal: Goal) -> Job[Outcome]:
        def begin(rng: np.random.Generator) -> Search[Outcome]:
            answer = yield goal.question([text])
            if goal.verdicts(answer)[0].met:
                return Outcome(None, None)
            left = None if budget is None else budget - 1
            found = yield from method.attack(Start(text, goal, answer, left, **start_options), rng)
            broken = None
            if found.text != text:
                broken = yield from method.broken(text, found.text)
            return Outcome(found, broken)

        return Job(name, begin)

    engine = Engine(target, seed=SEED, query_budget=budget, encoder=Letters())
    jobs = (job(name, *rest) for name, rest in texts.items())
    return {finished.id: finished for finished in engine.run(jobs)}


def by_robustlab(
    recipe: Recipe,
    target: Target,
    examples: Sequence[LabelledExample],
    budget: int | None = None,
    wanted: int | None = None,
) -> list[Row]:
    def goal(truth: int) -> Goal:
        if wanted is None:
            return UntargetedClassification(truth)
        return TargetedClassification(truth, wanted)

    texts = {example.id: (example.contents, goal(example.label)) for example in examples}
    finished = run(recipe, target, texts, budget)
    rows = []
    for name in texts:
        end = finished[name]
        assert end.error is None, end.error
        assert end.value is not None
        assert end.value.broken is None
        found = end.value.found
        if found is None:
            rows.append(Row(name, "skipped", None, end.queries))
        else:
            status = "succeeded" if found.claims_success else "failed"
            rows.append(Row(name, status, found.text, end.queries))
    return rows


class Letters:
    """An encoder: a text's embedding is the direction of its counts of letters."""

    kind = "retriever"
    spec = "fake:letters"
    label_names = ()
    answers = frozenset({Embed})

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Embed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        counts = [[text.lower().count(letter) for letter in letters] for text in request.texts]
        rows = np.array(counts, dtype=np.float32).reshape(-1, len(letters)) + 0.001
        return Embeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def fingerprint(self) -> str:
        return "letters"

    def describe(self) -> dict[str, Any]:
        return {"spec": self.spec}


class Capital:
    """A generator that says where the capital is, as long as the question is spelt well.

    It answers ``Paris`` if the prompt has the word *capital*, else ``Lyon``. The log-probability
    of ``Paris`` is −1 less 0.5 for each of its three key words that is missing; that of any
    other output is −3 plus the same.
    """

    kind = "causal"
    spec = "fake:capital"
    label_names = ()
    answers = frozenset({Generate, Score})
    keys = ("capital", "france", "called")

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Generate | Score)
        self.prompts += request.prompts
        lost = [0.5 * sum(key not in prompt for key in self.keys) for prompt in request.prompts]
        ones = np.ones(len(lost), dtype=np.int64)
        if isinstance(request, Generate):
            texts = tuple("Paris" if "capital" in p else "Lyon" for p in request.prompts)
            zeros = np.zeros(len(lost), dtype=np.float32)
            return Generations(texts, zeros, ones, zeros + 1)
        values = [
            -1 - loss if output == "Paris" else -3 + loss
            for loss, output in zip(lost, request.outputs, strict=True)
        ]
        return Scores(np.array(values, dtype=np.float32), ones)

    def fingerprint(self) -> str:
        return "capital"

    def describe(self) -> dict[str, Any]:
        return {"spec": self.spec, "dtype": "fp32"}


def beginnings(count: int, words: int) -> list[LabelledExample]:
    """The first words of reviews."""
    examples = load_labelled("reviews").examples[:count]
    return [
        LabelledExample(example.id, " ".join(example.text.split()[:words]), example.label)
        for example in examples
    ]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module: scripts/ is no package."""
    spec = importlib.util.spec_from_file_location("compare_textattack", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_textattack"] = module  # its named tuples look for their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("textattack:DeepWordBugGao2018", 12, marks=needs_stopwords),
        pytest.param("textattack:Pruthi2019", 8, marks=needs_stopwords),
        # Not by its class, which would have NLTK look for a download.
        pytest.param("pwws", 12, marks=needs_nltk("corpora/wordnet")),
    ],
)
def test_outcomes_equal_those_of_textattack_with_its_own_model_wrapper(
    name: str, words: int, script: ModuleType
) -> None:
    """No rounding, and every text padded: TextAttack as its users run it."""
    recipe = recipe_for_class(name) if ":" in name else shipped(name)
    stock = script.Stock(lambda wrapper: build_attack(recipe, wrapper), 64)
    examples = beginnings(8, words)
    expected = [Row(e.id, *stock.attack(e, SEED)) for e in examples]
    target = load_target("builtin:classifier", device="cpu", dtype="fp32")
    assert by_robustlab(recipe, target, examples) == expected
    assert "succeeded" in [row.status for row in expected]


def test_a_tie_is_traced(script: ModuleType) -> None:
    """Texts in one request, the scores of which turn round by less than a step."""

    def row(positive: float) -> Any:
        return np.array([1 - positive, positive], dtype=np.float32)

    ours = [{"a": row(0.6), "b": row(0.6)}, {"c": row(0.5)}]
    theirs = [{"original": row(0.7)}, {"a": row(0.60001), "b": row(0.59999)}, {"d": row(0.5)}]
    common = script.before_parting(ours, theirs)
    assert common == ["a", "b"]
    flat = [{text: p for asked in side for text, p in asked.items()} for side in (ours, theirs)]
    lines = list(script.turned(ours, common, *flat, 1))
    assert lines[1:] == ["  0.60000998 | 0.60000002  a", "  0.59999001 | 0.60000002  b"]


@pytest.mark.parametrize("budget", [None, 25, 7, 1])
def test_deepwordbug_equals_textattack_under_a_budget(budget: int | None) -> None:
    recipe = load_recipe("deepwordbug")
    assert isinstance(recipe, Recipe)
    expected = by_textattack(recipe, WordTarget(), REVIEWS.examples, budget)
    assert by_robustlab(recipe, WordTarget(), REVIEWS.examples, budget) == expected
    statuses = [row.status for row in expected]
    assert statuses.count("skipped") == 1
    if budget is None:
        assert {"succeeded", "failed", "skipped"} == set(statuses)
    else:
        assert max(row.queries for row in expected) <= budget


def test_a_targeted_goal_is_textattack_s_own() -> None:
    recipe = shipped("pruthi", ("untargeted-classification", "targeted-classification"))
    negative = [example for example in REVIEWS.examples if example.label == 0]
    expected = by_textattack(recipe, WordTarget(), negative, wanted=1)
    assert by_robustlab(recipe, WordTarget(), negative, wanted=1) == expected
    assert {"succeeded", "skipped"} <= {row.status for row in expected}
    goal = build_attack(recipe, EngineModel()).goal_function
    assert type(goal).__module__.startswith("textattack.")


def test_pairs_of_texts_come_back_as_pairs() -> None:
    pairs = [
        LabelledExample("p0", "the food was good", 1, "and the view great"),
        LabelledExample("p1", "awful noise", 0, "all night"),
    ]
    recipe = load_recipe("deepwordbug")
    assert isinstance(recipe, Recipe)
    rows = by_robustlab(recipe, WordTarget(), pairs)
    assert rows == by_textattack(recipe, WordTarget(), pairs)
    assert all(isinstance(row.text, tuple) for row in rows)


QUESTION = "what is the capital of france called"
FRAME = Frame("Question: ", "\nAnswer:")


@pytest.mark.parametrize(
    "goal", [ChangeAnswer(FRAME, ("Paris",)), ForceOutput(FRAME, "Lyon")], ids=["change", "force"]
)
@pytest.mark.parametrize("search", ["greedy-word-swap-wir", "beam-search"])
def test_generators_are_attacked_through_the_goal(goal: Goal, search: str) -> None:
    kind = "change-answer" if isinstance(goal, ChangeAnswer) else "force-output"
    recipe = recipe_with(
        f'search_method = "{search}"',
        '[[transformation]]\nkind = "word-swap-random-character-deletion"\nrandom_one = false',
        goal=kind,
    )
    target = Capital()
    end = run(recipe, target, {"q": (QUESTION, goal)})["q"]
    assert end.value is not None
    assert end.value.found is not None
    assert end.value.found.claims_success
    # Only the part that the adversary writes was changed, and one word of it was enough.
    assert all(p.startswith("Question: ") and p.endswith("\nAnswer:") for p in target.prompts)
    (change,) = changed_words(QUESTION, str(end.value.found.text))
    assert QUESTION[slice(*change.original)] == "capital"
    # Every prompt but the first question's is asked once or is a query all the same.
    assert end.queries >= len(target.prompts)


@pytest.mark.parametrize("budget", [1, 2, 3, 9, 20])
@pytest.mark.parametrize("search", ["greedy-word-swap-wir", "beam-search"])
def test_a_goal_on_generated_text_keeps_its_budget(budget: int, search: str) -> None:
    recipe = recipe_with(
        f'search_method = "{search}"',
        '[[transformation]]\nkind = "word-swap-random-character-deletion"\nrandom_one = false',
        goal="change-answer",
    )
    goal = ChangeAnswer(FRAME, ("Paris",), at_most=-1.0)  # nothing is good enough
    end = run(recipe, Capital(), {"q": (QUESTION, goal)}, budget)["q"]
    assert (end.error, end.exhausted) == (None, False)
    assert end.queries <= budget
    assert end.value is not None
    assert end.value.found is not None
    assert end.value.found.text != QUESTION or budget < 20


@pytest.mark.parametrize("budget", [2, 6, 40])
def test_searches_that_cannot_stand_a_spent_budget_return_their_best(budget: int) -> None:
    """Differential evolution asks on when nothing is answered any more, and fails."""
    recipe = recipe_with(
        'search_method = "differential-evolution"\npopsize = 3\nmaxiter = 5',
        '[[transformation]]\nkind = "word-swap-invisible-characters"',
    )
    rows = by_robustlab(recipe, WordTarget(), REVIEWS.examples[:2], budget)
    assert max(row.queries for row in rows) == budget


@pytest.mark.parametrize(
    ("budget", "options"),
    [("max_edits = 1", {}), ("max_edit_rate = 0.01", {}), ("", {"max_edits": 1})],
)
def test_word_limits_hold_in_the_search(budget: str, options: dict[str, int]) -> None:
    parts = '[[transformation]]\nkind = "word-swap-random-character-deletion"'
    search = 'search_method = "greedy-word-swap-wir"'
    texts = {e.id: (e.contents, UntargetedClassification(e.label)) for e in REVIEWS.examples}

    def edits(recipe: Recipe, **options: int) -> list[int]:
        ends = run(recipe, WordTarget(), texts, **options)
        values = [end.value for end in ends.values() if end.value is not None]
        assert all(value.broken is None for value in values)
        return [
            len(changed_words(str(texts[name][0]), str(end.value.found.text)))
            for name, end in ends.items()
            if end.value is not None and end.value.found is not None
        ]

    assert max(edits(recipe_with(search, parts))) > 1
    assert set(edits(recipe_with(search, parts, budget), **options)) == {1}


def solve(search: Search[ResultT], encoder: Target | None = None) -> tuple[ResultT, list[str]]:
    """The result of a search that asks for embeddings only, and the texts of these."""
    embedded: list[str] = []
    try:
        request = next(search)
        while True:
            assert isinstance(request, Embed)
            assert encoder is not None
            embedded += request.texts
            request = search.send(encoder.answer(request))
    except StopIteration as end:
        return end.value, embedded


@pytest.mark.parametrize(
    ("perturbed", "message"),
    [
        ("the food was goood and the veiw great", None),
        ("the f ood was good and the view great", None),  # a word became two
        ("food was good and the view great", "stopword-modification does not let 'the' change"),
        ("the food wos good and the view great", "stopword-modification does not let 'was' change"),
        ("the food was, good: and the view great!", None),  # no word is another
        ("the " + "x" * 31 + " was good and the view great", "levenshtein-edit-distance does not"),
        ("", "does not let"),
    ],
)
def test_the_final_text_is_held_to_the_constraints(perturbed: str, message: str | None) -> None:
    recipe = load_recipe("deepwordbug")
    assert isinstance(recipe, Recipe)
    method = textattack_method(recipe)
    reason, _ = solve(method.broken("the food was good and the view great", perturbed))
    assert (reason is None) == (message is None)
    assert message is None or message in str(reason)


@pytest.mark.parametrize(
    ("constraint", "perturbed", "holds"),
    [
        ("max-words-perturbed\nmax_num_words = 1", "aaa bbx ccc ddd", True),
        ("max-words-perturbed\nmax_num_words = 1", "aaa bbx ccx ddd", False),
        ("max-num-words-modified\nmax_num_words = 2", "aax bbx ccc ddd", True),
        ("max-num-words-modified\nmax_num_words = 2", "aax bbx ccc ddx", False),
        ("max-modification-rate\nmax_rate = 0.5", "aax bbx ccc ddd", True),
        ("max-modification-rate\nmax_rate = 0.5", "aax bbx ccx ddd", False),
        ("max-word-index-modification\nmax_length = 3", "aaa bbb ccx ddd", True),
        ("max-word-index-modification\nmax_length = 3", "aaa bbb ccc ddx", False),
        ("min-word-length\nmin_length = 4", "aaa bbb ccc ddx", False),
        # Against the step before: nothing that two texts could tell.
        (
            "levenshtein-edit-distance\nmax_edit_distance = 1\ncompare_against_original = false",
            "xxx xxx xxx xxx",
            True,
        ),
    ],
)
def test_constraints_are_asked_as_textattack_asks_them(
    constraint: str, perturbed: str, holds: bool
) -> None:
    kind, *options = constraint.split("\n")
    recipe = recipe_with(
        'search_method = "greedy-search"',
        '[[transformation]]\nkind = "word-swap-qwerty"\n'
        f'[[constraint]]\nkind = "{kind}"\n' + "\n".join(options),
    )
    reason, _ = solve(textattack_method(recipe).broken("aaa bbb ccc ddd", perturbed))
    assert (reason is None) == holds
    assert reason is None or reason.startswith(kind)


def test_the_recipe_s_word_limit_is_checked_too() -> None:
    method = textattack_method(shipped("pruthi", ("queries = 2000", "max_edit_rate = 0.3")))
    reason, _ = solve(method.broken("aaaa bbbb cccc", "aaxa bbxb cccc"))
    assert reason == "2 words changed, at most 1"


@needs_nltk("taggers/averaged_perceptron_tagger_eng", "taggers/universal_tagset")
def test_parts_of_speech_are_compared_where_words_stand_in_the_same_places() -> None:
    recipe = recipe_with(
        'search_method = "greedy-search"',
        '[[transformation]]\nkind = "word-swap-qwerty"\n'
        '[[constraint]]\nkind = "part-of-speech"\nallow_verb_noun_swap = false',
    )
    method = textattack_method(recipe)
    before = "she opened the small door"
    assert solve(method.broken(before, "she opened the little door"))[0] is None
    assert "part-of-speech" in str(solve(method.broken(before, "she opened the quickly door"))[0])
    assert solve(method.broken(before, "she opened the quickly the door"))[0] is None


def similarity(text: str, other: str) -> float:
    answer = Letters().answer(Embed((text, other)))
    assert isinstance(answer, Embeddings)
    one, two = answer.vectors.astype(np.float64)
    return float(one @ two)


def test_similarity_is_asked_of_the_engine_s_encoder() -> None:
    original = attacked_text("one two three four five six seven eight nine ten")
    last = original.replace_word_at_index(1, "zzzz").replace_word_at_index(8, "nina")
    constraint = own_parts().similarity(threshold=0.5)
    last.attack_attrs["last_transformation"] = None

    def allowed(constraint: Any) -> Callable[[], list[Any]]:
        return lambda: list(constraint.call_many([last], original))

    kept, asked = solve(requests_of(allowed(constraint)), Letters())
    assert asked == [original.text, last.text]
    assert kept == [last]
    whole = similarity(original.text, last.text)
    assert last.attack_attrs["similarity_score"] == pytest.approx(whole, abs=1e-6)

    # With a window the surroundings of both changed words are compared, and the worse one counts,
    # though only the last is new.
    windows = [
        ("one two three", "one zzzz three"),
        ("eight nine ten", "eight nina ten"),
    ]
    older, newer = (similarity(*pair) for pair in windows)
    assert older < newer
    strict = own_parts().similarity(threshold=(older + newer) / 2, window_size=3)
    kept, asked = solve(requests_of(allowed(strict)), Letters())
    assert asked == [side for pair in windows for side in pair]
    assert kept == []
    assert last.attack_attrs["similarity_score"] == pytest.approx(older, abs=1e-6)
    loose = own_parts().similarity(threshold=older - 0.01, window_size=3)
    assert solve(requests_of(allowed(loose)), Letters())[0] == [last]
    # Against the step before, only what that step changed.
    step = own_parts().similarity(
        threshold=(older + newer) / 2, window_size=3, compare_against_original=False
    )
    assert solve(requests_of(allowed(step)), Letters()) == ([last], [*windows[1]])


def test_windows_follow_words_that_were_inserted() -> None:
    original = attacked_text("one two three four five six")
    longer = original.insert_text_before_word_index(1, "new word")
    changed = longer.replace_word_at_index(6, "fvie")  # "five", two words further on
    changed.attack_attrs["last_transformation"] = None
    constraint = own_parts().similarity(threshold=-1.0, window_size=3)
    _, asked = solve(requests_of(lambda: constraint.call_many([changed], original)), Letters())
    assert asked[-2:] == ["four five six", "four fvie six"]


def test_similarity_is_checked_in_the_end() -> None:
    recipe = recipe_with(
        'search_method = "greedy-search"',
        '[[transformation]]\nkind = "word-swap-qwerty"\n'
        '[[constraint]]\nkind = "minilm-sentence-similarity"\nthreshold = 0.9\nwindow_size = 3',
    )
    method = textattack_method(recipe)
    before = "one two three four five six"
    assert solve(method.broken(before, "one two three fuor five six"), Letters())[0] is None
    reason, asked = solve(method.broken(before, "one zzz three four five zzz"), Letters())
    assert str(reason).startswith("minilm-sentence-similarity")
    assert asked == ["one two three", "one zzz three", "four five six", "four five zzz"]


def test_textattack_s_own_sentence_encoder_asks_too_if_it_is_minilm() -> None:
    recipe = recipe_with(
        'search_method = "greedy-search"',
        '[[transformation]]\nkind = "word-swap-qwerty"\n'
        f'[[constraint]]\nkind = "sbert"\nthreshold = 0.9\nmodel_name = "{minilm_folder()}"',
    )
    attack = build_attack(recipe, EngineModel())
    assert isinstance(attack.constraints[0].model, EngineEncoder)
    reason, asked = solve(
        textattack_method(recipe).broken("one two three", "one zzz three"), Letters()
    )
    assert str(reason).startswith("sbert")
    assert asked == ["one two three", "one zzz three"]


def test_probabilities_of_many_classes_are_not_taken_for_logits() -> None:
    """TextAttack applies a softmax where rows do not sum to one within 1e-6."""
    rng = np.random.default_rng(0)
    rows = rng.random((20, 20_000)).astype(np.float32)
    rows /= rows.sum(axis=1, keepdims=True)
    assert (abs(np.cumsum(rows, axis=1, dtype=np.float32)[:, -1] - 1) > 1e-6).any()
    goal = build_attack(shipped("pruthi"), EngineModel()).goal_function
    texts = tuple(f"text {number}" for number in range(20))
    search = requests_of(lambda: goal._call_model_uncached([attacked_text(t) for t in texts]))
    assert next(search) == Predict(texts)
    with pytest.raises(StopIteration) as end:
        search.send(Predictions(rows))
    np.testing.assert_allclose(end.value.value.numpy(), rows, rtol=1e-5)


@needs_stopwords
@pytest.mark.parametrize("name", ["DeepWordBugGao2018", "Pruthi2019"])
def test_textattack_s_own_classes_run_unmodified(name: str) -> None:
    recipe = recipe_for_class(f"textattack:{name}")
    assert (recipe.name, recipe.threat.surface) == (f"textattack:{name}", "characters")
    assert f"TextAttack {importlib.metadata.version('textattack')}" in recipe.text
    assert recipe.paper.startswith("https://arxiv.org/abs/")
    examples = REVIEWS.examples[:3]
    expected = by_textattack(recipe, WordTarget(), examples)
    assert by_robustlab(recipe, WordTarget(), examples) == expected
    assert "succeeded" in [row.status for row in expected]


OWN = '''
from textattack import Attack
from textattack.attack_recipes import AttackRecipe, DeepWordBugGao2018
from textattack.goal_functions import UntargetedClassification
from textattack.search_methods import GreedySearch
from textattack.transformations import WordDeletion

class Deletes(AttackRecipe):
    """Deletes words."""
    @staticmethod
    def build(model_wrapper):
        goal = UntargetedClassification(model_wrapper)
        return Attack(goal, [], WordDeletion(), GreedySearch())

class Like(DeepWordBugGao2018):
    pass
'''


def test_a_user_s_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_attacks.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipe_for_class("my_attacks:Deletes")
    assert (recipe.name, recipe.threat.surface) == ("textattack:my_attacks:Deletes", "words")
    assert recipe_for_class("my_attacks:Like").threat.surface == "characters"
    assert missing(recipe) is None
    examples = REVIEWS.examples[:3]
    rows = by_robustlab(recipe, WordTarget(), examples)
    assert rows == by_textattack(recipe, WordTarget(), examples)
    assert rows[2].text == "noise all night"


def test_classes_that_attack_generators_have_a_goal_of_ours() -> None:
    recipe = recipe_for_class("MorpheusTan2020")
    assert (recipe.threat.goal, recipe.threat.part) == ("change-answer", "question")
    assert recipe.goal.options == {"measure": "bleu", "at_most": 0.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PWWS", r"^no recipe 'textattack:PWWS': .* the nearest is 'PWWSRen2019'$"),
        ("no_such_module:Attack", r"No module named 'no_such_module'; .*PYTHONPATH$"),
        ("json:JSONDecoder", r"TextAttack has no 'json:JSONDecoder'"),
    ],
)
def test_unknown_classes(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_for_class(name)


@needs_stopwords
@pytest.mark.parametrize(
    ("name", "cls"), [("deepwordbug", "DeepWordBugGao2018"), ("pruthi", "Pruthi2019")]
)
def test_the_files_spell_out_textattack_s_classes(name: str, cls: str) -> None:
    recipe = shipped(name)
    ours = build_attack(recipe, Blocking(WordTarget()))
    theirs = build_attack(recipe_for_class(cls), Blocking(WordTarget()))
    assert repr(ours) == repr(theirs)
    for mine, its in zip(
        ours.transformation.transformations, theirs.transformation.transformations, strict=True
    ):
        assert vars(mine) == vars(its)
    (stated,) = (
        part.options["stopwords"]
        for part in recipe.constraints
        if part.kind == "stopword-modification"
    )
    assert isinstance(stated, tuple)
    (list_constraint,) = (
        c for c in theirs.pre_transformation_constraints if hasattr(c, "stopwords")
    )
    shared = list_constraint.stopwords & set(stated)
    assert len(shared) > 0.7 * len(list_constraint.stopwords)


@needs_nltk("corpora/wordnet")
def test_pwws_finds_synonyms_without_a_download() -> None:
    examples = [
        LabelledExample("p0", "the food was good and the big view fine", 1),
        LabelledExample("p1", "awful noise all night", 0),
    ]
    recipe = shipped("pwws")
    rows = by_robustlab(recipe, WordTarget(), examples)
    assert rows == by_textattack(recipe, WordTarget(), examples)
    assert [row.status for row in rows] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_built_or_says_what_is_missing(name: str) -> None:
    recipe = shipped(name)
    lack = missing(recipe)
    if lack is None:
        assert build_attack(recipe, EngineModel()).is_black_box
    else:
        assert lack.startswith(f"{name} needs ")
        with pytest.raises(UserError) as error:
            build_attack(recipe, EngineModel())
        assert str(error.value) == lack


@needs_nltk("taggers/averaged_perceptron_tagger_eng", "taggers/universal_tagset")
def test_bae_writes_what_its_masked_language_model_would(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "masked", head="AutoModelForMaskedLM")
    recipe = shipped(
        "bae",
        ("google-bert/bert-base-uncased", str(folder)),
        ("max_length            = 256", "max_length            = 32"),
        ("threshold   = 0.8", "threshold   = 0.3"),
    )
    assert missing(recipe) is None
    goal = UntargetedClassification(1)
    end = run(recipe, WordTarget(), {"t": ("the great old river was good", goal)})["t"]
    assert end.error is None
    assert end.value is not None
    assert end.value.found is not None
    assert end.value.found.text != "the great old river was good"
    assert end.value.broken is None
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"masked language model {folder} cannot be loaded"):
        build_attack(recipe, EngineModel())


def test_transformations_share_a_masked_language_model(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "masked", head="AutoModelForMaskedLM")
    parts = "".join(
        f'[[transformation]]\nkind = "{kind}"\nmasked_language_model = "{folder}"\n'
        for kind in ("word-swap-masked-lm", "word-insertion-masked-lm")
    )
    attack = build_attack(recipe_with('search_method = "greedy-search"', parts), EngineModel())
    one, two = attack.transformation.transformations
    assert one._language_model is two._language_model


def test_a_failing_model_is_the_example_s_error() -> None:
    class Fragile(WordTarget):
        def answer(self, request: Any) -> Predictions:
            if any("[UNK]" in text and "awful" in text for text in request.texts):
                raise RuntimeError("this one breaks me")
            response = super().answer(request)
            assert isinstance(response, Predictions)
            return response

    texts = {e.id: (e.contents, UntargetedClassification(e.label)) for e in REVIEWS.examples[:3]}
    recipe = load_recipe("deepwordbug")
    assert isinstance(recipe, Recipe)
    ends = run(recipe, Fragile(), texts)
    assert [ends[name].error for name in texts] == [None, None, "RuntimeError: this one breaks me"]


@pytest.mark.parametrize(
    ("search", "parts", "message"),
    [
        ('attack = "DeepWordBug"', "", r"search\.attack: .* the nearest is 'DeepWordBugGao2018'"),
        ('attack = "no_such_module:Attack"', "", r"search\.attack: No module named"),
        ("tries = 3", "", r"lacks a key: search\.attack or search\.search_method$"),
        ('search_method = "greedy-word-swap-wir"', "", r"has no \[\[transformation\]\]$"),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-swop-qwerty"',
            r"at transformation: .* no 'word-swop-qwerty'; the nearest is 'word-swap-qwerty'",
        ),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-deletion"\n[[constraint]]\nkind = "edit-limit"',
            r"at constraint: TextAttack has no 'edit-limit'",
        ),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-deletion"\nspeed = 3',
            r"test\.toml is wrong at transformation word-deletion: .*speed|arguments",
        ),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-deletion"\n'
            '[[constraint]]\nkind = "minilm-sentence-similarity"\nmin_cosine = 0.8',
            r"at constraint minilm-sentence-similarity: .*min_cosine",
        ),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-deletion"\n'
            '[[constraint]]\nkind = "levenshtein-edit-distance"\nmax_edit_distance = "few"',
            r"at constraint levenshtein-edit-distance: max_edit_distance must be an int",
        ),
        (
            'search_method = "greedy-word-swap-wir"',
            '[[transformation]]\nkind = "word-inner-swap-random"\n'
            '[[transformation]]\nkind = "word-insertion-random-synonym"',
            r"test\.toml",
        ),
        (
            'search_method = "greedy-word-swap-wir"\nwir_method = "gradient"',
            '[[transformation]]\nkind = "word-deletion"',
            r"needs the model's gradients",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(search: str, parts: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_attack(recipe_with(search, parts), EngineModel())


@needs_stopwords
def test_a_finished_attack_takes_no_options() -> None:
    with pytest.raises(UserError, match="takes no other options"):
        build_attack(recipe_with('attack = "Pruthi2019"\ntries = 3'), EngineModel())


@needs_stopwords
def test_other_goals_and_white_boxes_are_refused() -> None:
    for name, message in (
        ("InputReductionFeng2018", "the attack pursues InputReduction"),
        ("HotFlipEbrahimi2017", "HotFlipEbrahimi2017 cannot run here"),
    ):
        with pytest.raises(UserError, match=message):
            build_attack(recipe_with(f'attack = "{name}"'), EngineModel())


def test_missing_resources_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    resources.import_textattack()
    with monkeypatch.context() as bare:
        bare.setattr(nltk.data, "path", [])
        with pytest.raises(UserError, match=r"PWWSRen2019 needs NLTK's corpora/stop.*NLTK_DATA"):
            build_attack(recipe_with('attack = "PWWSRen2019"'), EngineModel())
    for name, value in (
        ("TA_CACHE_DIR", tmp_path / "cache"),
        ("FLAIR_CACHE_ROOT", tmp_path / "flair"),
    ):
        monkeypatch.setenv(name, str(value))
    vectors = tmp_path / "cache/word_embeddings/paragramcf"
    lack = missing(shipped("textbugger"))
    assert str(lack).startswith("textbugger needs TextAttack's word_embeddings/paragramcf")
    assert f"to {vectors}" in str(lack)
    vectors.mkdir(parents=True)
    assert missing(shipped("textbugger")) is None
    tagger = tmp_path / "flair/models/ner-english"
    lack = missing(shipped("checklist"))
    assert str(lack).startswith("checklist needs flair's tagger ner-english")
    assert str(tagger) in str(lack)
    (tagger / "snapshot").mkdir(parents=True)
    (tagger / "snapshot" / "pytorch_model.bin").touch()
    assert missing(shipped("checklist")) is None
    for name, message in (
        ("module:no_such_package", "pip install no_such_package"),
        ("hub:owner/no-such-model", "hf download owner/no-such-model"),
    ):
        with pytest.raises(UserError, match=message):
            resources.require(name, "X")


@needs_stopwords
def test_the_universal_sentence_encoder_is_refused_without_tensorflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TA_CACHE_DIR", str(tmp_path))
    (tmp_path / "word_embeddings" / "paragramcf").mkdir(parents=True)
    if importlib.util.find_spec("tensorflow_hub") is None:
        with pytest.raises(UserError, match="pip install tensorflow_hub"):
            build_attack(recipe_for_class("TextBuggerLi2018"), EngineModel())


def test_textattack_itself_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: None)
    wanted = r"pip install 'robustlab\[textattack\]'"
    recipe = load_recipe("deepwordbug")
    assert isinstance(recipe, Recipe)
    with pytest.raises(UserError, match=wanted):
        textattack_method(recipe)
    with pytest.raises(UserError, match=wanted):
        recipe_for_class("PWWSRen2019")
    assert "robustlab[textattack]" in str(missing(recipe))


def environment(home: Path) -> dict[str, str]:
    """That of a bare machine: a new home, no NLTK data."""
    tests = Path(__file__).parent
    unset = ("NLTK_DATA", "TA_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME", "FLAIR_CACHE_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"HOME": str(home), "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}


def python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


LISTING = """
import sys
from robustlab.attack.recipe import load_recipe
from robustlab.attack.textattack_resources import missing

for name in ("deepwordbug", "pruthi", "pwws", "textfooler", "bae", "checklist"):
    lack = missing(load_recipe(name))
    print("ready" if lack is None else lack.partition(",")[0])
heavy = {"textattack", "torch", "transformers", "nltk", "flair"} & set(sys.modules)
assert not heavy, heavy
"""


def test_what_is_missing_is_found_without_a_heavy_import(tmp_path: Path) -> None:
    done = python(LISTING, tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "ready",
        "ready",
        "pwws needs NLTK's corpora/wordnet",
        "textfooler needs TextAttack's word_embeddings/paragramcf",
        "bae needs the model google-bert/bert-base-uncased",
        "checklist needs flair's tagger ner-english",
    ]


BARE = """
import os
before = dict(os.environ)
from attack_fakes import REVIEWS, WordTarget
from robustlab.attack.engine import Engine, Job
from robustlab.attack.goals import UntargetedClassification
from robustlab.attack.method import Start
from robustlab.attack.recipe import load_recipe
from robustlab.attack.textattack import textattack_method

method = textattack_method(load_recipe("deepwordbug"))

def start(rng):
    example = REVIEWS.examples[0]
    goal = UntargetedClassification(example.label)
    answer = yield goal.question([example.text])
    return (yield from method.attack(Start(example.text, goal, answer), rng))

(end,) = Engine(WordTarget(), seed=5).run([Job(REVIEWS.examples[0].id, start)])
with open("found", "w") as file:
    file.write(end.value.text)
changed = {k for k in {*os.environ, *before} if os.environ.get(k) != before.get(k)}
assert changed <= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"}, changed
"""


def test_a_bare_machine_needs_no_download_and_sees_no_message(tmp_path: Path) -> None:
    """What the default attack meets right after its installation."""
    done = python(BARE, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    recipe = load_recipe("deepwordbug")
    assert isinstance(recipe, Recipe)
    (row,) = by_robustlab(recipe, WordTarget(), REVIEWS.examples[:1])
    assert (tmp_path / "found").read_text() == row.text
