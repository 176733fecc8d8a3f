"""The one function behind ``robustlab attack``: specs in, a run directory out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.attack.campaign import DEFAULT_CONCURRENCY, AttackSummary, Campaign, Progress
from robustlab.attack.recipe import Recipe, load_recipe
from robustlab.data import load_labelled
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.runs import RunDirectory, default_run_folder

__all__ = ["AttackResult", "attack"]


@dataclass(frozen=True, slots=True)
class AttackResult:
    """A finished attack; ``summary.as_json()`` is what stands in ``summary.json``."""

    folder: Path
    recipe: Recipe
    summary: AttackSummary


def attack(
    *,
    target_spec: str = "builtin:classifier",
    data_spec: str = "corpora/reviews",
    recipe: str = "deepwordbug",
    split: str | None = None,
    limit: int | None = None,
    query_budget: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    kind: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
    batch_tokens: int | None = None,
    columns: Mapping[str, str | None] | None = None,
    skip_bad_rows: bool = False,
    out: Path | None = None,
    resume: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AttackResult:
    """Attack a classifier on labelled data and leave a run directory.

    Args:
        target_spec: the classifier, as for :func:`~robustlab.models.load.load_target`.
        data_spec: the data, as for :func:`~robustlab.data.load_labelled`.
        recipe: a shipped recipe by name, or a TOML file.
        split: of the data; the default is ``test``, else ``validation``.
        limit: only the first so many examples after a shuffle by ``seed``.
        query_budget: the most queries for one example, instead of the recipe's.
        concurrency: how many examples are attacked at once.
        kind: the family of the target, where its files do not tell.
        seed: of all that is random.
        device: where the model runs.
        dtype: its number format in the search. In fp32 outcomes do not depend on the size of
            batches; in bf16 they may, and final texts are judged by a second copy in fp32.
        batch_tokens: the most tokens in a forward pass.
        columns: arguments of the loader by name, e.g. ``{"text_column": "body"}``.
        skip_bad_rows: leave out and count rows that cannot be used.
        out: the run directory; ``runs/attack-TIME`` if not given.
        resume: a run directory to continue instead, with everything else as it was.
        progress: called with every outcome.

    Raises:
        UserError: whatever stands in the way, before the run directory is made if possible.
    """
    arguments = {name: value for name, value in locals().items() if name != "progress"}
    if out is not None and resume is not None:
        raise UserError("a run is either made with --out or continued with --resume, not both")
    plan = load_recipe(recipe)
    named = {name: column for name, column in (columns or {}).items() if column is not None}
    labelled = load_labelled(data_spec, split=split, skip_bad_rows=skip_bad_rows, **named)
    options: dict[str, Any] = {"kind": kind, "device": device, "batch_tokens": batch_tokens}
    target = load_target(target_spec, dtype=dtype, **options)
    coarse = target.describe().get("dtype") != "fp32"
    campaign = Campaign(
        target,
        labelled,
        plan,
        seed=seed,
        limit=limit,
        concurrency=concurrency,
        query_budget=query_budget,
        judge=load_target(target_spec, dtype="fp32", **options) if coarse else None,
    )
    if resume is None:
        manifest = campaign.manifest(data_spec=data_spec, arguments=arguments)
        run = RunDirectory.create(out or default_run_folder("attack"), manifest)
    else:
        run = RunDirectory.open(resume)
    with run:
        summary = campaign.run(run, progress=progress)
    return AttackResult(run.path, plan, summary)
