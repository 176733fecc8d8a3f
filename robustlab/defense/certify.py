"""The one function behind ``robustlab certify``: what a defence guarantees, item by item.

What is certified is a lower bound: on each certified item the defended target stays right whatever
an adversary of the stated power does, so that certified accuracy ≤ accuracy under any such attack
≤ clean accuracy. :func:`check_bound` holds runs to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from robustlab.data import load_labelled, sample
from robustlab.data.questions import check_answers, load_questions
from robustlab.data.records import LabelledExample, Question
from robustlab.defense.certificates import Corruption, Threat
from robustlab.defense.load import DefenseSpec, defend
from robustlab.defense.pipeline import DefendedRag
from robustlab.defense.ranmask import RanMaskTarget
from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer, exact_match
from robustlab.metrics.intervals import Estimate, mean_estimate, rate
from robustlab.models.labels import align_labels
from robustlab.models.load import load_target
from robustlab.models.target import Target
from robustlab.rag.pipeline import load_rag
from robustlab.runs import RunDirectory, build_manifest, default_run_folder

__all__ = [
    "CertificationResult",
    "certify",
    "certify_classifier",
    "certify_rag",
    "check_bound",
    "summarise_classifier",
    "summarise_rag_certificates",
]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of items done and the number in all."""

Outcome: TypeAlias = dict[str, Any]

# Items certified together: enough for full batches, and what an interruption can lose.
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class CertificationResult:
    """A finished certification; ``estimates`` are the measures by their names."""

    folder: Path
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class _Job:
    data: Mapping[str, Any]
    target: Target
    certificate: Mapping[str, Any]
    total: int
    outcomes: Iterator[Outcome]
    summarise: Callable[[Sequence[Outcome]], dict[str, Estimate]]


def certify(
    *,
    target_spec: str,
    defenses: Sequence[DefenseSpec],
    corrupted: int = 1,
    threat: Threat = "insertion",
    data_spec: str | None = None,
    corpus: str | None = None,
    retriever: str = "builtin:retriever",
    generator: str = "builtin:seq2seq",
    split: str | None = None,
    limit: int | None = None,
    top_k: int = 10,
    max_new_tokens: int = 32,
    prompt: str | None = None,
    index_folder: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    columns: Mapping[str, str | None] | None = None,
    skip_bad_rows: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> CertificationResult:
    """Certify a defended target on data and leave a run directory.

    Args:
        target_spec: ``rag``, or a classifier as for
            :func:`~robustlab.models.load.load_target`.
        defenses: what it is defended by; one of them has certificates.
        corrupted: how many of the ``top_k`` passages, or of a text's words, are the adversary's.
        threat: how passages are corrupted.
        data_spec: labelled data, or the corpus whose questions are asked.
        corpus: the passages; ``data_spec`` if not given, and the other way round.
        retriever: of a ``rag`` target.
        generator: of a ``rag`` target.
        split: of the data; the default is ``test``, else ``validation``.
        limit: only the first so many items after a shuffle by ``seed``.
        top_k: passages read for a question.
        max_new_tokens: the longest answer.
        prompt: a template by name or file.
        index_folder: an index of the corpus by the retriever.
        seed: of the shuffle and of the defences.
        device: where models run.
        dtype: their number format.
        batch_tokens: the most tokens in a forward pass.
        columns: arguments of the loaders by name.
        skip_bad_rows: leave out and count rows that cannot be used.
        out: the run directory; ``runs/certify-TIME`` if not given.
        progress: called as outcomes come in.

    Raises:
        UserError: whatever stands in the way, such as a defence without a certificate or
            ``corrupted`` ≥ ``top_k``, before the run directory is made.
    """
    arguments = {name: value for name, value in locals().items() if name != "progress"}
    named = {name: column for name, column in (columns or {}).items() if column is not None}
    if not defenses:
        raise UserError("there is nothing to certify without a defence: name one with --defense")
    if target_spec == "rag":
        corruption = Corruption(corrupted, top_k, threat)
        asked = load_questions(
            corpus,
            data_spec,
            split=split,
            limit=limit,
            seed=seed,
            columns=named,
            skip_bad_rows=skip_bad_rows,
        )
        check_answers(asked.items, asked.name)
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
        defended = defend(pipeline, defenses, corpus=asked.corpus, seed=seed)
        assert isinstance(defended, DefendedRag)
        defended.check_certifiable()
        job = _Job(
            data=asked.data,
            target=defended,
            certificate={"corrupted": corrupted, "of": top_k, "threat": threat},
            total=len(asked.items),
            outcomes=certify_rag(defended, asked.items, corruption),
            summarise=summarise_rag_certificates,
        )
    else:
        job = _classifier_job(
            target_spec, defenses, corrupted, data_spec, split, limit, seed, device, dtype,
            batch_tokens, named, skip_bad_rows,
        )  # fmt: skip
    target = {**job.target.describe(), "fingerprint": job.target.fingerprint()}
    manifest = build_manifest(
        command="certify", arguments=arguments, seed=seed, data=job.data, target=target
    )
    manifest["certificate"] = dict(job.certificate)
    with RunDirectory.create(out or default_run_folder("certify"), manifest) as run:
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
                "kind": job.target.kind,
                "items": len(outcomes),
                **job.certificate,
                **{name: estimate.as_json() for name, estimate in estimates.items()},
                "wall_seconds": seconds,
            }
        )
    return CertificationResult(run.path, estimates)


