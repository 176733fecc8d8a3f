"""The options that commands share: one spelling, one meaning, one help text each.

The name of a parameter is the long option's own, so that ``ROBUSTLAB_TOP_K`` and the key
``top-k`` of a configuration file are ``--top-k`` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem

from robustlab.cli.config import config_option

__all__ = [
    "SETTINGS",
    "adaptive",
    "adversary",
    "audit",
    "batch_tokens",
    "common",
    "complete_corpus",
    "complete_recipe",
    "concurrency",
    "corpus",
    "curves",
    "data",
    "defenses",
    "device",
    "device_alone",
    "generator",
    "index_folder",
    "kind",
    "label_columns",
    "limit",
    "max_edits",
    "max_new_tokens",
    "out",
    "passage_columns",
    "pipeline_file",
    "pipeline_goal",
    "poison",
    "poison_passages",
    "prompt",
    "query_budget",
    "question_columns",
    "recipes",
    "resume",
    "retriever",
    "seed",
    "skip_bad_rows",
    "split",
    "target",
    "text_column",
    "top_k",
    "wanted",
]

Decorator: TypeAlias = Callable[[Callable[..., None]], Callable[..., None]]

Complete: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

SETTINGS = {"auto_envvar_prefix": "ROBUSTLAB", "show_default": True, "max_content_width": 100}
"""Context settings of every command: ``ROBUSTLAB_SEED`` is ``--seed`` whatever the command."""

_POSITIVE = click.IntRange(min=1)


def _completion(names: Callable[[], Iterable[str]]) -> Complete:
    """Completion with names, or with files where none of them fits."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]

    return complete


def _recipes() -> Iterable[str]:
    from robustlab.resources import recipe_names

    return recipe_names()


def _corpora() -> Iterable[str]:
    from robustlab.resources import corpus_names

    return corpus_names()


def _defenses() -> Iterable[str]:
    from robustlab.defense import defense_names

    return defense_names()


complete_corpus = _completion(_corpora)
complete_recipe = _completion(_recipes)
_complete_target = _completion(
    lambda: ("builtin:classifier", "builtin:seq2seq", "builtin:causal", "builtin:retriever", "rag")
)


def _together(*options: Decorator) -> Decorator:
    """Several options as one decorator; --help lists them in this order."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def target(default: str | None) -> Decorator:
    """``--target``; required where it has no default."""
    return click.option(
        "--target",
        metavar="SPEC",
        default=default,
        required=default is None,
        shell_complete=_complete_target,
        help="Model: builtin:NAME, a Hugging Face folder or hub id, or rag (the pipeline of "
        "--retriever and --generator)."
        if default is None
        else "Model: builtin:NAME, a Hugging Face folder or a hub id; or a pipeline: rag (that of "
        "--retriever and --generator), or a TOML file that keeps one.",
    )


pipeline_file = click.option(
    "--target",
    metavar="FILE",
    default="rag",
    help="Pipeline: rag (the one of --retriever and --generator), or a TOML file that keeps one.",
)


def data(default: str | None) -> Decorator:
    """``--data``."""
    return click.option(
        "--data",
        metavar="SPEC",
        default=default,
        shell_complete=complete_corpus,
        help="Data: a file (.jsonl, .csv, .tsv), a folder, the name of a shipped set, or hf:NAME.",
    )


def corpus(default: str | None) -> Decorator:
    """``--corpus``."""
    return click.option(
        "--corpus",
        metavar="SPEC",
        default=default,
        shell_complete=complete_corpus,
        help="Passages and questions on them: a BEIR folder, a SQuAD file, a file of rows, the "
        "name of a shipped corpus, or hf:NAME.",
    )


def kind(*kinds: str) -> Decorator:
    """``--kind``: the family of a model whose files do not tell it."""
    return click.option(
        "--kind",
        type=click.Choice(kinds),
        default=None,
        show_default="found from its config",
        help="Family of the model.",
    )


device_alone = click.option(
    "--device",
    metavar="auto|cpu|cuda[:N]",
    default="auto",
    help="Where models run; auto is the GPU where there is one.",
)


def device(dtype: str) -> Decorator:
    """``--device`` and ``--dtype``."""
    return _together(
        device_alone,
        click.option(
            "--dtype",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default=dtype,
            help="Number format; auto is bf16 where the hardware is fast in it.",
        ),
    )


def _take_options_of_run(
    ctx: click.Context, param: click.Parameter, value: Path | None
) -> Path | None:
    """Make the arguments in a run's manifest the defaults of this command."""
    if value is None or ctx.resilient_parsing:
        return value
    from robustlab.runs import RunDirectory

    arguments = dict(RunDirectory.open(value).manifest["arguments"])
    arguments |= arguments.pop("columns", None) or {}
    own = {option.name for option in ctx.command.params} - {"out", "resume"}
    taken = {name.removesuffix("_spec"): argument for name, argument in arguments.items()}
    defaults = {name: taken[name] for name in own & taken.keys() if taken[name] is not None}
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


retriever = click.option(
    "--retriever",
    metavar="SPEC",
    default="builtin:retriever",
    help="Retriever: builtin:retriever, a sentence-transformers folder or hub id, or bm25.",
)

