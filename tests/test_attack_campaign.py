"""Campaigns: data × target × recipe → outcomes in a run directory."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_fakes import REVIEWS, WordTarget
from tiny import save_tiny

from robustlab.attack import attack
from robustlab.attack import campaign as campaigns
from robustlab.attack.campaign import Campaign, Progress
from robustlab.attack.engine import Search
from robustlab.attack.examples import classification_set
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.methods import build_method
from robustlab.attack.recipe import Recipe, load_recipe, parse_recipe
from robustlab.data import LabelledExample, LabelledSet, load_labelled
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import (
    Embed,
    Embeddings,
    Predict,
    Predictions,
    Request,
    Response,
    Target,
    TextInput,
)
from robustlab.runs import RunDirectory

KEYS = [
    "id", "status", "original", "perturbed", "original_output", "perturbed_output", "truth",
    "queries", "edits", "similarity", "seconds",
]  # fmt: skip

RECIPE = parse_recipe(
    """
    name    = "spoil"
    summary = "Takes one word after another away"
    paper   = "none"
    [threat]
    goal      = "untargeted-classification"
    knowledge = "score"
    surface   = "words"
    [budget]
    queries = 50
    [[constraint]]
    kind  = "keep"
    words = ["very", "the"]
    [search]
    method = "spoil"
    """,
    "spoil.toml",
)
assert isinstance(RECIPE, Recipe)


class Spoil:
    """Blanks the words in random order, but for those to be kept, until the goal is met.

    A text that contains ``forbidden`` breaks its one constraint.
    """

    def __init__(self, kept: tuple[Any, ...], forbidden: str) -> None:
        self.kept = kept
        self.forbidden = forbidden

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        yield Embed(())
        return "a forbidden word" if self.forbidden in str(perturbed) else None

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        assert isinstance(start.text, str)
        words = start.text.split()
        for place in rng.permutation(len(words)):
            if words[place] in self.kept:
                continue
            words[place] = f"x{rng.integers(1000)}"
            text = " ".join(words)
            response = yield Predict((text, text))
            assert isinstance(response, Predictions)
            if start.goal.verdicts(response)[0].met:
                return Found(text, claims_success=True, notes={"order": int(place)})
        return Found(" ".join(words), claims_success=False)


def build(recipe: Recipe) -> Method:
    if recipe.search.kind != "spoil":
        return build_method(recipe)
    kept = recipe.constraints[0].options["words"]
    assert isinstance(kept, tuple)
    return Spoil(kept, str(recipe.search.options.get("forbidden", "-")))


@pytest.fixture(autouse=True)
def _with_spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "build_method", build)


class Lengths:
    """An encoder: a text's embedding is the direction (words, 1)."""

    kind = "retriever"
    spec = "fake:lengths"
    label_names = ()
    answers = frozenset({Embed})

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Embed)
        rows = np.array([[len(text.split()), 1.0] for text in request.texts], dtype=np.float32)
        rows = rows.reshape(-1, 2)
        return Embeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def fingerprint(self) -> str:
        return "lengths"

    def describe(self) -> dict[str, Any]:
        return {"spec": self.spec}


def make(
    target: Target,
    labelled: LabelledSet = REVIEWS,
    recipe: Recipe = RECIPE,
    *,
    seed: int = 1,
    limit: int | None = None,
    query_budget: int | None = None,
    **options: Any,
) -> Campaign:
    if query_budget is not None:
        recipe = replace(recipe, budget=replace(recipe.budget, queries=query_budget))
    examples = classification_set(
        target, labelled, recipe, data_spec="my/reviews", limit=limit, seed=seed
    )
    return Campaign(target, examples, recipe, seed=seed, encoder=Lengths(), **options)


def _needs_textattack() -> None:
    """Found without importing it: the import is the adapter's business."""
    if importlib.util.find_spec("textattack") is None:
        pytest.skip("TextAttack is not installed")


def start_run(campaign: Campaign, folder: Path) -> RunDirectory:
    return RunDirectory.create(folder, campaign.manifest(arguments={"limit": None}))


def outcomes(campaign: Campaign, folder: Path) -> dict[str, dict[str, Any]]:
    with start_run(campaign, folder) as run:
        campaign.run(run)
        return by_id(run)


