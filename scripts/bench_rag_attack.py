#!/usr/bin/env python3
"""Speed of attacks on RAG: writing passages by gradients, and evaluating with poison.

Two parts, each a Markdown table; ``--only`` chooses one of them:

- *passages*: iterations a second of corpus poisoning (an iteration: one gradient and the recipe's
  number of candidates, for one passage) against the published procedure written in its
  straightforward form, and against a kinder form of it that keeps embeddings and has all
  candidates of an iteration in one batch. All start from the same clusters, have the same weights,
  in fp32, and do the same number of iterations; how good their passages are is measured on
  questions that they were not fitted on;
- *evaluation*: seconds for questions with poison in the corpus of each, against the same
  questions without.

The ways run in turn, in rounds, because the speed of a shared machine drifts; a ratio is the
median over the rounds of the ratios within one. On a GPU, or with ``--large``, the generator of
the second part is a randomly initialised Llama of the 1B class, unless ``--generator`` names one.

    python scripts/bench_rag_attack.py --corpus ../shared/data/squad-more
    python scripts/bench_rag_attack.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from attack_bench.common import note, ratio, recipe_named
from attack_bench.decoder import random_decoder
from attack_bench.straightforward import Straightforward

from robustlab.data import load_corpus, sample, select_split
from robustlab.errors import UserError
from robustlab.retrieval.encoder import BUILTIN

PARTS = ("passages", "evaluation")


def main() -> None:
    """Measure and print."""
    options = _options()
    report: dict[str, Any] = {}
    corpus = load_corpus(options.corpus)
    if "passages" in options.only:
        report["passages"] = _bench_passages(options, corpus)
        _print_passages(report["passages"])
    if "evaluation" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            report["evaluation"] = _bench_evaluation(options, corpus, Path(folder))
        _print_evaluation(report["evaluation"])
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


# --- writing passages ---------------------------------------------------------------------------


@dataclass
class _Way:
    """A way to write passages, one round after the other."""

    name: str
    run: Callable[[int], None]
    vectors: Callable[[], Any]
    seconds: list[float]


def _bench_passages(options: argparse.Namespace, corpus: Any) -> dict[str, Any]:
    from robustlab.poisoning.corpus import CorpusPoisoning, cluster
    from robustlab.poisoning.methods import build_poison_method
    from robustlab.retrieval import DenseIndex, SentenceEncoder

    encoder = SentenceEncoder.load(options.retriever, device=options.device, dtype="fp32")
    method = build_poison_method(recipe_named("corpus-poisoning"))
    assert isinstance(method, CorpusPoisoning)
    index = DenseIndex.build(corpus, encoder)
    train = sample(select_split(corpus, options.train)[1], options.questions, options.seed)
    train = tuple(question for question in train if question.gold)
    held_out = sample(select_split(corpus, options.split)[1], options.questions, options.seed)
    texts = [question.text for question in train]
    known = {passage.id: passage.contents for passage in corpus.passages}
    gold = [known[question.gold[0]] for question in train]
    vectors = encoder.encode(texts, role="query")
    centres = cluster(vectors, options.passages, np.random.default_rng(options.seed))
    members = centres.nearest(vectors)
    shape = {"length": method.length, "candidates": method.flips.candidates, "seed": options.seed}

    def straight(name: str, *, kept: bool) -> _Way:
        passages = [
            Straightforward(
                encoder, [texts[i] for i in own], [gold[i] for i in own], kept=kept, **shape
            )
            for own in members
        ]

        def run(steps: int) -> None:
            for passage in passages:
                for _ in range(steps):
                    passage.step()

        return _Way(name, run, lambda: np.stack([passage.vector() for passage in passages]), [])

    ways = [
        straight("straightforward", kept=False),
        straight("embeddings kept, one batch", kept=True),
        _ours(method, encoder, texts, centres, members, options.seed),
    ]
    for number in range(options.rounds):
        for way in ways:
            start = time.perf_counter()
            way.run(options.steps)
            way.seconds.append(time.perf_counter() - start)
        note(f"passages: round {number + 1} of {options.rounds} done")
    found = _successes(index, [q.text for q in held_out], ways, options.top_k)
    iterations = len(members) * options.steps
    return {
        "corpus": corpus.name,
        "passages": len(members),
        "length": method.length,
        "candidates": method.flips.candidates,
        "iterations": options.rounds * options.steps,
        "train": len(texts),
        "held_out": len(held_out),
        "top_k": options.top_k,
        "ways": {
            way.name: {
                "iterations_per_second": iterations / float(np.median(way.seconds)),
                "slower_than_ours": ratio(way.seconds, ways[-1].seconds),
                "similarity": float(np.mean(np.sum(way.vectors() * centres.means, axis=1))),
                "success": success,
            }
            for way, success in zip(ways, found, strict=True)
        },
    }


def _ours(
    method: Any, encoder: Any, texts: Sequence[str], centres: Any, members: Any, seed: int
) -> _Way:
    """The recipe's search in the engine, a round going on from where the last one ended."""
    from robustlab.attack.engine import Engine, Job
    from robustlab.poisoning.corpus import first_words
    from robustlab.poisoning.flips import Draft

    vocabulary = encoder.vocabulary()
    drafts = [
        Draft(first_words([texts[i] for i in own], vocabulary, method.flips, method.length))
        for own in members
    ]

    def run(steps: int) -> None:
        flips = replace(method.flips, steps=steps, patience=steps)
        climb = partial(flips.climb, drafts, list(centres.means), vocabulary)
        (done,) = Engine(encoder, seed=seed).run([Job("fit", climb)])
        assert done.value is not None, done.error
        drafts[:] = [one.draft for one in done.value]

    return _Way("robustlab", run, lambda: encoder.encode([draft.text for draft in drafts]), [])


