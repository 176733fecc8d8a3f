"""A finished run on the terminal, and as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from robustlab.report.measures import measures
from robustlab.report.outcomes import show
from robustlab.report.terminal import (
    make_console,
    marked_text,
    measures_table,
    print_indented,
    safe_text,
)

if TYPE_CHECKING:
    from rich.console import Console

    from robustlab.runs import RunDirectory

__all__ = ["print_run", "run_object"]

_EXAMPLES = 3


def print_run(run: RunDirectory, file: IO[str]) -> None:
    """What was run, its measures, the threat model and a few examples of an attack, the files."""
    from rich.text import Text

    console = make_console(file)
    threat = run.manifest.get("threat_model")
    print_indented(console, Text(_title(run.manifest), style="bold"), "")
    console.print()
    console.print(measures_table(measures(run.summary or {})))
    if threat:
        console.print()
        print_indented(console, Text(_threat(threat)), "threat model  ")
        _print_examples(console, run.outcomes())
    console.print(Text(f"\nrun     {run.path}"), soft_wrap=True)
    report = run.path / "report.html"
    if report.is_file():
        console.print(Text(f"report  {report}"), soft_wrap=True)


def run_object(run: RunDirectory) -> dict[str, Any]:
    """What ``--json`` prints: where the run lies, what it was about, and its summary."""
    about = {key: run.manifest[key] for key in ("data", "target", "threat_model")}
    return {"run": str(run.path), **about, **(run.summary or {})}


def _title(manifest: Mapping[str, Any]) -> str:
    """``builtin:classifier on reviews, split test, 50 of 250, recipe deepwordbug``."""
    target, data, recipe = (manifest.get(part) or {} for part in ("target", "data", "recipe"))
    items, available = data.get("items"), data.get("available")
    parts = (
        f"{target.get('spec')} on {data.get('name')}",
        f"split {data.get('split')}",
        f"all {items}" if items == available else f"{items} of {available}",
        f"{data['skipped_rows']} bad rows skipped" if data.get("skipped_rows") else "",
        f"recipe {recipe['name']}" if "name" in recipe else "",
    )
    return safe_text(", ".join(part for part in parts if part))


def _threat(threat: Mapping[str, Any]) -> str:
    """The threat model in a line; of constraints only the kinds."""
    budget = threat.get("query_budget")
    kinds = [str(constraint).partition(" (")[0] for constraint in threat["constraints"]]
    parts = (
        threat["goal"],
        f"sees {threat['knowledge']}",
        f"changes {threat['surface']}",
        "no query budget" if budget is None else f"{budget} queries an example",
        ", ".join(kinds) or "no constraints",
    )
    return safe_text(" · ".join(parts))


def _print_examples(console: Console, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """The first successes by id, before and after, with the changed words marked."""
    from rich.text import Text

    succeeded = [outcome for outcome in outcomes if outcome["status"] == "succeeded"]
    for outcome in sorted(succeeded, key=lambda outcome: str(outcome["id"]))[:_EXAMPLES]:
        shown = show(outcome)
        console.print()
        console.print(Text(f"{safe_text(shown.id)}  {safe_text(shown.note)}", style="dim"))
        for name, pieces in shown.texts:
            style = "bold red" if name == "after" else "bold"
            print_indented(console, marked_text(pieces, console, style), f"  {name:<7} ")
