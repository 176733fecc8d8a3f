"""Curves as lines on a page: the geometry that the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustlab.report.curves import Budget, Curve
from robustlab.report.plots import Plot
from robustlab.report.results import Results

__all__ = [
    "Axis",
    "Chart",
    "Line",
    "Strip",
    "budget_axis",
    "fates",
    "points_chart",
    "success_chart",
    "whole_ticks",
]

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 40

_ASIDE = 7.0
"""How far lines at the same whole numbers stand apart, so that intervals can be told apart."""

_WIDE = 30
"""From this ratio of the largest to the smallest budget on, a linear axis hides the beginning."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve as SVG paths. ``band`` is its interval, drawn where the curve stands alone.

    ``marks`` are the points of a line at whole numbers, as (x, y, y of the interval's lower end,
    y of its upper end).
    """

    name: str
    path: str
    band: str
    colour: int
    embedded: bool
    worst: bool
    title: str
    marks: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in a box of ``width`` by ``height``; ticks are (position, text)."""

    title: str
    axis: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


@dataclass(frozen=True, slots=True)
class Strip:
    """What became of every example under one recipe: (first column, columns, status)."""

    name: str
    cells: tuple[tuple[int, int, str], ...]
    worst: bool


@dataclass(frozen=True, slots=True)
class Axis:
    """The axis of a budget, from ``first`` to ``last``; ``ticks`` are those with a number."""

    first: int
    last: int
    ticks: tuple[int, ...]
    logarithmic: bool


def budget_axis(curves: Iterable[Curve]) -> Axis:
    """An axis with room for all steps; logarithmic where a linear one would hide the first."""
    budgets = [budget for curve in curves for budget, _ in curve.steps]
    spent = [budget for budget in budgets if budget]
    wide = bool(spent) and max(spent) >= _WIDE * min(spent)
    ticks = _powers(spent) if wide else _even(max([1, *budgets]))
    return Axis(ticks[0], ticks[-1], tuple(_few(ticks)), wide)


def success_chart(curves: Sequence[Curve], budget: Budget) -> Chart | None:
    """The chart of success within a budget; None where nothing was attacked."""
    if not curves:
        return None
    axis = budget_axis(curves)
    first, last = axis.first, axis.last

    def x(value: float) -> float:
        if axis.logarithmic:
            share = math.log(max(value, first) / first) / math.log(last / first)
        else:
            share = (value - first) / (last - first)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 2)

    def y(share: float) -> float:
        return round(_TOP + (1 - share) * (HEIGHT - _TOP - _BOTTOM), 2)

    lines = []
    for number, curve in enumerate(curves):
        rates = [(x(step), estimate) for step, estimate in curve.rates()]
        points = [(place, y(estimate.value)) for place, estimate in rates]
        low = [(place, y(estimate.low)) for place, estimate in rates]
        high = [(place, y(estimate.high)) for place, estimate in rates]
        begin, end = x(first), x(last)
        band = ""
        if len(curves) == 1 and rates:
            back = _stairs(low, begin, end, y(0))[::-1]
            band = f"M{_joined(_stairs(high, begin, end, y(0)) + back)}Z"
        final = curve.rates()[-1][1].percent() if rates else "0 %"
        lines.append(
            Line(
                curve.name,
                f"M{_joined(_stairs(points, begin, end, y(0)))}",
                band,
                number % 8,
                curve.embedded,
                curve.worst,
                f"{curve.name}: {final} of {curve.attacked} attacked",
            )
        )
    return Chart(
        title=f"Success against {'queries' if budget == 'queries' else 'words changed'}",
        axis="queries, at most" if budget == "queries" else "words changed, at most",
        lines=tuple(lines),
        across=tuple((x(tick), f"{tick:,}") for tick in axis.ticks),
        up=tuple((y(share / 4), f"{25 * share} %") for share in range(5)),
    )


