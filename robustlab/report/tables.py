"""Outcomes and curves as CSV, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustlab.report.curves import Budget, Curve
from robustlab.report.plots import Plot
from robustlab.report.results import Results

__all__ = ["as_csv", "curves_csv", "examples_csv", "points_csv"]

# A spreadsheet takes a cell that begins with one of these for a formula, and a formula can read
# files and call out. The wide forms count as well, and so does what is stripped before looking.
_FORMULA = tuple("=+-@＝＋－＠\t\r\n")

_FIRST = ("recipe", "id", "status", "truth", "queries", "edits", "similarity", "seconds")
_LAST = ("original", "perturbed")
_CURVES = ("by_poison_passages", "by_top_k")  # a question's part in curves, five columns a point


def examples_csv(results: Results) -> bytes:
    """Every outcome of every recipe, one a row; nested entries have columns of dotted names.

    Without the points that an outcome gives to curves, which ``outcomes.jsonl`` has.
    """
    rows = [
        {"recipe": recipe.name, **_columns(outcome)}
        for recipe in results.recipes
        for outcome in recipe.outcomes
    ]
    found = {name: None for row in rows for name in row}
    middle = sorted(name for name in found if name not in (*_FIRST, *_LAST))
    return as_csv((*_FIRST, *middle, *_LAST), rows)


def curves_csv(curves: Sequence[Curve], budget: Budget) -> bytes:
    """Every step of every curve, with the interval of the rate."""
    rows = [
        {
            "recipe": curve.name,
            budget: spent,
            "broken": broken,
            "attacked": curve.attacked,
            "success_rate": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for curve in curves
        for (spent, broken), (_, estimate) in zip(curve.steps, curve.rates(), strict=True)
    ]
    return as_csv(("recipe", budget, "broken", "attacked", "success_rate", "low", "high"), rows)


def points_csv(plot: Plot) -> bytes:
    """Every point of every line, with the interval of the rate."""
    at = plot.key.removeprefix("success-").removeprefix("by-").replace("-", "_")
    rows = [
        {
            "line": series.name,
            at: place,
            "rate": rate.value,
            "low": rate.low,
            "high": rate.high,
            "n": rate.n,
        }
        for series in plot.series
        for place, rate in series.points
    ]
    return as_csv(("line", at, "rate", "low", "high", "n"), rows)


def _columns(outcome: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in outcome.items():
        if key in _CURVES:
            continue
        if isinstance(value, Mapping):
            columns |= _columns(value, f"{prefix}{key}.")
        else:
            columns[prefix + key] = value
    return columns


def as_csv(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows under a header, as UTF-8; no text in a cell becomes a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream)  # ends lines as RFC 4180 has it, and so quotes both \r and \n
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(row.get(name)) for name in header] for row in rows)
    # Half of a surrogate pair, which an attack on characters can leave behind, has no UTF-8.
    return stream.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """The value as it may stand in a cell: no text becomes a formula; numbers stay numbers."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
