"""Outcomes and curves as CSV, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustlab.report.curves import Budget, Curve
from robustlab.report.results import Results

__all__ = ["curves_csv", "examples_csv"]

# A spreadsheet takes a cell that begins with one of these for a formula, and a formula can read
# files and call out. The wide forms count as well, and so does what is stripped before looking.
_FORMULA = tuple("=+-@＝＋－＠\t\r\n")

_FIRST = ("recipe", "id", "status", "truth", "queries", "edits", "similarity", "seconds")
_LAST = ("original", "perturbed")


def examples_csv(results: Results) -> bytes:
    """Every outcome of every recipe, one a row; nested entries have columns of dotted names."""
    rows = [
        {"recipe": recipe.name, **_columns(outcome)}
        for recipe in results.recipes
        for outcome in recipe.outcomes
    ]
    found = {name: None for row in rows for name in row}
    middle = sorted(name for name in found if name not in (*_FIRST, *_LAST))
    return _csv((*_FIRST, *middle, *_LAST), rows)


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
    return _csv(("recipe", budget, "broken", "attacked", "success_rate", "low", "high"), rows)


def _columns(outcome: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in outcome.items():
        if isinstance(value, Mapping):
            columns |= _columns(value, f"{prefix}{key}.")
        else:
            columns[prefix + key] = value
    return columns


def _csv(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
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
