"""Verification: outcomes judged again by target and data as they are now."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_fakes import REVIEWS, WordTarget
from rag_corpus import write_corpus

from robustlab.attack import verify as verification
from robustlab.attack.examples import ExampleSource
from robustlab.attack.recipe import parse_recipe
from robustlab.attack.verify import Verification, verify_run
from robustlab.errors import UserError
from robustlab.models.target import (
    Generate,
    Generations,
    Predict,
    Request,
    Response,
    Target,
)
from robustlab.runs import RunDirectory

CLASSIFICATION = """
name = "spoil"
summary = "Takes words away"
paper = "none"
[threat]
goal = "untargeted-classification"
knowledge = "score"
surface = "words"
[search]
method = "spoil"
"""

GENERATION = """
name = "flip"
summary = "Changes the answer"
paper = "none"
[threat]
goal = "change-answer"
knowledge = "score"
surface = "words"
part = "question"
[goal]
measure = "f1"
at_most = 0.0
[search]
method = "spoil"
"""


class Loader:
    """Stands for the loading of models: hands out one target and says how it was asked."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.asked: list[dict[str, Any]] = []

    def __call__(self, spec: str, **options: Any) -> Target:
        self.asked.append({"spec": spec, **options})
        return self.target


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    made = Loader(WordTarget())
    monkeypatch.setattr(verification, "load_target", made)
    return made


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "text", "label"])
        for example in REVIEWS.examples:
            rows.writerow([example.id, example.text, REVIEWS.label_names[example.label]])
    return file


def begin(
    folder: Path,
    target: Target,
    data: Path,
    recipe: str = CLASSIFICATION,
    *,
    goal_options: Mapping[str, Any] | None = None,
    dtype: str = "fp32",
    **manifest: Any,
) -> RunDirectory:
    """A run directory as ``attack`` makes it, without outcomes."""
    plan = parse_recipe(recipe, "test")
    source = ExampleSource(target, str(data), {}, False, 0, None, None, None, 32)
    examples = source.of(plan)  # type: ignore[arg-type]
    arguments = {
        "target_spec": target.spec, "kind": None, "batch_tokens": None, "columns": {},
        "skip_bad_rows": False, "limit": None, "prompt": None, "max_new_tokens": 32,
    }  # fmt: skip
    made = {
        "command": "attack",
        "arguments": arguments,
        "seed": 0,
        "data": examples.data,
        "target": {
            **target.describe(),
            **examples.target,
            "dtype": dtype,
            "fingerprint": target.fingerprint(),
        },
        "recipe": plan.describe(),  # type: ignore[union-attr]
        "threat_model": {"goal_options": goal_options or {}},
        **manifest,
    }
    return RunDirectory.create(folder, made)


def outcome(number: int, status: str, perturbed: str | None, **more: Any) -> dict[str, Any]:
    example = REVIEWS.examples[number]
    return {
        "id": example.id,
        "status": status,
        "original": example.text,
        "perturbed": perturbed,
        "perturbed_output": {"label": "negative", "probability": 0.6},
        "truth": REVIEWS.label_names[example.label],
        **more,
    }


def the_only(found: tuple[Verification, ...]) -> Verification:
    (one,) = found
    return one


def test_each_kind_of_outcome(tmp_path: Path, loader: Loader, reviews: Path) -> None:
    seen: list[tuple[int, int]] = []
    with begin(tmp_path / "run", loader.target, reviews) as run:
        run.append(outcome(0, "succeeded", "the food was bad and the view awful"))
        run.append(outcome(1, "failed", "a great room"))
        run.append(outcome(2, "succeeded", "awful noise all day"))  # still negative
        run.append(
            outcome(3, "failed", "great film with a good and lovely end")
        )  # in truth it fell
        run.append(outcome(4, "skipped", None))
        run.append(outcome(5, "failed", REVIEWS.examples[5].text))
        run.append(outcome(6, "succeeded", REVIEWS.examples[6].text, embedded=True))
        run.append(outcome(7, "error", None))
        found = the_only(verify_run(run.path, progress=lambda *step: seen.append(step)))
    assert found.recipe == "spoil"
    assert found.agreed == ("t0", "t1")
    assert [(one.id, one.reason) for one in found.disagreed] == [
        ("t2", "recorded as succeeded, and the goal is not met"),
        ("t3", "recorded as failed, and the goal is met"),
    ]
    assert found.disagreed[0].output["label"] == "negative"
    assert found.not_verifiable == ("t6",)
    assert found.without_text == 3
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # Each text by itself, after the target was loaded once, in fp32.
    assert isinstance(loader.target, WordTarget)
    assert [len(batch) for batch in loader.target.batches] == [1, 1, 1, 1]
    assert [asked["dtype"] for asked in loader.asked] == ["fp32"]


