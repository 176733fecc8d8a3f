"""A finished run or suite on the terminal, and as one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from robustlab.report.html import write_report, write_suite_report
from robustlab.report.outcomes import show
from robustlab.report.panels import adaptive_beside, alerts, pipeline_panels, worst_panel
from robustlab.report.plots import pipeline_plots
from robustlab.report.results import AuditItem, RecipeResult, Results, behind, read_run, read_suite
from robustlab.report.terminal import (
    make_console,
    marked_text,
    measures_table,
    panel_table,
    plot_table,
    print_indented,
    safe_text,
)
from robustlab.runs import RunDirectory

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["conclude", "print_run", "print_suite", "run_object", "suite_object"]

_EXAMPLES = 3
_POISON = 2  # passages shown with an example

# Of a pipeline's measures those that stand in no panel, and are for every run.
_RATES = ("clean_accuracy", "robust_accuracy", "attack_success_rate")
_COSTS = ("mean ", "queries", "time", "in the model", "errors", "successes not confirmed")


def conclude(folder: Path, file: IO[str]) -> dict[str, Any]:
    """Write the report of a finished run or suite and print it; returns what ``--json`` prints."""
    run = RunDirectory.open(folder)
    if run.manifest["command"] == "suite":
        write_suite_report(folder)
        print_suite(folder, file)
        return suite_object(folder)
    write_report(run)
    print_run(run, file)
    return run_object(run)


def print_run(run: RunDirectory, file: IO[str]) -> None:
    """What was run, its measures, the threat model and a few examples of an attack, the files."""
    from rich.text import Text

    results = read_run(run)
    console = make_console(file)
    print_indented(console, Text(_title(results), style="bold"), "")
    console.print()
    if results.is_pipeline:
        _print_pipeline(console, results)
    else:
        console.print(measures_table(results.measures))
    if results.is_attack:
        console.print()
        print_indented(console, Text(_threat(run.manifest["threat_model"])), "threat model  ")
        if results.whole.embedded:
            console.print()
            print_indented(console, Text(_EMBEDDED, style="yellow"), "")
        _print_examples(console, results.whole.outcomes)
    _print_audit(console, results.audit)
    _print_places(console, "run", run.path)


def print_suite(folder: Path, file: IO[str]) -> None:
    """What was run, a line a recipe with the worst case last, the audit, the files.

    Raises:
        UserError: the folder holds no suite.
    """
    from rich.text import Text

    results = read_suite(folder)
    console = make_console(file)
    print_indented(console, Text(_title(results), style="bold"), "")
    console.print()
    console.print(_recipes_table(results))
    if any(recipe.embedded for recipe in results.recipes):
        print_indented(console, Text(_EMBEDDED, style="dim"), "* ")
    clean = results.whole.rate("clean_accuracy")
    console.print()
    if results.is_pipeline:
        _print_worst(console, results)
    summary = f"clean accuracy {clean.value} [{clean.interval}], n = {clean.n}"
    seconds = results.whole.summary.get("wall_seconds")
    if clean.n is None:
        summary = "not complete: there is no worst case yet"
    elif seconds is not None:
        summary += f", {seconds:,.1f} s in all"
    print_indented(console, Text(summary), "")
    _print_audit(console, results.audit)
    _print_places(console, "suite", folder)


def _print_pipeline(console: Console, results: Results) -> None:
    """Rates, then answers and retrieval apart, then by rank and number of passages."""
    from rich.text import Text

    _print_alerts(console, results)
    panels = pipeline_panels(results.whole)
    shown = [
        measure
        for measure in results.measures
        if measure.key in _RATES or measure.name.startswith(_COSTS)
    ]
    console.print(measures_table(shown))
    for panel in panels:
        console.print()
        console.print(panel_table(panel))
        if panel.note:
            print_indented(console, Text(panel.note), "")
    for plot in pipeline_plots(results):
        console.print()
        console.print(plot_table(plot))


def _print_worst(console: Console, results: Results) -> None:
    """The worst case over recipes, and adaptive attacks beside the others with what is odd."""
    for panel in (worst_panel(results), adaptive_beside(results)):
        if panel is not None:
            console.print(panel_table(panel))
            console.print()
    _print_alerts(console, results)


def _print_alerts(console: Console, results: Results) -> None:
    from rich.text import Text

    for alert in alerts(results):
        print_indented(console, Text(safe_text(alert), style="bold yellow"), "warning  ")
        console.print()


def run_object(run: RunDirectory) -> dict[str, Any]:
    """What ``--json`` prints: where the run lies, what it was about, and its summary."""
    about = {key: run.manifest[key] for key in ("data", "target", "threat_model")}
    return {"run": str(run.path), **about, **(run.summary or {})}


def suite_object(folder: Path) -> dict[str, Any]:
    """What ``--json`` prints for a suite: as :func:`run_object`, under ``recipes`` all recipes.

    Raises:
        UserError: the folder holds no suite.
    """
    return run_object(read_suite(folder).directory)


_EMBEDDED = "not realisable as text: bounds the damage from above, and is in no worst case"


def _title(results: Results) -> str:
    """``builtin:classifier on reviews, split test, 50 of 250, recipe deepwordbug``."""
    target, data = (results.manifest.get(part) or {} for part in ("target", "data"))
    items, available = data.get("items"), data.get("available")
    parts = (
        f"{target.get('spec')} on {data.get('name')}",
        behind(target),
        f"split {data.get('split')}",
        f"all {items}" if items == available else f"{items} of {available}",
        f"{data['skipped_rows']} bad rows skipped" if data.get("skipped_rows") else "",
        results.label,
    )
    return safe_text(", ".join(part for part in parts if part))


def _threat(threat: Mapping[str, Any]) -> str:
    """The threat model in a line; of constraints only the kinds."""
    budget = threat.get("query_budget")
    kinds = [str(constraint).partition(" (")[0] for constraint in threat["constraints"]]
    parts = (
        threat["goal"],
        f"sees {'nothing' if threat['knowledge'] == 'none' else threat['knowledge']}",
        f"{'writes' if threat['surface'] == 'passages' else 'changes'} {threat['surface']}",
        _written(threat),
        "no query budget" if budget is None else f"{budget} queries an example",
        ", ".join(kinds) or ("" if threat["surface"] == "passages" else "no constraints"),
    )
    return safe_text(" · ".join(part for part in parts if part))


def _written(threat: Mapping[str, Any]) -> str:
    """``at most 5 a question, adaptive``; nothing where no passages are written."""
    if threat["surface"] != "passages" or "passages" not in threat:
        return ""
    adaptive = "adaptive" if threat.get("adaptive") else "not adaptive"
    return f"at most {threat['passages']} for the top {threat.get('top_k')}, {adaptive}"


def _recipes_table(results: Results) -> Table:
    """A line a recipe, and the worst case; fits into 80 columns unless names are long."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("recipe", overflow="fold")
    last = "poison\nretrieved" if results.is_pipeline else "mean words\nchanged"
    for name in ("attack\nsuccess", "95 %\ninterval", "robust\naccuracy", "mean\nqueries", last):
        table.add_column(name, justify="right", no_wrap=True)
    for recipe in results.recipes:
        _add_recipe(table, recipe, results.is_pipeline)
    table.add_section()
    _add_recipe(table, results.whole, results.is_pipeline, style="bold")
    return table


