"""The curves as figures for a paper: PNG and SVG, with the numbers as CSV beside them."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from robustlab.metrics.intervals import Estimate
from robustlab.metrics.roc import RocCurve
from robustlab.report.charts import budget_axis, whole_ticks
from robustlab.report.curves import Budget, Curve
from robustlab.report.plots import Plot
from robustlab.report.terminal import safe_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS", "Pictures", "Roc", "can_draw", "draw_curves", "draw_points", "draw_roc", "pictures",
]  # fmt: skip

Pictures: TypeAlias = dict[Literal["png", "svg"], bytes]
"""One figure as PNG (1,280 pixels wide) and as SVG."""

Roc: TypeAlias = tuple[RocCurve, Estimate]
"""A curve and the area under it."""

_WIDTH, _HEIGHT = 6.4, 3.8
"""Of a figure, in inches; one with a long legend is higher."""

COLOURS = (
    "#2f5bd0", "#c2571a", "#1b7f5c", "#8b3fb0", "#a8791a", "#0f7f9c", "#b8336a", "#5c6670",
)  # fmt: skip
"""One a recipe, in order; the same as on the page in its light dress."""

_INK = "#16191d"
_SOFT = "#5b6370"


def can_draw() -> bool:
    """Whether matplotlib, which draws the figures, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(curves: Sequence[Curve], budget: Budget, title: str) -> Pictures:
    """Success against a budget; the title is taken as it is."""

    def draw(axes: Axes) -> None:
        end = _dress(axes, curves, budget, title)
        for number, curve in enumerate(curves):
            _draw(axes, curve, number, end, alone=len(curves) == 1)
        if len(curves) > 1:
            _explain(axes, list(map(_named, curves)))

    return pictures(draw)


def draw_points(plot: Plot, title: str) -> Pictures:
    """Rates at whole numbers, each with its interval; the title is taken as it is."""

    def draw(axes: Axes) -> None:
        places = [at for series in plot.series for at, _ in series.points]
        width = max(places) - min(places) + 1
        axes.set_xlim(min(places) - 0.5, max(places) + 0.5)
        ticks = whole_ticks(places)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xlabel(plot.axis)
        axes.set_ylabel("share of questions" if plot.joined else "share of attacks that succeed")
        _plain(axes, f"{title}\n{plot.title}")
        for number, series in enumerate(plot.series):
            aside = width / 80 * (number - (len(plot.series) - 1) / 2)
            rates = [rate for _, rate in series.points]
            (line, *_) = axes.errorbar(
                [at + aside for at, _ in series.points],
                [rate.value for rate in rates],
                yerr=[
                    [rate.value - rate.low for rate in rates],
                    [rate.high - rate.value for rate in rates],
                ],
                fmt="o-" if plot.joined else "o",
                color=COLOURS[number % len(COLOURS)],
                linewidth=1.5,
                elinewidth=0.9,
                markersize=4,
            )
            line.set_gid(f"curve-{number}")
        if len(plot.series) > 1:
            _explain(axes, [safe_text(series.name) for series in plot.series])

    return pictures(draw)


def draw_roc(
    curves: Mapping[str, Roc], title: str, *, adaptive: Mapping[str, Roc] | None = None
) -> Pictures:
    """ROC curves by the name of the attack, each with the area under it.

    ``adaptive``: those of the same attacks by an adversary who knows of the filter, dashed. The
    title is taken as it is.
    """
    adapted = adaptive or {}
    names = list(dict.fromkeys([*curves, *adapted]))

    def draw(axes: Axes) -> None:
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of clean passages flagged")
        axes.set_ylabel("share of poison passages flagged")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        _plain(axes, title)
        axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=":")
        said = {name: [safe_text(name)] for name in names}
        for kind, found, style in (("AUC", curves, "-"), ("adaptive, dashed:", adapted, "--")):
            for name, (curve, area) in found.items():
                number = names.index(name)
                (line,) = axes.plot(
                    curve.false_positive_rates,
                    curve.true_positive_rates,
                    color=COLOURS[number % len(COLOURS)],
                    linewidth=1.5,
                    linestyle=style,
                    clip_on=False,
                )
                if len(said[name]) == 1:
                    line.set_gid(f"curve-{number}")
                said[name].append(f"{kind} {area.value:.2f} [{area.low:.2f}, {area.high:.2f}]")
        _explain(axes, ["\n".join(said[name]) for name in names])

    lines = sum(1 + (name in curves) + (name in adapted) for name in names)
    return pictures(draw, height=max(_HEIGHT, 0.8 + 0.16 * lines))


def pictures(draw: Callable[[Axes], None], height: float = _HEIGHT) -> Pictures:
    """One figure, ``height`` inches high: what ``draw`` puts on its axes."""
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
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
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
    axes.set_xlabel("queries, at most" if budget == "queries" else "words changed, at most")
    axes.set_ylabel("share of attacked examples broken")
    _plain(axes, title)
    return axis.last


def _plain(axes: Axes, title: str) -> None:
    """Title, a grid without a frame, and shares as percentages upwards."""
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color="#e1e4e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c4c9d0")


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


def _named(curve: Curve) -> str:
    return f"{curve.name}\n(not realisable as text)" if curve.embedded else curve.name


def _explain(axes: Axes, names: Sequence[str]) -> None:
    """The legend, beside the curves; names are shown as they are."""
    lines = [line for line in axes.get_lines() if line.get_gid()]
    legend = axes.legend(
        lines,
        ["recipe"] * len(names),  # names follow: given here, one like _x would vanish
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _saved(figure: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, **options)
    return stream.getvalue()
