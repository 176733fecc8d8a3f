#!/usr/bin/env python3
"""Average runs of ``train_builtin.py classifier`` into one parameter file.

    python scripts/average_builtin.py build/first/classifier build/second/classifier --rank 32

Runs that start from the same weights and differ in data or order lie close enough that the mean of
their parameters is as good as a vote of all, at the cost of one (model soups, Wortsman et al. 2022,
arXiv:2203.05482). Adapters are averaged as the matrices that they add up to; of the mean the best
approximation of the rank asked for is kept (singular value decomposition).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train_builtin import ROOT, export


def mean_of(states: Sequence[Mapping[str, Any]], rank: int) -> dict[str, Any]:
    """The mean of parameter files, adapters ``NAME.lora_A`` and ``.lora_B`` cut to a rank."""
    import torch

    found: dict[str, Any] = {}
    for name in states[0]:
        if name.endswith(".lora_B"):
            continue
        if not name.endswith(".lora_A"):
            found[name] = sum(state[name].float() for state in states) / len(states)
            continue
        other = name.removesuffix("A") + "B"
        added = sum(state[other].float() @ state[name].float() for state in states) / len(states)
        left, sizes, right = torch.linalg.svd(added, full_matrices=False)
        root = sizes[:rank].sqrt()
        found[name], found[other] = root[:, None] * right[:rank], left[:, :rank] * root
    return found


def main() -> None:
    """Parse the command line and write the mean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="files without their ending")
    parser.add_argument("--rank", type=int, default=32, help="of the adapters that are written")
    parser.add_argument("--out", type=Path, default=ROOT / "robustlab" / "models" / "weights")
    options = parser.parse_args()
    from safetensors.torch import load_file

    states = [load_file(run.with_suffix(".safetensors")) for run in options.runs]
    cards = [json.loads(run.with_suffix(".json").read_text("utf-8")) for run in options.runs]
    if any(set(state) != set(states[0]) for state in states[1:]):
        sys.exit("average_builtin: the runs hold different parameters; are they of one model?")
    card = {
        "label_names": cards[0]["label_names"],
        "mean_of": [{k: v for k, v in card.items() if k != "label_names"} for card in cards],
        "rank": options.rank,
        "minutes": round(sum(card["minutes"] for card in cards), 2),
    }
    export(options.out / options.runs[0].name, mean_of(states, options.rank), card)


if __name__ == "__main__":
    main()
