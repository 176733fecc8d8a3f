"""The curves as figures for a paper: PNG and SVG, with the numbers as CSV beside them."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from robustlab.report.charts import budget_axis
from robustlab.report.curves import Budget, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "can_draw", "draw_curves"]

COLOURS = (
    "#2f5bd0", "#c2571a", "#1b7f5c", "#8b3fb0", "#a8791a", "#0f7f9c", "#b8336a", "#5c6670",
)  # fmt: skip
"""One a recipe, in order; the same as on the page in its light dress."""

_INK = "#16191d"
_SOFT = "#5b6370"


def can_draw() -> bool:
    """Whether matplotlib, which draws the figures, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(
    curves: Sequence[Curve], budget: Budget, title: str
) -> dict[Literal["png", "svg"], bytes]:
    """The figure as PNG (1,280 pixels wide) and as SVG; the title is taken as it is."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {
            "font.family": "sans-serif",
            "font.size": 9,
            "svg.fonttype": "none",  # text stays text, which can be searched and edited
            "svg.hashsalt": "robustlab",  # the same curves give the same file
            "text.parse_math": False,
            "text.usetex": False,
        }
    ):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        end = _dress(axes, curves, budget, title)
        for number, curve in enumerate(curves):
            _draw(axes, curve, number, end, alone=len(curves) == 1)
        if len(curves) > 1:
            _explain(axes, curves)
        return {
            "png": _saved(figure, format="png", dpi=200, metadata={"Software": None}),
            "svg": _saved(figure, format="svg", metadata={"Date": None, "Creator": "robustlab"}),
        }


def _dress(axes: Axes, curves: Sequence[Curve], budget: Budget, title: str) -> float:
    """Axes, ticks and title; returns where the budget axis ends."""
    axis = budget_axis(curves)
    if axis.logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(axis.first, axis.last)
    axes.set_xticks(axis.ticks, [f"{tick:,}" for tick in axis.ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("queries, at most" if budget == "queries" else "words changed, at most")
    axes.set_ylabel("share of attacked examples broken")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color="#e1e4e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c4c9d0")
    return axis.last


def _draw(axes: Axes, curve: Curve, number: int, end: float, *, alone: bool) -> None:
    colour = _INK if curve.worst else COLOURS[number % len(COLOURS)]
    rates = curve.rates()
    start = min((step for step, _ in rates), default=0)
    places = [start, *(step for step, _ in rates), end]
    last = rates[-1][1].value if rates else 0.0
    axes.step(
        places,
        [0.0, *(estimate.value for _, estimate in rates), last],
        where="post",
        color=colour,
        linewidth=3.2 if curve.worst else 1.5,
        zorder=2 if curve.worst else 2.5,  # beneath, so that what it is made of can be seen
        linestyle="--" if curve.embedded else "-",
        gid=f"curve-{number}",
    )
    if alone and rates:
        low = [0.0, *(estimate.low for _, estimate in rates), rates[-1][1].low]
        high = [0.0, *(estimate.high for _, estimate in rates), rates[-1][1].high]
        axes.fill_between(places, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def _explain(axes: Axes, curves: Sequence[Curve]) -> None:
    """The legend, beside the curves; names are shown as they are."""
    lines = [line for line in axes.get_lines() if line.get_gid()]
    legend = axes.legend(
        lines,
        ["recipe"] * len(curves),  # names follow: given here, one like _x would vanish
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
    )
    for text, curve in zip(legend.get_texts(), curves, strict=True):
        text.set_text(f"{curve.name}\n(not realisable as text)" if curve.embedded else curve.name)


def _saved(figure: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, **options)
    return stream.getvalue()
