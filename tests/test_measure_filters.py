from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import make_run
from script_loader import load_script

from robustlab.data.records import Corpus, Passage
from robustlab.errors import UserError

measure_filters = load_script("measure_filters")

CORPUS = Corpus("yard", (Passage("p1", "Owl", "hoots"), Passage("p2", "", "hen"),
                         Passage("p3", "", "never found")), {})  # fmt: skip


class Length:
    """Finds long texts suspicious."""

    name = "length"
    threshold = 9.0

    def suspicion(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return np.array([len(text) for text in texts], dtype=np.float64)


def outcome(key: str, poison: list[str], **fields: Any) -> dict[str, Any]:
    clean = {"text": "x", "retrieved": ["p1", "p2"]}
    return {
        "id": key,
        "status": "failed",
        "original_output": clean,
        "poison": poison,
        "queries": 1,
        **fields,
    }


def run(folder: Path, outcomes: list[dict[str, Any]], **changes: Any) -> Path:
    threat = {"surface": "passages", "adaptive": changes.pop("adaptive", False)}
    target = {"kind": "rag", "retriever": {"corpus": changes.pop("corpus", "yard")}}
    make_run(folder, outcomes, target=target, threat_model=threat, arguments={}, **changes)
    return folder


def test_poison_and_clean_passages_are_told_apart(tmp_path: Path) -> None:
    # Scores: poison 12 and 4, clean 10 ("Owl", a line break or a space more, "hoots") and 3.
    folder = run(tmp_path / "run", [outcome("q1", ["a" * 12, "abcd"]), outcome("q2", ["abcd"])])
    attacks, _ = measure_filters.read_attacks([folder])
    (attack,) = attacks.values()
    assert (attack.poison, attack.retrieved) == (("a" * 12, "abcd"), ("p1", "p2"))
    found = measure_filters.measure(attack, Length(), CORPUS)
    assert found.area.value == 3 / 4  # 12 is above both, 4 above one
    assert found.caught.value == 1 / 2
    assert found.clean_dropped.n == 2


def test_passages_of_one_question_are_one_case(tmp_path: Path) -> None:
    folder = run(
        tmp_path / "run",
        [outcome("q1", ["one", "two", "for all"]), outcome("q2", ["three", "for all"])],
    )
    attacks, _ = measure_filters.read_attacks([folder])
    # q1's own, q2's own, and what both share.
    assert [(len(a.poison), a.clusters) for a in attacks.values()] == [(4, 3)]


def test_clean_passages_are_those_without_defence_and_without_error(tmp_path: Path) -> None:
    bare = {"clean": {"retrieved": ["p3"]}}
    rows = [
        outcome("q1", ["one"], undefended=bare),
        outcome("q2", ["never"], status="error", original_output=None),
    ]
    attacks, _ = measure_filters.read_attacks([run(tmp_path / "run", rows)])
    (attack,) = attacks.values()
    assert (attack.retrieved, attack.poison) == (("p3",), ("one",))


def test_a_suite_brings_its_recipes(tmp_path: Path) -> None:
    folder = tmp_path / "suite"
    for name, adaptive in (("inject", False), ("inject-adaptive", True)):
        recipe = {"name": "inject"}
        run(folder / "runs" / name, [outcome("q1", ["x"])], recipe=recipe, adaptive=adaptive)
    make_run(folder, [], command="suite", recipes=["inject", "inject-adaptive"])
    attacks, _ = measure_filters.read_attacks([folder])
    assert list(attacks) == ["inject", "inject (adaptive)"]


def test_runs_that_do_not_belong_together(tmp_path: Path) -> None:
    rows = [outcome("q1", ["x"])]
    one = run(tmp_path / "one", rows)
    other = run(tmp_path / "other", rows, corpus="elsewhere")
    unfinished = run(tmp_path / "unfinished", rows, complete=False)
    with pytest.raises(UserError, match="another corpus"):
        measure_filters.read_attacks([one, other])
    with pytest.raises(UserError, match="second run"):
        measure_filters.read_attacks([one, one])
    with pytest.raises(UserError, match="no complete attack"):
        measure_filters.read_attacks([unfinished])