def _add_recipe(table: Table, recipe: RecipeResult, pipeline: bool, style: str = "") -> None:
    from rich.text import Text

    success, robust = recipe.rate("attack_success_rate"), recipe.rate("robust_accuracy")
    queries, edits = recipe.mean_queries, recipe.mean_edits
    changed = "–" if edits is None else f"{edits:.1f}"
    table.add_row(
        Text(f"{safe_text(recipe.name)}{' *' if recipe.embedded else ''}"),
        success.value,
        success.interval,
        robust.value,
        "–" if queries is None else f"{queries:,.1f}",
        recipe.rate("poison_retrieved").value if pipeline else changed,
        style=style,
    )


def _print_audit(console: Console, audit: Sequence[AuditItem]) -> None:
    """How many checks came out how, and each with its evidence."""
    from rich.text import Text

    if not audit:
        return
    counts = Counter(item.verdict for item in audit)
    console.print()
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    print_indented(console, Text(safe_text(told)), "audit  ")
    for item in audit:
        style = {"pass": "green", "warn": "bold yellow"}.get(item.verdict, "dim")
        verdict = "n/a" if item.verdict == "not applicable" else safe_text(item.verdict)
        line = Text(f"{verdict:<4}  ", style=style)
        line.append(safe_text(item.check), style="bold")
        console.print(Text("  ") + line, soft_wrap=True)
        print_indented(console, Text(safe_text(item.evidence)), " " * 8)


def _print_places(console: Console, kind: str, folder: Path) -> None:
    from rich.text import Text

    console.print(Text(f"\n{kind:<7} {folder}"), soft_wrap=True)
    report = folder / "report.html"
    if report.is_file():
        console.print(Text(f"report  {report}"), soft_wrap=True)


def _print_examples(console: Console, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """The first successes by id, before and after, with the changed words marked."""
    from rich.text import Text

    succeeded = [outcome for outcome in outcomes if outcome["status"] == "succeeded"]
    for outcome in sorted(succeeded, key=lambda outcome: str(outcome["id"]))[:_EXAMPLES]:
        shown = show(outcome, passages=_POISON)
        console.print()
        console.print(Text(f"{safe_text(shown.id)}  {safe_text(shown.note)}", style="dim"))
        width = max([7, *(len(name) for name, _ in shown.texts)])
        for name, pieces in shown.texts:
            style = "bold red" if name == "after" else "bold"
            print_indented(console, marked_text(pieces, console, style), f"  {name:<{width}} ")