def test_a_broken_constraint_is_failed_whatever_the_goal(
    tmp_path: Path, loader: Loader, reviews: Path
) -> None:
    broken = {"broken_constraint": "more than 1 word"}
    with begin(tmp_path / "run", loader.target, reviews) as run:
        run.append(outcome(0, "failed", "awful bad", **broken))
        run.append(outcome(1, "failed", "a great room", **broken))
        found = the_only(verify_run(run.path))
    assert found.agreed == ("t0",)
    assert [(one.id, one.reason) for one in found.disagreed] == [
        ("t1", "the output is another one")
    ]


def test_outcomes_of_other_data_are_not_confirmed(
    tmp_path: Path, loader: Loader, reviews: Path
) -> None:
    strange = {**outcome(0, "succeeded", "awful"), "id": "t99"}
    exchanged = {**outcome(1, "succeeded", "awful"), "original": "something easier"}
    flipped = {**outcome(2, "succeeded", "awful"), "truth": "positive"}
    with begin(tmp_path / "run", loader.target, reviews) as run:
        for one in (strange, exchanged, flipped):
            run.append(one)
        found = the_only(verify_run(run.path))
    assert [one.id for one in found.disagreed] == ["t99", "t1", "t2"]
    assert found.disagreed[0].reason == "the data has no such example"


def test_a_targeted_goal_comes_from_the_run(tmp_path: Path, loader: Loader, reviews: Path) -> None:
    recipe = CLASSIFICATION.replace("untargeted", "targeted").replace(
        "[search]", '[goal]\nwanted = "positive"\n[search]'
    )
    # The command line asked for the other class than the recipe.
    wanted = {"wanted": "negative"}
    run = RunDirectory.create(
        tmp_path / "run",
        {**begin(tmp_path / "draft", loader.target, reviews, recipe, goal_options=wanted).manifest},
    )
    with run:
        run.append(outcome(0, "succeeded", "awful"))
        assert the_only(verify_run(run.path)).agreed == ("t0",)


def test_a_search_in_bf16_is_verified_in_fp32(
    tmp_path: Path, loader: Loader, reviews: Path
) -> None:
    with begin(tmp_path / "run", loader.target, reviews, dtype="bf16") as run:
        run.append(outcome(0, "succeeded", "awful"))
    assert the_only(verify_run(run.path, device="cpu")).agreed == ("t0",)
    assert [asked["dtype"] for asked in loader.asked] == ["bf16", "fp32"]
    assert {asked["device"] for asked in loader.asked} == {"cpu"}


class PairTarget(WordTarget):
    """Wants pairs as pairs."""

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Predict)
        assert all(isinstance(text, tuple) for text in request.texts)
        return super().answer(request)


def test_pairs_come_back_from_json(tmp_path: Path, loader: Loader) -> None:
    loader.target = PairTarget()
    file = tmp_path / "pairs.jsonl"
    row = {"id": "p", "text": "a good day", "text_pair": "a fine night", "label": "positive"}
    other = {"id": "q", "text": "a bad day", "text_pair": "awful", "label": "negative"}
    file.write_text("".join(f"{json.dumps(line)}\n" for line in (row, other)), encoding="utf-8")
    with begin(tmp_path / "run", loader.target, file) as run:
        run.append(
            {
                "id": "p",
                "status": "succeeded",
                "original": ["a good day", "a fine night"],
                "perturbed": ["a bad day", "an awful night"],
                "truth": "positive",
            }
        )
        assert the_only(verify_run(run.path)).agreed == ("p",)


