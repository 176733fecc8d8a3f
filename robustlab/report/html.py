"""A run or a suite as one HTML page that needs nothing but itself, with figures beside it."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.report.charts import fates, points_chart, success_chart
from robustlab.report.curves import Budget, success_curves
from robustlab.report.figures import Pictures, can_draw, draw_curves, draw_points
from robustlab.report.measures import Measure
from robustlab.report.outcomes import Shown, flat, show
from robustlab.report.panels import (
    PANEL_KEYS,
    adaptive_beside,
    alerts,
    pipeline_panels,
    worst_panel,
)
from robustlab.report.plots import pipeline_plots
from robustlab.report.results import RecipeResult, Results, behind, read_run, read_suite
from robustlab.report.sentences import attack_sentence
from robustlab.report.tables import curves_csv, examples_csv, points_csv
from robustlab.report.terminal import safe_text

if TYPE_CHECKING:
    from robustlab.runs import RunDirectory

__all__ = ["write_report", "write_suite_report"]

_ROWS = 5000
"""The most outcomes on a page, about 10 MB; beyond it a browser gets slow."""

_HEADLINE = ("clean accuracy", "robust accuracy", "attack success rate")
_BUDGETS: tuple[Budget, ...] = ("queries", "edits")
_THREAT = ("goal", "knowledge", "surface", "part", "query_budget")  # in this order; then the rest
_SHOWN_APART = ("command_line", "threat_model", "recipe", "recipes", "suite", "learned")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An outcome in the list of examples."""

    shown: Shown
    recipe: str
    worst: bool


def write_report(run: RunDirectory) -> Path:
    """Write ``report.html`` into a run directory, from what lies in it; returns its path.

    Beside it, for an attack: ``examples.csv``, and in ``figures/`` the curves of success against
    queries and against edits as CSV, PNG and SVG. The pictures are left out, and the page says
    so, where matplotlib is not installed. Every text of the page is escaped, and control
    characters are spelled out as on the terminal.
    """
    return _write(read_run(run))


def write_suite_report(folder: Path) -> Path:
    """Write ``report.html`` and what belongs to it into a suite's folder; returns its path.

    As :func:`write_report`, with all recipes and the worst case over them.

    Raises:
        UserError: the folder holds no suite.
    """
    return _write(read_suite(folder))


def _write(results: Results) -> Path:
    if results.is_attack:
        _write_figures(results)
    return results.directory.write_text("report.html", _page(results))


def _write_figures(results: Results) -> None:
    write = results.directory.write_file
    title = safe_text(f"{_title(results)}: {results.label}")
    write("examples.csv", examples_csv(results))
    for budget in _BUDGETS:
        curves = success_curves(results, budget)
        write(f"figures/success-by-{budget}.csv", curves_csv(curves, budget))
        if curves and can_draw():
            _write_pictures(results, f"success-by-{budget}", draw_curves(curves, budget, title))
    for plot in pipeline_plots(results):
        write(f"figures/{plot.key}.csv", points_csv(plot))
        if can_draw():
            _write_pictures(results, plot.key, draw_points(plot, title))


def _write_pictures(results: Results, name: str, pictures: Pictures) -> None:
    for kind, content in pictures.items():
        results.directory.write_file(f"figures/{name}.{kind}", content)


def _title(results: Results) -> str:
    """``builtin:classifier on reviews``."""
    target, data = (results.manifest.get(part) or {} for part in ("target", "data"))
    return safe_text(f"{target.get('spec', '')} on {data.get('name', '')}")


def _page(results: Results) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("robustlab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_text"] = safe_text
    environment.filters["safe_lines"] = lambda text: "\n".join(map(safe_text, text.split("\n")))
    manifest = results.manifest
    style, script = _part("report.css"), _part("report.js")
    entries = list(islice(_entries(results), _ROWS))
    attack = results.is_attack
    return environment.get_template("report.html").render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        results=results,
        title=_title(results),
        about=manifest.get("suite") or results.whole.recipe,
        command_line=shlex.join(map(str, manifest.get("command_line", ()))),
        circumstances=list(_circumstances(manifest)),
        complete=results.directory.is_complete,
        headline=_chosen(results.measures, attack, inside=True),
        measures=[
            measure
            for measure in _chosen(results.measures, attack, inside=False)
            if not (results.is_pipeline and measure.key.partition("@")[0] in PANEL_KEYS)
        ],
        panels=[
            (recipe.name, pipeline_panels(recipe))
            for recipe in (results.recipes if results.is_pipeline else ())
        ],
        worst=worst_panel(results) if results.is_pipeline and results.is_suite else None,
        adaptive=adaptive_beside(results),
        alerts=alerts(results) if results.is_pipeline else (),
        plots=[points_chart(plot) for plot in pipeline_plots(results)],
        sentence=attack_sentence(results) if attack else "",
        statuses=_statuses(results.whole) if attack else [],
        charts=[
            chart
            for budget in (_BUDGETS if attack else ())
            if (chart := success_chart(success_curves(results, budget), budget))
        ],
        strips=fates(results) if results.is_suite and results.whole.outcomes else (),
        changes_words=not all(recipe.writes_passages for recipe in results.recipes),
        drawn=can_draw(),
        descriptions=[_describe(recipe) for recipe in results.recipes] if attack else [],
        entries=entries,
        entries_in_all=sum(len(recipe.outcomes) for recipe in results.recipes),
        entry_statuses=sorted(Counter(entry.shown.status for entry in entries).items()),
        manifest=flat({key: manifest[key] for key in manifest if key not in _SHOWN_APART}),
        summary=flat(
            {
                key: value
                for key, value in results.whole.summary.items()
                if key not in ("recipes", "audit")
            }
        ),
    )


