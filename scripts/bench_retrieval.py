"""Speed of encoding and searching, and what bf16 costs in retrieval quality.

Four parts, each a Markdown table; ``--only`` chooses some of them:

- *encode*: passages a second, ours against ``SentenceTransformer.encode`` in the same dtype at
  the batch size that suits it best;
- *dtype*: ours with ``--dtype auto`` against the fp32 default of ``SentenceTransformer.encode``
  (the two differ on GPUs and on processors that multiply bf16, with AMX or AVX-512 BF16);
- *quality*: nDCG@10 on Cranfield in fp32 and in bf16;
- *search*: time and recall of every kind of index, and the cost of adding a passage to a view.

The ways that are compared run in turn within each round, because the speed of a shared machine
drifts by more than they differ; a ratio is the median over the rounds of the ratios within one.

    python scripts/bench_retrieval.py --data ../shared/data/cranfield --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data import Corpus, Passage, load_corpus, sample
from robustlab.errors import UserError
from robustlab.metrics.intervals import mean_estimate
from robustlab.metrics.retrieval import RankedQuestion, ndcg_at_k
from robustlab.models.device import cpu_multiplies_bf16, resolve_device, resolve_dtype
from robustlab.resources import corpus_names, minilm_folder
from robustlab.retrieval import INDEX_KINDS, DenseIndex, SentenceEncoder, kinds
from robustlab.retrieval.encoder import BUILTIN

PARTS = ("encode", "dtype", "quality", "search")
BATCH_SIZES = (16, 32, 64, 128)
OURS = "robustlab"


def main() -> None:
    """Measure and print."""
    options = _options()
    import torch

    device = resolve_device(options.device)
    same = str(resolve_dtype("auto", device)).removeprefix("torch.")
    native = "present" if cpu_multiplies_bf16() else "absent"
    threads = torch.get_num_threads()
    print(f"Device {device}, {threads} threads, native bf16 {native}; auto is {same}.\n")
    corpora = [load_corpus("fieldguide")] if "fieldguide" in corpus_names() else []
    if options.data.is_dir():
        corpora.append(load_corpus(str(options.data)))
    if not corpora:
        raise UserError(f"there is no corpus at {options.data}, and none is shipped")
    if "encode" in options.only:
        _bench_encoding(corpora, options, "fp32")
        if same == "bfloat16":
            _bench_encoding(corpora, options, "bf16")
    if "dtype" in options.only:
        _bench_dtype(corpora, options)
    if "quality" in options.only:
        _bench_quality(corpora[-1], options)
    if "search" in options.only:
        _bench_search(corpora[0], options)


def _bench_encoding(corpora: Sequence[Corpus], options: argparse.Namespace, dtype: str) -> None:
    ours = SentenceEncoder.load(BUILTIN, device=options.device, dtype=dtype)
    theirs = _sentence_transformer(options.device, dtype)
    rows = []
    for corpus in corpora:
        texts = _texts(corpus, options)
        ways: dict[str, Callable[[], object]] = {OURS: partial(ours.encode, texts)}
        for size in BATCH_SIZES:
            ways[f"batches of {size}"] = partial(
                theirs.encode, texts, batch_size=size, normalize_embeddings=True
            )
        seconds = _in_turn(ways, options.rounds)
        rivals = {name: taken for name, taken in seconds.items() if name != OURS}
        best = min(rivals, key=lambda name: statistics.median(rivals[name]))
        rows.append(
            [
                corpus.name,
                len(texts),
                f"{_rate(texts, seconds[OURS]):.1f}",
                f"{_rate(texts, seconds[best]):.1f} ({best})",
                f"{_ratio(seconds[best], seconds[OURS]):.2f}",
            ]
        )
    _table(
        f"Encoding in {dtype}, passages a second (goal: a ratio of at least 0.95)",
        ["corpus", "passages", OURS, "SentenceTransformer.encode", "ratio"],
        rows,
    )


def _bench_dtype(corpora: Sequence[Corpus], options: argparse.Namespace) -> None:
    ours = SentenceEncoder.load(BUILTIN, device=options.device, dtype="auto")
    theirs = _sentence_transformer(options.device, "fp32")
    rows = []
    for corpus in corpora:
        texts = _texts(corpus, options)
        seconds = _in_turn(
            {
                "auto": partial(ours.encode, texts),
                "default": partial(theirs.encode, texts),
            },
            options.rounds,
        )
        rows.append(
            [
                corpus.name,
                f"{_rate(texts, seconds['auto']):.1f} ({ours.dtype})",
                f"{_rate(texts, seconds['default']):.1f} (fp32)",
                f"{_ratio(seconds['default'], seconds['auto']):.2f}",
            ]
        )
    goal = "goal on a processor that multiplies bf16: at least 1.8"
    if options.device != "cuda" and not cpu_multiplies_bf16():
        goal += "; here there is none, so both are fp32 unless a GPU is used"
    _table(
        f"`--dtype auto` against the default of sentence-transformers, passages a second ({goal})",
        ["corpus", f"{OURS}, auto", "SentenceTransformer.encode", "ratio"],
        rows,
    )


def _bench_quality(corpus: Corpus, options: argparse.Namespace) -> None:
    questions = [q for split in corpus.questions.values() for q in split if q.gold]
    rows = []
    values = {}
    for dtype in ("fp32", "bf16"):
        index = DenseIndex.build(
            corpus, SentenceEncoder.load(BUILTIN, device=options.device, dtype=dtype)
        )
        ranked = [
            RankedQuestion(
                question.id,
                question.gold,
                tuple(hit.passage.id for hit in hits),
                tuple(hit.score for hit in hits),
            )
            for question, hits in zip(
                questions, index.search([q.text for q in questions], 10), strict=True
            )
        ]
        estimate = mean_estimate(ndcg_at_k(ranked, 10))
        values[dtype] = estimate.value
        rows.append([dtype, f"{estimate.value:.4f}", f"[{estimate.low:.3f}, {estimate.high:.3f}]"])
    rows.append(["difference", f"{values['bf16'] - values['fp32']:+.4f}", ""])
    _table(
        f"nDCG@10 on {corpus.name}, {len(questions)} questions "
        "(goal: a difference of at most 0.005)",
        ["dtype", "nDCG@10", "95 % interval"],
        rows,
    )


def _bench_search(corpus: Corpus, options: argparse.Namespace) -> None:
    vectors, asked = _clustered(options.vectors)
    exact = kinds.make(vectors, "flat").search(asked, 10)[1]
    rows = []
    for kind in INDEX_KINDS:
        start = time.perf_counter()
        index = kinds.make(vectors, kind)
        built = time.perf_counter() - start

        def one_by_one(index: Any = index) -> None:
            for row in range(len(asked)):
                index.search(asked[row : row + 1], 10)

        seconds = _in_turn(
            {"batch": partial(index.search, asked, 10), "one": one_by_one},
            options.rounds,
        )
        found = index.search(asked, 10)[1]
        recall = np.mean(
            [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
        )
        rows.append(
            [
                kind,
                f"{built:.1f}",
                f"{1000 * statistics.median(seconds['batch']) / len(asked):.3f}",
                f"{1000 * statistics.median(seconds['one']) / len(asked):.3f}",
                f"{recall:.3f}",
            ]
        )
    _table(
        f"FAISS over {len(vectors):,} clustered vectors, {vectors.shape[1]} wide, "
        f"{len(asked)} questions, top 10",
        ["kind", "built in s", "ms a question, batched", "ms a question, alone", "recall@10"],
        rows,
    )
    encoder = SentenceEncoder.load(BUILTIN, device=options.device, dtype="fp32")
    dense = DenseIndex.build(corpus, encoder)
    texts = [question.text for split in corpus.questions.values() for question in split][:50]
    poison = Passage("poison", "", "The answer is stated here, again and in other words.")
    seconds = _in_turn(
        {
            "encode the questions": lambda: encoder.encode(texts, role="query"),
            "search, questions encoded": lambda: dense.search(texts, 10),
            "add a passage": lambda: [dense.with_changes(add=[poison]) for _ in texts],
            "encode that passage alone": lambda: [encoder.encode([poison.text]) for _ in texts],
        },
        options.rounds,
    )
    _table(
        f"The whole way over {corpus.name} ({len(dense)} passages, flat), ms a question",
        ["step", "ms"],
        [
            [name, f"{1000 * statistics.median(taken) / len(texts):.2f}"]
            for name, taken in seconds.items()
        ],
    )


def _clustered(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors around random centres, as embeddings of subjects are, and 256 questions."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(max(1, count // 50), 384))

    def around(number: int) -> NDArray[np.float32]:
        points = centres[random.integers(0, len(centres), number)]
        points = points + 0.6 * random.normal(size=points.shape)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        return points.astype(np.float32)

    return around(count), around(256)


def _in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one call each to warm up."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return seconds


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times faster ours is."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _rate(texts: Sequence[str], seconds: Sequence[float]) -> float:
    return len(texts) / statistics.median(seconds)


def _texts(corpus: Corpus, options: argparse.Namespace) -> list[str]:
    return [passage.contents for passage in sample(corpus.passages, options.passages, seed=0)]


def _sentence_transformer(device: str, dtype: str) -> Any:
    from sentence_transformers import SentenceTransformer

    place = resolve_device(device)
    return SentenceTransformer(
        str(minilm_folder()),
        device=str(place),
        local_files_only=True,
        model_kwargs={"dtype": resolve_dtype(dtype, place)},
    )


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Speed of encoding and searching; quality in bf16."
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data/cranfield"),
        help="a corpus beside the shipped one; quality is measured on it",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed")
    parser.add_argument("--passages", type=int, default=300, help="of each corpus, for encoding")
    parser.add_argument("--vectors", type=int, default=20_000, help="for the kinds of index")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (all)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_retrieval: {error}")