class Reader:
    """Reads the answer to one question only."""

    spec = "fake:reader"
    kind = "seq2seq"
    label_names = ()
    answers = frozenset({Generate})
    prompt_style = "reader"

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Generate)
        texts = tuple(
            "in the north" if "river green" in prompt else "nobody" for prompt in request.prompts
        )
        zeros = np.zeros(len(texts), dtype=np.float32)
        return Generations(texts, zeros, np.ones(len(texts), dtype=np.int64), zeros)

    def fingerprint(self) -> str:
        return "r"

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind}


def test_generators_are_asked_with_the_prompt_of_the_run(tmp_path: Path, loader: Loader) -> None:
    corpus = write_corpus(tmp_path / "corpus")

    loader.target = Reader()
    options = {"measure": "f1", "at_most": 0.0}
    common = {"original": "where is the river green?", "truth": ["in the north"]}
    with begin(tmp_path / "run", loader.target, corpus, GENERATION, goal_options=options) as run:
        run.append({"id": "q2", "status": "succeeded", "perturbed": "where is it?", **common})
        run.append(
            {
                "id": "q1",
                "status": "succeeded",
                "original": "who built the old bridge?",
                "truth": ["the first queen", "queen"],
                "perturbed": "who built the river green?",
            }
        )
        run.append({"id": "q3", "status": "failed", "perturbed": "x", **common})
    found = the_only(verify_run(run.path))
    assert found.agreed == ("q2", "q1")
    assert [one.id for one in found.disagreed] == ["q3"]
    run.update_manifest(target={**run.manifest["target"], "prompt": {"name": "another"}})
    with pytest.raises(UserError, match=r"the prompt is no longer .* target.prompt differs"):
        verify_run(run.path)


def test_every_run_of_a_suite(tmp_path: Path, loader: Loader, reviews: Path) -> None:
    suite = tmp_path / "suite"
    other = CLASSIFICATION.replace("spoil", "rot")
    with begin(suite / "runs" / "spoil", loader.target, reviews) as run:
        run.append(outcome(0, "succeeded", "awful"))
        manifest = run.manifest
    with begin(suite / "runs" / "rot", loader.target, reviews, other) as run:
        run.append(outcome(0, "succeeded", "great"))
    recipes = ["spoil", "rot", "not-begun"]
    with RunDirectory.create(
        suite, {**manifest, "command": "suite", "recipe": None, "recipes": recipes}
    ):
        pass
    spoil, rot = verify_run(suite)
    assert (spoil.recipe, spoil.agreed) == ("spoil", ("t0",))
    assert (rot.recipe, [one.id for one in rot.disagreed]) == ("rot", ["t0"])
    assert len(loader.asked) == 1


def test_other_weights_are_refused(tmp_path: Path, loader: Loader, reviews: Path) -> None:
    with begin(tmp_path / "run", loader.target, reviews) as run:
        run.append(outcome(0, "succeeded", "awful"))
    assert isinstance(loader.target, WordTarget)
    loader.target.weights["good"] = 0.5
    with pytest.raises(UserError, match="the weights of fake:words are not those"):
        verify_run(run.path)


def test_data_that_changed_or_is_gone(tmp_path: Path, loader: Loader, reviews: Path) -> None:
    with begin(tmp_path / "run", loader.target, reviews) as run:
        run.append(outcome(0, "succeeded", "awful"))
    text = reviews.read_text(encoding="utf-8")
    reviews.write_text(text.replace("lovely", "nice"), encoding="utf-8")
    with pytest.raises(UserError, match=r"reviews\.csv is no longer .* data\.fingerprint differs"):
        verify_run(run.path)
    reviews.unlink()
    with pytest.raises(UserError, match=r"reviews\.csv"):
        verify_run(run.path)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"command": "evaluate"}, "is a run of 'evaluate'"),
        ({"threat_model": None}, "does not state its recipe"),
        ({"arguments": {"target_spec": "fake:words"}}, r"does not state its arguments\.columns"),
        ({"arguments": None}, "does not state its target"),
    ],
)
def test_foreign_runs(
    tmp_path: Path, loader: Loader, reviews: Path, manifest: dict[str, Any], sentence: str
) -> None:
    begin(tmp_path / "run", loader.target, reviews, **manifest).close()
    with pytest.raises(UserError, match=sentence):
        verify_run(tmp_path / "run")
