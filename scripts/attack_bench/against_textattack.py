"""Examples a second of TextAttack and of ours, and whether they find the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack_bench.classifier import campaign_on, classifier_folder, classifier_target
from attack_bench.common import SEED, Bench, note, ratio, recipe_named, run_campaign, silence

__all__ = ["bench_textattack"]

Found = dict[str, tuple[str, str | None]]
"""Status and final text of each example by its id."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one way made of some examples."""

    seconds: float
    found: Found
    queries: int


Way = Callable[[Sequence[Any]], Chunk]


def bench_textattack(bench: Bench) -> dict[str, Any]:
    """All ways in turn on chunks of the same examples."""
    folder = classifier_folder(bench)
    recipe = recipe_named(bench.options.recipe)
    campaigns = {
        dtype: campaign_on(bench, classifier_target(bench, dtype), recipe) for dtype in bench.dtypes
    }
    examples = campaigns["fp32"].examples.examples
    ids = {example.text: example.id for example in examples}
    stock = dict(_stock(bench, folder, recipe, ids, length) for length in bench.options.lengths)
    ours = {f"robustlab, {dtype}": _ours(campaign) for dtype, campaign in campaigns.items()}
    chunks = _in_turn({**stock, **ours}, examples, bench.options.chunk)
    seconds = {name: [chunk.seconds for chunk in made] for name, made in chunks.items()}
    found = {
        name: {key: value for chunk in made for key, value in chunk.found.items()}
        for name, made in chunks.items()
    }
    ways = {}
    for name, made in chunks.items():
        peers = stock if name in ours else {}
        ways[name] = {
            "seconds": seconds[name],
            "examples_per_second": len(examples) / sum(seconds[name]),
            "queries": sum(chunk.queries for chunk in made),
            "attack_success_rate": _success(found[name]),
            "faster": {peer: ratio(seconds[peer], seconds[name]) for peer in peers},
        }
    mine = found["robustlab, fp32"]
    equal = {}
    for peer in stock:
        differ = [example for example in examples if mine[example.id] != found[peer][example.id]]
        again = _on_rounded_scores(bench, recipe, ids, differ)
        equal[peer] = {
            "equal": len(examples) - len(differ),
            "differ": [example.id for example in differ],
            "differ_by_rounding": [key for key, value in again.items() if value == mine[key]],
        }
    return {
        "recipe": recipe.name,
        "data": bench.options.data,
        "examples": len(examples),
        "chunk": bench.options.chunk,
        "longest_in_tokens": _longest(folder, list(ids)),
        "ways": ways,
        "equal_in_fp32": equal,
    }


def _in_turn(ways: Mapping[str, Way], examples: Sequence[Any], size: int) -> dict[str, list[Chunk]]:
    """Every way on every chunk of examples, after a warm-up on one example."""
    for way in ways.values():
        way(examples[:1])
    chunks: dict[str, list[Chunk]] = {name: [] for name in ways}
    for first in range(0, len(examples), size):
        some = examples[first : first + size]
        for name, way in ways.items():
            chunks[name].append(way(some))
        note(f"textattack: {first + len(some)} of {len(examples)} examples done")
    return chunks


def _ours(campaign: Any) -> Way:
    """Whole campaigns on the examples, timed by their own clock."""

    def run(examples: Sequence[Any]) -> Chunk:
        summary, outcomes = run_campaign(campaign.variant(examples=examples))
        found = {o["id"]: (o["status"], o["perturbed"]) for o in outcomes}
        return Chunk(summary.wall_seconds, found, summary.queries_total)

    return run


def _stock(
    bench: Bench, folder: Path, recipe: Any, ids: Mapping[str, str], length: str
) -> tuple[str, Way]:
    """TextAttack with its own model wrapper and Attacker; its name says how long it pads."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from robustlab.attack.textattack_resources import import_textattack

    textattack = import_textattack()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval().to(bench.device)
    limit = {} if length == "own" else {"model_max_length": int(length)}
    tokenizer = AutoTokenizer.from_pretrained(folder, **limit)
    wrapper = textattack.models.wrappers.HuggingFaceModelWrapper(model, tokenizer)
    attack = _streamed(recipe, wrapper, ids)

    def run(examples: Sequence[Any]) -> Chunk:
        rows = [(example.text, example.goal.truth) for example in examples]
        data = textattack.datasets.Dataset(rows)
        settings = textattack.AttackArgs(num_examples=-1, disable_stdout=True, silent=True)
        with silence():
            start = time.perf_counter()
            results = textattack.Attacker(attack, data, settings).attack_dataset()
            seconds = time.perf_counter() - start
        return Chunk(seconds, _read(results, examples), sum(r.num_queries for r in results))

    return f"TextAttack, padded to {tokenizer.model_max_length}", run


def _streamed(recipe: Any, wrapper: Any, ids: Mapping[str, str]) -> Any:
    """The recipe as a ``textattack.Attack`` that draws in the random stream of each example.

    The streams are those that the engine gives, without which no two runs would be the same.
    """
    from robustlab.attack.streams import RandomStream
    from robustlab.attack.textattack import build_attack
    from robustlab.attack.textattack_resources import import_textattack

    textattack: Any = import_textattack()

    class Streamed(textattack.Attack):  # type: ignore[misc]
        def attack(self, example: Any, ground_truth_output: Any) -> Any:
            with RandomStream(SEED, ids[getattr(example, "text", example)]):
                return super().attack(example, ground_truth_output)

    built = build_attack(recipe, wrapper)
    if recipe.budget.queries is not None:
        built.goal_function.query_budget = recipe.budget.queries
    constraints = built.constraints + built.pre_transformation_constraints
    return Streamed(built.goal_function, constraints, built.transformation, built.search_method)


def _read(results: Sequence[Any], examples: Sequence[Any]) -> Found:
    """TextAttack's results as ours are written."""
    statuses = {
        "SuccessfulAttackResult": "succeeded",
        "FailedAttackResult": "failed",
        "SkippedAttackResult": "skipped",
    }
    found: Found = {}
    for example, result in zip(examples, results, strict=True):
        status = statuses[type(result).__name__]
        found[example.id] = (status, None if status == "skipped" else result.perturbed_text())
    return found


def _on_rounded_scores(
    bench: Bench, recipe: Any, ids: Mapping[str, str], examples: Sequence[Any]
) -> Found:
    """What TextAttack's own loop finds on scores that are rounded as our oracle rounds them.

    If it is what ours found, then a difference came from scores that tie within rounding.
    """
    import torch

    from robustlab.attack.oracle import Oracle
    from robustlab.models.target import Predict, Predictions

    oracle = Oracle(classifier_target(bench, "fp32"))

    class Rounded:
        model = None

        def __call__(self, texts: Sequence[str]) -> Any:
            (answer,) = oracle.answer([Predict(tuple(texts))])
            assert isinstance(answer, Predictions)
            return torch.from_numpy(answer.probabilities.copy())

    attack = _streamed(recipe, Rounded(), ids)
    results = [attack.attack(example.text, example.goal.truth) for example in examples]
    return _read(results, examples)


def _success(found: Found) -> dict[str, Any]:
    from robustlab.metrics.robustness import robustness_summary

    rates = robustness_summary(status for status, _ in found.values())
    return dict(rates.attack_success_rate.as_json())


def _longest(folder: Path, texts: list[str]) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
    return max(len(row) for row in rows)
