"""The one function behind ``robustlab attack``: specs in, a run directory out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustlab.attack.audit import audit as run_audit
from robustlab.attack.campaign import DEFAULT_CONCURRENCY, Campaign, Progress
from robustlab.attack.defended import Defend, defended
from robustlab.attack.examples import DEFAULT_DATA, ExampleSource
from robustlab.attack.recipe import Component, Recipe
from robustlab.attack.suite import load_recipes, opened_runs, run_campaigns
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder
from robustlab.runs import default_run_folder

__all__ = ["DEFAULT_DATA", "AttackResult", "attack", "load_campaigns"]


@dataclass(frozen=True, slots=True)
class AttackResult:
    """A finished attack; ``summary`` is what stands in ``summary.json``."""

    folder: Path
    summary: Mapping[str, Any]


def attack(
    *,
    target_spec: str = "builtin:classifier",
    data_spec: str | None = None,
    recipe: Sequence[str] = (),
    suite: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    wanted: str | None = None,
    query_budget: int | None = None,
    max_edits: int | None = None,
    prompt: str | None = None,
    max_new_tokens: int = 32,
    concurrency: int = DEFAULT_CONCURRENCY,
    kind: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
    batch_tokens: int | None = None,
    columns: Mapping[str, str | None] | None = None,
    skip_bad_rows: bool = False,
    defense: Sequence[str] = (),
    defend: Defend | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    audit: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> AttackResult:
    """Attack a target and leave a run directory.

    A classifier is attacked on labelled data; a generator on the questions of a corpus, with
    their gold passages in the prompt. Several recipes make a suite, see
    :mod:`robustlab.attack.suite`.

    Args:
        target_spec: the target, as for :func:`~robustlab.models.load.load_target`.
        data_spec: labelled data as for :func:`~robustlab.data.load_labelled`, or a corpus as for
            :func:`~robustlab.data.load_corpus`; :data:`DEFAULT_DATA` if not given.
        recipe: shipped recipes by name, or TOML files; ``deepwordbug`` if none is given and no
            suite.
        suite: a recipe file that lists others; its recipes come before ``recipe``.
        split: of the data; the default is ``test``, else ``validation``.
        limit: only the first so many examples after a shuffle by ``seed``.
        wanted: the class or the output to be forced, instead of the recipe's.
        query_budget: the most queries for one example, instead of the recipe's.
        max_edits: the most words that may differ from the original, instead of the recipe's.
        prompt: a generator's template by name or file; the one that fits it if not given.
        max_new_tokens: the longest output of a generator.
        concurrency: how many examples are attacked at once.
        kind: the family of the target, where its files do not tell.
        seed: of all that is random.
        device: where the model runs.
        dtype: its number format in the search. In fp32 outcomes do not depend on the size of
            batches; in bf16 they may, and final texts are judged by a second copy in fp32.
        batch_tokens: the most tokens in a forward pass.
        columns: arguments of the loaders by name, e.g. ``{"text_column": "body"}``.
        skip_bad_rows: leave out and count rows that cannot be used.
        defense: what stands in front of the target, by name or file; the adversary searches
            through it.
        defend: puts it there; needed where ``defense`` names something.
        out: the run directory; ``runs/attack-TIME`` if not given.
        resume: a run directory to continue instead, with everything else as it was.
        audit: whether to check the finished run as :mod:`robustlab.attack.audit` says.
        progress: called with every outcome.

    Raises:
        UserError: whatever stands in the way, before the run directory is made if possible.
    """
    arguments = {
        name: value for name, value in locals().items() if name not in ("progress", "defend")
    }
    if out is not None and resume is not None:
        raise UserError("a run is either made with --out or continued with --resume, not both")
    names = [*([suite] if suite else []), *recipe] or ["deepwordbug"]
    plans = [_adjusted(plan, wanted, query_budget, max_edits) for plan in load_recipes(names)]
    campaigns = load_campaigns(
        plans,
        target_spec=target_spec,
        data_spec=data_spec,
        split=split,
        limit=limit,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        concurrency=concurrency,
        kind=kind,
        seed=seed,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        columns=columns,
        skip_bad_rows=skip_bad_rows,
        defense=defense,
        defend=defend,
    )
    folder = resume or out or default_run_folder("attack")
    with opened_runs(
        folder, campaigns, suite=suite, arguments=arguments, resume=resume is not None
    ) as (run, runs):
        if not (audit and run.is_complete and "audit" not in (run.summary or {})):
            run_campaigns(run, campaigns, runs, progress=progress)
        if audit:
            checks = run_audit(folder, campaigns, runs)
            run.write_summary({**(run.summary or {}), "audit": checks})
    return AttackResult(folder, run.summary or {})


def load_campaigns(
    plans: Sequence[Recipe],
    *,
    target_spec: str,
    data_spec: str | None,
    seed: int,
    device: str,
    dtype: str,
    limit: int | None,
    columns: Mapping[str, str | None] | None,
    split: str | None = None,
    prompt: str | None = None,
    max_new_tokens: int = 32,
    concurrency: int = DEFAULT_CONCURRENCY,
    kind: str | None = None,
    batch_tokens: int | None = None,
    skip_bad_rows: bool = False,
    defense: Sequence[str] = (),
    defend: Defend | None = None,
) -> dict[str, Campaign]:
    """Campaigns by the names of their recipes, on one target that is loaded once for all.

    Args as for :func:`attack`.

    Raises:
        UserError: no such target or data, or none that a recipe can attack.
    """
    named = {name: column for name, column in (columns or {}).items() if column is not None}
    options: dict[str, Any] = {"kind": kind, "device": device, "batch_tokens": batch_tokens}
    target = load_target(target_spec, dtype=dtype, **options)
    coarse = target.describe().get("dtype") != "fp32"
    judge = load_target(target_spec, dtype="fp32", **options) if coarse else None
    encoder = SentenceEncoder.load(BUILTIN, device=device, dtype="fp32")
    examples = ExampleSource(
        target, data_spec, named, skip_bad_rows, seed, limit, split, prompt, max_new_tokens
    )
    target = defended(target, defense, examples, defend)
    judge = None if judge is None else defended(judge, defense, examples, defend)
    return {
        plan.name: Campaign(
            target,
            examples.of(plan),
            plan,
            seed=seed,
            concurrency=concurrency,
            judge=judge,
            encoder=encoder,
            training=examples.training(plan),
        )
        for plan in plans
    }


def _adjusted(
    recipe: Recipe, wanted: str | None, query_budget: int | None, max_edits: int | None
) -> Recipe:
    """The recipe with what the command line says instead."""
    budget = recipe.budget
    if query_budget is not None:
        budget = replace(budget, queries=query_budget)
    if max_edits is not None:
        budget = replace(budget, max_edits=max_edits, max_edit_rate=None)
    goal = recipe.goal
    if wanted is not None:
        goal = Component(goal.kind, {**goal.options, "wanted": wanted})
    return replace(recipe, budget=budget, goal=goal)
