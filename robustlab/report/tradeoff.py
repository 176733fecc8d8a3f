"""The curve of adversarial training: clean against robust accuracy, as a figure and a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from robustlab.report.figures import COLOURS, Pictures, pictures
from robustlab.report.terminal import make_console, print_indented, safe_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_tradeoff", "print_tradeoff", "tradeoff_page", "tradeoff_table"]

_LABELLED = 6
"""Points that are named in the figure itself; the names of more would fill it."""

_SHAPES = "o^vDPX"
"""One a round through the colours."""

_LED = 5.0
"""Points that a text stands above its place; one that stands higher is led to."""

_INK, _SOFT = "#16191d", "#5b6370"


def draw_tradeoff(curve: Mapping[str, Any], title: str) -> Pictures:
    """A point for each strength with its intervals in both directions, and the Pareto front.

    A thin line joins the strengths of a method. Points are named where they stand, or, where they
    are many, in a legend, with the strength alone beside each. The control is marked; where a
    point has a certified accuracy, a bar stands at it.

    Args:
        curve: the object in ``tradeoff.json``.
        title: taken as it is.
    """
    points: Sequence[Mapping[str, Any]] = curve["points"]
    alike = len({point["peft"] for point in points}) == 1
    crowded = len(points) > _LABELLED
    series: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        series.setdefault(_name(point, alike), []).append(point)

    def draw(axes: Axes) -> None:
        # By place, so that points on one place do not write over each other.
        beside: dict[tuple[tuple[float, float], str], dict[str, None]] = {}
        for number, (name, of_series) in enumerate(series.items()):
            lap, turn = divmod(number, len(COLOURS))
            control = of_series[0]["control"]
            colour = _INK if control else COLOURS[turn]
            shape = "s" if control else _SHAPES[lap % len(_SHAPES)]
            _draw_series(axes, of_series, colour, shape, name if crowded else None)
            for point in of_series:
                strength = "" if point["method"] == "none" else f"{point['strength']:g}"
                text = strength if crowded else f"{name} {strength}".rstrip()
                beside.setdefault((_place(point), colour), {})[text] = None
        if curve["constant"] is not None:
            place = curve["constant"], curve["constant"]
            axes.plot(*place, "x", color=_SOFT, markersize=6)
            beside.setdefault((place, _SOFT), {})["always the most common class"] = None
        front = sorted(_place(point) for point in points if point["on_front"])
        axes.plot(*zip(*front, strict=True), color=_SOFT, linewidth=0.9, linestyle="--", zorder=1)
        if crowded:
            axes.figure.legend(loc="outside right upper", fontsize=7, frameon=False)
        axes.set_xlabel(curve["words"]["clean"])
        axes.set_ylabel(
            textwrap.fill(
                f"{curve['words']['robust']} under {curve['attacks']['suite']}",
                48,
                break_on_hyphens=False,  # names have hyphens
            )
        )
        _dress(axes, title)
        _write_beside(axes, {at: "\n".join(filter(None, own)) for at, own in beside.items()})

    return pictures(draw, height=4.4)


def _write_beside(axes: Axes, texts: Mapping[tuple[tuple[float, float], str], str]) -> None:
    """Texts by place on the axes and colour, each as far above its place as others need.

    A thin line leads to a text that had to move.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # before, a text does not know where it will stand
    taken: list[Any] = []
    for (place, colour), text in sorted(texts.items()):
        if not text:
            continue
        height = _LED
        label = axes.annotate(
            text,
            place,
            xytext=(6, height),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            zorder=5,
        )
        while any(label.get_window_extent().overlaps(other) for other in taken):
            height += 2
            label.xyann = (6, height)
        taken.append(label.get_window_extent())
        if height > _LED:
            axes.annotate(
                "",
                place,
                xytext=(6, height + 3),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0},
            )


def _draw_series(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    colour: str,
    shape: str,
    label: str | None,
) -> None:
    """One kind of model at all its strengths; ``label`` is its name in the legend, if any."""
    places = [_place(point) for point in points]
    axes.plot(*zip(*places, strict=True), color=colour, linewidth=0.6, alpha=0.6, zorder=1)
    for (x, y), point in zip(places, points, strict=True):
        clean, robust = point["clean"], point["robust"]
        axes.errorbar(
            x,
            y,
            xerr=[[x - clean["low"]], [clean["high"] - x]],
            yerr=[[y - robust["low"]], [robust["high"] - y]],
            fmt=shape,
            color=colour,
            elinewidth=0.8,
            markersize=6,
            alpha=0.9,
            label=label if point is points[0] else None,
        )
        if point["certified"] is not None:
            axes.plot(x, point["certified"], "_", color=colour, markersize=14)


