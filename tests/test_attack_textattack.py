"""TextAttack inside the engine does what TextAttack does by itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from attack_fakes import REVIEWS, WordTarget

from robustlab.attack import textattack as adapter
from robustlab.attack.campaign import Campaign
from robustlab.attack.oracle import Oracle
from robustlab.attack.recipe import Recipe, load_recipe, parse_recipe
from robustlab.attack.streams import RandomStream
from robustlab.data import LabelledExample, LabelledSet, load_labelled, sample
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import Predict, Predictions, Target
from robustlab.runs import RunDirectory

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("textattack") is None, reason="TextAttack is not installed"
)

SEED = 5
STATUS = {
    "SuccessfulAttackResult": "succeeded",
    "FailedAttackResult": "failed",
    "SkippedAttackResult": "skipped",
}

needs_stopwords = pytest.mark.skipif(
    not adapter._has_nltk("corpora/stopwords"),
    reason="NLTK's stopwords are not here (NLTK_DATA, or nltk_data in the shared data)",
)


def recipe_with(search: str, parts: str = "", budget: str = "") -> Recipe:
    return parse_recipe(
        f"""
        name    = "test"
        summary = "for a test"
        paper   = "none"
        [threat]
        goal      = "untargeted-classification"
        knowledge = "score"
        surface   = "characters"
        [budget]
        {budget}
        {parts}
        [search]
        method = "textattack"
        {search}
        """,
        "test.toml",
    )


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


Row = tuple[str, str, Any, int]


def by_textattack(
    recipe: Recipe, target: Target, examples: tuple[LabelledExample, ...], budget: int | None
) -> list[Row]:
    """What TextAttack makes of the examples, one after another, in each one's random stream."""
    attack = adapter.build_attack(recipe, Blocking(target))
    if budget is not None:
        attack.goal_function.query_budget = budget
    rows = []
    for example in examples:
        text: Any = example.text
        if example.text_pair is not None:
            text = OrderedDict(premise=example.text, hypothesis=example.text_pair)
        with RandomStream(SEED, example.id):
            result = attack.attack(text, example.label)
        status = STATUS[type(result).__name__]
        found = result.perturbed_result.attacked_text.tokenizer_input
        perturbed = None if status == "skipped" else found
        rows.append((example.id, status, perturbed, result.num_queries))
    return rows


