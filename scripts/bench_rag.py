"""Questions per second of batched RAG answers against a loop that asks one at a time.

Both sides use the same loaded pipeline and the same questions, in alternating rounds:

- *loop*: ``pipeline.ask([question])`` for each question in turn;
- *batched*: ``pipeline.ask(questions)``;
- *evaluate*: what ``robustlab evaluate --target rag`` does, which is the batched answers plus
  the scores of the right answers and every measure.

Prints a Markdown table with the median of the rounds. The answers of loop and batch are compared
as well: they may differ only where rounding decides between two tokens.

    python scripts/bench_rag.py --generator builtin:causal --limit 100 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from robustlab.data import load_corpus, sample, select_split
from robustlab.errors import UserError
from robustlab.evaluation.rag import rag_outcomes, summarise_rag
from robustlab.rag import load_rag
from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder


def main() -> None:
    """Measure and print."""
    options = _options()
    corpus = load_corpus(options.corpus)
    split, available = select_split(corpus, options.split)
    questions = sample(available, options.limit, options.seed)
    texts = [question.text for question in questions]
    pipeline = load_rag(
        corpus,
        options.retriever,
        options.generator,
        top_k=options.top_k,
        device=options.device,
        dtype=options.dtype,
    )
    judge = SentenceEncoder.load(BUILTIN, device=options.device, dtype=options.dtype)
    known = {passage.id: passage for passage in corpus.passages}

    def loop() -> list[str]:
        return [pipeline.ask([text])[0].answer for text in texts]

    def batched() -> list[str]:
        return [answer.answer for answer in pipeline.ask(texts)]

    def evaluated() -> list[str]:
        outcomes = list(rag_outcomes(pipeline, judge, questions, known))
        summarise_rag(outcomes, pipeline.top_k)
        return [outcome["prediction"] for outcome in outcomes]

    ways: dict[str, Callable[[], list[str]]] = {
        "loop, one question at a time": loop,
        "batched": batched,
        "evaluate, with all measures": evaluated,
    }
    pipeline.ask(texts[:2])  # warm: the first call compiles and allocates
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for number in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = way()
            seconds[name].append(time.perf_counter() - start)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    _print_table(options, split, len(texts), pipeline.describe()["generator"], seconds)
    first, second, *_ = answers.values()
    same = sum(a == b for a, b in zip(first, second, strict=True))
    print(f"\nSame answer from loop and batch: {same} of {len(texts)}.")


def _print_table(
    options: argparse.Namespace,
    split: str,
    count: int,
    generator: dict[str, object],
    seconds: dict[str, list[float]],
) -> None:
    print(
        f"{options.generator} on {generator['device']} in {generator['dtype']}, "
        f"{count} questions of {options.corpus} ({split}), top {options.top_k}, "
        f"median of {options.rounds} rounds\n"
    )
    print("| way | questions/s | against the loop |")
    print("| --- | ---: | ---: |")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    slowest = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"| {name} | {count / median:.1f} | {slowest / median:.2f} × |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Batched RAG answers against a loop.")
    parser.add_argument("--generator", default="builtin:seq2seq", metavar="SPEC")
    parser.add_argument("--retriever", default=BUILTIN, metavar="SPEC")
    parser.add_argument("--corpus", default="fieldguide", metavar="SPEC")
    parser.add_argument("--split", default=None, metavar="NAME")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="questions")
    parser.add_argument("--top-k", type=int, default=5, metavar="K")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_rag: {error}")
