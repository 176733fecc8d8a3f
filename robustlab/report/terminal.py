"""Text for people: what may be sent to a terminal, and how marks and tables look there.

Texts of corpora, data sets and attacks are other people's. They reach a terminal only through
:func:`safe_text`, and rich never reads them as markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from robustlab.report.marks import Piece

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from robustlab.metrics.intervals import Estimate
    from robustlab.report.measures import Measure
    from robustlab.report.panels import Panel
    from robustlab.report.plots import Plot

__all__ = [
    "MARKS",
    "make_console",
    "marked_text",
    "measures_table",
    "panel_table",
    "plot_table",
    "print_indented",
    "safe_text",
]

MARKS = ("[[", "]]")
"""What surrounds marked words where no style can be shown."""

_WIDEST = 100  # columns: longer lines are hard to read, and output into a file has no width

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def safe_text(text: str) -> str:
    r"""The text with every control and invisible character spelled out, as in ``\x1b``.

    An escape sequence cannot move the cursor or recolour the screen, a bidi override cannot
    turn words round, and a zero-width space inside a word can be seen. All on one line.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    # Not printable to Python: control, format (bidi overrides, zero-width and tag characters),
    # surrogates, private use, unassigned, line breaks, and all spaces but the common one.
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def make_console(file: IO[str]) -> Console:
    """A console on a stream that takes texts as they are: no markup, no emoji, no guesses."""
    from rich.console import Console

    console = Console(file=file, markup=False, emoji=False, highlight=False)
    console.width = min(console.width, _WIDEST) if console.is_terminal else _WIDEST
    return console


def marked_text(pieces: Iterable[Piece], console: Console, style: str) -> Text:
    """Safe text whose marked pieces carry ``style``, or stand in :data:`MARKS` without styles."""
    from rich.text import Text

    styled = console.color_system is not None
    left, right = ("", "") if styled else MARKS
    shown = Text()
    for piece, marked in pieces:
        if marked:
            shown.append(f"{left}{safe_text(piece)}{right}", style=style if styled else "")
        else:
            shown.append(safe_text(piece))
    return shown


def print_indented(console: Console, text: Text, first: str) -> None:
    """Print a text wrapped to the console's width, without spaces at line ends.

    The first line stands behind ``first``, all others behind as many spaces.
    """
    from rich.text import Text

    indent = first
    for line in text.wrap(console, console.width - len(first)):
        line.rstrip()
        console.print(Text(indent) + line, soft_wrap=True)
        indent = " " * len(first)


def measures_table(rows: Iterable[Measure]) -> Table:
    """Measures with their intervals, one a line."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right", style="bold")
    table.add_column("95 % interval", justify="right")
    table.add_column("n", justify="right", style="dim")
    for row in rows:
        table.add_row(
            Text(safe_text(row.name)),
            row.value,
            row.interval,
            "" if row.n is None else f"{row.n:,}",
        )
    return table


def panel_table(panel: Panel) -> Table:
    """A panel with its title for a head; an interval behind each number."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(panel.title, min_width=31)
    for head in panel.heads:
        table.add_column(head, justify="right")
    table.add_column("n", justify="right", style="dim")
    for row in panel.rows:
        cells = [
            "–" if cell is None else _with_interval(cell.value, cell.interval) for cell in row.cells
        ]
        numbers = [cell.n for cell in row.cells if cell is not None and cell.n is not None]
        table.add_row(
            Text(safe_text(row.name)), *map(Text, cells), f"{numbers[-1]:,}" if numbers else ""
        )
    return table


_MOST_POINTS = 10


def plot_table(plot: Plot) -> Table:
    """The points of a plot, one whole number a line; of many only some."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from robustlab.report.charts import whole_ticks

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(plot.axis, justify="right")
    for series in plot.series:
        table.add_column(safe_text(series.name), justify="right", overflow="fold")
    places = sorted({at for series in plot.series for at, _ in series.points})
    shown = places if len(places) <= _MOST_POINTS else whole_ticks(places)
    for place in shown:
        rates = [dict(series.points).get(place) for series in plot.series]
        table.add_row(
            f"{place:,}",
            *(Text(_point(rate, counted=not plot.joined)) for rate in rates),
        )
    return table


def _point(rate: Estimate | None, *, counted: bool) -> str:
    if rate is None:
        return "–"
    return f"{rate.percent()}, n = {rate.n}" if counted else rate.percent()


def _with_interval(value: str, interval: str) -> str:
    return f"{value} [{interval}]" if interval else value
