"""``robustlab attack``: how a target holds against an adversary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from robustlab.cli import options
from robustlab.cli.output import Update, print_json, progress_bar, working
from robustlab.cli.pipeline_file import pipeline_parts
from robustlab.errors import UserError

if TYPE_CHECKING:
    from robustlab.attack import Progress

__all__ = ["attack"]


@click.command("attack", context_settings=options.SETTINGS)
@options.target("builtin:classifier")
@options.kind("classifier")
@options.data(None)
@options.corpus(None)
@options.retriever
@options.generator
@options.top_k
@options.index_folder
@options.defenses
@options.adaptive
@options.recipes
@options.pipeline_goal
@options.poison
@options.adversary
@options.poison_passages
@options.curves
@options.wanted
@options.query_budget
@options.max_edits
@options.split
@options.limit
@options.text_column
@options.label_columns
@options.passage_columns
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
@click.pass_context
def attack(
    ctx: click.Context,
    /,
    target: str,
    out: Path | None,
    resume: Path | None,
    json: bool,
    **chosen: Any,
) -> None:
    """Attack a target and measure what is left of its accuracy.

    Without options, builtin:classifier is attacked on corpora/reviews with deepwordbug; a
    generator is attacked on the questions of a corpus. Prints clean accuracy, robust accuracy
    (accuracy under attack) and attack success rate with 95 % intervals, and leaves a run
    directory with every outcome. robustlab attacks lists the recipes.

    With --target rag, or a TOML file that keeps a pipeline, retriever and generator are attacked
    together: by passages in the corpus (poisonedrag-blackbox if no recipe is named) or by mistyped
    questions. With --defense the attack goes through defences: a pipeline is attacked as it is and
    by an adversary who knows them, a classifier by one who knows them.

    An interrupted run goes on where it was: --resume DIR takes all options from the run.

    \b
      robustlab attack --limit 50
      robustlab attack --suite standard --limit 100 --audit
      robustlab attack --target my/model --data my/test.csv --recipe my/recipe.toml
      robustlab attack --defense unicode-normalise --defense typo-repair
      robustlab attack --target rag --corpus corpora/fieldguide --poison-passages 5
      robustlab attack --target my-rag.toml --recipe prompt-injection --defense delimiters
    """
    pipeline = target == "rag" or target.endswith(".toml")
    _refuse_unfit(ctx, pipeline)
    with working("loading …"):
        from robustlab.report import conclude
        from robustlab.runs import default_run_folder

        run_attack = _pipeline_attack(ctx, target, resume) if pipeline else _attack(target)
    folder = resume or out or default_run_folder("attack")
    allowed = _FOR_PIPELINES if pipeline else _FOR_MODELS | {"defense"}
    own = {name: value for name, value in chosen.items() if name in allowed | _FOR_BOTH}
    columns = {name: value for name, value in chosen.items() if name.endswith("_column")}
    try:
        with progress_bar("attacking") as update:
            run_attack(
                columns=columns,
                out=None if resume else folder,
                resume=resume,
                progress=_noting(update),
                **own,
            )
    except KeyboardInterrupt:
        if not (folder / "manifest.json").is_file():
            raise
        raise KeyboardInterrupt(
            f"interrupted, and the outcomes so far are kept; go on with: "
            f"robustlab attack --resume {folder}"
        ) from None
    found = conclude(folder, sys.stderr if json else sys.stdout)
    for warning in found.get("warnings", ()):
        click.echo(f"warning: {warning}", err=True)
    if json:
        print_json(found)


_FOR_BOTH = frozenset(
    "batch_tokens concurrency device dtype limit max_edits max_new_tokens prompt query_budget "
    "recipe seed skip_bad_rows split suite".split()
)
_FOR_MODELS = frozenset(("audit", "kind", "wanted"))
_FOR_PIPELINES = frozenset(("adaptive", "adversary", "curves", "goal", "poison", "poison_passages"))
_TYPED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
_PARTS = frozenset(("corpus", "defense", "generator", "index", "retriever", "top_k"))


def _refuse_unfit(ctx: click.Context, pipeline: bool) -> None:
    """Refuse options that the target has no use for, rather than leave them out unsaid."""
    unfit = _FOR_MODELS | {"pair_column", "label_column"}
    if not pipeline:
        unfit = _FOR_PIPELINES | _PARTS - {"defense"}
    for name in sorted(unfit):
        if ctx.get_parameter_source(name) in _TYPED:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option} is not for pipelines"
                if pipeline
                else f"{option} is for pipelines: --target rag, or a TOML file that keeps one"
            )


def _attack(target: str) -> Callable[..., object]:
    """The attack on a model, which takes its data from ``--data``."""
    from robustlab.attack import attack as run_attack
    from robustlab.defense import defend

    data = click.get_current_context().params["data"]
    return partial(run_attack, target_spec=target, data_spec=data, defend=defend)


def _pipeline_attack(ctx: click.Context, target: str, resume: Path | None) -> Callable[..., object]:
    """The attack on a pipeline, whose parts come from options or from a file."""
    from robustlab.poisoning import attack_rag

    own = ctx.params
    parts, kept = pipeline_parts(ctx, target, own)
    if resume is not None:
        # What the run was begun with stands in its options, those that came from the file too.
        parts = {name: own[name] for name in parts}
    used = {name: parts[name] for name in _PARTS & parts.keys()}
    rest = {name: parts[name] for name in parts if name not in _PARTS}
    begun = partial(
        attack_rag,
        target_spec=target,
        data_spec=own["data"],
        defense=own["defense"],
        kept_defenses=kept,
        **used,
    )
    return lambda **options: begun(**{**options, **rest})


def _noting(update: Update) -> Callable[[Progress], None]:
    """Tell the progress bar what is known of the attack by now."""

    def note(progress: Progress) -> None:
        speed = progress.queries / progress.seconds if progress.seconds else 0
        success = progress.rates.attack_success_rate.percent()
        note = f"{progress.recipe}: success {success}, {speed:,.0f} queries/s"
        update(progress.done, progress.total, note)

    return note