def _dress(axes: Axes, title: str) -> None:
    """Title, round percentages on both axes, and a grid."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{round(100 * value, 1):g} %")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color="#e1e4e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _place(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["clean"]["value"], point["robust"]["value"]


def _name(point: Mapping[str, Any], alike: bool) -> str:
    """What a point is but for its strength; how it was trained only where that differs."""
    parts = ["control" if point["method"] == "none" else point["method"]]
    parts += [] if alike else [point["peft"]]
    parts += [point["variant"]] if point["variant"] else []
    return safe_text(", ".join(parts))


def tradeoff_table(curve: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table, as text: one row a point."""
    clean, robust = curve["words"]["clean"], curve["words"]["robust"]
    before: Mapping[str, float] = curve["probes_before"]
    head = (
        "model",
        str(clean),
        str(robust),
        "against the control",
        "p (Holm)",
        *(f"on {safe_text(_short(name))}, {100 * v:.1f} % before" for name, v in before.items()),
        "passes",
        "time",
        "memory",
    )
    rows: list[tuple[str, ...]] = []
    for point in curve["points"]:
        gained = point["robust_difference"]
        lost = point["clean_difference"]
        cost = point["cost"]
        against = "" if gained is None else f"{_gain(gained)} robust, {_gain(lost)} clean"
        rows.append(
            (
                safe_text(point["label"]) + (" (control)" if point["control"] else ""),
                _interval(point["clean"]),
                _interval(point["robust"]),
                against,
                "" if gained is None else f"{gained['p_holm']:.2g}, {lost['p_holm']:.2g}",
                *(f"{100 * point['probes'][name]:.1f} %" for name in before),
                f"{cost['forwards']:,.0f} + {cost['backwards']:,.0f}" if cost else "",
                f"{cost['seconds']:,.0f} s" if cost else "",
                f"{cost['peak_bytes'] / 2**30:.1f} GiB" if cost else "",
            )
        )
    return head, rows


def _short(data: str) -> str:
    """A data spec without the folders that it lies in."""
    return PurePath(data).name or data


def _constant(curve: Mapping[str, Any]) -> str:
    return (
        f"Always answering the most common class is right on {100 * curve['constant']:.1f} % of "
        "these examples, and no attack changes that."
    )


def _gain(difference: Mapping[str, Any]) -> str:
    return f"{100 * difference['value']:+.1f}".replace("-", "−")


def _interval(estimate: Mapping[str, Any]) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def print_tradeoff(curve: Mapping[str, Any], folder: Path, file: IO[str]) -> None:
    """Table, sentence and where the files are, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    console = make_console(file)
    head, rows = tradeoff_table(curve)
    table = Table(box=None, pad_edge=False)
    shown = 5 + len(curve["probes_before"])
    for name in head[:shown]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[:shown]))
    console.print(table)
    console.print()
    print_indented(console, Text(safe_text(curve["sentence"])), "")
    if curve["constant"] is not None:
        print_indented(console, Text(_constant(curve)), "")
    console.print()
    for name in ("tradeoff.png", "tradeoff.json", "report.html", "models"):
        if (folder / name).exists():
            print_indented(console, Text(safe_text(str(folder / name))), "  ")


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>robustlab: {{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #16191d; background: #fff; margin: 2rem auto;
 max-width: 64rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #e1e4e8; }
.soft { color: #5b6370; }
img { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ curve.sentence }}{% if constant %} {{ constant }}{% endif %}</p>
{% if picture %}<img alt="Clean accuracy against robust accuracy, one point per strength"
 src="data:image/png;base64,{{ picture }}">{% endif %}
<p class="soft">Judged by {{ curve.attacks.suite }} ({{ curve.attacks.members | join(", ") }}), run
afresh against each model{{ ", each attack on what those before it left standing"
if curve.attacks.in_turn }}; trained by {{ curve.trained_by }}. Intervals are 95 %.
{% if curve.left_out %}{{ curve.left_out | join(", ") }} has no part in the verdict, because the
models were trained against it.{% endif %}
{% if curve.not_text %}{{ curve.not_text | join(", ") }} perturbs embeddings, which no text
realises, and is in no worst case.{% endif %}</p>
<table>
<thead><tr>{% for name in head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
<h2>{{ "Standing after each attack" if curve.attacks.in_turn else "By attack" }}</h2>
<table>
<thead><tr><th scope="col">model</th>{% for name in curve.attacks.members %}
<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for point in curve.points %}<tr><td>{{ safe(point.label) }}</td>
{% for name in curve.attacks.members %}
<td>{{ "%.1f" | format(100 * point.attacks[name].value) }} %</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
<h2>By epoch</h2>
<table>
<thead><tr><th scope="col">model</th><th scope="col">seed</th><th scope="col">epoch</th>
<th scope="col">training loss</th><th scope="col">on the validation examples</th></tr></thead>
<tbody>{% for label, seed, epoch in epochs %}<tr><td>{{ label }}</td><td>{{ seed }}</td>
<td>{{ epoch.number + 1 }}</td><td>{{ "%.3f" | format(epoch.loss) }}</td>
<td>{% for name, value in epoch.measures.items() %}{{ name.replace("_", " ") }}
{{ "%.1f" | format(100 * value) }} %{{ ", " if not loop.last }}{% endfor %}</td></tr>
{% endfor %}</tbody>
</table>
</body>
</html>
"""


def tradeoff_page(curve: Mapping[str, Any], title: str, png: bytes | None) -> str:
    """One self-contained page: sentence, figure, table, and validation measures by epoch."""
    import base64

    from jinja2 import Environment

    head, rows = tradeoff_table(curve)
    epochs = [
        (safe_text(point["label"]), seed, epoch)
        for point in curve["points"]
        for seed, of_seed in zip(point["seeds"], point["epochs"], strict=True)
        for epoch in of_seed
    ]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        curve=curve,
        constant=None if curve["constant"] is None else _constant(curve),
        title=safe_text(title),
        picture=None if png is None else base64.b64encode(png).decode("ascii"),
        head=head,
        rows=rows,
        epochs=epochs,
        safe=safe_text,
    )