def _part(name: str) -> str:
    return resources.files("robustlab.report").joinpath("templates", name).read_text("utf-8")


def _hash(text: str) -> str:
    """What the page's content security policy knows its own style and script by."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _chosen(found: Sequence[Measure], attack: bool, *, inside: bool) -> list[Measure]:
    """An attack's three rates, or all other numbers."""
    return [measure for measure in found if (attack and measure.name in _HEADLINE) == inside]


def _circumstances(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What one wants to know before the numbers: ``split test``, ``100 of 250 examples``, …"""
    data, target = (manifest.get(part) or {} for part in ("data", "target"))
    if data.get("split"):
        yield f"split {data['split']}"
    if data.get("items") is not None:
        every = data["items"] == data.get("available", data["items"])
        yield f"all {data['items']:,}" if every else f"{data['items']:,} of {data['available']:,}"
    if data.get("skipped_rows"):
        yield f"{data['skipped_rows']:,} bad rows skipped"
    yield from _parts_of(target)
    if target.get("dtype"):
        yield f"{target['dtype']} on {target.get('device', 'cpu')}"
    if manifest.get("seed") is not None:
        yield f"seed {manifest['seed']}"
    if manifest.get("started"):
        yield f"{str(manifest['started'])[:16].replace('T', ' ')} UTC"
    version = (manifest.get("robustlab") or {}).get("version")
    if version:
        yield f"robustlab {version}"


def _parts_of(target: Mapping[str, Any]) -> Iterator[str]:
    """``top 5 of builtin:retriever``, ``read by builtin:seq2seq``, ``defended by vae``."""
    if target.get("kind") != "rag":
        yield from filter(None, [behind(target)])
        return
    retriever, generator = (target.get(part) or {} for part in ("retriever", "generator"))
    found = (retriever.get("encoder") or {}).get("spec") or retriever.get("kind")
    yield f"top {target.get('top_k')} of {found}"
    where = f" ({generator['dtype']} on {generator.get('device')})" if "dtype" in generator else ""
    yield f"read by {generator.get('spec')}{where}"
    names = [str(defense.get("name")) for defense in target.get("defenses") or ()]
    yield f"defended by {', '.join(names)}" if names else "no defence"


def _statuses(whole: RecipeResult) -> list[tuple[str, int, float]]:
    """(status, examples, share of all) for those that occur."""
    counts = Counter(str(outcome.get("status")) for outcome in whole.outcomes)
    order = ("succeeded", "failed", "skipped", "error")
    return [
        (status, counts[status], counts[status] / counts.total())
        for status in order
        if counts[status]
    ]


def _describe(recipe: RecipeResult) -> dict[str, Any]:
    """A recipe's own words and its threat model."""
    threat = recipe.manifest.get("threat_model") or {}
    learned = {k: v for k, v in (recipe.manifest.get("learned") or {}).items() if k != "data"}
    last = {"constraints": threat.get("constraints") or None, "learned": learned}
    ordered = {key: threat.get(key) for key in _THREAT} | dict(threat)
    ordered = {key: value for key, value in ordered.items() if key not in last} | last
    return {
        "name": recipe.name,
        "embedded": recipe.embedded,
        "summary": recipe.recipe.get("summary", ""),
        "paper": recipe.recipe.get("paper", ""),
        "text": recipe.recipe.get("text", ""),
        "facts": [(name.replace("_", " "), value) for name, value in flat(ordered)],
    }


def _entries(results: Results) -> Iterator[_Entry]:
    """Outcomes by example, then by recipe in the suite's order."""
    worst = (
        {(str(outcome["id"]), outcome.get("recipe")) for outcome in results.whole.outcomes}
        if results.is_suite
        else set()
    )
    found = [
        (str(outcome["id"]), number, recipe.name, outcome)
        for number, recipe in enumerate(results.recipes)
        for outcome in recipe.outcomes
    ]
    for key, _, name, outcome in sorted(found, key=lambda entry: entry[:2]):
        yield _Entry(show(outcome), name if results.is_suite else "", (key, name) in worst)
