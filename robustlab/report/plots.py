"""Rates at whole numbers: by rank of the poison, by passages read and written, by top-k."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustlab.metrics.intervals import Estimate
from robustlab.report.results import Results

__all__ = ["Plot", "Series", "pipeline_plots"]


@dataclass(frozen=True, slots=True)
class Series:
    """Rates with their intervals, at rising whole numbers."""

    name: str
    points: tuple[tuple[int, Estimate], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """What one figure shows. ``key`` names its files, ``axis`` the whole numbers.

    ``joined``: whether points belong to a curve; otherwise they are groups of different questions.
    """

    key: str
    title: str
    axis: str
    series: tuple[Series, ...]
    joined: bool


_GROUPS = (
    (
        "by_rank",
        "success-by-rank",
        "Success by rank of the poison",
        "best rank of the poison",
    ),
    (
        "by_passages_read",
        "success-by-passages-read",
        "Success by poison passages read",
        "poison passages read",
    ),
)
_CURVES = (
    (
        "curve_by_poison_passages",
        "by-poison-passages",
        "By number of poison passages",
        "poison passages written",
    ),
    ("curve_by_top_k", "by-top-k", "By number of passages retrieved", "top k"),
)
_MEASURED = {
    "attack_success_rate": "attack success",
    "attacked_exact_match": "exact match",
    "poison_retrieved": "poison retrieved",
}


def pipeline_plots(results: Results) -> tuple[Plot, ...]:
    """The plots for which there are numbers.

    Of one recipe the curves show success, exact match and retrieval; of several, success alone,
    a line each.
    """
    plots = [
        Plot(key, title, axis, _by_recipe(results, entry), joined=False)
        for entry, key, title, axis in _GROUPS
    ]
    for entry, key, title, axis in _CURVES:
        series = _by_recipe(results, entry, "attack_success_rate")
        if not results.is_suite:
            points = results.whole.summary.get(entry, {})
            series = tuple(_series(name, points, rate) for rate, name in _MEASURED.items())
        title = title if not results.is_suite else f"Success {title[0].lower()}{title[1:]}"
        plots.append(Plot(key, title, axis, _filled(series), joined=True))
    return tuple(plot for plot in plots if plot.series)


def _by_recipe(results: Results, entry: str, rate: str | None = None) -> tuple[Series, ...]:
    return _filled(
        tuple(
            _series(
                recipe.name if results.is_suite else _MEASURED["attack_success_rate"],
                recipe.summary.get(entry, {}),
                rate,
            )
            for recipe in results.recipes
        )
    )


def _series(name: str, points: Mapping[str, Any], rate: str | None) -> Series:
    found = [(int(at), entry if rate is None else entry.get(rate)) for at, entry in points.items()]
    known = [(at, Estimate(**entry)) for at, entry in found if entry and entry["value"] is not None]
    return Series(name, tuple(sorted(known, key=lambda point: point[0])))


def _filled(series: tuple[Series, ...]) -> tuple[Series, ...]:
    return tuple(one for one in series if one.points)
