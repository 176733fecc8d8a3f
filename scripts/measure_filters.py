"""How well passage filters tell the poison of finished attacks from clean passages.

    python scripts/measure_filters.py RUN... --filter perplexity --filter vae --out FOLDER

A RUN is the folder of a run or suite of ``robustlab attack --target rag``; all must be on one
corpus and retriever. Flagged ought to be the passages that the attack wrote, each once; clean are
the passages of the corpus that its questions retrieve without poison, each once. The filters are
fitted on the corpus as ``--defense`` fits them.

FOLDER gets ``roc.csv`` (every point of every curve), ``filters.csv`` (area under each curve with
its interval, and the rates at the filter's own threshold) and ``roc-FILTER.png`` and ``.svg``.

Intervals: Hanley & McNeil 1982, as a score test (Newcombe 2006), for areas; Wilson for rates.
Passages written for one question are much alike, so that an interval has as many observations of
poison as there are questions, not passages.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.data import Corpus, load_corpus
from robustlab.defense import Detector, load_defense
from robustlab.errors import UserError
from robustlab.metrics import Estimate, RocCurve, auc, clustered_rate, rate, roc_curve
from robustlab.poisoning.entry import DEFAULT_CORPUS
from robustlab.rag import load_rag
from robustlab.report.figures import Roc, can_draw, draw_roc
from robustlab.report.tables import as_csv
from robustlab.report.terminal import make_console, safe_text
from robustlab.runs import RunDirectory

__all__ = ["Attack", "Measured", "measure", "read_attacks"]

ADAPTIVE = " (adaptive)"
"""Ends the name of an attack that knows of the filter."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What a finished run leaves: its poison by question, and the ids of what is retrieved without.

    ``poison`` holds each text once; ``clusters`` is how many of them do not come from the same
    question.
    """

    name: str
    poison: tuple[str, ...]
    clusters: int
    retrieved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """One filter against one attack: the curve, its area, and the rates at its threshold."""

    curve: RocCurve
    area: Estimate
    caught: Estimate
    clean_dropped: Estimate
    passages: int


def read_attacks(folders: Sequence[Path]) -> tuple[dict[str, Attack], Mapping[str, Any]]:
    """The attacks by name, and the manifest of the first run.

    Raises:
        UserError: a folder without a complete attack on a pipeline, runs on different corpora or
            retrievers, or two attacks of one name.
    """
    attacks: dict[str, Attack] = {}
    first: Mapping[str, Any] | None = None
    for folder in folders:
        for run in _runs(folder):
            manifest = run.manifest
            target, threat = (manifest.get(part) or {} for part in ("target", "threat_model"))
            if target.get("kind") != "rag" or not run.is_complete:
                raise UserError(f"{run.path} holds no complete attack on a RAG pipeline")
            if threat.get("surface") != "passages":
                continue  # it mistypes questions, and there is nothing to be filtered
            first = first or manifest
            if target["retriever"] != first["target"]["retriever"]:
                raise UserError(f"{run.path} is on another corpus or retriever than the first run")
            name = str(manifest["recipe"]["name"]) + (ADAPTIVE if threat["adaptive"] else "")
            if name in attacks:
                raise UserError(f"{run.path} is a second run of {name}; measure them apart")
            attacks[name] = _attack(name, run.outcomes())
    if first is None:
        raise UserError("none of these runs wrote passages into a corpus")
    return attacks, first


def measure(attack: Attack, detector: Detector, corpus: Corpus) -> Measured:
    """Curve, area and rates of one filter against one attack."""
    known = {passage.id: passage for passage in corpus.passages}
    texts = list(dict.fromkeys(known[key].contents for key in attack.retrieved))
    clean = detector.suspicion(texts)
    poison = detector.suspicion(attack.poison)
    dropped, caught = (int((scores > detector.threshold).sum()) for scores in (clean, poison))
    return Measured(
        roc_curve(clean.tolist(), poison.tolist()),
        auc(clean.tolist(), poison.tolist(), clusters=attack.clusters),
        clustered_rate(caught, len(poison), attack.clusters),
        rate(dropped, len(clean)),
        len(poison),
    )


def _runs(folder: Path) -> Iterator[RunDirectory]:
    run = RunDirectory.open(folder)
    if run.manifest.get("command") != "suite":
        yield run
        return
    for name in run.manifest["recipes"]:
        yield RunDirectory.open(folder / "runs" / str(name))


def _attack(name: str, outcomes: Sequence[Mapping[str, Any]]) -> Attack:
    of_text: dict[str, set[str]] = {}
    retrieved: dict[str, None] = {}
    for outcome in outcomes:
        if outcome["status"] == "error":
            continue
        for text in outcome["poison"]:
            of_text.setdefault(text, set()).add(outcome["id"])
        bare = outcome.get("undefended")
        clean = outcome["original_output"] if bare is None else bare["clean"]
        retrieved |= dict.fromkeys(clean["retrieved"])
    if not of_text:
        raise UserError(f"the run of {name} wrote no passage")
    # A text that several questions share is a case of its own; those of one question are one.
    own = {next(iter(ids)) for ids in of_text.values() if len(ids) == 1}
    shared = sum(len(ids) > 1 for ids in of_text.values())
    return Attack(name, tuple(of_text), len(own) + shared, tuple(retrieved))


def _write(folder: Path, name: str, content: bytes) -> None:
    part = folder / f".{name}.part"
    part.write_bytes(content)
    os.replace(part, folder / name)


def _rows(found: Mapping[tuple[str, str], Measured]) -> Iterator[dict[str, Any]]:
    for (of_filter, attack), one in found.items():
        yield {
            "filter": of_filter,
            "attack": attack,
            "passages": one.passages,
            "groups": one.caught.n,
            **_spread("auc", one.area),
            **_spread("caught", one.caught),
            "clean_passages": one.clean_dropped.n,
            **_spread("clean_dropped", one.clean_dropped),
        }


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _points(found: Mapping[tuple[str, str], Measured]) -> Iterator[dict[str, Any]]:
    for (of_filter, attack), one in found.items():
        curve = one.curve
        for threshold, false, true in zip(
            curve.thresholds.tolist(),
            curve.false_positive_rates.tolist(),
            curve.true_positive_rates.tolist(),
            strict=True,
        ):
            yield {
                "filter": of_filter,
                "attack": attack,
                "threshold": threshold,
                "false_positive_rate": false,
                "true_positive_rate": true,
            }


def _save(folder: Path, found: Mapping[tuple[str, str], Measured], corpus: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("filters.csv", list(_rows(found))), ("roc.csv", list(_points(found)))):
        _write(folder, name, as_csv(tuple(rows[0]), rows))
    for of_filter in dict.fromkeys(name for name, _ in found) if can_draw() else ():
        curves: dict[bool, dict[str, Roc]] = {False: {}, True: {}}
        for (name, attack), one in found.items():
            if name == of_filter:
                adapted = attack.endswith(ADAPTIVE)
                curves[adapted][attack.removesuffix(ADAPTIVE)] = (one.curve, one.area)
        title = f"{of_filter} on {safe_text(corpus)}: poison against clean passages"
        for kind, content in draw_roc(curves[False], title, adaptive=curves[True]).items():
            _write(folder, f"roc-{of_filter}.{kind}", content)


def _show(found: Mapping[tuple[str, str], Measured]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("filter", "attack"):
        table.add_column(name)
    for name in ("AUC", "poison caught", "clean dropped"):
        table.add_column(name, justify="right")
    for (of_filter, attack), one in found.items():
        area = one.area
        table.add_row(
            Text(safe_text(of_filter)),
            Text(safe_text(attack)),
            Text(f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"),
            Text(one.caught.percent()),
            Text(one.clean_dropped.percent()),
        )
    make_console(sys.stdout).print(table)


def _run(runs: Sequence[Path], filters: Sequence[str], out: Path) -> None:
    attacks, first = read_attacks(runs)
    arguments, fingerprint = first["arguments"], first["target"]["retriever"]["corpus_fingerprint"]
    columns = {name: column for name, column in arguments["columns"].items() if column is not None}
    corpus = load_corpus(
        arguments["corpus"] or DEFAULT_CORPUS,
        skip_bad_rows=arguments["skip_bad_rows"],
        **columns,
    )
    if corpus.fingerprint() != fingerprint:
        raise UserError(f"the corpus {corpus.name} is no longer the one that was attacked")
    index = arguments["index"]
    pipeline = load_rag(
        corpus,
        arguments["retriever"],
        arguments["generator"],
        index_folder=None if index is None else Path(index),
    )
    found: dict[tuple[str, str], Measured] = {}
    for spec in filters:
        detector = load_defense(spec, pipeline, corpus=corpus, seed=arguments["seed"])
        if not isinstance(detector, Detector):
            raise UserError(f"{spec} does not judge passages one by one; perplexity and vae do")
        for attack in attacks.values():
            found[detector.name, attack.name] = measure(attack, detector, corpus)
    _save(out, found, corpus.name)
    _show(found)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument(
        "--filter", action="append", dest="filters", help="default: perplexity and vae"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    chosen = parser.parse_args()
    try:
        _run(chosen.runs, chosen.filters or ["perplexity", "vae"], chosen.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