def _successes(
    index: Any, questions: Sequence[str], ways: Sequence[_Way], top_k: int
) -> list[float]:
    """Of each way the share of questions that have one of its passages among the first k."""
    ranked = index.search(questions, top_k)
    last = np.array([hits[-1].score if len(hits) == top_k else -np.inf for hits in ranked])
    asked = index.encoder.encode(questions, role="query")
    return [float(((asked @ way.vectors().T).max(axis=1) > last).mean()) for way in ways]


def _print_passages(part: Mapping[str, Any]) -> None:
    print(
        f"{part['passages']} passages of {part['length']} tokens for {part['train']} training "
        f"questions of {part['corpus']}, {part['candidates']} candidates, {part['iterations']} "
        f"iterations for each passage; success @{part['top_k']} on {part['held_out']} other "
        "questions.\n"
    )
    print("| way | iterations/s | ours is faster | mean similarity | success |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, way in part["ways"].items():
        faster = way["slower_than_ours"]
        print(
            f"| {name} | {way['iterations_per_second']:.2f} | {faster['median']:.1f} × "
            f"({faster['low']:.1f}-{faster['high']:.1f}) | {way['similarity']:.3f} | "
            f"{100 * way['success']:.1f} % |"
        )
    print()


# --- evaluation ---------------------------------------------------------------------------------


def _bench_evaluation(options: argparse.Namespace, corpus: Any, place: Path) -> dict[str, Any]:
    from robustlab.models.target import Ask
    from robustlab.poisoning.texts import fill, load_templates
    from robustlab.rag import load_rag

    generator = options.generator
    large = options.large or options.device.startswith("cuda")
    if generator is None:
        generator = "builtin:seq2seq"
        if large:
            generator = str(random_decoder(place / "decoder", large=True, positions=2048))
    pipeline = load_rag(
        corpus,
        options.retriever,
        generator,
        top_k=options.top_k_read,
        device=options.device,
        dtype=options.dtype,
    )
    questions = sample(select_split(corpus, options.split)[1], options.limit, options.seed)
    texts = tuple(question.text for question in questions)
    templates = load_templates("claims")
    poisons = tuple(
        tuple(
            f"{text} {fill(templates[i % len(templates)], text, 'the old harbour')}"
            for i in range(options.poison)
        )
        for text in texts
    )
    ways = {"clean": Ask(texts), "with poison": Ask(texts, poisons)}
    pipeline.answer(Ask(texts[:2], poisons[:2]))  # warm: the first call compiles and allocates
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, request in ways.items():
            start = time.perf_counter()
            pipeline.answer(request)
            seconds[name].append(time.perf_counter() - start)
        note(f"evaluation: round {number + 1} of {options.rounds} done")
    described = pipeline.describe()["generator"]
    return {
        "generator": "random Llama of the 1B class"
        if options.generator is None and large
        else generator,
        "device": str(described["device"]),
        "dtype": str(described["dtype"]),
        "questions": len(texts),
        "poison": options.poison,
        "top_k": options.top_k_read,
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "ratio": ratio(seconds["with poison"], seconds["clean"]),
    }


def _print_evaluation(part: Mapping[str, Any]) -> None:
    costs = part["ratio"]
    print(
        f"{part['questions']} questions × {part['poison']} passages of poison, top "
        f"{part['top_k']}, {part['generator']} on {part['device']} in {part['dtype']}.\n"
    )
    print("| clean | with poison | ratio |")
    print("| ---: | ---: | ---: |")
    print(
        f"| {part['seconds']['clean']:.2f} s | {part['seconds']['with poison']:.2f} s | "
        f"{costs['median']:.2f} ({costs['low']:.2f}-{costs['high']:.2f}) |\n"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of attacks on RAG.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--corpus", default="fieldguide", metavar="SPEC")
    parser.add_argument("--train", default="train", metavar="NAME", help="split to fit on")
    parser.add_argument("--split", default=None, metavar="NAME", help="split to measure on")
    parser.add_argument("--questions", type=int, default=1000, metavar="N")
    parser.add_argument("--passages", type=int, default=4, metavar="N")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="iterations in a round")
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="for success")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions to answer")
    parser.add_argument("--poison", type=int, default=5, metavar="N")
    parser.add_argument("--top-k-read", type=int, default=5, metavar="K")
    parser.add_argument("--retriever", default=BUILTIN, metavar="SPEC")
    parser.add_argument("--generator", default=None, metavar="SPEC")
    parser.add_argument("--large", action="store_true", help="a decoder of the 1B class")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="of the second part")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    for name in ("rounds", "steps", "passages"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_rag_attack: {error}")
