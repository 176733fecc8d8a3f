"""A run as one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from robustlab.report.measures import measures
from robustlab.report.outcomes import flat, show
from robustlab.report.terminal import safe_text

if TYPE_CHECKING:
    from robustlab.runs import RunDirectory

__all__ = ["write_report"]

_ROWS = 500
"""The most outcomes on a page; beyond it a browser gets slow, and outcomes.jsonl has them all."""
_SHOWN_APART = ("command_line", "threat_model")  # and the recipe's text, as it was written


def write_report(run: RunDirectory) -> Path:
    """Write ``report.html`` into a run directory, from what lies in it; returns its path.

    Threat model, numbers with their intervals, outcomes with marked changes, and the manifest.
    Every text in it is escaped, and control characters are spelled out as on the terminal.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("robustlab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_text"] = safe_text
    manifest = run.manifest
    outcomes = run.outcomes()
    recipe = manifest.get("recipe") or {}
    page = environment.get_template("report.html").render(
        command=manifest.get("command", ""),
        command_line=shlex.join(map(str, manifest.get("command_line", ()))),
        started=manifest.get("started", ""),
        target=(manifest.get("target") or {}).get("spec", ""),
        data=(manifest.get("data") or {}).get("name", ""),
        recipe=recipe,
        complete=run.is_complete,
        threat_model=flat(manifest.get("threat_model") or {}),
        measures=measures(run.summary or {}),
        rows=[show(outcome) for outcome in outcomes[:_ROWS]],
        outcomes=len(outcomes),
        manifest=flat(
            {
                **{key: value for key, value in manifest.items() if key not in _SHOWN_APART},
                "recipe": {key: value for key, value in recipe.items() if key != "text"},
            }
        ),
    )
    return run.write_text("report.html", page)