def certify_rag(
    pipeline: DefendedRag, questions: Sequence[Question], corruption: Corruption
) -> Iterator[Outcome]:
    """One outcome for each question.

    ``certified``: every answer that can be given is an exact match, whatever the corrupted
    passages say; ``certified_contains`` likewise for answers that contain a right one;
    ``reachable``: these answers, None where it could be anything.
    """
    for start in range(0, len(questions), _CHUNK):
        chunk = questions[start : start + _CHUNK]
        texts = [question.text for question in chunk]
        answers = pipeline.ask(texts)
        certificates = pipeline.certify(texts, corruption)
        for question, answer, certificate in zip(chunk, answers, certificates, strict=True):
            if not certificate.allows(answer.answer):
                raise RuntimeError(
                    f"the certificate of {question.id} leaves out its own answer {answer.answer!r}"
                )
            right = question.answers
            yield {
                "id": question.id,
                "question": question.text,
                "prediction": answer.answer,
                "answers": list(right),
                "exact_match": exact_match(answer.answer, right),
                "contains_answer": contains_answer(answer.answer, right),
                "certified": certificate.holds(partial(exact_match, answers=right)),
                "certified_contains": certificate.holds(partial(contains_answer, answers=right)),
                "reachable": (None if certificate.answers is None else sorted(certificate.answers)),
            }


def certify_classifier(
    target: RanMaskTarget,
    examples: Sequence[LabelledExample],
    label_names: Sequence[str],
    corrupted: int,
) -> Iterator[Outcome]:
    """One outcome for each example; ``certified``: right, of radius ``corrupted`` or more."""
    classes = align_labels(label_names, target)
    name_of = {number: label_names[label] for label, number in enumerate(classes)}
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        found = target.certify([example.contents for example in chunk])
        for example, certificate in zip(chunk, found, strict=True):
            truth = classes[example.label]
            correct = certificate.label == truth
            yield {
                "id": example.id,
                "text": example.text,
                **({} if example.text_pair is None else {"text_pair": example.text_pair}),
                "truth": name_of[truth],
                "prediction": name_of[certificate.label],
                "correct": correct,
                "certified": correct and certificate.radius >= corrupted,
                "radius": certificate.radius,
                "radius_smoothed": certificate.smoothed,
                "radius_voted": certificate.voted,
                "words": certificate.words,
                "share": certificate.share,
            }


def summarise_rag_certificates(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Clean and certified accuracy, by exact match and by containment of a right answer."""

    def share(key: str) -> Estimate:
        return rate(sum(bool(outcome[key]) for outcome in outcomes), len(outcomes))

    return {
        "clean_accuracy": share("exact_match"),
        "certified_accuracy": share("certified"),
        "clean_contains": share("contains_answer"),
        "certified_contains": share("certified_contains"),
    }


def summarise_classifier(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Clean and certified accuracy, and the mean share of the words that may be replaced.

    ``certified_words`` counts examples that are wrong, or certain of nothing, as zero.
    """

    def share(key: str) -> Estimate:
        return rate(sum(bool(outcome[key]) for outcome in outcomes), len(outcomes))

    return {
        "clean_accuracy": share("correct"),
        "certified_accuracy": share("certified"),
        "certified_words": mean_estimate(
            [
                max(0, outcome["radius"]) / max(1, outcome["words"]) if outcome["correct"] else 0.0
                for outcome in outcomes
            ]
        ),
    }


def check_bound(certified: Mapping[str, bool], robust: Mapping[str, bool]) -> None:
    """Hold an attack to the certificates of the same items.

    Args:
        certified: item -> whether it is certified to stay right.
        robust: item -> whether it was still right under an attack within the certified power.

    Raises:
        RuntimeError: a certified item was broken, which is a fault in certificate or defence.
    """
    broken = sorted(key for key, held in robust.items() if not held and certified.get(key, False))
    if broken:
        raise RuntimeError(
            f"{len(broken)} certified items were broken by an attack that the certificate covers, "
            f"such as {broken[0]}: certified accuracy must never exceed accuracy under attack"
        )


def _classifier_job(
    target_spec: str,
    defenses: Sequence[DefenseSpec],
    corrupted: int,
    data_spec: str | None,
    split: str | None,
    limit: int | None,
    seed: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    columns: Mapping[str, str],
    skip_bad_rows: bool,
) -> _Job:
    if corrupted < 1:
        raise UserError(f"--corrupted must be at least 1, not {corrupted}")
    target = load_target(target_spec, device=device, dtype=dtype, batch_tokens=batch_tokens)
    if target.kind != "classifier":
        raise UserError(
            f"{target_spec} is a {target.kind}; certificates are for classifiers and for "
            "--target rag"
        )
    if data_spec is None:
        raise UserError(f"{target_spec} is a classifier: name its labelled data with --data")
    defended = defend(target, defenses, seed=seed)
    if not isinstance(defended, RanMaskTarget) or len(defenses) > 1:
        raise UserError("a classifier has a certificate with the defence ranmask alone")
    loaded = load_labelled(data_spec, split=split, skip_bad_rows=skip_bad_rows, **columns)
    align_labels(loaded.label_names, target)  # refuses before the run directory is made
    examples = sample(loaded.examples, limit, seed)
    return _Job(
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
        target=defended,
        certificate={
            "corrupted": corrupted,
            "threat": "word replacement",
            "confidence": 1 - defended.defense.error,
        },
        total=len(examples),
        outcomes=certify_classifier(defended, examples, loaded.label_names, corrupted),
        summarise=summarise_classifier,
    )
