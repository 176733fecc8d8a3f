"""The one function behind ``robustlab evaluate``: specs in, a run directory out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from robustlab.data import load_labelled, sample
from robustlab.data.questions import QuestionSet, check_answers, check_gold, load_questions
from robustlab.errors import UserError
from robustlab.evaluation.classification import (
    classification_outcomes,
    summarise_classification,
)
from robustlab.evaluation.generation import (
    generation_outcomes,
    summarise_answers,
)
from robustlab.evaluation.rag import rag_outcomes, summarise_rag
from robustlab.evaluation.retrieval import retrieval_outcomes, summarise_retrieval
from robustlab.metrics.intervals import Estimate
from robustlab.models.labels import align_labels
from robustlab.models.load import load_target
from robustlab.models.target import Target
from robustlab.rag import (
    Generator,
    PromptTemplate,
    RagPipeline,
    default_prompt,
    load_prompt,
    load_rag,
)
from robustlab.retrieval import LEXICAL, DenseIndex, Retriever, open_retriever
from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder
from robustlab.retrieval.hits import check_search
from robustlab.runs import RunDirectory, build_manifest, default_run_folder

__all__ = ["EvaluationResult", "evaluate"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of items done and the number in all."""

Outcome: TypeAlias = dict[str, Any]

_RETRIEVERS = (BUILTIN, LEXICAL)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A finished evaluation.

    ``estimates`` are the measures by their standard names, in the order to show them; those that
    are no rate or mean (``bleu``, ``perplexity``) have ``nan`` for an interval. ``summary`` is
    what stands in ``summary.json``, as JSON values: estimates, number of items, time.
    """

    kind: str
    folder: Path
    estimates: Mapping[str, Estimate]
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Job:
    """What is left to do when everything is loaded."""

    kind: str
    data: Mapping[str, Any]
    target: Mapping[str, Any]
    total: int
    outcomes: Iterator[Outcome]
    summarise: Callable[[Sequence[Outcome]], dict[str, Estimate]]


def evaluate(
    *,
    target_spec: str,
    data_spec: str | None = None,
    corpus: str | None = None,
    retriever: str = BUILTIN,
    generator: str = "builtin:seq2seq",
    split: str | None = None,
    limit: int | None = None,
    top_k: int = 5,
    max_new_tokens: int = 32,
    prompt: str | None = None,
    kind: str | None = None,
    index_folder: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    columns: Mapping[str, str | None] | None = None,
    skip_bad_rows: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate a target and leave a run directory.

    A classifier is evaluated on labelled data. A generator answers the questions of a corpus with
    their gold passages in the prompt; a retriever searches for these; ``rag`` does both.

    Args:
        target_spec: ``rag``, a retriever (``builtin:retriever``, ``bm25``, or any encoder with
            ``kind="retriever"``), or a model as for :func:`~robustlab.models.load.load_target`.
        data_spec: labelled data, or the corpus whose questions are asked.
        corpus: the passages; ``data_spec`` if not given, and the other way round.
        retriever: of a ``rag`` target.
        generator: of a ``rag`` target.
        split: of the data; the default is ``test``, else ``validation``.
        limit: only the first so many items after a shuffle by ``seed``.
        top_k: passages retrieved for a question.
        max_new_tokens: the longest answer.
        prompt: a template by name or file; the one that fits the generator if not given.
        kind: the family of the target, where its files do not tell.
        index_folder: an index of the corpus by the retriever.
        seed: of the shuffle.
        device: where models run.
        dtype: their number format.
        batch_tokens: the most tokens in a forward pass.
        columns: arguments of the loaders by name, e.g. ``{"text_column": "body"}``.
        skip_bad_rows: leave out and count rows that cannot be used.
        out: the run directory; ``runs/evaluate-TIME`` if not given.
        progress: called as outcomes come in.

    Raises:
        UserError: whatever stands in the way, before the run directory is made if possible.
    """
    arguments = {name: value for name, value in locals().items() if name != "progress"}
    named = {name: column for name, column in (columns or {}).items() if column is not None}

    def questions() -> QuestionSet:
        return load_questions(
            corpus,
            data_spec,
            split=split,
            limit=limit,
            seed=seed,
            columns=named,
            skip_bad_rows=skip_bad_rows,
        )

    if target_spec == "rag":
        if kind is not None:
            raise UserError("--kind says what a model's files do not; a rag target needs none")
        asked = questions()
        check_answers(asked.items, asked.name)
        check_gold(asked.items, asked.passages, asked.name)
        pipeline = load_rag(
            asked.corpus,
            retriever,
            generator,
            prompt=prompt,
            top_k=top_k,
            max_new_tokens=max_new_tokens,
            index_folder=index_folder,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
        )
        job = _rag_job(asked, pipeline, _relevance_judge(pipeline.retriever, device, dtype))
    elif kind == "retriever" or target_spec in _RETRIEVERS:
        check_search((), top_k)
        asked = questions()
        check_gold(asked.items, asked.passages, asked.name)
        finder = open_retriever(
            target_spec, asked.corpus, index_folder=index_folder, device=device, dtype=dtype
        )
        job = _retrieval_job(asked, target_spec, finder, top_k)
    else:
        target = load_target(
            target_spec, kind=kind, device=device, dtype=dtype, batch_tokens=batch_tokens
        )
        if isinstance(target, Generator):
            asked = questions()
            check_answers(asked.items, asked.name)
            check_gold(asked.items, asked.passages, asked.name)
            template = default_prompt(target) if prompt is None else load_prompt(prompt)
            job = _generation_job(asked, target, template, max_new_tokens)
        else:
            if data_spec is None:
                raise UserError(
                    f"{target_spec} is a classifier: name the labelled data to evaluate it on, "
                    "with --data"
                )
            job = _classification_job(target, data_spec, split, limit, seed, named, skip_bad_rows)
    manifest = build_manifest(
        command="evaluate", arguments=arguments, seed=seed, data=job.data, target=job.target
    )
    with RunDirectory.create(out or default_run_folder("evaluate"), manifest) as run:
        start = time.perf_counter()
        outcomes: list[Outcome] = []
        for outcome in job.outcomes:
            run.append(outcome)
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), job.total)
        seconds = time.perf_counter() - start
        estimates = job.summarise(outcomes)
        run.write_summary(
            {
                "kind": job.kind,
                "items": len(outcomes),
                **{name: estimate.as_json() for name, estimate in estimates.items()},
                "wall_seconds": seconds,
                "items_per_second": len(outcomes) / seconds,
            }
        )
        summary = run.summary
        assert summary is not None
    return EvaluationResult(job.kind, run.path, estimates, summary)


