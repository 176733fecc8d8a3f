"""``robustlab attack``: how a target holds against an adversary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustlab.cli import options
from robustlab.cli.output import Update, print_json, progress_bar, working

if TYPE_CHECKING:
    from robustlab.attack import Progress

__all__ = ["attack"]


@click.command("attack", context_settings=options.SETTINGS)
@options.target("builtin:classifier")
@options.kind("classifier")
@options.data("corpora/reviews")
@options.recipe
@options.query_budget
@options.split
@options.limit
@options.text_column
@options.label_columns
@options.skip_bad_rows
@options.seed
@options.device(dtype="fp32")
@options.batch_tokens
@options.concurrency
@options.out
@options.resume
@options.common
def attack(
    target: str,
    kind: str | None,
    data: str,
    recipe: str,
    query_budget: int | None,
    split: str | None,
    limit: int | None,
    skip_bad_rows: bool,
    seed: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    concurrency: int,
    out: Path | None,
    resume: Path | None,
    json: bool,
    **columns: str | None,
) -> None:
    """Attack a target and measure what is left of its accuracy.

    Without options, builtin:classifier is attacked on corpora/reviews with deepwordbug. Prints
    clean accuracy, robust accuracy (accuracy under attack) and attack success rate with 95 %
    intervals, and leaves a run directory with every outcome.

    An interrupted run goes on where it was: --resume DIR takes all options from the run.

    \b
      robustlab attack --limit 50
      robustlab attack --target my/model --data my/test.csv --recipe my/recipe.toml
    """
    with working("loading …"):
        from robustlab.attack import attack as run_attack
        from robustlab.report import print_run, run_object, write_report
        from robustlab.runs import RunDirectory, default_run_folder

    folder = resume or out or default_run_folder("attack")
    try:
        with progress_bar("attacking") as update:
            run_attack(
                target_spec=target,
                data_spec=data,
                recipe=recipe,
                split=split,
                limit=limit,
                query_budget=query_budget,
                concurrency=concurrency,
                kind=kind,
                seed=seed,
                device=device,
                dtype=dtype,
                batch_tokens=batch_tokens,
                columns=columns,
                skip_bad_rows=skip_bad_rows,
                out=None if resume else folder,
                resume=resume,
                progress=_noting(update),
            )
    except KeyboardInterrupt:
        if not (folder / "manifest.json").is_file():
            raise
        raise KeyboardInterrupt(
            f"interrupted, and the outcomes so far are kept; go on with: "
            f"robustlab attack --resume {folder}"
        ) from None
    run = RunDirectory.open(folder)
    write_report(run)
    print_run(run, sys.stderr if json else sys.stdout)
    if json:
        print_json(run_object(run))


def _noting(update: Update) -> Callable[[Progress], None]:
    """Tell the progress bar what is known of the attack by now."""

    def note(progress: Progress) -> None:
        speed = progress.queries / progress.seconds if progress.seconds else 0
        success = progress.rates.attack_success_rate.percent()
        update(progress.done, progress.total, f"success {success}, {speed:,.0f} queries/s")

    return note
