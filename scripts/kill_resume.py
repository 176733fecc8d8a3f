#!/usr/bin/env python3
"""Kills a run of ``robustlab attack`` at random moments, resumes it, and compares the outcomes.

The same attack is run once in peace. Then it is begun again and killed with SIGKILL, which no
program can catch, and continued with --resume, as often as asked; a run that ends before all kills
are done is followed by another one. The moments are drawn over the whole course of the attack: a
number of outcomes to wait for, and a delay after that, which for the first one falls into the time
when nothing is there yet. Outcomes have to be equal in everything but ``seconds``.

    python scripts/kill_resume.py --kills 10 -- --limit 100 --recipe deepwordbug

Whatever stands behind -- goes to ``robustlab attack``. Ends with exit code 1 on a difference,
and with 2 if the attack itself fails.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

ROBUSTLAB = (sys.executable, "-m", "robustlab")

_POLL_SECONDS = 0.005
_RUNS = 20  # how many runs may end before all kills are done

Outcomes: TypeAlias = dict[tuple[str, str], dict[str, Any]]
"""By the run they are in (``.`` or ``runs/NAME`` of a suite) and the example's id."""


@dataclass(frozen=True)
class Kill:
    """One kill: in which run, with how many outcomes on disk, and whether a line was cut off."""

    run: int
    outcomes: int
    torn: bool


@dataclass(frozen=True)
class Result:
    """What the experiment came to; ``differences`` says what is not equal, in which run."""

    outcomes: int
    kills: tuple[Kill, ...]
    differences: tuple[str, ...]


def experiment(
    arguments: Sequence[str],
    folder: Path,
    *,
    kills: int,
    seed: int,
    command: Sequence[str] = ROBUSTLAB,
) -> Result:
    """Run in peace, run with kills, compare.

    Args:
        arguments: of ``robustlab attack``, but for --out and --resume.
        folder: where the runs are left: ``peace``, ``killed-1``, ``killed-2`` and so on.
        kills: how many.
        seed: of the moments.
        command: what runs robustlab.

    Raises:
        RuntimeError: the attack fails, or always ends before it is killed.
    """
    dice = random.Random(seed)
    attack = [*command, "attack", *arguments]
    peace = folder / "peace"
    start = time.monotonic()
    finish([*attack, "--out", str(peace)])
    expected = read_outcomes(peace)
    longest_delay = (time.monotonic() - start) / max(1, len(expected))
    # The last outcome is left out: behind it there is next to nothing left to kill.
    moments = sorted(dice.randrange(max(1, len(expected))) for _ in range(kills))
    done: list[Kill] = []
    differences: list[str] = []
    for number in range(1, _RUNS + 1):
        place = folder / f"killed-{number}"
        for moment in moments[len(done) :]:
            begin = subprocess.Popen(
                continued(attack, place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if not _kill_at(begin, place, moment, dice.uniform(0, longest_delay)):
                break
            outcomes, torn = _on_disk(place)
            done.append(Kill(number, outcomes, torn))
        if not _complete(place):
            finish(continued(attack, place))
        differences += [
            f"killed-{number}: {line}" for line in compare(expected, read_outcomes(place))
        ]
        if len(done) == kills:
            return Result(len(expected), tuple(done), tuple(differences))
    raise RuntimeError(f"only {len(done)} of {kills} kills in {_RUNS} runs: attack more examples")


def read_outcomes(folder: Path) -> Outcomes:
    """Whole outcomes of a run, and of the runs in it, without the time they took."""
    found: Outcomes = {}
    for file in sorted(folder.rglob("outcomes.jsonl")):
        for line in file.read_bytes().split(b"\n")[:-1]:
            outcome = json.loads(line)
            del outcome["seconds"]
            found[str(file.parent.relative_to(folder)), outcome["id"]] = outcome
    return found


def compare(expected: Outcomes, found: Outcomes) -> Iterator[str]:
    """What differs, one line for each field of each outcome, sorted by run and id."""
    for key in sorted(expected.keys() | found.keys()):
        name = " ".join(key)
        if key not in found:
            yield f"{name} is missing"
        elif key not in expected:
            yield f"{name} is there and should not be"
        else:
            before, after = expected[key], found[key]
            for field in sorted(before.keys() | after.keys()):
                if before.get(field) != after.get(field):
                    yield f"{name} {field}: {before.get(field)!r} became {after.get(field)!r}"


def continued(command: Sequence[str], place: Path) -> list[str]:
    """The command that continues a run, or begins it if it was killed before there was one."""
    begun = (place / "manifest.json").is_file()
    # The run knows its own options; --json and the like may be given again.
    return [*command, "--resume" if begun else "--out", str(place)]


def finish(command: Sequence[str]) -> None:
    """Run a command to its end; :class:`RuntimeError` with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")


def _kill_at(process: subprocess.Popen[bytes], place: Path, moment: int, delay: float) -> bool:
    """Wait for a number of outcomes and a while longer, then kill; False if it ended before."""
    while _on_disk(place)[0] < moment:
        if process.poll() is not None:
            return False
        time.sleep(_POLL_SECONDS)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _complete(place: Path) -> bool:
    return (place / "summary.json").is_file()


def _on_disk(place: Path) -> tuple[int, bool]:
    """How many whole outcomes there are, and whether half a one stands behind them."""
    contents = [file.read_bytes() for file in place.rglob("outcomes.jsonl")]
    torn = any(content and not content.endswith(b"\n") for content in contents)
    return sum(content.count(b"\n") for content in contents), torn


def read_options(doc: str, *, kills: int) -> tuple[argparse.Namespace, list[str]]:
    """The script's own options, and what stands behind ``--``; ``kills``: how many by default."""
    parser = argparse.ArgumentParser(
        description=doc.partition("\n")[0],
        usage="%(prog)s [--kills N] [--seed N] [--folder DIR] [-- OPTION ...]",
    )
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the runs are left; must not hold any")
    own, arguments = sys.argv[1:], []
    if "--" in own:
        cut = own.index("--")
        own, arguments = own[:cut], own[cut + 1 :]
    return parser.parse_args(own), arguments


def main() -> None:
    """Run the experiment and print its table."""
    options, arguments = read_options(__doc__ or "", kills=10)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        try:
            result = experiment(arguments, folder, kills=options.kills, seed=options.seed)
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(2)
    print("| kill | in run | outcomes on disk | of | line cut off |")
    print("| --- | --- | --- | --- | --- |")
    for number, kill in enumerate(result.kills, 1):
        torn = "yes" if kill.torn else "no"
        print(f"| {number} | {kill.run} | {kill.outcomes} | {result.outcomes} | {torn} |")
    for line in result.differences:
        print(line)
    print(f"\n{result.outcomes} outcomes, {len(result.differences)} differences")
    sys.exit(1 if result.differences else 0)


if __name__ == "__main__":
    main()