def by_robustlab(
    recipe: Recipe, target: Target, labelled: LabelledSet, budget: int | None, folder: Path
) -> list[Row]:
    campaign = Campaign(
        target, labelled, recipe, seed=SEED, query_budget=budget, concurrency=len(labelled.examples)
    )
    manifest = campaign.manifest(data_spec="test", arguments={})
    with RunDirectory.create(folder / "run", manifest) as run:
        campaign.run(run)
        rows = {o["id"]: o for o in run.outcomes()}
    outcomes = [rows[example.id] for example in labelled.examples]

    def text(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return [(o["id"], o["status"], text(o["perturbed"]), o["queries"]) for o in outcomes]


def test_deepwordbug_on_a_real_classifier_equals_textattack(tmp_path: Path) -> None:
    loaded = load_labelled("reviews")
    short = [example for example in loaded.examples if len(example.text.split()) < 17]
    examples = sample(short, 10, SEED)
    labelled = LabelledSet("reviews", "test", loaded.label_names, examples)
    target = load_target("builtin:classifier", device="cpu", dtype="fp32")
    recipe = load_recipe("deepwordbug")
    expected = by_textattack(recipe, target, examples, None)
    assert by_robustlab(recipe, target, labelled, None, tmp_path) == expected
    assert sum(status == "succeeded" for _, status, _, _ in expected) >= 5


@pytest.mark.parametrize("budget", [None, 25, 7, 1])
def test_deepwordbug_equals_textattack_under_a_budget(budget: int | None, tmp_path: Path) -> None:
    recipe = load_recipe("deepwordbug")
    expected = by_textattack(recipe, WordTarget(), REVIEWS.examples, budget)
    assert by_robustlab(recipe, WordTarget(), REVIEWS, budget, tmp_path) == expected
    statuses = [status for _, status, _, _ in expected]
    assert statuses.count("skipped") == 1
    if budget is None:
        assert {"succeeded", "failed", "skipped"} == set(statuses)
    else:
        assert max(queries for *_, queries in expected) <= budget


@needs_stopwords
@pytest.mark.parametrize("name", ["DeepWordBugGao2018", "Pruthi2019"])
def test_textattack_s_own_classes_run_unmodified(name: str, tmp_path: Path) -> None:
    recipe = recipe_with(f'attack = "{name}"')
    some = LabelledSet("some", "test", REVIEWS.label_names, REVIEWS.examples[:3])
    expected = by_textattack(recipe, WordTarget(), some.examples, None)
    assert by_robustlab(recipe, WordTarget(), some, None, tmp_path) == expected
    assert "succeeded" in [status for _, status, _, _ in expected]


@needs_stopwords
def test_the_deepwordbug_file_spells_out_textattack_s_class() -> None:
    ours = adapter.build_attack(load_recipe("deepwordbug"), Blocking(WordTarget()))
    theirs = adapter.build_attack(
        recipe_with('attack = "DeepWordBugGao2018"'), Blocking(WordTarget())
    )
    assert repr(ours) == repr(theirs)
    for mine, its in zip(
        ours.transformation.transformations, theirs.transformation.transformations, strict=True
    ):
        assert vars(mine) == vars(its)
    stated = load_recipe("deepwordbug").constraints[2].options["stopwords"]
    assert isinstance(stated, tuple)
    (list_constraint,) = (
        c for c in theirs.pre_transformation_constraints if hasattr(c, "stopwords")
    )
    shared = list_constraint.stopwords & set(stated)
    assert len(shared) > 0.7 * len(list_constraint.stopwords)


def test_pairs_of_texts_come_back_as_pairs(tmp_path: Path) -> None:
    pairs = LabelledSet(
        "pairs",
        "test",
        REVIEWS.label_names,
        (
            LabelledExample("p0", "the food was good", 1, "and the view great"),
            LabelledExample("p1", "awful noise", 0, "all night"),
        ),
    )
    recipe = load_recipe("deepwordbug")
    rows = by_robustlab(recipe, WordTarget(), pairs, None, tmp_path)
    assert rows == by_textattack(recipe, WordTarget(), pairs.examples, None)
    assert all(isinstance(perturbed, tuple) for _, _, perturbed, _ in rows)


def test_a_failing_model_is_the_example_s_error(tmp_path: Path) -> None:
    class Fragile(WordTarget):
        def answer(self, request: Any) -> Predictions:
            if any("[UNK]" in text and "awful" in text for text in request.texts):
                raise RuntimeError("this one breaks me")
            response = super().answer(request)
            assert isinstance(response, Predictions)
            return response

    some = LabelledSet("some", "test", REVIEWS.label_names, REVIEWS.examples[:3])
    rows = by_robustlab(load_recipe("deepwordbug"), Fragile(), some, None, tmp_path)
    assert [status for _, status, _, _ in rows] == ["succeeded", "succeeded", "error"]


@pytest.mark.parametrize(
    ("search", "parts", "message"),
    [
        ('attack = "DeepWordBug"', "", r"search\.attack: .* the nearest is 'DeepWordBugGao2018'"),
        ('attack = "no_such_module:Attack"', "", r"No module named 'no_such_module'"),
        ('attack = "json:JSONDecoder"', "", r"TextAttack has no 'json:JSONDecoder'"),
        ("tries = 3", "", r"lacks a key: search\.attack or search\.search_method$"),
        ('search_method = "greedy-word-swap-wir"', "", r"has no \[\[transformation\]\]$"),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-swop-qwerty"',
            r"at transformation: .* no 'word-swop-qwerty'; the nearest is 'word-swap-qwerty'",
        ),
        (
            'search_method = "greedy-search"',
            '[[transformation]]\nkind = "word-deletion"\nspeed = 3',
            r"test\.toml is wrong at transformation word-deletion: .*speed|arguments",
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
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(search: str, parts: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapter.build_attack(recipe_with(search, parts), Blocking(WordTarget()))


@needs_stopwords
def test_a_finished_attack_takes_no_options() -> None:
    with pytest.raises(UserError, match="takes no other options"):
        adapter.build_attack(
            recipe_with('attack = "Pruthi2019"\ntries = 3'), Blocking(WordTarget())
        )


@needs_stopwords
def test_other_goals_and_white_boxes_are_refused() -> None:
    for name, message in (
        ("InputReductionFeng2018", "the attack pursues InputReduction"),
        ("HotFlipEbrahimi2017", "HotFlipEbrahimi2017 cannot run here"),
    ):
        with pytest.raises(UserError, match=message):
            adapter.build_attack(recipe_with(f'attack = "{name}"'), Blocking(WordTarget()))


def test_missing_resources_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    adapter._import_textattack()
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match=r"PWWSRen2019 needs NLTK's corpora/stopwords.*NLTK_DATA"):
        adapter.build_attack(recipe_with('attack = "PWWSRen2019"'), Blocking(WordTarget()))
    monkeypatch.setenv("TA_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"put it at {tmp_path}/word_embeddings/paragramcf"):
        adapter._require("cache:word_embeddings/paragramcf", "IGAWang2019")
    with pytest.raises(UserError, match="pip install no_such_package"):
        adapter._require("module:no_such_package", "X")


def test_textattack_itself_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'robustlab\[textattack\]'"):
        adapter.textattack_method(load_recipe("deepwordbug"))


BARE = """
import os
before = dict(os.environ)
from attack_fakes import REVIEWS, WordTarget
from robustlab.attack.campaign import Campaign
from robustlab.attack.recipe import load_recipe
from robustlab.runs import RunDirectory

campaign = Campaign(WordTarget(), REVIEWS, load_recipe("deepwordbug"), seed=5)
with RunDirectory.create("run", campaign.manifest(data_spec="x", arguments={})) as run:
    campaign.run(run)
changed = {k for k in {*os.environ, *before} if os.environ.get(k) != before.get(k)}
assert changed <= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"}, changed
"""


def test_a_bare_machine_needs_no_download_and_sees_no_message(tmp_path: Path) -> None:
    """A new home, no NLTK data: what the default attack meets right after its installation."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NLTK_DATA", "TA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    tests = Path(__file__).parent
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    here = by_robustlab(load_recipe("deepwordbug"), WordTarget(), REVIEWS, None, tmp_path / "here")
    there = {o["id"]: o for o in RunDirectory.open(tmp_path / "run").outcomes()}
    assert [there[key]["perturbed"] for key, *_ in here] == [text for _, _, text, _ in here]
