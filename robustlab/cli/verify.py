"""``robustlab verify``: whether the outcomes of an attack still hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustlab.cli import options
from robustlab.cli.output import print_json, progress_bar, working
from robustlab.errors import EXIT_FAULT

if TYPE_CHECKING:
    from robustlab.attack.verify import Disagreement, Verification

__all__ = ["verify"]


@click.command("verify", context_settings=options.SETTINGS)
@click.argument("run", type=click.Path(path_type=Path))
@options.device_alone
@options.common
def verify(run: Path, device: str, json: bool) -> None:
    """Judge every adversarial text of an attack again, from its string.

    Loads the target and the data that RUN names, checks that they are still the same, and asks
    the target about each text alone, in fp32. Prints which outcomes are confirmed and which are
    not, and ends with exit code 1 if there is one that is not. Of a suite, the run of every recipe
    is verified.

    \b
      robustlab verify runs/attack-20261101T101500Z
    """
    with working("loading …"):
        from robustlab.attack.verify import verify_run
        from robustlab.defense import defend

    with progress_bar("verifying") as update:
        found = verify_run(run, device=device, defend=defend, progress=update)
    _show(found, to_stderr=json)
    if json:
        print_json({"run": str(run), **_counts(found), "recipes": _by_recipe(found)})
    if any(one.disagreed for one in found):
        sys.exit(EXIT_FAULT)


def _counts(found: Sequence[Verification]) -> dict[str, int]:
    return {
        "agreed": sum(len(one.agreed) for one in found),
        "disagreed": sum(len(one.disagreed) for one in found),
        "not_verifiable": sum(len(one.not_verifiable) for one in found),
        "without_text": sum(one.without_text for one in found),
    }


def _by_recipe(found: Sequence[Verification]) -> dict[str, Any]:
    return {one.recipe: one.as_json() for one in found}


def _show(found: Sequence[Verification], *, to_stderr: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from robustlab.report import make_console, print_indented, safe_text

    console = make_console(sys.stderr if to_stderr else sys.stdout)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("recipe")
    for name in ("agreed", "disagreed", "not verifiable", "no adversarial text"):
        table.add_column(name, justify="right")
    for one in found:
        counts = (len(one.agreed), len(one.disagreed), len(one.not_verifiable), one.without_text)
        table.add_row(Text(safe_text(one.recipe)), *(f"{count:,}" for count in counts))
    console.print(table)
    for one in found:
        for disagreement in one.disagreed:
            line = f"{one.recipe}, {disagreement.id}: {_reason(disagreement)}"
            print_indented(console, Text(safe_text(line)), "disagreed  ")
        if one.not_verifiable:
            line = f"{one.recipe} (in embedding space, no text): {', '.join(one.not_verifiable)}"
            print_indented(console, Text(safe_text(line)), "not verifiable  ")


def _reason(disagreement: Disagreement) -> str:
    recorded, output = _brief(disagreement.recorded), _brief(disagreement.output)
    known = " → ".join(part for part in (recorded, output) if part)
    return f"{disagreement.reason} ({known})" if known else disagreement.reason


def _brief(output: Any) -> str:
    """An output in a few words: the class with its probability, or the text."""
    if not isinstance(output, Mapping):
        return ""
    if "label" in output:
        return f"{output['label']} {output.get('probability', float('nan')):.3f}"
    return repr(output.get("text"))
