"""Small runs and suites, written by hand, for the tests of the report room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustlab.metrics.robustness import robustness_summary
from robustlab.runs import RunDirectory

SCRIPT = "<script>alert('1')</script>"

MANIFEST: dict[str, Any] = {
    "command": "attack",
    "command_line": ["robustlab", "attack", "--limit", "3", "--data", "my set"],
    "seed": 0,
    "target": {"spec": "builtin:classifier", "fingerprint": "abc123", "dtype": "fp32"},
    "data": {
        "name": "reviews",
        "split": "test",
        "items": 4,
        "available": 250,
        "fingerprint": "def456",
    },
    "recipe": {
        "name": "deepwordbug",
        "summary": "Misspells words",
        "paper": "Gao et al. 2018",
        "text": f"name = 'x'\n# {SCRIPT}\n",
        "sha256": "99aa",
    },
    "threat_model": {
        "goal": "untargeted-classification",
        "knowledge": "score",
        "surface": "characters",
        "query_budget": 500,
        "constraints": ["repeat-modification"],
    },
    "versions": {"torch": "2.13.0"},
    "robustlab": {"version": "0.2.0"},
    "started": "2026-01-01T00:00:00+00:00",
}


def outcome(id_: str = "r1", status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """An outcome of an attack on a classifier."""
    attacked = status in ("succeeded", "failed")
    return {
        "id": id_,
        "status": status,
        "original": "a fine film",
        "perturbed": "a fime film" if attacked else None,
        "original_output": {"label": "positive", "probability": 0.9, "truth_probability": 0.9},
        "perturbed_output": (
            {"label": "negative", "probability": 0.8, "truth_probability": 0.2}
            if attacked
            else None
        ),
        "truth": "positive",
        "queries": 12 if attacked else 1,
        "edits": 1 if attacked else None,
        "similarity": None,
        "seconds": 0.5,
        **fields,
    }


def make_run(
    folder: Path,
    outcomes: Sequence[Mapping[str, Any]],
    *,
    complete: bool = True,
    summary: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> RunDirectory:
    """A run with these outcomes; its rates are computed, and ``summary`` is added to them."""
    with RunDirectory.create(folder, {**MANIFEST, **manifest}) as run:
        for entry in outcomes:
            run.append(entry)
        if complete:
            rates = (
                robustness_summary(str(entry["status"]) for entry in outcomes).as_json()
                if all("status" in entry for entry in outcomes)
                else {}
            )
            run.write_summary({**rates, **(summary or {})})
    return run


def make_suite(
    folder: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]], **summary: Any
) -> Path:
    """A suite of these runs; a recipe called ``pgd`` works on embeddings.

    The worst cases are chosen by status, then by fewest edits.
    """
    ranks = ["succeeded", "failed", "skipped", "error"]
    worst: dict[str, dict[str, Any]] = {}
    for name, outcomes in runs.items():
        threat = dict(MANIFEST["threat_model"])
        if name == "pgd":
            threat["surface"] = "embeddings"
        recipe = {**MANIFEST["recipe"], "name": name}
        make_run(folder / "runs" / name, outcomes, recipe=recipe, threat_model=threat)
        for entry in outcomes:
            mine = {**entry, "recipe": name}
            if name != "pgd":
                worst[entry["id"]] = min(
                    (worst.get(entry["id"], mine), mine),
                    key=lambda o: (ranks.index(o["status"]), o["edits"] or 0),
                )
    make_run(
        folder,
        list(worst.values()),
        summary={"wall_seconds": 3.5, "queries_total": 99, "recipes": {}, **summary},
        command="suite",
        recipe=None,
        recipes=list(runs),
        suite={"name": "quick", "summary": "Some of each", "paper": "", "text": "suite = []\n"},
        threat_model={"goal": "untargeted-classification", "recipes": {}},
    )
    return folder
