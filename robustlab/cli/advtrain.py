"""``robustlab advtrain``: adversarial training, and what it gains and costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from robustlab.cli import options
from robustlab.cli.output import print_json, progress_bar, working

__all__ = ["advtrain"]

_POSITIVE = click.IntRange(min=1)


@click.command("advtrain", context_settings=options.SETTINGS)
@options.target("builtin:classifier")
@options.kind("classifier", "seq2seq", "causal", "retriever")
@options.data(None)
@click.option(
    "--method",
    metavar="NAME,…",
    default=None,
    show_default="freelb; poison for readers, typo for retrievers",
    help="Inner maximisation, or several: none, pgd, freelb, smart, trades, continuous, a2t, "
    "hotflip, augment, mixed, poison, typo.",
)
@click.option(
    "--strength",
    metavar="X,Y,…",
    default="0.1,0.2,0.4",
    help="Radius, rate or weight, as the method defines; a model each. The control (0) is always "
    "trained beside them.",
)
@click.option(
    "--option",
    metavar="NAME=VALUE",
    multiple=True,
    show_default=False,
    help="An option of the methods, such as steps=5 or freelb.steps=5; repeatable.",
)
@click.option("--seeds", metavar="N", type=_POSITIVE, default=1, help="Models a strength.")
@click.option("--epochs", metavar="N", type=_POSITIVE, default=2, help="Over the training split.")
@click.option(
    "--limit-train",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="all; 256 where neither --data nor --method is given",
    help="Most training examples.",
)
@click.option(
    "--limit-eval",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="all; 30 where neither --data nor --method is given",
    help="Most examples that the models are attacked on.",
)
@click.option(
    "--peft",
    metavar="NAME,…",
    default="lora",
    help="Adapters to train, or several kinds: lora, ia3, prompt, prefix, bitfit, adapter, none, "
    "which trains all parameters.",
)
@click.option("--init", metavar="SPEC", default=None, help="Model to begin with, if another.")
@click.option("--teacher", metavar="SPEC", default=None, help="Robust model to learn from besides.")
@click.option(
    "--quantize",
    metavar="NAME,…",
    default=None,
    help="Attack every model so compressed as well: int8, int4.",
)
@click.option(
    "--distill-to",
    metavar="SPEC",
    default=None,
    help="Distil every model into this one, and attack that as well.",
)
@click.option(
    "--probe",
    metavar="DATA",
    multiple=True,
    show_default=False,
    help="Measure forgetting on other data; repeatable.",
)
@click.option(
    "--replay",
    metavar="DATA",
    multiple=True,
    show_default=False,
    help="Mix other data into the training; repeatable.",
)
@options.defenses
@click.option(
    "--suite",
    metavar="NAME|FILE",
    default=None,
    show_default="standard",
    shell_complete=options.complete_recipe,
    help="What every model is attacked with, afresh; not what it was trained against.",
)
@click.option("--learning-rate", metavar="X", type=float, default=None, help="Its peak.")
@click.option("--batch-size", metavar="N", type=_POSITIVE, default=32, help="Examples an update.")
@click.option(
    "--micro-batch",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="the whole batch",
    help="Most examples in a forward pass; halved by itself where memory is short.",
)
@click.option(
    "--patience",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="off",
    help="Stop after N epochs without a better validation measure.",
)
@click.option("--tensorboard", is_flag=True, show_default=False, help="Log for TensorBoard.")
@options.text_column
@options.label_columns
@options.seed
@options.device(dtype="auto")
@options.out
@options.resume
@options.common
def advtrain(
    target: str,
    data: str | None,
    method: str | None,
    seed: int,
    out: Path | None,
    resume: Path | None,
    json: bool,
    text_column: str | None,
    pair_column: str | None,
    label_column: str | None,
    **rest: Any,
) -> None:
    """Train a model against an adversary, at several strengths, and see what it gains and costs.

    Beside every strength a control is trained with as many updates and no adversary. Each model is
    then attacked afresh with a suite that is not what it was trained against, and stands as a
    point on the curve of clean against robust accuracy. The models are folders that every other
    command takes as --target.

    An interrupted run goes on where it was: --resume DIR takes all options from the run.

    \b
      robustlab advtrain
      robustlab advtrain --data corpora/reviews --method a2t,augment --strength 0.2,0.4 --seeds 3
      robustlab advtrain --method mixed --defense unicode-normalise --defense typo-repair
      robustlab advtrain --target builtin:seq2seq --method poison --strength 0.5
    """
    with working("loading …"):
        from robustlab.report.tradeoff import print_tradeoff
        from robustlab.runs import default_run_folder
        from robustlab.training.entry import advtrain as run_advtrain

    folder = resume or out or default_run_folder("advtrain")
    columns = {
        "text_column": text_column,
        "pair_column": pair_column,
        "label_column": label_column,
    }
    try:
        with progress_bar("training") as update:
            found = run_advtrain(
                target_spec=target,
                data_spec=data,
                method=method,
                seed=seed,
                columns=columns,
                out=None if resume else folder,
                resume=resume,
                progress=update,
                **rest,
            )
    except KeyboardInterrupt:
        if not (folder / "manifest.json").is_file():
            raise
        raise KeyboardInterrupt(
            "interrupted, and what is trained so far is kept; go on with: "
            f"robustlab advtrain --resume {folder}"
        ) from None
    if found.curve:
        print_tradeoff(found.curve, found.folder, sys.stderr if json else sys.stdout)
        if json:
            print_json({"folder": str(found.folder), **found.curve})
