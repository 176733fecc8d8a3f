"""Several recipes against the same examples, judged by the worst case of each example.

Robust accuracy under a suite is the mean over examples of the worst case, never the least of the
recipes' means (Croce & Hein 2020, arXiv:2003.01690): different recipes break different examples.

A suite is a run like any other, whose outcomes are the worst cases; ``runs/NAME/`` in its folder
holds the run of each recipe.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from robustlab.attack.campaign import Outcome, Progress
from robustlab.attack.recipe import Recipe, Suite, load_recipe
from robustlab.errors import UserError
from robustlab.metrics.robustness import robustness_summary
from robustlab.runs import RunDirectory

__all__ = [
    "RUNS",
    "Runnable",
    "load_recipes",
    "open_members",
    "open_suite",
    "opened_runs",
    "run_campaigns",
    "run_suite",
    "worst_case",
]

RUNS = "runs"
"""The folder of the recipes' runs in that of the suite."""


class Runnable(Protocol):
    """A campaign, of whatever kind of attack."""

    def manifest(self, *, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of its run directory."""

    def run(
        self, run: RunDirectory, *, progress: Callable[[Progress], None] | None = None
    ) -> object:
        """Attack, and complete the run."""


def load_recipes(names: Sequence[str], *, one_goal: bool = True) -> tuple[Recipe, ...]:
    """Recipes by name or file, suites replaced by what they list; each once, in order.

    Raises:
        UserError: one that cannot be read, a suite in a suite, two recipes of one name, or, unless
            ``one_goal`` is false, goals that differ, since then no worst case is defined.
    """
    recipes: dict[str, Recipe] = {}
    for name in names:
        found = _load(name)
        for recipe in _members(found) if isinstance(found, Suite) else [found]:
            other = recipes.setdefault(recipe.name, recipe)
            if other.text != recipe.text:
                raise UserError(
                    f"two recipes are called {recipe.name}: {other.source} and {recipe.source}"
                )
    chosen = tuple(recipes.values())
    for recipe in chosen[1:] if one_goal else ():
        if recipe.goal != chosen[0].goal:
            raise UserError(
                f"{chosen[0].name} and {recipe.name} pursue different goals, so an example has no "
                "worst case over both; run them apart"
            )
    return chosen


def _load(name: str) -> Recipe | Suite:
    """A recipe by name or file, or ``textattack:CLASS``."""
    library, colon, attack = name.partition(":")
    if colon and library == "textattack":
        from robustlab.attack.textattack import recipe_for_class

        return recipe_for_class(attack)
    return load_recipe(name)


def _members(suite: Suite) -> list[Recipe]:
    members = []
    for name in suite.recipes:
        found = load_recipe(name)
        if isinstance(found, Suite):
            raise UserError(f"the suite {suite.source} lists {name}, which is a suite itself")
        members.append(found)
    return members


def worst_case(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Outcome]:
    """What is left of each example under all recipes together.

    ``outcomes`` holds those of each recipe by its name. An example is broken if one recipe broke
    it; of several, the text with the fewest edits is shown, and ``recipe`` says whose it is. An
    error of one recipe leaves the verdict to the others. Queries and seconds are summed. Outcomes
    of perturbations that no text realises (``embedded``) do not count.
    """
    by_id: dict[str, list[Outcome]] = {}
    for name, of_recipe in outcomes.items():
        for outcome in of_recipe:
            if not outcome.get("embedded"):
                by_id.setdefault(outcome["id"], []).append({**outcome, "recipe": name})
    worst = []
    for of_example in by_id.values():
        chosen = min(of_example, key=_badness)
        total = {key: sum(outcome[key] for outcome in of_example) for key in ("queries", "seconds")}
        worst.append({**chosen, **total})
    return worst


_RANKS = {"succeeded": 0, "failed": 1, "skipped": 2, "error": 3}


def _badness(outcome: Outcome) -> tuple[int, int]:
    edits = outcome["edits"] if outcome["status"] == "succeeded" else 0
    return _RANKS[outcome["status"]], edits or 0


@contextlib.contextmanager
def opened_runs(
    folder: Path,
    campaigns: Mapping[str, Runnable],
    *,
    suite: str | None,
    arguments: Mapping[str, Any],
    resume: bool,
) -> Iterator[tuple[RunDirectory, dict[str, RunDirectory]]]:
    """The run in ``folder`` and that of each campaign, which is the same where there is but one.

    ``suite`` is the name that the user gave, ``arguments`` are all that was asked for. The runs are
    made, or opened to be continued, and closed in the end.

    Raises:
        UserError: as :func:`open_suite`.
    """
    runs: dict[str, RunDirectory]
    if len(campaigns) == 1:
        ((name, campaign),) = campaigns.items()
        if resume:
            run = RunDirectory.open(folder)
        else:
            run = RunDirectory.create(folder, campaign.manifest(arguments=arguments))
        runs = {name: run}
    else:
        named = None if suite is None else load_recipe(suite)
        run = open_suite(
            folder,
            campaigns,
            named=named if isinstance(named, Suite) else None,
            arguments=arguments,
            resume=resume,
        )
        runs = open_members(run, campaigns, arguments=arguments)
    with contextlib.ExitStack() as stack:
        for each in {id(each): each for each in [run, *runs.values()]}.values():
            stack.enter_context(each)
        yield run, runs


def run_campaigns(
    run: RunDirectory,
    campaigns: Mapping[str, Runnable],
    runs: Mapping[str, RunDirectory],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Run one campaign, or several as a suite; the arguments as :func:`opened_runs` has them."""
    if len(campaigns) == 1:
        (campaign,) = campaigns.values()
        campaign.run(run, progress=progress)
    else:
        run_suite(run, campaigns, runs, progress=progress)


def open_suite(
    folder: Path,
    campaigns: Mapping[str, Runnable],
    *,
    named: Suite | None,
    arguments: Mapping[str, Any],
    resume: bool,
) -> RunDirectory:
    """Begin the run of a suite in ``folder``, or open it to be continued.

    ``named`` is the suite that the user asked for by name, if it was not a list of recipes.

    Raises:
        UserError: the folder holds a run, or holds none or another one where it is to be continued.
    """
    made = {name: campaign.manifest(arguments=arguments) for name, campaign in campaigns.items()}
    first = next(iter(made.values()))
    manifest = {
        **first,
        "command": "suite",
        "recipe": None,
        "recipes": list(made),
        "suite": None if named is None else named.describe(),
        "threat_model": {
            "goal": first["threat_model"]["goal"],
            "recipes": {name: own["threat_model"] for name, own in made.items()},
        },
    }
    if not resume:
        return RunDirectory.create(folder, manifest)
    suite = RunDirectory.open(folder)
    for key in ("command", "recipes", "seed"):
        if suite.manifest.get(key) != manifest[key]:
            raise UserError(
                f"the run in {folder} is not one of this suite: its {key} is "
                f"{suite.manifest.get(key)!r}, and here it is {manifest[key]!r}"
            )
    return suite


def open_members(
    suite: RunDirectory, campaigns: Mapping[str, Runnable], *, arguments: Mapping[str, Any]
) -> dict[str, RunDirectory]:
    """The recipes' own runs by name, made where there are none yet."""
    runs = {}
    for name, campaign in campaigns.items():
        place = suite.path / RUNS / name
        if (place / "manifest.json").is_file():
            runs[name] = RunDirectory.open(place)
        else:
            runs[name] = RunDirectory.create(place, campaign.manifest(arguments=arguments))
    return runs


def run_suite(
    suite: RunDirectory,
    campaigns: Mapping[str, Runnable],
    runs: Mapping[str, RunDirectory],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Run what is not complete, then write the worst cases and the summary.

    The summary has the rates over the worst cases, and under ``recipes`` each recipe's own.

    Args:
        suite: from :func:`open_suite`.
        campaigns: by the recipes' names.
        runs: from :func:`open_members`.
        progress: called with every outcome of every campaign.

    Raises:
        UserError: as a campaign that is run, or the suite is complete.
    """
    if suite.is_complete:
        raise UserError(f"the run in {suite.path} is complete")
    suite.lock()
    start = time.perf_counter()
    for name, campaign in campaigns.items():
        if not runs[name].is_complete:
            campaign.run(runs[name], progress=progress)
    done = suite.finished_ids()
    for outcome in worst_case({name: run.outcomes() for name, run in runs.items()}):
        if outcome["id"] not in done:
            suite.append(outcome)
    target = next(iter(runs.values())).manifest["target"]
    suite.update_manifest(target=target)
    summaries = {name: run.summary or {} for name, run in runs.items()}
    suite.write_summary(_summarise(suite.outcomes(), summaries, time.perf_counter() - start))


def _summarise(
    worst: Sequence[Outcome], recipes: Mapping[str, Mapping[str, Any]], wall_seconds: float
) -> dict[str, Any]:
    return {
        "examples": len(worst),
        **robustness_summary(outcome["status"] for outcome in worst).as_json(),
        "queries_total": sum(outcome["queries"] for outcome in worst),
        "wall_seconds": wall_seconds,
        "recipes": recipes,
    }
