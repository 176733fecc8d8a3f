"""How trained classifiers are judged: attacks in turn, and the same worst case as all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustlab.attack import attack
from robustlab.errors import UserError
from robustlab.runs import RunDirectory
from robustlab.training.classifiers import make_judge
from robustlab.training.families import JudgePlan

SPEC, LIMIT = "builtin:classifier", 8


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("suite") / "small.toml"
    file.write_text(
        'name = "small"\nsummary = "Slips, then edits of letters, and embeddings"\n'
        'paper = "none"\nsuite = ["typo-noise", "deepwordbug", "pgd"]\n',
        encoding="utf-8",
    )
    return str(file)


def plan(suite: str, *against: str) -> JudgePlan:
    return JudgePlan(
        None, "cpu", suite, limit=LIMIT, dtype="fp32", trained_against=frozenset(against)
    )


@pytest.fixture(scope="module")
def at_once(suite: str, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("at-once") / "run"
    attack(target_spec=SPEC, suite=suite, limit=LIMIT, device="cpu", out=folder)
    return RunDirectory.open(folder)


def statuses(run: RunDirectory) -> dict[str, str]:
    return {outcome["id"]: outcome["status"] for outcome in run.outcomes()}


def test_in_turn_comes_to_the_same_as_all_at_once(
    suite: str, at_once: RunDirectory, tmp_path: Path
) -> None:
    judged = make_judge(plan(suite)).judge(SPEC, tmp_path)
    worst = statuses(at_once)
    assert judged.robust == {key: status == "failed" for key, status in worst.items()}
    assert judged.clean == {key: status != "skipped" for key, status in worst.items()}
    assert judged.in_turn
    truths = [outcome["truth"] for outcome in at_once.outcomes()]
    assert judged.constant == max(map(truths.count, truths)) / LIMIT
    assert judged.embedded == ("pgd",)
    first = statuses(RunDirectory.open(at_once.path / "runs" / "typo-noise"))
    standing = {key for key, status in first.items() if status == "failed"}
    assert 0 < len(standing) < sum(judged.clean.values())
    assert {key for key, stands in judged.attacks["typo-noise"].items() if stands} == standing
    # The second one asks only about what the first left standing, the embedded one about all.
    assert set(statuses(RunDirectory.open(tmp_path / "deepwordbug"))) == standing
    assert set(statuses(RunDirectory.open(tmp_path / "pgd"))) == set(worst)
    # What is complete is read.
    assert make_judge(plan(suite)).judge("no such model", tmp_path) == judged


def test_what_a_model_was_trained_against_has_no_part_in_the_verdict(
    suite: str, at_once: RunDirectory, tmp_path: Path
) -> None:
    judged = make_judge(plan(suite, "typo-noise")).judge(SPEC, tmp_path)
    alone = statuses(RunDirectory.open(at_once.path / "runs" / "deepwordbug"))
    assert judged.robust == {key: status == "failed" for key, status in alone.items()}
    assert judged.attacks["deepwordbug"] == judged.robust


def test_a_suite_of_nothing_else_is_refused(suite: str) -> None:
    with pytest.raises(UserError, match=r"trained against \(deepwordbug, typo-noise\)"):
        make_judge(plan(suite, "typo-noise", "deepwordbug"))