def by_id(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Outcomes by id, without the one thing that no two runs share."""
    return {
        o["id"]: {key: value for key, value in o.items() if key != "seconds"}
        for o in run.outcomes()
    }


def test_outcomes_and_summary(tmp_path: Path) -> None:
    target = WordTarget()
    campaign = make(target, seed=1)
    seen: list[Progress] = []
    with start_run(campaign, tmp_path / "run") as run:
        summary = campaign.run(run, progress=seen.append)
    assert run.is_complete
    rows = {o["id"]: o for o in run.outcomes()}
    assert all(list(row)[: len(KEYS)] == KEYS for row in rows.values())
    wrong, broken, unbroken = rows["t4"], rows["t2"], rows["t5"]

    assert wrong["status"] == "skipped"
    assert (wrong["truth"], wrong["original_output"]["label"]) == ("negative", "positive")
    assert (wrong["perturbed"], wrong["perturbed_output"], wrong["edits"]) == (None, None, None)
    assert wrong["queries"] == 1

    assert broken["status"] == "succeeded"
    assert broken["original"] == "awful noise all night"
    assert (broken["truth"], broken["perturbed_output"]["label"]) == ("negative", "positive")
    # One query for the original, and then both of the same two texts for every word taken.
    assert broken["queries"] == 1 + 2 * broken["edits"]
    fresh = target.answer(Predict((broken["perturbed"],)))
    assert isinstance(fresh, Predictions)
    assert broken["perturbed_output"]["probability"] == float(fresh.probabilities[0, 1])
    assert broken["perturbed_output"]["truth_probability"] == float(fresh.probabilities[0, 0])

    assert (unbroken["status"], unbroken["perturbed_output"]["label"]) == ("failed", "positive")
    assert unbroken["edits"] == 4

    attacked = [row for row in rows.values() if row["status"] != "skipped"]
    stored = run.summary
    assert stored is not None
    assert stored["examples"] == 8
    assert (stored["clean_accuracy"]["value"], stored["clean_accuracy"]["n"]) == (7 / 8, 8)
    failed = sum(row["status"] == "failed" for row in rows.values())
    assert stored["robust_accuracy"]["value"] == failed / 8
    assert stored["attack_success_rate"]["value"] == (7 - failed) / 7
    assert stored["queries_total"] == sum(row["queries"] for row in rows.values())
    assert stored["queries_mean"] == sum(row["queries"] for row in attacked) / 7
    assert stored["queries_per_second"] == stored["queries_total"] / stored["wall_seconds"]
    assert 0 < stored["model_seconds"] < stored["wall_seconds"]
    oracle = stored["oracle"]
    known = oracle["forwarded"] + oracle["cached"] + oracle["duplicates"]
    assert known == stored["queries_total"]
    assert stored == json.loads(json.dumps(summary.as_json()))

    assert [progress.done for progress in seen] == list(range(1, 9))
    assert (seen[-1].total, seen[-1].queries) == (8, stored["queries_total"])
    assert seen[-1].rates == summary.rates


def test_the_manifest_says_what_was_attacked_and_how(tmp_path: Path) -> None:
    target = WordTarget()
    campaign = make(target, seed=1, limit=3, query_budget=20)
    with start_run(campaign, tmp_path / "run") as run:
        campaign.run(run)
    manifest = run.manifest
    assert (manifest["command"], manifest["seed"]) == ("attack", 1)
    assert manifest["recipe"] == {
        "name": "spoil",
        "summary": RECIPE.summary,
        "paper": "none",
        "sha256": RECIPE.sha256,
        "text": RECIPE.text,
    }
    assert manifest["threat_model"] == {
        "goal": "untargeted-classification",
        "knowledge": "score",
        "surface": "words",
        "part": None,
        "goal_options": {},
        "query_budget": 20,
        "constraints": ["keep (words = 2 entries)"],
    }
    data = manifest["data"]
    assert (data["spec"], data["split"], data["items"], data["available"]) == (
        "my/reviews", "test", 3, 8,
    )  # fmt: skip
    assert data["fingerprint"] == REVIEWS.fingerprint()
    fingerprint = target.fingerprint()
    assert manifest["target"]["fingerprint"] == fingerprint
    assert manifest["target"]["fingerprint_after"] == fingerprint


@pytest.mark.parametrize("concurrency", [2, 5, 64])
def test_concurrency_does_not_matter(concurrency: int, tmp_path: Path) -> None:
    def run(concurrency: int) -> dict[str, dict[str, Any]]:
        campaign = make(WordTarget(noise=1e-5), seed=1, concurrency=concurrency)
        return outcomes(campaign, tmp_path / str(concurrency))

    assert run(concurrency) == run(1)


def test_another_seed_attacks_otherwise(tmp_path: Path) -> None:
    runs = [outcomes(make(WordTarget(), seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    assert runs[0] != runs[1]


def interrupting(after: int) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.done == after:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_run_goes_on_to_the_same_end(after: int, tmp_path: Path) -> None:
    whole = outcomes(make(WordTarget(), seed=1), tmp_path / "whole")

    campaign = make(WordTarget(), seed=1, concurrency=3)
    with start_run(campaign, tmp_path / "run") as run, pytest.raises(KeyboardInterrupt):
        campaign.run(run, progress=interrupting(after))
    assert len(run.outcomes()) == after
    assert not run.is_complete

    target = WordTarget()
    again = make(target, seed=1)
    with RunDirectory.open(tmp_path / "run") as run:
        summary = again.run(run)
    assert by_id(run) == whole
    assert (summary.examples, summary.resumed) == (8, after)
    assert summary.queries_total == sum(row["queries"] for row in whole.values())
    new = sum(o["queries"] for o in run.outcomes()[after:])
    assert summary.queries_per_second == new / summary.wall_seconds


def test_a_run_of_something_else_is_not_continued(tmp_path: Path) -> None:
    campaign = make(WordTarget(), seed=1)
    with start_run(campaign, tmp_path / "run") as run, pytest.raises(KeyboardInterrupt):
        campaign.run(run, progress=interrupting(2))

    def refused(message: str, target: WordTarget | None = None, **changes: Any) -> None:
        options: dict[str, Any] = {"labelled": REVIEWS, "recipe": RECIPE, "seed": 1} | changes
        other = make(target or WordTarget(), **options)
        with RunDirectory.open(tmp_path / "run") as run, pytest.raises(UserError, match=message):
            other.run(run)

    changed = WordTarget()
    changed.weights["good"] = 1.4
    refused("its seed is 1, and here it is 2", seed=2)
    refused("its data.items is 8, and here it is 5", limit=5)
    refused("its threat_model is .*'query_budget': 50", query_budget=7)
    refused("its recipe.sha256", recipe=replace(RECIPE, text=RECIPE.text + "# changed"))
    refused("its target.fingerprint", changed)
    shorter = replace(REVIEWS, examples=(*REVIEWS.examples[:7], LabelledExample("t7", "new", 1)))
    refused("its data.fingerprint", labelled=shorter)
    with RunDirectory.open(tmp_path / "run") as run:
        campaign.run(run)
        with pytest.raises(UserError, match="is complete"):
            campaign.run(run)
    foreign = RunDirectory.create(tmp_path / "foreign", {"command": "evaluate", "seed": 1})
    with foreign, pytest.raises(UserError, match="its command is 'evaluate'"):
        campaign.run(foreign)


def test_the_judge_has_the_last_word(tmp_path: Path) -> None:
    class Sunny(WordTarget):
        """Finds everything positive."""

        def _log_odds(self, text: Any, neighbours: int) -> float:
            return 3.0

    judge = Sunny()
    campaign = make(WordTarget(dtype="bf16"), seed=1, judge=judge)
    with start_run(campaign, tmp_path / "run") as run:
        summary = campaign.run(run)
    attacked = [o for o in run.outcomes() if o["status"] != "skipped"]
    assert run.manifest["target"]["judge"]["dtype"] == "fp32"
    assert [len(batch) for batch in judge.batches] == [1] * 7
    # Whatever the attack claims, a negative review is misjudged now, and a positive one is not.
    for row in attacked:
        assert row["status"] == ("succeeded" if row["truth"] == "negative" else "failed")
        assert row["perturbed_output"]["label"] == "positive"
        assert row["perturbed_output"]["probability"] == pytest.approx(0.9526, abs=1e-4)
    # Unverified are those that the attack broke for itself, and not those where it gave up.
    alone = outcomes(make(WordTarget(dtype="bf16"), seed=1), tmp_path / "alone")
    broken = {key for key, row in alone.items() if row["status"] == "succeeded"}
    positive = {row["id"] for row in attacked if row["truth"] == "positive"}
    unverified = {row["id"] for row in attacked if row.get("unverified")}
    assert unverified == broken & positive
    assert summary.unverified == len(unverified) > 0


def test_an_example_that_fails_is_an_error_and_counted_apart(tmp_path: Path) -> None:
    target = WordTarget(unreadable=frozenset({"awful noise all night"}))
    campaign = make(target, seed=1)
    with start_run(campaign, tmp_path / "run") as run:
        summary = campaign.run(run)
    row = {o["id"]: o for o in run.outcomes()}["t2"]
    assert row["status"] == "error"
    assert row["error"] == "RuntimeError: cannot read awful noise all night"
    assert (summary.rates.errors, summary.rates.clean_accuracy.n) == (1, 7)


def test_the_budget_ends_an_attack(tmp_path: Path) -> None:
    rows = outcomes(make(WordTarget(), seed=1, query_budget=4), tmp_path / "run")
    assert max(row["queries"] for row in rows.values()) == 3  # the second pair no longer fits
    given_up = rows["t5"]
    assert (given_up["status"], given_up["edits"]) == ("failed", 0)
    assert given_up["perturbed"] == given_up["original"]


def test_changed_weights_are_a_fault_and_leave_no_summary(tmp_path: Path) -> None:
    class Learning(WordTarget):
        def answer(self, request: Request) -> Any:
            self.weights["good"] += 1e-6
            return super().answer(request)

    campaign = make(Learning(), seed=1)
    with (
        start_run(campaign, tmp_path / "run") as run,
        pytest.raises(RuntimeError, match="weights of fake:words changed"),
    ):
        campaign.run(run)
    assert not run.is_complete
    assert run.manifest["target"]["fingerprint_after"] != run.manifest["target"]["fingerprint"]


def test_what_cannot_be_attacked_is_refused() -> None:
    with pytest.raises(UserError, match="the recipe spoil attacks classifiers, and fake:words is"):
        make(WordTarget(answers=frozenset({Embed})))
    with pytest.raises(UserError, match=r"2 classes .* but the data have 3 labels"):
        make(WordTarget(), replace(REVIEWS, label_names=("a", "b", "c")))
    unknown = parse_recipe(RECIPE.text.replace('method = "spoil"', 'method = "spill"'), "x.toml")
    assert isinstance(unknown, Recipe)
    with pytest.raises(UserError, match=r"x\.toml is wrong at search\.method: .* 'spill'; there"):
        make(WordTarget(), recipe=unknown)


def test_labels_in_another_order_are_aligned(tmp_path: Path) -> None:
    turned = LabelledSet(
        "turned",
        "test",
        ("Positive", "Negative"),
        tuple(replace(example, label=1 - example.label) for example in REVIEWS.examples),
    )
    ours = outcomes(make(WordTarget(), seed=1), tmp_path / "ours")
    theirs = outcomes(make(WordTarget(), turned), tmp_path / "theirs")
    assert {k: (o["status"], o["perturbed"], o["truth"].lower()) for k, o in theirs.items()} == {
        k: (o["status"], o["perturbed"], o["truth"]) for k, o in ours.items()
    }


def test_outcomes_on_a_real_classifier_do_not_depend_on_batches(tmp_path: Path) -> None:
    _needs_textattack()
    loaded = load_labelled("reviews")
    short = sorted(loaded.examples, key=lambda example: len(example.text))[:5]
    labelled = replace(loaded, examples=tuple(short))

    def run(concurrency: int, batch_tokens: int) -> dict[str, dict[str, Any]]:
        target = load_target(
            "builtin:classifier", device="cpu", dtype="fp32", batch_tokens=batch_tokens
        )
        recipe = load_recipe("deepwordbug")
        assert isinstance(recipe, Recipe)
        campaign = make(target, labelled, recipe, seed=3, concurrency=concurrency)
        with start_run(campaign, tmp_path / f"{concurrency}-{batch_tokens}") as run:
            summary = campaign.run(run)
        assert summary.oracle.largest_noise <= 1
        return by_id(run)

    one_by_one = run(1, 4096)
    assert run(5, 4096) == one_by_one
    assert run(2, 96) == one_by_one
    assert "succeeded" in [row["status"] for row in one_by_one.values()]


def test_from_specs_to_a_run_directory(tmp_path: Path) -> None:
    _needs_textattack()
    save_tiny("bert", tmp_path / "bert")
    names = load_target(str(tmp_path / "bert"), device="cpu").label_names
    data = tmp_path / "data.csv"
    rows = [f'"a good book and bad film number {i}",{i % len(names)}' for i in range(12)]
    data.write_text("words,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    options: dict[str, Any] = {
        "target_spec": str(tmp_path / "bert"),
        "data_spec": str(data),
        "columns": {"text_column": "words", "label_column": None},
        "device": "cpu",
        "dtype": "bf16",
        "limit": 9,
        "query_budget": 100,
    }
    result = attack(**options, out=tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert result.folder == tmp_path / "run"
    assert run.summary == json.loads(json.dumps(result.summary))
    assert len(run.outcomes()) == 9
    assert run.manifest["target"]["dtype"] == "bf16"
    assert run.manifest["target"]["judge"]["dtype"] == "fp32"
    assert run.manifest["arguments"]["columns"]["text_column"] == "words"
    assert run.manifest["recipe"]["name"] == "deepwordbug"
    with pytest.raises(UserError, match="is complete"):
        attack(**options, resume=tmp_path / "run")
    with pytest.raises(UserError, match="not both"):
        attack(**options, out=tmp_path / "new", resume=tmp_path / "run")


def test_a_generator_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path / "gpt2")
    with pytest.raises(UserError, match=r"deepwordbug attacks classifiers, and .*gpt2 is a causal"):
        attack(target_spec=str(tmp_path / "gpt2"), device="cpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_text_that_breaks_a_constraint_is_no_success(tmp_path: Path) -> None:
    whole = outcomes(make(WordTarget()), tmp_path / "whole")
    text = RECIPE.text.replace('method = "spoil"', 'method = "spoil"\nforbidden = "x7"')
    strict = parse_recipe(text, "strict.toml")
    assert isinstance(strict, Recipe)
    with start_run(make(WordTarget(), recipe=strict), tmp_path / "strict") as run:
        summary = make(WordTarget(), recipe=strict).run(run)
    rows = by_id(run)
    broken = {key for key, row in rows.items() if "broken_constraint" in row}
    assert broken == {key for key, row in whole.items() if "x7" in (row["perturbed"] or "")}
    assert summary.broken_constraints == len(broken) > 0
    for key in broken:
        assert rows[key]["status"] == "failed"
        assert rows[key]["broken_constraint"] == "a forbidden word"
        assert rows[key]["perturbed"] == whole[key]["perturbed"]


def test_similarity_is_the_cosine_to_the_original(tmp_path: Path) -> None:
    rows = outcomes(make(WordTarget()), tmp_path / "run")
    assert {row["similarity"] for row in rows.values()} == {None, 1.0}  # words are only replaced
    examples = make(WordTarget()).examples
    alone = Campaign(WordTarget(), examples, RECIPE, seed=1)
    assert {row["similarity"] for row in outcomes(alone, tmp_path / "alone").values()} == {None}


def test_a_targeted_recipe_leaves_out_the_class_it_wants(tmp_path: Path) -> None:
    text = RECIPE.text.replace("untargeted", "targeted").replace(
        "[budget]", '[goal]\nwanted = "positive"\n[budget]'
    )
    recipe = parse_recipe(text, "targeted.toml")
    assert isinstance(recipe, Recipe)
    rows = outcomes(make(WordTarget(), recipe=recipe), tmp_path / "run")
    assert {row["truth"] for row in rows.values()} == {"negative"}
    assert rows["t4"]["status"] == "skipped"
    bad = parse_recipe(text.replace('"positive"', '"neutral"'), "targeted.toml")
    assert isinstance(bad, Recipe)
    with pytest.raises(UserError, match=r'goal\.wanted: expected "negative" or "positive"'):
        make(WordTarget(), recipe=bad)