def points_chart(plot: Plot) -> Chart:
    """The chart of rates at whole numbers, each with its interval; lines stand a little apart."""
    places = [at for series in plot.series for at, _ in series.points]
    first, last = min(places) - 0.5, max(places) + 0.5

    def x(value: float) -> float:
        return round(_LEFT + (value - first) / (last - first) * (WIDTH - _LEFT - _RIGHT), 2)

    def y(share: float) -> float:
        return round(_TOP + (1 - share) * (HEIGHT - _TOP - _BOTTOM), 2)

    lines = []
    for number, series in enumerate(plot.series):
        aside = _ASIDE * (number - (len(plot.series) - 1) / 2)
        marks = tuple(
            (round(x(at) + aside, 2), y(rate.value), y(rate.low), y(rate.high))
            for at, rate in series.points
        )
        path = f"M{_joined((place, height) for place, height, _, _ in marks)}"
        told = ", ".join(f"{at}: {rate.percent()}, n = {rate.n}" for at, rate in series.points)
        lines.append(
            Line(
                series.name,
                path if plot.joined and len(marks) > 1 else "",
                "",
                number % 8,
                embedded=False,
                worst=False,
                title=f"{series.name}, {told}",
                marks=marks,
            )
        )
    return Chart(
        title=plot.title,
        axis=plot.axis,
        lines=tuple(lines),
        across=tuple((x(tick), f"{tick:,}") for tick in whole_ticks(places)),
        up=tuple((y(share / 4), f"{25 * share} %") for share in range(5)),
    )


def whole_ticks(places: Sequence[int]) -> list[int]:
    """Whole numbers to be written under an axis from the least to the largest of these."""
    low, high = min(places), max(places)
    ticks = [tick for tick in _even(max(high, 1)) if low <= tick <= high]
    return ticks if low in ticks else [low, *ticks]


def fates(results: Results) -> tuple[Strip, ...]:
    """Every example of a suite as a column, most often broken first; a strip a recipe.

    The last strip is the worst case, which the embedded recipes have no part in.
    """
    rows = [(recipe.name, recipe, False) for recipe in results.recipes]
    rows.append((results.whole.name, results.whole, True))
    statuses = [{o["id"]: str(o["status"]) for o in row.outcomes} for _, row, _ in rows]
    worst = statuses[-1]
    order = sorted(
        worst,
        key=lambda key: (
            _FATES.index(worst[key]) if worst[key] in _FATES else len(_FATES),
            -sum(of_recipe.get(key) == "succeeded" for of_recipe in statuses),
            [of_recipe.get(key) != "succeeded" for of_recipe in statuses],
            key,
        ),
    )
    return tuple(
        Strip(name, _runs([of_recipe.get(key, "none") for key in order]), is_worst)
        for (name, _, is_worst), of_recipe in zip(rows, statuses, strict=True)
    )


_FATES = ("succeeded", "failed", "skipped", "error")


def _runs(statuses: Sequence[str]) -> tuple[tuple[int, int, str], ...]:
    """Equal neighbours as one cell."""
    cells: list[tuple[int, int, str]] = []
    for place, status in enumerate(statuses):
        if cells and cells[-1][2] == status:
            start, number, _ = cells.pop()
            cells.append((start, number + 1, status))
        else:
            cells.append((place, 1, status))
    return tuple(cells)


def _stairs(
    points: Sequence[tuple[float, float]], begin: float, end: float, floor: float
) -> list[tuple[float, float]]:
    """Corners of a step function from the left edge to the right one."""
    corners = [(begin, floor)]
    height = floor
    for place, value in points:
        corners += [(place, height), (place, value)]
        height = value
    return [*corners, (end, height)]


def _joined(points: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{place:g} {height:g}" for place, height in points)


def _even(largest: int) -> list[int]:
    """Round ticks from zero to ``largest`` or a little more, at most seven."""
    step = next(
        factor * 10**power
        for power in range(20)
        for factor in (1, 2, 5)
        if factor * 10**power * 6 >= largest
    )
    return list(range(0, largest + step, step))


def _powers(budgets: Sequence[int]) -> list[int]:
    """Ticks of a logarithmic axis, at 1, 2, 5, 10, … from below all budgets to above."""
    powers = range(math.ceil(math.log10(max(budgets))) + 1)
    ticks = [factor * 10**power for power in powers for factor in (1, 2, 5)]
    first = max(tick for tick in ticks if tick <= min(budgets))
    last = min(tick for tick in ticks if tick >= max(budgets))
    return [tick for tick in ticks if first <= tick <= last]


def _few(ticks: Sequence[int]) -> list[int]:
    """Those that are written: all of a few, else the powers of ten."""
    return [tick for tick in ticks if len(ticks) <= 9 or str(tick).strip("0") == "1"]
