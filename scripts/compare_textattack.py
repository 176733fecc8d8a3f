#!/usr/bin/env python3
"""Compare outcomes of the engine with those of TextAttack itself, example by example.

    NLTK_DATA=../shared/data/nltk_data python scripts/compare_textattack.py --limit 100

TextAttack's recipe classes are run twice on the same examples of ``corpora/reviews`` and the same
``builtin:classifier`` in fp32: by ``robustlab.attack.attack``, and by TextAttack, with its own
Hugging Face wrapper, one example after another, each in the random stream that the engine gives
it. Status, final text and number of queries are compared.

Scores differ in the last bits, because TextAttack pads every text to one length and the engine
rounds. Where that decides between candidates, outcomes may differ. Such a difference is explained
if both of this holds:

1. every text that both asked for before their ways parted has the same log-odds to within half a
   step of the rounding and its noise;
2. TextAttack, given the engine's rounded scores instead of its own, has the engine's outcome.

The candidates whose order changed are printed with both scores. The exit status is 1 if a
difference is not explained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustlab.attack import attack as run_attack
from robustlab.attack.engine import Engine, Job, Search
from robustlab.attack.goals import UntargetedClassification
from robustlab.attack.method import Found, Start
from robustlab.attack.oracle import Oracle
from robustlab.attack.rounding import NOISE, STEP, log_odds
from robustlab.attack.streams import RandomStream
from robustlab.attack.textattack import recipe_for_class, textattack_method
from robustlab.attack.textattack_resources import import_textattack
from robustlab.data import LabelledExample, load_labelled, sample
from robustlab.errors import EXIT_FAULT, UserError
from robustlab.models.builtin import merge_parameters
from robustlab.models.load import load_target
from robustlab.models.minilm import minilm_classifier
from robustlab.models.target import FloatArray, Predict, Predictions, Target
from robustlab.resources import minilm_folder, weights_folder
from robustlab.runs import RunDirectory

CLASSES = ("DeepWordBugGao2018", "Pruthi2019", "PWWSRen2019")
STATUS = {
    "SuccessfulAttackResult": "succeeded",
    "FailedAttackResult": "failed",
    "SkippedAttackResult": "skipped",
}


class Outcome(NamedTuple):
    """What is compared. ``text`` is None for an example that was not attacked."""

    status: str
    text: str | None
    queries: int


Asked = list[dict[str, FloatArray]]
"""Requests in their order, as the probabilities of their texts."""


def main() -> int:
    """Compare and print."""
    options = _options()
    labelled = load_labelled("reviews")
    target = load_target("builtin:classifier", device="cpu", dtype="fp32")
    if labelled.label_names != target.label_names:
        raise AssertionError("the classes of corpora/reviews are not the classifier's")
    examples = sample(labelled.examples, options.limit, options.seed)
    attack_recipes = import_textattack().attack_recipes
    unexplained = 0
    print("| recipe | examples | equal | ties | unexplained | engine s | TextAttack s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    traces: list[str] = []
    for name in options.classes:
        start = time.perf_counter()
        ours = by_engine(name, options.limit, options.seed)
        middle = time.perf_counter()
        stock = Stock(getattr(attack_recipes, name).build, options.padding)
        theirs = {e.id: stock.attack(e, options.seed) for e in examples}
        end = time.perf_counter()
        differing = [e for e in examples if ours[e.id] != theirs[e.id]]
        verdicts = [
            explain(name, target, stock, example, options.seed, ours[example.id])
            for example in differing
        ]
        ties = sum(explained for explained, _ in verdicts)
        unexplained += len(verdicts) - ties
        print(
            f"| {name} | {len(examples)} | {len(examples) - len(differing)} | {ties} | "
            f"{len(verdicts) - ties} | {middle - start:.0f} | {end - middle:.0f} |",
            flush=True,
        )
        for example, (_, trace) in zip(differing, verdicts, strict=True):
            traces += [
                f"\n{name}, {example.id}",
                f"  engine:     {ours[example.id]}",
                f"  TextAttack: {theirs[example.id]}",
                *(f"  {line}" for line in trace),
            ]
    print("\n".join(traces))
    return EXIT_FAULT if unexplained else 0


def by_engine(name: str, limit: int, seed: int) -> dict[str, Outcome]:
    """Outcomes of a recipe class by ``robustlab.attack.attack``, by example."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_attack(
            data_spec="reviews",
            recipe=[f"textattack:{name}"],
            limit=limit,
            seed=seed,
            device="cpu",
            dtype="fp32",
            out=out,
        )
        rows = RunDirectory.open(out).outcomes()
    return {row["id"]: Outcome(row["status"], row["perturbed"], row["queries"]) for row in rows}