def _describe(target: Target) -> dict[str, Any]:
    return {**target.describe(), "fingerprint": target.fingerprint()}


def _relevance_judge(retriever: Retriever, device: str, dtype: str) -> SentenceEncoder:
    """The built-in encoder; the retriever's own where that is it, rather than a second copy."""
    if isinstance(retriever, DenseIndex) and retriever.encoder.spec == BUILTIN:
        return retriever.encoder
    return SentenceEncoder.load(BUILTIN, device=device, dtype=dtype)


def _rag_job(asked: QuestionSet, pipeline: RagPipeline, judge: Target) -> _Job:
    return _Job(
        kind=pipeline.kind,
        data=asked.data,
        target={**_describe(pipeline), "relevance_judge": judge.describe()},
        total=len(asked.items),
        outcomes=rag_outcomes(pipeline, judge, asked.items, asked.passages),
        summarise=lambda outcomes: summarise_rag(outcomes, pipeline.top_k),
    )


def _retrieval_job(asked: QuestionSet, spec: str, retriever: Retriever, top_k: int) -> _Job:
    return _Job(
        kind="retriever",
        data=asked.data,
        target={
            "spec": spec,
            "kind": "retriever",
            "retriever": retriever.describe(),
            "fingerprint": retriever.fingerprint(),
        },
        total=len(asked.items),
        outcomes=retrieval_outcomes(retriever, asked.items, asked.passages, top_k),
        summarise=lambda outcomes: summarise_retrieval(outcomes, top_k),
    )


def _generation_job(
    asked: QuestionSet, generator: Generator, template: PromptTemplate, max_new_tokens: int
) -> _Job:
    return _Job(
        kind=generator.kind,
        data=asked.data,
        target={
            **_describe(generator),
            "prompt": template.describe(),
            "max_new_tokens": max_new_tokens,
        },
        total=len(asked.items),
        outcomes=generation_outcomes(
            generator, template, asked.items, asked.passages, max_new_tokens=max_new_tokens
        ),
        summarise=summarise_answers,
    )


def _classification_job(
    target: Target,
    data_spec: str,
    split: str | None,
    limit: int | None,
    seed: int,
    columns: Mapping[str, str],
    skip_bad_rows: bool,
) -> _Job:
    unfit = columns.keys() - {"text_column", "pair_column", "label_column"}
    if unfit:
        option = min(unfit).replace("_", "-")
        raise UserError(f"--{option} is for a corpus, and {data_spec} is read as labelled data")
    loaded = load_labelled(data_spec, split=split, skip_bad_rows=skip_bad_rows, **columns)
    align_labels(loaded.label_names, target)  # refuses before the run directory is made
    examples = sample(loaded.examples, limit, seed)
    return _Job(
        kind=target.kind,
        data={
            "spec": data_spec,
            "name": loaded.name,
            "split": loaded.split,
            "items": len(examples),
            "available": len(loaded.examples),
            "skipped_rows": loaded.skipped_rows,
            "label_names": loaded.label_names,
            "fingerprint": loaded.fingerprint(),
        },
        target=_describe(target),
        total=len(examples),
        outcomes=classification_outcomes(target, examples, loaded.label_names),
        summarise=lambda outcomes: summarise_classification(outcomes, loaded.label_names),
    )