generator = click.option(
    "--generator",
    metavar="SPEC",
    default="builtin:seq2seq",
    help="Reader of the passages: builtin:seq2seq, builtin:causal, a folder or a hub id.",
)

top_k = click.option(
    "--top-k", metavar="N", type=_POSITIVE, default=5, help="How many passages are retrieved."
)

prompt = click.option(
    "--prompt",
    metavar="FILE",
    default=None,
    help="Prompt template, a shipped one by name or a file of your own.",
)

index_folder = click.option(
    "--index",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=None,
    help="Index made by robustlab index, instead of encoding the corpus now.",
)

max_new_tokens = click.option(
    "--max-new-tokens",
    metavar="N",
    type=_POSITIVE,
    default=32,
    help="Longest answer, in tokens.",
)

poison = click.option(
    "--poison",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=None,
    help="Passages that an adversary has put into the corpus, by question (poison.jsonl).",
)

adversary = click.option(
    "--adversary",
    metavar="SPEC",
    default=None,
    help="Generator that writes the adversarial texts; templates if not given.",
)

poison_passages = click.option(
    "--poison-passages",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="the recipe's",
    help="Passages that the adversary may write.",
)

adaptive = click.option(
    "--adaptive/--no-adaptive",
    default=None,
    show_default="both ways",
    help="Whether the adversary knows the defences, and searches through them.",
)

curves = click.option(
    "--curves",
    is_flag=True,
    show_default=False,
    help="Ask every question with fewer passages of poison and with every smaller --top-k, too.",
)

pipeline_goal = click.option(
    "--goal",
    type=click.Choice(["change-answer", "hide-gold"]),
    default=None,
    show_default="the recipe's",
    help="What recipes that mistype questions want: another answer, or gold not retrieved.",
)

defenses = click.option(
    "--defense",
    metavar="NAME|FILE",
    multiple=True,
    shell_complete=_completion(_defenses),
    help="Defence: a shipped one by name, or a TOML file of your own; repeatable.",
)

split = click.option(
    "--split",
    metavar="NAME",
    default=None,
    show_default="test if there is one, else validation",
    help="Split of the data.",
)

limit = click.option(
    "--limit",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="all of the split",
    help="Only the first N after a shuffle seeded by --seed.",
)

recipes = _together(
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        multiple=True,
        show_default="deepwordbug",
        shell_complete=complete_recipe,
        help="Attack: a shipped recipe by name, a TOML file, or textattack:CLASS; repeatable.",
    ),
    click.option(
        "--suite",
        metavar="NAME|FILE",
        default=None,
        shell_complete=complete_recipe,
        help="Several recipes, judged by the worst case of each example: quick, standard.",
    ),
)

wanted = click.option(
    "--wanted",
    metavar="TEXT",
    default=None,
    show_default="the recipe's",
    help="The class or the output that a targeted attack is to force.",
)

max_edits = click.option(
    "--max-edits",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="the recipe's",
    help="Most words that may differ from the original.",
)

query_budget = click.option(
    "--query-budget",
    metavar="N",
    type=_POSITIVE,
    default=None,
    show_default="the recipe's",
    help="Most queries for one example.",
)

seed = click.option("--seed", metavar="N", type=int, default=0, help="Seed of all that is random.")

batch_tokens = click.option(
    "--batch-tokens",
    metavar="N",
    type=_POSITIVE,
    default=None,
    help="Most tokens in one forward pass; fewer need less memory.",
)

out = click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=None,
    show_default="runs/COMMAND-TIME",
    help="Run directory to make; must not hold a run.",
)

text_column = click.option(
    "--text-column", metavar="NAME", default=None, help="Column of the text."
)

label_columns = _together(
    click.option("--pair-column", metavar="NAME", default=None, help="Column of the second text."),
    click.option("--label-column", metavar="NAME", default=None, help="Column of the label."),
)

passage_columns = _together(
    click.option("--title-column", metavar="NAME", default=None, help="Column of the title."),
    click.option("--id-column", metavar="NAME", default=None, help="Column of the id."),
)

question_columns = _together(
    click.option("--question-column", metavar="NAME", default=None, help="Column of the question."),
    click.option("--answers-column", metavar="NAME", default=None, help="Column of its answers."),
)

skip_bad_rows = click.option(
    "--skip-bad-rows",
    is_flag=True,
    show_default=False,
    help="Leave out and count rows that cannot be used.",
)

audit = click.option(
    "--audit",
    is_flag=True,
    show_default=False,
    help="Check the finished run as a reviewer would, attacking a few examples again.",
)

concurrency = click.option(
    "--concurrency",
    metavar="N",
    type=_POSITIVE,
    default=64,
    help="Examples attacked at once; fewer need less memory.",
)

resume = click.option(
    "--resume",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=None,
    is_eager=True,
    callback=_take_options_of_run,
    help="Continue the run in DIR, with the options that it was begun with.",
)

common = _together(
    click.option(
        "--json",
        is_flag=True,
        show_default=False,
        help="Print one JSON object and nothing else on stdout.",
    ),
    config_option(),
)
