#!/usr/bin/env python3
"""Kills ``robustlab advtrain`` at random moments, resumes it, and compares what was trained.

The same run is made once in peace. Then it is begun again, killed with SIGKILL, which no program
can catch, and continued with --resume until all kills are done; then it is let to its end. The
moments are spread over the time that the run in peace took: while models are trained, attacked or
written. All weights have to be equal bit for bit, and so has the curve, but for times and memory.

    python scripts/kill_resume_training.py --kills 5 -- --data corpora/reviews \\
        --strength 0.2 --limit-train 400 --epochs 4 --limit-eval 4 --suite quick

Whatever stands behind -- goes to ``robustlab advtrain``. Ends with exit code 1 on a difference,
and with 2 if the training itself fails.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kill_resume import ROBUSTLAB, continued, finish, read_options

ADVTRAIN = (*ROBUSTLAB, "advtrain")

UNEQUAL = ("seconds", "bytes", "wall", "per_second")
"""A number whose name holds one of these is of the machine, not of the result."""


def experiment(
    arguments: Sequence[str],
    folder: Path,
    *,
    kills: int,
    seed: int,
    command: Sequence[str] = ADVTRAIN,
) -> tuple[list[str], list[str]]:
    """Run in peace, run with kills, compare.

    Args:
        arguments: of ``robustlab advtrain``, but for --out and --resume.
        folder: where the runs are left: ``peace`` and ``killed``.
        kills: how many.
        seed: of the moments.
        command: what runs robustlab.

    Returns:
        What was on disk at each kill, and what is not equal in the end.

    Raises:
        RuntimeError: the training fails.
    """
    dice = random.Random(seed)
    train = [*command, *arguments]
    peace, place = folder / "peace", folder / "killed"
    start = time.monotonic()
    finish([*train, "--out", str(peace)])
    whole = time.monotonic() - start
    found: list[str] = []
    while len(found) < kills and not (place / "summary.json").is_file():
        # Work that was done stays done, so that short times together reach through the whole run.
        process = subprocess.Popen(
            continued(train, place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(dice.uniform(0.4, 1.4) * whole / (kills + 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            found.append(_on_disk(place))
    if not (place / "summary.json").is_file():
        finish(continued(train, place))
    return found, list(differences(peace, place))


def differences(expected: Path, found: Path) -> Iterator[str]:
    """What two runs do not have in common: weights by file, and the curve by entry."""
    weights = [_weights(expected), _weights(found)]
    for name in sorted(weights[0].keys() | weights[1].keys()):
        if weights[0].get(name) != weights[1].get(name):
            yield f"{name}: other weights"
    if not weights[0]:
        yield "the run in peace left no weights"
    curves = [json.loads((run / "tradeoff.json").read_bytes()) for run in (expected, found)]
    yield from _unequal("tradeoff.json", *curves)


def _unequal(name: str, first: Any, second: Any) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            if not any(part in key for part in UNEQUAL):
                yield from _unequal(f"{name}.{key}", first.get(key), second.get(key))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, pair in enumerate(zip(first, second, strict=True)):
            yield from _unequal(f"{name}[{number}]", *pair)
    elif first != second:
        yield f"{name}: {first!r} became {second!r}"


def _weights(run: Path) -> dict[str, str]:
    """Hashes of the weights of all models, by the path of their file."""
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.glob("models/*/model/**/*.safetensors"))
    }


def _on_disk(place: Path) -> str:
    """What a kill left of a run."""
    models = sorted(place.glob("models/*"))
    trained = sum((model / "training.json").is_file() for model in models)
    open_ = sum((model / "checkpoint.safetensors").is_file() for model in models)
    return f"{trained} models trained, {open_} with a checkpoint"


def main() -> None:
    """Run the experiment and print what came of it."""
    options, arguments = read_options(__doc__ or "", kills=5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        try:
            kills, unequal = experiment(arguments, folder, kills=options.kills, seed=options.seed)
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(2)
    for number, left in enumerate(kills, 1):
        print(f"kill {number}: {left}")
    for line in unequal:
        print(line)
    print(f"\n{len(kills)} kills, {len(unequal)} differences")
    sys.exit(1 if unequal else 0)


if __name__ == "__main__":
    main()
