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
@options.data(None)
@options.recipes
@options.wanted
@options.query_budget
@options.max_edits
@options.split
@options.limit
@options.text_column
@options.label_columns
@options.question_columns
@options.prompt
@options.max_new_tokens
@options.skip_bad_rows
@options.seed
@options.device(dtype="fp32")
@options.batch_tokens
@options.concurrency
@options.out
@options.resume
@options.audit
@options.common
def attack(
    target: str,
    kind: str | None,
    data: str | None,
    recipe: tuple[str, ...],
    suite: str | None,
    wanted: str | None,
    query_budget: int | None,
    max_edits: int | None,
    split: str | None,
    limit: int | None,
    prompt: str | None,
    max_new_tokens: int,
    skip_bad_rows: bool,
    seed: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    concurrency: int,
    out: Path | None,
    resume: Path | None,
    audit: bool,
    json: bool,
    **columns: str | None,
) -> None:
    """Attack a target and measure what is left of its accuracy.

    Without options, builtin:classifier is attacked on corpora/reviews with deepwordbug; a
    generator is attacked on the questions of a corpus. Prints clean accuracy, robust accuracy
    (accuracy under attack) and attack success rate with 95 % intervals, and leaves a run
    directory with every outcome. robustlab attacks lists the recipes.

    An interrupted run goes on where it was: --resume DIR takes all options from the run.

    \b
      robustlab attack --limit 50
      robustlab attack --suite standard --limit 100 --audit
      robustlab attack --target my/model --data my/test.csv --recipe my/recipe.toml
    """
    with working("loading …"):
        from robustlab.attack import attack as run_attack
        from robustlab.report import conclude
        from robustlab.runs import default_run_folder

    folder = resume or out or default_run_folder("attack")
    try:
        with progress_bar("attacking") as update:
            run_attack(
                target_spec=target,
                data_spec=data,
                recipe=recipe,
                suite=suite,
                split=split,
                limit=limit,
                wanted=wanted,
                query_budget=query_budget,
                max_edits=max_edits,
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
                out=None if resume else folder,
                resume=resume,
                audit=audit,
                progress=_noting(update),
            )
    except KeyboardInterrupt:
        if not (folder / "manifest.json").is_file():
            raise
        raise KeyboardInterrupt(
            f"interrupted, and the outcomes so far are kept; go on with: "
            f"robustlab attack --resume {folder}"
        ) from None
    found = conclude(folder, sys.stderr if json else sys.stdout)
    if json:
        print_json(found)


def _noting(update: Update) -> Callable[[Progress], None]:
    """Tell the progress bar what is known of the attack by now."""

    def note(progress: Progress) -> None:
        speed = progress.queries / progress.seconds if progress.seconds else 0
        success = progress.rates.attack_success_rate.percent()
        note = f"{progress.recipe}: success {success}, {speed:,.0f} queries/s"
        update(progress.done, progress.total, note)

    return note
