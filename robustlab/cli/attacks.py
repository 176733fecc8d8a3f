"""``robustlab attacks``: which recipes there are, and whether this machine can run them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from robustlab.cli import options
from robustlab.cli.output import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from robustlab.attack.catalogue import Catalogue

__all__ = ["attacks"]


@click.group("attacks", invoke_without_command=True, context_settings=options.SETTINGS)
@options.common
@click.pass_context
def attacks(ctx: click.Context, json: bool) -> None:
    """List the shipped recipes and suites.

    For each recipe: its goal, what it sees of the target, what it changes, the most queries for
    one example, what it needs, and whether this machine has that.

    \b
      robustlab attacks
      robustlab attacks show hotflip > my-hotflip.toml
    """
    if ctx.invoked_subcommand is not None:
        return
    from robustlab.attack.catalogue import catalogue

    found = catalogue()
    _show(found, to_stderr=json)
    if json:
        print_json(found.as_json())


@attacks.command("show", context_settings=options.SETTINGS)
@click.argument("name", shell_complete=options.complete_recipe)
def show(name: str) -> None:
    """Print the file of a recipe or suite, to be read or copied.

    NAME is one of the shipped ones, or a TOML file of your own.
    """
    from robustlab.attack.recipe import load_recipe
    from robustlab.report import safe_text

    for line in load_recipe(name).text.splitlines():
        click.echo("\t".join(map(safe_text, line.split("\t"))))


def _show(found: Catalogue, *, to_stderr: bool) -> None:
    from rich.text import Text

    from robustlab.report import make_console, print_indented

    console = make_console(sys.stderr if to_stderr else sys.stdout)
    console.print(_recipes(found))
    if found.suites:
        console.print()
        for suite in found.suites:
            ready = "ready" if suite.missing is None else "not ready"
            recipes = ", ".join(suite.suite.recipes)
            line = f"{suite.suite.name} ({ready}): {suite.suite.summary}; {recipes}"
            print_indented(console, Text(line), "suite  ")
    _print_lacks(console, found)


def _recipes(found: Catalogue) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("recipe", "goal", "sees", "changes"):
        table.add_column(name, no_wrap=True)
    table.add_column("queries", justify="right", no_wrap=True)
    table.add_column("needs")
    table.add_column("here", no_wrap=True)
    for listed in found.recipes:
        threat, queries = listed.recipe.threat, listed.recipe.budget.queries
        table.add_row(
            Text(listed.recipe.name, style="bold"),
            threat.goal.removesuffix("-classification"),
            threat.knowledge,
            threat.part or threat.surface,
            "–" if queries is None else f"{queries:,}",
            ", ".join(listed.needs),
            "ready" if listed.missing is None else "missing",
        )
    return table


def _print_lacks(console: Console, found: Catalogue) -> None:
    """One line for each thing that is not here, however many recipes want it."""
    from rich.text import Text

    from robustlab.report import print_indented, safe_text

    lacks = [listed.missing for listed in found.recipes if listed.missing is not None]
    if lacks:
        console.print()
    for lack in dict.fromkeys(lacks):
        print_indented(console, Text(safe_text(lack)), "missing  ")
