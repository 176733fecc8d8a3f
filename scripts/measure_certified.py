#!/usr/bin/env python3
"""Certified below, empirical above: aggregations on questions that several passages answer.

    python scripts/measure_certified.py --limit 30

For each built-in reader and each defence with a certificate, the same questions of the field
guide's test split are certified against one passage of an adversary and attacked with one by
adversaries who ask the defended pipeline as they write; robust accuracy is the worst case over
the recipes. Prints a Markdown table. A certified question that an attack breaks is an error.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

READERS = ("builtin:seq2seq", "builtin:causal")
DEFENSES = ("keyword-aggregation", "decoding-aggregation")
RECIPES = (
    "poisonedrag-blackbox",
    "prompt-injection",
    "prompt-injection-obfuscated",
    "jamming",
)


def write_redundant(corpus: Path, folder: Path, least: int) -> int:
    """Copy a corpus with only those test questions that have ``least`` gold passages or more."""
    (folder / "qrels").mkdir(parents=True)
    shutil.copy(corpus / "corpus.jsonl", folder / "corpus.jsonl")
    head, *rows = (corpus / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    gold: dict[str, list[str]] = {}
    for row in rows:
        gold.setdefault(row.split("\t")[0], []).append(row)
    kept = {key: lines for key, lines in gold.items() if len(lines) >= least}
    chosen = [row for lines in kept.values() for row in lines]
    (folder / "qrels" / "test.tsv").write_text("\n".join([head, *chosen]) + "\n", encoding="utf-8")
    with (corpus / "queries.jsonl").open(encoding="utf-8") as lines:
        questions = [line for line in lines if json.loads(line)["_id"] in kept]
    (folder / "queries.jsonl").write_text("".join(questions), encoding="utf-8")
    return len(kept)


def measure(
    corpus: Path, reader: str, defense: str, args: argparse.Namespace, out: Path
) -> dict[str, Any]:
    """The worst case over the recipes of one defended reader, and its undefended twin's."""
    from robustlab.poisoning import attack_rag
    from robustlab.runs import RunDirectory

    summary = attack_rag(
        corpus=str(corpus),
        generator=reader,
        defense=[defense],
        recipe=list(RECIPES),
        poison_passages=1,
        query_budget=args.queries,
        top_k=10,
        adaptive=True,
        limit=args.limit,
        device=args.device,
        out=out,
    ).summary
    bare: dict[str, bool] = {}
    for name in RECIPES:
        for outcome in RunDirectory.open(out / "runs" / name).outcomes():
            both = outcome["undefended"]
            right = both["clean"]["exact_match"] and both["attacked"]["exact_match"]
            bare[outcome["id"]] = bare.get(outcome["id"], True) and right
    one = RunDirectory.open(out / "runs" / RECIPES[0]).summary or {}
    return {
        **summary,
        "undefended_clean_accuracy": one["undefended_clean_accuracy"],
        "undefended_worst": sum(bare.values()) / len(bare),
    }


def percent(estimate: dict[str, Any]) -> str:
    """A rate with its interval."""
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{100 * estimate['value']:.1f} % [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=int, default=30, help="questions")
    parser.add_argument("--queries", type=int, default=4, help="of an adaptive adversary")
    parser.add_argument("--gold", type=int, default=3, help="least number of gold passages")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build/certified"))
    args = parser.parse_args()
    corpus = args.out / "redundant"
    count = write_redundant(ROOT / "corpora" / "fieldguide", corpus, args.gold)
    print(f"{min(count, args.limit)} of {count} questions, k = 10, k' = 1", flush=True)
    print("| reader | defence | certified | worst attack | clean | undefended: worst | clean |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for defense in DEFENSES:
        for reader in READERS:
            out = args.out / f"{reader.partition(':')[2]}-{defense}"
            found = measure(corpus, reader, defense, args, out)
            cells = [
                reader,
                defense,
                percent(found["certified_accuracy"]),
                percent(found["robust_accuracy"]),
                percent(found["clean_accuracy"]),
                f"{100 * found['undefended_worst']:.1f} %",
                percent(found["undefended_clean_accuracy"]),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