class Stock:
    """An attack of TextAttack's, run by TextAttack.

    Args:
        build: makes the attack on a model wrapper, as the recipe classes do.
        padding: tokens that every text is padded to; the stock wrapper takes as many as the
            tokenizer reads at the most, 512, which is slow and changes nothing else.
    """

    def __init__(self, build: Callable[[Any], Any], padding: int) -> None:
        from safetensors.torch import load_file
        from transformers import AutoTokenizer

        textattack = import_textattack()
        card = json.loads((weights_folder() / "classifier.json").read_text(encoding="utf-8"))
        model = minilm_classifier(minilm_folder(), card["label_names"])
        merge_parameters(model, load_file(weights_folder() / "classifier.safetensors"))
        tokenizer = AutoTokenizer.from_pretrained(minilm_folder(), model_max_length=padding)
        self._tokenizer = tokenizer
        self._padding = padding
        self._build = build
        self._wrapper = textattack.models.wrappers.HuggingFaceModelWrapper(model.eval(), tokenizer)
        self._attack = self._build(self._wrapper)

    def attack(self, example: LabelledExample, seed: int) -> Outcome:
        """TextAttack's outcome."""
        return self._run(self._attack, example, seed)

    def traced(self, example: LabelledExample, seed: int) -> Asked:
        """The probabilities of the texts that TextAttack asks for."""
        asked: Asked = []

        def wrapper(texts: Sequence[str]) -> Any:
            scores = self._wrapper(texts).softmax(dim=1)
            asked.append(dict(zip(texts, scores.numpy(), strict=True)))
            return scores

        self._run(self._build(_Callable(wrapper)), example, seed)
        return asked

    def with_scores_of(self, target: Target, example: LabelledExample, seed: int) -> Outcome:
        """TextAttack's outcome when it is given the engine's rounded scores."""
        import torch

        oracle = Oracle(target)

        def wrapper(texts: Sequence[str]) -> Any:
            (response,) = oracle.answer([Predict(tuple(texts))])
            assert isinstance(response, Predictions)
            return torch.from_numpy(response.probabilities)

        return self._run(self._build(_Callable(wrapper)), example, seed)

    def _run(self, attack: Any, example: LabelledExample, seed: int) -> Outcome:
        tokens = len(self._tokenizer(example.text)["input_ids"])
        if 2 * tokens > self._padding:  # misspelt words fall into more tokens
            raise UserError(f"{example.id} has {tokens} tokens: give a larger --padding")
        with RandomStream(seed, example.id):
            result = attack.attack(example.text, example.label)
        status = STATUS[type(result).__name__]
        text = None if status == "skipped" else result.perturbed_result.attacked_text.text
        return Outcome(status, text, result.num_queries)


class _Callable:
    """A model wrapper that is nothing but a function."""

    model: Any = None

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, texts: Sequence[str]) -> Any:
        return self._function(texts)


def explain(
    name: str,
    target: Target,
    stock: Stock,
    example: LabelledExample,
    seed: int,
    ours: Outcome,
) -> tuple[bool, list[str]]:
    """Whether a difference is a tie of scores within rounding, and the trace that shows it."""
    engine = asked_by_engine(name, target, example, seed)
    theirs = stock.traced(example, seed)
    common = before_parting(engine, theirs)
    their_scores = {text: row for request in theirs for text, row in request.items()}
    our_scores = {text: row for request in engine for text, row in request.items()}
    gap = max(
        float(np.abs(_odds(our_scores[text]) - _odds(their_scores[text])).max()) for text in common
    )
    within = gap <= STEP / 2 + 2 * NOISE
    replayed = stock.with_scores_of(target, example, seed) == ours
    trace = [
        f"{len(common)} texts were asked by both before the ways parted; log-odds differ by at "
        f"most {gap:.1e} (half a step is {STEP / 2:.1e}): {'yes' if within else 'TOO MUCH'}",
        "TextAttack on the engine's scores has the engine's outcome: "
        + ("yes" if replayed else "NO"),
    ]
    trace += turned(engine, common, our_scores, their_scores, example.label)
    return within and replayed, trace


def asked_by_engine(name: str, target: Target, example: LabelledExample, seed: int) -> Asked:
    """The probabilities of the texts that the attack asks for in the engine."""
    method = textattack_method(recipe_for_class(name))
    goal = UntargetedClassification(example.label)
    asked: Asked = []

    def start(rng: np.random.Generator) -> Search[Found]:
        answer = yield goal.question([example.text])
        search = method.attack(Start(example.text, goal, answer), rng)
        request = next(search)
        while True:
            response = yield request
            assert isinstance(request, Predict)
            assert isinstance(response, Predictions)
            texts = (str(text) for text in request.texts)
            asked.append(dict(zip(texts, response.probabilities, strict=True)))
            try:
                request = search.send(response)
            except StopIteration as end:
                found: Found = end.value
                return found

    list(Engine(target, seed=seed).run([Job(example.id, start)]))
    return asked


def before_parting(one: Asked, other: Asked) -> list[str]:
    """The texts that both asked for, in their order, up to the first that is not the same."""
    first = dict.fromkeys(text for request in one for text in request)
    # TextAttack asks for the original as well, which the engine has asked for before.
    second = dict.fromkeys(text for request in other[1:] for text in request)
    pairs = zip(first, second, strict=False)
    return [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


def turned(
    requests: Asked,
    common: Sequence[str],
    ours: dict[str, FloatArray],
    theirs: dict[str, FloatArray],
    truth: int,
) -> Iterator[str]:
    """Candidates of one request whose order is not the same by both scores, the nearest first."""
    known = set(common)
    found = []
    for request in requests:
        for a, b in itertools.combinations([text for text in request if text in known], 2):
            their_gap = float(theirs[a][truth]) - float(theirs[b][truth])
            our_gap = float(ours[a][truth]) - float(ours[b][truth])
            if np.sign(their_gap) != np.sign(our_gap):
                found.append((abs(their_gap), a, b))
    if not found:
        yield "no two candidates of one request changed their order: sums of scores decided"
    for _, a, b in sorted(found)[:3]:
        yield "order changed (probability of the right class, TextAttack | engine):"
        for text in (a, b):
            yield f"  {theirs[text][truth]:.8f} | {ours[text][truth]:.8f}  {text}"


def _odds(row: FloatArray) -> FloatArray:
    return np.asarray(log_odds(row[np.newaxis])[0], dtype=np.float32)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--classes", nargs="+", default=CLASSES, choices=CLASSES)
    parser.add_argument("--limit", type=int, default=100, help="examples (100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--padding", type=int, default=128, help="tokens of the stock wrapper")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
