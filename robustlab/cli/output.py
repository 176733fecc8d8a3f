"""What goes where: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import click

__all__ = ["Update", "print_json", "progress_bar", "working"]

_SECONDS_BETWEEN_LINES = 15.0


class Update(Protocol):
    """What a progress bar is told."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """How far the work is, and what else is known by now."""


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout.

    Pure ASCII: whatever texts it carries, it can be shown on a terminal and decoded anywhere.
    """
    click.echo(json.dumps(value, allow_nan=False))


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A sign of life on stderr while nothing can be printed, if somebody is there to see it.

    What libraries print to stdout in the meantime goes to stderr as well.
    """
    from robustlab.report.terminal import make_console

    console = make_console(sys.stderr)
    sign = console.status(what) if console.is_terminal else contextlib.nullcontext()
    with contextlib.redirect_stdout(sys.stderr), sign:
        yield


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Update]:
    """Progress on stderr: a bar with the time left on a terminal, else a line now and then.

    What libraries print to stdout in the meantime goes to stderr as well.
    """
    from robustlab.report.terminal import make_console

    console = make_console(sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield _Lines(what)
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}", style="dim"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None, note="")

            def update(done: int, total: int, note: str = "") -> None:
                bar.update(task, completed=done, total=total, note=note)

            yield update


class _Lines:
    """Progress where nothing can be drawn over: a plain line every few seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        click.echo(f"{self._what}: {done}/{total}{f'  {note}' if note else ''}", err=True)
