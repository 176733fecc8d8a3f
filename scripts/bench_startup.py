#!/usr/bin/env python3
"""Start-up time of the command line against ``python -c "import click"``.

Whole processes in alternation; a ratio is the median over the rounds of the ratios within one.

    python scripts/bench_startup.py --rounds 15
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

WAYS = {
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "robustlab --help": [sys.executable, "-m", "robustlab", "--help"],
    "robustlab attack --help": [sys.executable, "-m", "robustlab", "attack", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for command in WAYS.values():
        seconds(command)  # warm the file cache
    measured = [{name: seconds(command) for name, command in WAYS.items()} for _ in range(rounds)]
    base = next(iter(WAYS))
    print("| command | median seconds | ratio |\n| --- | --- | --- |")
    for name in WAYS:
        median = statistics.median(row[name] for row in measured)
        ratio = statistics.median(row[name] / row[base] for row in measured)
        print(f"| `{name}` | {median:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
