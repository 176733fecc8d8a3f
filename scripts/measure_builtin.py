#!/usr/bin/env python3
"""Measure the built-in models and write what was found into their cards.

    python scripts/measure_builtin.py --data ../shared/data

Every figure comes from ``robustlab.evaluation`` as any user would get it, in fp32, with its 95 %
interval; the table is printed for docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from train_builtin import write_card

WANTED = {"classifier": ("accuracy",), "reader": ("exact_match", "f1", "recall@5")}


def settings(model: str, data: Path, limit: int | None) -> list[dict[str, Any]]:
    """Arguments of each evaluation of a model; data sets that are absent are left out."""
    if model == "classifier":
        shipped = [("reviews", "test"), ("reviews-implied", "test")]
        places = shipped + [(str(data / "sst2"), "validation")] * (data / "sst2").is_dir()
        return [
            {"target_spec": "builtin:classifier", "data_spec": spec, "split": split}
            for spec, split in places
        ]
    runs: list[dict[str, Any]] = []
    for spec, split in (("fieldguide", "test"), (str(data / "xquad-a"), "validation")):
        if spec == "fieldguide" or Path(spec).is_dir():
            rag = {"target_spec": "rag", "generator": f"builtin:{model}"}
            gold = {"target_spec": f"builtin:{model}"}
            asked: dict[str, Any] = {"corpus": spec, "split": split}
            if spec != "fieldguide":
                asked["limit"] = limit
            runs += [{**own, **asked} for own in (gold, rag)]
    return runs


def measure(model: str, data: Path, limit: int | None) -> list[dict[str, Any]]:
    """The figures of one model, one object a data set and way of asking."""
    from robustlab.evaluation import evaluate

    found = []
    for arguments in settings(model, data, limit):
        with tempfile.TemporaryDirectory() as folder:
            result = evaluate(**arguments, dtype="fp32", device="cpu", out=Path(folder) / "run")
        wanted = WANTED["classifier" if model == "classifier" else "reader"]
        asked = "retrieved top 5" if arguments["target_spec"] == "rag" else "gold passage given"
        row: dict[str, Any] = {
            "data": Path(arguments.get("data_spec") or arguments["corpus"]).name,
            "split": arguments["split"],
        }
        if model != "classifier":
            row["passages"] = asked
        row |= {
            name: estimate.as_json()
            for name, estimate in result.estimates.items()
            if name in wanted
        }
        found.append(row)
        print(_line(model, row), flush=True)
    return found


def _line(model: str, row: dict[str, Any]) -> str:
    def shown(value: dict[str, float]) -> str:
        low, high = 100 * value["low"], 100 * value["high"]
        return f"{100 * value['value']:.1f} % [{low:.1f}, {high:.1f}]"

    cells = [f"builtin:{model}", f"{row['data']}/{row['split']}", row.get("passages", "")]
    cells += [
        f"{name} {shown(value)} (n = {value['n']})"
        for name, value in row.items()
        if isinstance(value, dict)
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure the models that are named, all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["classifier", "seq2seq", "causal"])
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2 and xquad-a")
    parser.add_argument("--limit", type=int, help="questions of xquad-a; all by default")
    args = parser.parse_args()
    from robustlab.resources import weights_folder

    for model in args.models:
        path = weights_folder() / f"{model}.json"
        card = json.loads(path.read_text(encoding="utf-8"))
        card["measured"] = measure(model, args.data, args.limit)
        write_card(path, card)


if __name__ == "__main__":
    main()
