"""``robustlab compare``: whether runs of attacks differ by more than chance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustlab.cli import options
from robustlab.cli.output import print_json

if TYPE_CHECKING:
    from robustlab.attack.compare import ComparedRun, Comparison, LeftOut, Pair
    from robustlab.metrics import Estimate

__all__ = ["compare"]

_NAMES = {
    "clean_accuracy": "clean accuracy",
    "robust_accuracy": "robust accuracy",
    "attack_success_rate": "attack success rate",
}

_LONGEST = 40  # characters of a manifest's entry worth showing


@click.command("compare", context_settings=options.SETTINGS)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.common
def compare(runs: tuple[Path, ...], json: bool) -> None:
    """Compare attacks with the first of RUNS, on the examples that all of them have.

    Prints the rates of both, the difference with a 95 % interval for paired proportions (Newcombe
    1998, method 10), and McNemar's exact test on which examples are still right under attack; with
    more than two runs, with Holm's correction as well. A suite counts by the worst case of each
    example. The runs must be complete and made on the same data.

    \b
      robustlab compare runs/undefended runs/defended
      robustlab compare runs/random runs/pwws runs/hotflip --json
    """
    from robustlab.attack.compare import compare_runs

    comparison = compare_runs(runs)
    _show(comparison, to_stderr=json)
    if json:
        print_json(comparison.as_json())


def _show(comparison: Comparison, *, to_stderr: bool) -> None:
    from rich.text import Text

    from robustlab.report import make_console, print_indented

    console = make_console(sys.stderr if to_stderr else sys.stdout)
    print_indented(console, Text(_title(comparison.baseline)), "baseline  ")
    for pair in comparison.pairs:
        print_indented(console, Text(_title(pair.run)), "run       ")
    print_indented(console, Text(_examples(comparison.examples, comparison.left_out)), "")
    for pair in comparison.pairs:
        console.print()
        if len(comparison.pairs) > 1:
            print_indented(console, Text(_shown(str(pair.run.folder)), style="bold"), "")
        console.print(_table(pair))
        for line in _findings(pair, len(comparison.pairs)):
            print_indented(console, Text(line), "")
    console.print(
        "\nDifferences are run − baseline, in percentage points; the attack success rate is over "
        "the\nexamples attacked in both. Intervals: Newcombe 1998, method 10.",
        style="dim",
    )


def _title(run: ComparedRun) -> str:
    recipes = ", ".join(run.recipes)
    return _shown(f"{run.folder}  {run.target}, {recipes}, {run.examples} examples")


def _examples(examples: int, left_out: LeftOut) -> str:
    reasons = (
        f"{left_out.missing} not in every run" if left_out.missing else "",
        f"{left_out.different} with different texts" if left_out.different else "",
        f"{left_out.errors} that ended with an error" if left_out.errors else "",
    )
    why = ", ".join(reason for reason in reasons if reason)
    return f"{examples} examples compared, {left_out.total} left out" + (f": {why}" if why else "")


def _table(pair: Pair) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("measure")
    for name in ("baseline", "run", "difference", "95 % interval"):
        table.add_column(name, justify="right", style="bold" if name == "difference" else None)
    table.add_column("n", justify="right", style="dim")
    for name, (baseline, own, difference) in pair.rows().items():
        known = difference.n > 0
        table.add_row(
            _NAMES[name],
            _percent(baseline),
            _percent(own),
            _points(difference.value) if known else "–",
            f"{_points(difference.low)} to {_points(difference.high)}" if known else "",
            f"{difference.n:,}",
        )
    return table


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} %" if share.n else "–"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _findings(pair: Pair, tests: int) -> list[str]:
    """What the table does not say: counts, the test, and what else is not the same."""
    counts = pair.robust
    corrected = f", {_p(pair.adjusted)} with Holm's correction for {tests} tests"
    lines = [
        f"still right under attack: both {counts.both}, only baseline {counts.only_first}, "
        f"only run {counts.only_second}, neither {counts.neither}",
        f"McNemar's exact test: p {_p(pair.p_value)}" + (corrected if tests > 1 else ""),
    ]
    if pair.conditions:
        found = ", ".join(
            _condition(place, one, other) for place, (one, other) in pair.conditions.items()
        )
        lines.append(_shown(f"not the same: {found}"))
    return lines


def _condition(place: str, one: Any, other: Any) -> str:
    """A condition with both values where these are short."""
    name = place.removeprefix("threat_model.").replace("_", " ").replace(".", " ")
    values = ["none" if value is None else str(value) for value in (one, other)]
    plain = not any(isinstance(value, dict | list) for value in (one, other))
    short = plain and max(map(len, values)) <= _LONGEST
    return f"{name} ({values[0]} → {values[1]})" if short else name


def _p(value: float) -> str:
    return f"= {value:.4f}" if value >= 0.0001 else "< 0.0001"


def _shown(text: str) -> str:
    from robustlab.report import safe_text

    return safe_text(text)
